"""What an adaptive optimizer divides the gradient by, as a tensor for every parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RMSprop

__all__ = ["optimizer_metric"]


def optimizer_metric(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the diagonal of the metric that an adaptive optimizer descends in, as it stands now.

    A step is the learning rate times the averaged gradient over it. With v the second moment of the
    gradient and v̂ the same with its bias corrected, it is √v̂ + ε for Adam, AdamW and NAdam (of the
    largest v so far with ``amsgrad=True``), √v + ε for Adagrad and RMSprop (of the variance where it is
    centred), and the decayed largest modulus for Adamax. Learning rates are no part of it.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Adam, AdamW, NAdam, Adamax, RMSprop or Adagrad.
    model : torch.nn.Module
        Whose parameters it holds.

    Returns
    -------
    dict of str to torch.Tensor
        By the names of ``model.named_parameters()``, for those parameters that the optimizer has
        stepped; new tensors.

    Raises
    ------
    TypeError
        If the optimizer is of another kind.
    ValueError
        If it has not stepped any parameter of the model.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.Adam(model.parameters(), eps=0.5)
    >>> model(torch.tensor([[3.0, 4.0]])).sum().backward()
    >>> optimizer.step()
    >>> hessops_torch.optimizer_metric(optimizer, model)
    {'weight': tensor([[3.5000, 4.5000]])}
    """
    rule = next((rule for kind, rule in _RULES.items() if isinstance(optimizer, kind)), None)
    if rule is None:
        known = ", ".join(kind.__name__ for kind in _RULES)
        raise TypeError(
            f"{type(optimizer).__name__} has no diagonal metric that is known here ({known} have): "
            "pass the diagonal as a flat vector, or as a tensor for every parameter by its name"
        )
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    found = {
        name: rule(optimizer.state[parameter], groups[parameter])
        for name, parameter in model.named_parameters()
        if parameter in groups and _has_stepped(optimizer.state.get(parameter))
    }
    if not found:
        raise ValueError(
            f"the {type(optimizer).__name__} has not stepped a parameter of this model: pass the model "
            "that it trains, after its first step"
        )
    return found


def _has_stepped(state: Mapping[str, Any] | None) -> bool:
    # Adagrad has a state before its first step.
    return bool(state) and state is not None and float(state["step"]) > 0


_Rule = Callable[[Mapping[str, Any], Mapping[str, Any]], Tensor]


def _adam(state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    moment = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    correction = 1 - float(group["betas"][1]) ** float(state["step"])
    root: Tensor = (moment / correction).sqrt()
    return root + float(group["eps"])


def _adamax(state: Mapping[str, Any], _group: Mapping[str, Any]) -> Tensor:
    largest: Tensor = state["exp_inf"]
    return largest.clone()


def _rmsprop(state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    moment: Tensor = state["square_avg"]
    if group["centered"]:
        moment = moment - state["grad_avg"].square()
    return moment.sqrt() + float(group["eps"])


def _adagrad(state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    total: Tensor = state["sum"]
    return total.sqrt() + float(group["eps"])


_RULES: Mapping[type[Optimizer], _Rule] = {
    Adam: _adam,
    AdamW: _adam,
    NAdam: _adam,
    Adamax: _adamax,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
}
