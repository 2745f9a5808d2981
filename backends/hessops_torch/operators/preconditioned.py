"""Operators in a diagonal metric, such as the one in which an adaptive optimizer descends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hessops.operator import LinearOperator
from hessops_torch.model.parameters import ParameterSpace
from hessops_torch.operators.optimizer_metric import optimizer_metric

__all__ = ["Metric", "Preconditioned", "preconditioned"]

Metric: TypeAlias = torch.optim.Optimizer | Tensor | Mapping[str, Tensor]
"""An optimizer, a flat vector, or a tensor for every parameter by its name."""


def preconditioned(
    operator: LinearOperator, metric: Metric, *, model: nn.Module | None = None
) -> Preconditioned:
    """Return D^{-1/2} A D^{-1/2} of an operator A on parameters and a diagonal metric D.

    Its eigenvalues are those of D^{-1} A, which is what a step of a preconditioned method sees: on a
    quadratic of Hessian A, gradient descent in the metric D is stable up to a learning rate of 2 over
    the largest, and with Adam's average of gradients (β₁ = 0.9) up to 38 over it.

    Parameters
    ----------
    operator : LinearOperator
        On the parameters of a model, such as a Hessian; a sum of such, or a multiple.
    metric : torch.optim.Optimizer, torch.Tensor, or mapping of str to torch.Tensor
        The diagonal of D: what an optimizer divides by, as it stands now (Adam, AdamW, NAdam, Adamax,
        RMSprop, Adagrad; see `optimizer_metric`), a flat vector, or a tensor for every parameter.
    model : torch.nn.Module, optional
        Whose parameters the optimizer holds; taken from the operator where it knows it.

    Returns
    -------
    Preconditioned
        As self-adjoint and as definite as A, with terms that are A's in the metric.

    Raises
    ------
    ValueError
        If an entry of D is not positive and finite, or D does not fit the parameters.
    TypeError
        If the operator does not act on parameters, the metric is of another kind, or it is an optimizer
        and the operator does not know the model.

    References
    ----------
    Cohen et al. (2022), Adaptive gradient methods at the edge of stability, arXiv:2207.14484.

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> data = [(torch.eye(2), torch.zeros(2, 1))]
    >>> H = hessops_torch.hessian(model, torch.nn.MSELoss(), data)
    >>> hessops_torch.preconditioned(H, torch.tensor([4.0, 1.0])).to_dense()
    tensor([[0.2500, 0.0000],
            [0.0000, 1.0000]])
    """
    space = operator.domain if isinstance(operator, LinearOperator) else None
    if not isinstance(space, ParameterSpace) or operator.shape[0] != operator.shape[1]:
        raise TypeError(
            f"{operator} does not act on the parameters of a model: pass a Hessian or another operator "
            "of hessops_torch on them"
        )
    if isinstance(metric, torch.optim.Optimizer):
        metric = optimizer_metric(metric, _model_of(operator) if model is None else model)
    diagonal = _flattened(metric, space) if isinstance(metric, Mapping) else metric
    if not torch.is_tensor(diagonal):
        raise TypeError(
            "a metric is an optimizer, a flat vector or a mapping of names to tensors, got a "
            f"{type(diagonal).__name__}"
        )
    return Preconditioned(operator, _inverse_root(diagonal, space))


class Preconditioned(LinearOperator):
    """The operator S A S on parameters, with S diagonal; `preconditioned` makes one.

    Parameters
    ----------
    operator : LinearOperator
        The operator A, on flat parameter vectors.
    scale : torch.Tensor, shape (n,)
        The diagonal of S = D^{-1/2}.
    """

    returns_own_memory = True

    def __init__(self, operator: LinearOperator, scale: Tensor) -> None:
        super().__init__(operator.domain, structure=operator.structure)
        self.operator = operator
        self.scale = scale
        self.num_samples = operator.num_samples
        self.held_by = operator.held_by
        self._product_error = operator.product_error

    def _apply(self, X: Any) -> Any:
        scale = self.scale[:, None]
        return scale * self.operator.apply(scale * X)

    def _apply_adjoint(self, X: Any) -> Any:
        scale = self.scale[:, None]
        return scale * self.operator.apply_adjoint(scale * X)

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the terms of the operator in the same metric."""
        for term in self.operator.terms():
            yield self if term is self.operator else Preconditioned(term, self.scale)

    def _describe(self) -> str:
        return type(self.operator).__name__


def _flattened(metric: Mapping[str, Tensor], space: ParameterSpace) -> Tensor:
    missing = [name for name in space.shapes if name not in metric]
    if missing:
        raise ValueError(
            f"the metric says nothing of parameter {missing[0]!r} ({len(missing)} of "
            f"{len(space.shapes)} are missing): an optimizer knows those that it has stepped; leave "
            "the others out of the operator by params"
        )
    return space.flatten({name: metric[name].detach().to(space.device) for name in space.shapes})


def _inverse_root(diagonal: Tensor, space: ParameterSpace) -> Tensor:
    if diagonal.shape != (space.dim,):
        raise ValueError(
            f"the metric has shape {tuple(diagonal.shape)}, and there are {space.dim} parameters"
        )
    scale = diagonal.detach().to(space.device, torch.float64).rsqrt().to(space.dtype)
    bad = int((~(torch.isfinite(scale) & (scale > 0))).sum())
    if bad:
        raise ValueError(
            f"{bad} of {space.dim} entries of the metric are not positive and finite: every parameter "
            "needs a positive scale, such as the root of an optimizer's second moment plus its eps"
        )
    return scale


def _model_of(operator: LinearOperator) -> nn.Module:
    """Return the model behind an operator, or behind the first part of it that knows one."""
    objective = getattr(operator, "objective", None)
    if objective is not None:
        model: nn.Module = objective.model
        return model
    parts = getattr(operator, "operators", None) or [getattr(operator, "operator", None)]
    for part in parts:
        if isinstance(part, LinearOperator):
            return _model_of(part)
    raise TypeError(
        f"{operator} does not say of which model its parameters are: pass model=, the optimizer's"
    )
