"""Parameters as one flat vector, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from array_api_compat import torch as torch_namespace
from torch import Tensor

from hessops.array_space import ArraySpace
from hessops.arrays import DType
from hessops.comm import Communicator, SerialComm

__all__ = ["ParameterSpace", "add_pieces"]


class ParameterSpace(ArraySpace):
    """Vectors with one entry per parameter, flattened in the model's order.

    A block stores one vector after the other, so that each unflattens into parameter-shaped views
    without a copy.

    Parameters
    ----------
    parameters : mapping of str to torch.Tensor
        Of one dtype and device.
    comm : Communicator, optional
        Ranks that all hold whole vectors, and have to agree on what they do with them.
    state : callable, optional
        Returns small facts on the model that must be the same on all ranks: verbs begin with them.

    Examples
    --------
    >>> import torch
    >>> from hessops_torch import ParameterSpace
    >>> space = ParameterSpace(dict(torch.nn.Linear(2, 1).named_parameters()))
    >>> {name: view.shape for name, view in space.unflatten(torch.zeros(3)).items()}
    {'weight': torch.Size([1, 2]), 'bias': torch.Size([1])}
    """

    shapes: Mapping[str, torch.Size]
    state: Callable[[], Mapping[str, object]] | None

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        comm: Communicator | None = None,
        state: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        sections: dict[str, tuple[int, int]] = {}
        start = 0
        for name, parameter in parameters.items():
            sections[name] = (start, start + parameter.numel())
            start += parameter.numel()
        first = next(iter(parameters.values()))
        super().__init__(
            dim=start,
            dtype=first.dtype,
            xp=torch_namespace,
            device=first.device,
            comm=comm or SerialComm(),
            sections=sections,
        )
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "state", state)

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


def add_pieces(targets: Iterable[Tensor], found: Iterable[Tensor | None]) -> None:
    """Add derivatives by parameters to pieces of a flat vector; None, where there is none, adds 0."""
    for target, derivative in zip(targets, found, strict=True):
        if derivative is not None:
            target.add_(derivative.reshape(-1))
