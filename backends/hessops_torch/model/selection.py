"""Which parameters of a model are meant, by name, pattern, module or tensor."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch import nn

__all__ = ["ParameterSelection", "Selection", "fitting_names", "no_fit", "select_parameters"]

_Item: TypeAlias = str | re.Pattern[str] | nn.Module | torch.Tensor
ParameterSelection: TypeAlias = _Item | Iterable[_Item] | None
"""Names of parameters or modules, shell patterns, regular expressions, modules, or parameters."""


def select_parameters(model: nn.Module, params: ParameterSelection) -> dict[str, nn.Parameter]:
    """Return the parameters of a model that a selection names, in the model's order.

    Parameters
    ----------
    model : torch.nn.Module
        Tied parameters appear once, by their first name, and are found by any.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        Parameter names, module names (all parameters below), shell patterns such as
        ``'layer1.*.weight'``, compiled regular expressions (searched), or modules and parameters
        themselves. None stands for every parameter that requires a gradient.

    Returns
    -------
    dict of str to torch.nn.Parameter
        At least one.

    Raises
    ------
    ValueError
        If an item fits nothing, or the parameters differ in dtype or device, are not of single or
        double precision, have no values (on the meta device, or lazy), or were made in inference
        mode.
    TypeError
        If an item is of a kind that names no parameters.
    """
    every = dict(model.named_parameters())
    if params is None:
        chosen = {name: p for name, p in every.items() if p.requires_grad}
        if not every:
            raise ValueError(
                f"the model has no parameter that requires a gradient: {type(model).__name__} has "
                "none at all; give the model first, then the loss"
            )
        if not chosen:
            raise ValueError(
                "the model has no parameter that requires a gradient; name some in params"
            )
    else:
        chosen = {name: every[name] for name in fitting_names(model, params)}
        if not chosen:
            raise ValueError("params names no parameter; leave it out to take all")
    _require_uniform(chosen)
    _require_values(chosen)
    _require_no_inference(every)
    return chosen


def fitting_names(model: nn.Module, params: _Item | Iterable[_Item]) -> tuple[str, ...]:
    """Return the first names of the parameters that a selection means, whatever these are like.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, or iterable of these
        As `select_parameters` takes them.

    Returns
    -------
    tuple of str
        In the model's order.

    Raises
    ------
    ValueError
        If an item fits nothing.
    TypeError
        If an item is of a kind that names no parameters.
    """
    every, aliases = dict(model.named_parameters()), _aliases(model)
    wanted: set[str] = set()
    for item in _items(params):
        wanted |= _fitting(item, every, aliases)
    return tuple(name for name in every if name in wanted)


def no_fit(what: str, pattern: str | re.Pattern[str], names: Sequence[str], shown: str) -> str:
    """Return that nothing of a model fits a pattern, and which names come near or what is `shown`."""
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.6)
    if near:
        return f"no {what} fits {text!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"no {what} fits {text!r}; the model has {shown}"


class Selection:
    """The chosen parameters of a model, looked up again each time they are needed.

    ``load_state_dict(..., assign=True)`` puts new tensors in the place of the old ones.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        As `select_parameters` takes them.
    """

    def __init__(self, model: nn.Module, params: ParameterSelection) -> None:
        self.model = model
        aliases = _aliases(model)
        chosen = select_parameters(model, params)
        self._known = {name: (aliases[name], _kind(p)) for name, p in chosen.items()}

    def current(self) -> dict[str, nn.Parameter]:
        """Return the parameters as the model holds them now, by their first names.

        Returns
        -------
        dict of str to torch.nn.Parameter
            In the model's order.

        Raises
        ------
        ValueError
            If one is gone, has another shape, dtype or device, or is tied otherwise than it was.
        """
        every = dict(self.model.named_parameters())
        aliases = _aliases(self.model)
        for name, (ties, kind) in self._known.items():
            if aliases.get(name) != ties:
                raise ValueError(_changed_ties(name, ties, aliases))
            if _kind(every[name]) != kind:
                raise ValueError(
                    f"parameter {name} was {kind} when this operator was made and is "
                    f"{_kind(every[name])} now: move the model back, or make the operator again"
                )
        return {name: every[name] for name in self._known}


def _items(params: ParameterSelection) -> list[_Item]:
    if isinstance(params, str | re.Pattern | nn.Module | torch.Tensor):
        return [params]
    if isinstance(params, Iterable):
        return list(params)
    raise TypeError(f"params={params!r} names no parameters; {_ALLOWED}")


def _fitting(
    item: _Item, every: Mapping[str, nn.Parameter], aliases: Mapping[str, tuple[str, ...]]
) -> set[str]:
    """Return the first names of the parameters that one item of a selection means."""
    if isinstance(item, nn.Module):
        inside = set(item.parameters())
        found = {name for name, parameter in every.items() if parameter in inside}
        if not found or len(found) < len(inside):
            raise ValueError(
                f"the {type(item).__name__} in params has parameters that are not of this model; "
                "pass one of the model's own modules"
                if inside
                else f"the {type(item).__name__} in params has no parameters"
            )
        return found
    if isinstance(item, torch.Tensor):
        found = {name for name, parameter in every.items() if parameter is item}
        if not found:
            raise ValueError(
                f"a tensor of shape {tuple(item.shape)} in params is no parameter of the model"
            )
        return found
    if not isinstance(item, str | re.Pattern):
        raise TypeError(f"params holds {item!r}; {_ALLOWED}")
    found = {first for first, names in aliases.items() if any(_fits(n, item) for n in names)}
    if not found:
        raise ValueError(_no_fit(item, every))
    return found


_ALLOWED = "give names, shell patterns, compiled regular expressions, modules or parameters"


def _fits(name: str, pattern: str | re.Pattern[str]) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _no_fit(pattern: str | re.Pattern[str], every: Mapping[str, torch.Tensor]) -> str:
    shown = ", ".join(list(every)[:_SHOWN]) + (", ..." if len(every) > _SHOWN else "")
    return no_fit("parameter", pattern, [*every, *_modules_of(every)], shown)


_SHOWN = 8
_PRECISIONS = (torch.float32, torch.float64)


def _modules_of(names: Iterable[str]) -> Iterator[str]:
    """Yield the names of the modules above some parameters, each once."""
    parents = (name.split(".")[:-1] for name in names)
    paths = (parts[:depth] for parts in parents for depth in range(1, len(parts) + 1))
    yield from dict.fromkeys(".".join(path) for path in paths)


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return all names of every parameter, by the first of them."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return {ties[0]: tuple(ties) for ties in names.values()}


def _changed_ties(name: str, ties: tuple[str, ...], aliases: Mapping[str, tuple[str, ...]]) -> str:
    now = next((names for names in aliases.values() if name in names), None)
    if now is None:
        return f"the model has lost its parameter {name}: make the operator again"
    return (
        f"one parameter had the names {', '.join(ties)} when this operator was made, and has "
        f"{', '.join(now)} now: tie them as they were (load_state_dict with assign=True cuts ties), "
        "or make the operator again"
    )


def _kind(parameter: torch.Tensor) -> str:
    return f"{parameter.dtype} of shape {tuple(parameter.shape)} on {parameter.device}"


def _require_values(parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(
                f"parameter {name} has no shape yet: apply the lazy model to a batch first"
            )
        if parameter.is_meta:
            raise ValueError(
                f"parameter {name} is on the meta device, without values: load weights first "
                "(model.to_empty(device=...), then load_state_dict)"
            )


def _require_no_inference(parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if not nn.parameter.is_lazy(parameter) and parameter.is_inference():
            raise ValueError(
                f"parameter {name} was made in torch.inference_mode(), and nothing can be "
                "differentiated by it: make the model outside, or pass copy.deepcopy(model), copied "
                "outside"
            )


def _require_uniform(parameters: Mapping[str, nn.Parameter]) -> None:
    first_name, first = next(iter(parameters.items()))
    for name, parameter in parameters.items():
        if not parameter.dtype.is_floating_point:
            raise ValueError(f"parameter {name} is {parameter.dtype}, which has no derivative")
        if parameter.dtype not in _PRECISIONS:
            raise ValueError(
                f"parameter {name} is {parameter.dtype}: Hessian products need torch.float32 or "
                "torch.float64; convert model and data (model.float())"
            )
        for what in ("dtype", "device"):
            if getattr(parameter, what) != getattr(first, what):
                raise ValueError(
                    f"parameter {first_name} has {what} {getattr(first, what)} and {name} "
                    f"{getattr(parameter, what)}: move the model to one, or select by params"
                )
