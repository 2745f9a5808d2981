"""Parameters as one flat vector, and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from array_api_compat import torch as torch_namespace
from torch import Tensor, nn

from hessops.arrays import DType
from hessops.space import ArraySpace

__all__ = ["ParameterSelection", "ParameterSpace", "select_parameters"]

ParameterSelection: TypeAlias = str | re.Pattern[str] | Iterable[str | re.Pattern[str]] | None
"""Names of parameters or modules, shell patterns, or compiled regular expressions."""


def select_parameters(model: nn.Module, params: ParameterSelection) -> dict[str, nn.Parameter]:
    """Return the parameters of a model that a selection names, in the model's order.

    Parameters
    ----------
    model : torch.nn.Module
        Tied parameters appear once.
    params : str, re.Pattern, iterable of these, or None
        Parameter names, module names (all parameters below), shell patterns such as
        ``'layer1.*.weight'``, or compiled regular expressions (searched). None stands for every
        parameter that requires a gradient.

    Returns
    -------
    dict of str to torch.nn.Parameter
        At least one.

    Raises
    ------
    ValueError
        If a pattern fits nothing, or the parameters differ in dtype or device, or are not floating.
    """
    every = dict(model.named_parameters())
    if params is None:
        chosen = {name: p for name, p in every.items() if p.requires_grad}
        if not chosen:
            raise ValueError(
                "the model has no parameter that requires a gradient; name some in params"
            )
    else:
        patterns = [params] if isinstance(params, str | re.Pattern) else list(params)
        for pattern in patterns:
            _require_match(pattern, every)
        chosen = {
            name: p
            for name, p in every.items()
            if any(_fits(name, pattern) for pattern in patterns)
        }
        if not chosen:
            raise ValueError("params names no parameter; leave it out to take all")
    _require_uniform(chosen)
    return chosen


class ParameterSpace(ArraySpace):
    """Vectors with one entry per parameter, flattened in the model's order.

    A block stores one vector after the other, so that each unflattens into parameter-shaped views
    without a copy.

    Parameters
    ----------
    parameters : mapping of str to torch.Tensor
        Of one dtype and device.

    Examples
    --------
    >>> import torch
    >>> from hessops_torch import ParameterSpace
    >>> space = ParameterSpace(dict(torch.nn.Linear(2, 1).named_parameters()))
    >>> {name: view.shape for name, view in space.unflatten(torch.zeros(3)).items()}
    {'weight': torch.Size([1, 2]), 'bias': torch.Size([1])}
    """

    shapes: Mapping[str, torch.Size]

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        sections: dict[str, tuple[int, int]] = {}
        start = 0
        for name, parameter in parameters.items():
            sections[name] = (start, start + parameter.numel())
            start += parameter.numel()
        first = next(iter(parameters.values()))
        super().__init__(
            dim=start, dtype=first.dtype, xp=torch_namespace, device=first.device, sections=sections
        )
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        object.__setattr__(self, "shapes", shapes)

    def section(self, name: str) -> slice:
        """Return the rows that hold a parameter.

        Parameters
        ----------
        name : str
            As in ``model.named_parameters()``.

        Returns
        -------
        slice
            Into a flat vector.

        Raises
        ------
        KeyError
            If the space holds no such parameter.
        """
        if name not in self.sections:
            raise KeyError(f"no parameter {name!r} here; there are {', '.join(self.sections)}")
        return slice(*self.sections[name])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return a flat vector as named, parameter-shaped views.

        Parameters
        ----------
        vector : torch.Tensor, shape (n,)
            Such as a column of ``eigenvectors``.

        Returns
        -------
        dict of str to torch.Tensor
            Views where the vector's memory allows it.

        Raises
        ------
        ValueError
            If the vector has another length.
        """
        if vector.shape != (self.dim,):
            raise ValueError(f"expected a vector of shape ({self.dim},), got {tuple(vector.shape)}")
        pieces = torch.split(vector, [shape.numel() for shape in self.shapes.values()])
        return {
            name: piece.reshape(shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return named, parameter-shaped tensors as one flat vector.

        Parameters
        ----------
        tensors : mapping of str to torch.Tensor
            One for every parameter of the space; others are not looked at.

        Returns
        -------
        torch.Tensor, shape (n,)
            A new vector.

        Raises
        ------
        KeyError
            If a parameter is missing.
        ValueError
            If a shape does not fit.
        """
        pieces = []
        for name, shape in self.shapes.items():
            if name not in tensors:
                raise KeyError(f"a tensor for parameter {name!r} is missing")
            if tensors[name].shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(shape)}, got {tuple(tensors[name].shape)}"
                )
            pieces.append(tensors[name].reshape(-1))
        return torch.cat(pieces)

    def zeros(self, count: int) -> Tensor:
        """Return a block of `count` zero vectors, shape (n, count), each vector contiguous."""
        return torch.zeros((count, self.dim), dtype=self.dtype, device=self.device).T

    def with_dtype(self, dtype: DType) -> ArraySpace:
        """Return the same space with vectors of another dtype (complex, say)."""
        return ArraySpace(
            self.dim, dtype, self.xp, self.device, self.comm, self.rows, self.sections
        )

    def __repr__(self) -> str:
        return (
            f"ParameterSpace({self.dim}, {len(self.shapes)} tensors, {self.dtype}, {self.device})"
        )


def _fits(name: str, pattern: str | re.Pattern[str]) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _require_match(pattern: str | re.Pattern[str], every: Mapping[str, Tensor]) -> None:
    if any(_fits(name, pattern) for name in every):
        return
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    near = difflib.get_close_matches(text, every, n=3, cutoff=0.4) or list(every)[:3]
    raise ValueError(f"no parameter fits {text!r}; did you mean {' or '.join(map(repr, near))}?")


def _require_uniform(parameters: Mapping[str, Tensor]) -> None:
    first_name, first = next(iter(parameters.items()))
    for name, parameter in parameters.items():
        if not parameter.dtype.is_floating_point:
            raise ValueError(f"parameter {name} is {parameter.dtype}, which has no derivative")
        for what in ("dtype", "device"):
            if getattr(parameter, what) != getattr(first, what):
                raise ValueError(
                    f"parameter {first_name} has {what} {getattr(first, what)} and {name} "
                    f"{getattr(parameter, what)}: move the model to one, or select by params"
                )
