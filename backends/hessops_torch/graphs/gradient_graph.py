"""The gradient of a micro-batch as a graph that Hessian products are pulled through.

Building it costs one forward and one backward pass (3 units, if a forward pass is 1), each product
pulled through it 6: so it is built once for all columns of a block, and kept between products as long
as memory allows (Pearlmutter 1994 for the product; the units are floating point work).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hessops_torch.graphs.symmetry import shows_symmetry
from hessops_torch.losses.contract import BatchLoss
from hessops_torch.losses.failures import differentiating, evaluate
from hessops_torch.model.snapshot import Snapshot

__all__ = [
    "GradientGraph",
    "GraphCache",
    "bytes_behind",
    "free_memory",
    "require_second_derivatives",
]


_MEMINFO = Path("/proc/meminfo")
_UNKNOWN_MEMORY = 2 * 2**30


class GradientGraph:
    """The gradient of the summed loss of one micro-batch, ready to be differentiated again.

    Parameters
    ----------
    model : torch.nn.Module
        The model, ready for second derivatives.
    loss : BatchLoss
        The loss.
    batch : object
        One micro-batch.
    parameters : sequence of torch.Tensor
        To differentiate by.
    name : str
        What messages call the micro-batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: BatchLoss,
        batch: Any,
        parameters: Sequence[Tensor],
        name: str = "the batch",
    ) -> None:
        total, self.count = evaluate(model, loss, batch, parameters[0], name)
        self.parameters = parameters
        self.name = name
        self.total = total.detach()
        gradients: Sequence[Tensor | None] = [None] * len(parameters)
        if total.requires_grad:
            with differentiating(name):
                gradients = torch.autograd.grad(
                    total, parameters, create_graph=True, allow_unused=True
                )
        # A parameter that the loss does not use, or uses linearly, has no second derivative.
        self._curved = {
            index: gradient
            for index, gradient in enumerate(gradients)
            if gradient is not None and gradient.requires_grad
        }
        require_second_derivatives([total, *self._curved.values()])

    def add_products(
        self, columns: Tensor, out: Tensor, *, keep: bool, among: Sequence[int] | None = None
    ) -> None:
        """Add the Hessian products of the summed loss with each row of `columns` to `out`.

        Parameters
        ----------
        columns, out : torch.Tensor, shape (k, n)
            One flat vector per row.
        keep : bool
            Whether the graph is needed again.
        among : sequence of int, optional
            Places of the parameters whose diagonal block to multiply by; all where not given. Passes
            go no further down in the network than these.
        """
        places = range(len(self.parameters)) if among is None else among
        curved = [place for place in places if place in self._curved]
        if not curved:
            return
        sizes = [parameter.numel() for parameter in self.parameters]
        for row in range(len(columns)):
            pieces, targets = torch.split(columns[row], sizes), torch.split(out[row], sizes)
            with differentiating(self.name):
                products = torch.autograd.grad(
                    [self._curved[place] for place in curved],
                    [self.parameters[place] for place in places],
                    [pieces[place].view_as(self.parameters[place]) for place in curved],
                    retain_graph=keep or row + 1 < len(columns),
                    allow_unused=True,
                )
            for place, product in zip(places, products, strict=True):
                if product is not None:
                    targets[place].add_(product.reshape(-1))

    def shows_symmetry(self) -> bool:
        """Look at two products whether they are symmetric, and tell whether they say anything."""
        if not self._curved:
            return False

        def products(rows: Tensor) -> Tensor:
            out = torch.zeros_like(rows)
            self.add_products(rows, out, keep=True)
            return out

        size = sum(parameter.numel() for parameter in self.parameters)
        return shows_symmetry(products, size, self.parameters[0].detach(), self.name)

    def num_bytes(self) -> int:
        """Return the memory that the graph holds, without the parameters themselves."""
        return bytes_behind(list(self._curved.values()), self.parameters)


class _Graph(Protocol):
    def num_bytes(self) -> int: ...


_Kept = TypeVar("_Kept", bound=_Graph)


class GraphCache(Generic[_Kept]):
    """Graphs of micro-batches, kept within a budget and for one state of model and loss.

    Parameters
    ----------
    parts : sequence of object
        Model and loss. A change of their parameters, buffers, modules, attributes, forward hooks or
        mode empties the cache.
    memory_budget : float
        Most bytes of graphs to hold. Unless it is 0, a copy of the tensors of model and loss is held,
        too.
    """

    def __init__(self, parts: Sequence[Any], memory_budget: float) -> None:
        self.memory_budget = memory_budget
        self.num_bytes = 0
        self._parts = parts
        self._graphs: dict[int, _Kept] = {}
        self._snapshot: Snapshot | None = None
        self._full = False

    def __len__(self) -> int:
        return len(self._graphs)

    def get(self, index: int) -> _Kept | None:
        """Return the graph of a micro-batch, if it is kept."""
        return self._graphs.get(index)

    def drop_stale(self) -> None:
        """Forget all graphs if model or loss have changed since they were built."""
        if self._snapshot is not None and self._snapshot.fits():
            return
        self.clear()
        self._snapshot = Snapshot(self._parts) if self.memory_budget > 0 else None

    def settle(self) -> None:
        """Take what changed during a product for the forward pass's own doing."""
        if self._snapshot is not None:
            self._snapshot.settle()

    @property
    def is_open(self) -> bool:
        """Tell whether another graph may still be kept."""
        return self.memory_budget > 0 and not self._full

    def offer(self, index: int, graph: _Kept) -> bool:
        """Keep a graph if it fits; tell whether it is kept."""
        if not self.is_open:
            return False
        needed = graph.num_bytes()
        # Measuring takes time: once one is refused, so are those after it.
        self._full = self.num_bytes + needed > self.memory_budget
        if self._full:
            return False
        self._graphs[index] = graph
        self.num_bytes += needed
        return True

    def clear(self) -> None:
        """Forget all graphs."""
        self._graphs.clear()
        self.num_bytes = 0
        self._full = False


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
        Bytes; what several nodes share counts once.
    """
    sizes: dict[int, int] = {}
    for tensor in chain(roots, _saved_tensors(roots)):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    for parameter in without:
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(sizes.values())


def free_memory(device: torch.device) -> int:
    """Return the bytes of memory that are free on a device.

    Parameters
    ----------
    device : torch.device
        A CPU, or a CUDA device.

    Returns
    -------
    int
        Free bytes; of a CPU, what the system can give without swapping, or two gigabytes where
        it does not say.
    """
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return int(free)
    try:
        fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _UNKNOWN_MEMORY


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
    "CheckpointFunctionBackward": (
        "the model calls torch.utils.checkpoint.checkpoint with use_reentrant=True, through which no "
        "Hessian goes: use use_reentrant=False"
    ),
}

_RIGHT_WHERE_LINEAR = {"WeightNormInterfaceBackward0"}


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
