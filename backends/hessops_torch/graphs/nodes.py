"""What stands behind tensors in the graph of autograd: memory, and operations that end in nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from hessops_torch.data.batch import tensors_in

__all__ = [
    "THROUGH_CHECKPOINT",
    "Lasting",
    "bytes_behind",
    "differentiable",
    "largest_behind",
    "require_second_derivatives",
]

THROUGH_CHECKPOINT = (
    "the model calls torch.utils.checkpoint.checkpoint with use_reentrant=True, through which no "
    "Hessian goes: use use_reentrant=False"
)


def differentiable(found: Iterable[Tensor | None]) -> dict[int, Tensor]:
    """Return those of some derivatives that can be differentiated again, by their places."""
    return {
        place: derivative
        for place, derivative in enumerate(found)
        if derivative is not None and derivative.requires_grad
    }


class Lasting:
    """What a graph holds that is there before it and lasts without it.

    Parameters
    ----------
    parameters : iterable of torch.Tensor
        They take no memory of a graph's.
    data : iterable of torch.Tensor
        Of what was cut from these counts the cut alone: the rest is there anyway.
    """

    def __init__(self, parameters: Iterable[Tensor], data: Iterable[Tensor] = ()) -> None:
        self.parameters = _places(parameters)
        self.data = _places(data)

    @classmethod
    def of(cls, parts: Iterable[Any], batch: Any) -> Lasting:
        """Return what lasts of a model and its loss, and of a micro-batch.

        Parameters
        ----------
        parts : iterable of object
            Those that are modules count; their parameters by which nothing is differentiated, too.
        batch : object
            The micro-batch.

        Returns
        -------
        Lasting
            Buffers, which all micro-batches share, count as data.
        """
        modules = [part for part in parts if isinstance(part, nn.Module)]
        parameters = chain.from_iterable(module.parameters() for module in modules)
        buffers = chain.from_iterable(module.buffers() for module in modules)
        return cls(parameters, chain(tensors_in(batch), buffers))


def bytes_behind(roots: Sequence[Tensor], lasting: Lasting) -> int:
    """Return the memory that some tensors and the graphs behind them hold.

    Parameters
    ----------
    roots : sequence of torch.Tensor
        Ends of graphs.
    lasting : Lasting
        What is there anyway.

    Returns
    -------
    int
        Bytes; what several nodes share counts once. What is neither parameter nor data lives as a
        whole as long as any part of it is held.
    """
    storages: dict[int, _Held] = {}
    for tensor in _tensors_behind(roots, lasting):
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in storages:
            storages[place] = _Held(storage.nbytes(), whole=place not in lasting.data)
        storages[place].add(tensor)
    return sum(held.num_bytes for held in storages.values())


def largest_behind(roots: Sequence[Tensor], lasting: Lasting) -> int:
    """Return the bytes of the largest tensor that some tensors and the graphs behind them hold.

    Parameters
    ----------
    roots, lasting : sequence of torch.Tensor, Lasting
        As for `bytes_behind`.

    Returns
    -------
    int
        Bytes; 0 if there is none.
    """
    return max(
        (
            min(tensor.nbytes, tensor.untyped_storage().nbytes())
            for tensor in _tensors_behind(roots, lasting)
        ),
        default=0,
    )


def require_second_derivatives(roots: Iterable[Tensor], *, linear: bool = False) -> None:
    """Raise if a graph holds what cannot be differentiated once more.

    Parameters
    ----------
    roots : iterable of torch.Tensor
        Ends of the graph.
    linear : bool
        Whether it is differentiated only by what it is linear in, which more can be.

    Raises
    ------
    RuntimeError
        With what to do instead.
    """
    for node in _nodes(roots):
        reason = _WITHOUT_SECOND_DERIVATIVE.get(node.name())
        if reason is not None and not (linear and node.name() in _RIGHT_WHERE_LINEAR):
            raise RuntimeError(reason)


_WITHOUT_SECOND_DERIVATIVE = {
    # No path leads through such a node, so that autograd would leave it out and give zero.
    "torch::autograd::Error": (
        "the model or the loss calls a torch.autograd.Function that is marked once_differentiable, "
        "so there is no Hessian: use one that can be differentiated twice"
    ),
    # Its second derivative is wrong and not symmetric (torch 2.13; gradgradcheck fails). Without a
    # dim, weight_norm is made of simple operations and right.
    "WeightNormInterfaceBackward0": (
        "the model uses weight_norm, of which PyTorch computes wrong second derivatives: write "
        "v * (g / v.norm(...)) out in a parametrization of your own, or fold the norm into the weight "
        "by torch.nn.utils.parametrize.remove_parametrizations (or torch.nn.utils.remove_weight_norm)"
    ),
    # It takes no torch.autograd.grad, and where no parameter lies before it, gives zero.
    "CheckpointFunctionBackward": THROUGH_CHECKPOINT,
}

_RIGHT_WHERE_LINEAR = {"WeightNormInterfaceBackward0"}


class _Held:
    """What the tensors of a graph hold of one storage: all of it, or what was cut from it."""

    def __init__(self, most: int, *, whole: bool) -> None:
        self._most = most
        self._whole = whole
        self._cuts: dict[Any, int] = {}
        self._start, self._end = sys.maxsize, 0

    def add(self, tensor: Tensor) -> None:
        start = tensor.data_ptr()
        self._cuts[start, tensor.shape, tensor.stride()] = tensor.nbytes
        self._start = min(self._start, start)
        self._end = max(self._end, start + _extent(tensor))

    @property
    def num_bytes(self) -> int:
        if self._whole:
            return self._most
        # Expanded and overlapping ones are larger than what they lie in, cuts far apart smaller.
        return min(self._end - self._start, sum(self._cuts.values()))


def _extent(tensor: Tensor) -> int:
    """Return the bytes from the first entry of a tensor to the last."""
    if not tensor.numel():
        return 0
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in sizes)) * tensor.element_size()


def _tensors_behind(roots: Sequence[Tensor], lasting: Lasting) -> Iterator[Tensor]:
    """Yield some tensors and what the graphs behind them hold, but no parameters."""
    for tensor in chain(roots, _saved_tensors(roots)):
        for part in _parts(tensor):
            if part.untyped_storage().data_ptr() not in lasting.parameters:
                yield part


def _places(tensors: Iterable[Tensor]) -> set[int]:
    return {part.untyped_storage().data_ptr() for tensor in tensors for part in _parts(tensor)}


def _parts(tensor: Tensor) -> Iterable[Tensor]:
    """Return the tensors with memory of their own that one consists of."""
    if is_traceable_wrapper_subclass(tensor):  # A jagged one, say.
        names, _how = tensor.__tensor_flatten__()
        return chain.from_iterable(_parts(getattr(tensor, name)) for name in names)
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in {torch.sparse_csc, torch.sparse_bsc}:
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def _saved_tensors(roots: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the tensors that the nodes of a graph keep for their backward passes."""
    for node in _nodes(roots):
        for name in dir(node):
            if name.startswith("_saved_") or name == "saved_tensors":
                value = getattr(node, name)
                kept = value if isinstance(value, tuple | list) else [value]
                yield from (tensor for tensor in kept if torch.is_tensor(tensor))


def _nodes(roots: Iterable[Tensor]) -> Iterator[Any]:
    """Yield every node of the graph behind some tensors once."""
    stack: list[Any] = [root.grad_fn for root in roots]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack.extend(following for following, _ in node.next_functions)
        yield node
