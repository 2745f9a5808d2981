"""What stands behind tensors in the graph of autograd: memory, and operations that end in nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "THROUGH_CHECKPOINT",
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


def bytes_behind(roots: Sequence[Tensor], without: Sequence[Tensor]) -> int:
    """Return the memory that some tensors and the graphs behind them hold.

    Parameters
    ----------
    roots : sequence of torch.Tensor
        Ends of graphs.
    without : sequence of torch.Tensor
        Parameters, which are there anyway.

    Returns
    -------
    int
        Bytes; what several nodes share counts once. Of what was cut from larger data counts the cut
        alone: the rest is there anyway.
    """
    storages: dict[int, _Held] = {}
    for tensor in _tensors_behind(roots, without):
        storage = tensor.untyped_storage()
        storages.setdefault(storage.data_ptr(), _Held(storage.nbytes())).add(tensor)
    return sum(held.num_bytes for held in storages.values())


def largest_behind(roots: Sequence[Tensor], without: Sequence[Tensor]) -> int:
    """Return the bytes of the largest tensor that some tensors and the graphs behind them hold.

    Parameters
    ----------
    roots, without : sequence of torch.Tensor
        As for `bytes_behind`.

    Returns
    -------
    int
        Bytes; 0 if there is none.
    """
    return max(
        (
            min(tensor.nbytes, tensor.untyped_storage().nbytes())
            for tensor in _tensors_behind(roots, without)
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
    """What the tensors of a graph hold of one storage."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._cuts: dict[Any, int] = {}

    def add(self, tensor: Tensor) -> None:
        # A result of the graph lives as a whole as long as any part of it is held.
        whole = tensor.requires_grad and not tensor.is_leaf
        self._cuts[tensor.data_ptr(), tensor.shape] = self._most if whole else tensor.nbytes

    @property
    def num_bytes(self) -> int:
        return min(self._most, sum(self._cuts.values()))


def _tensors_behind(roots: Sequence[Tensor], without: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield some tensors and what the graphs behind them hold, but no parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in without}
    for tensor in chain(roots, _saved_tensors(roots)):
        if tensor.untyped_storage().data_ptr() not in parameters:
            yield tensor


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
