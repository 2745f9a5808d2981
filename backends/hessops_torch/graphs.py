"""The gradient of a micro-batch as a graph that Hessian products are pulled through.

Building it costs one forward and one backward pass (3 units, if a forward pass is 1), each product
pulled through it 6: so it is built once for all columns of a block, and kept between products as long
as memory allows (Pearlmutter 1994 for the product; the units are floating point work).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hessops_torch.losses import BatchLoss

__all__ = ["GradientGraph", "GraphCache", "free_memory"]


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
    """

    def __init__(
        self, model: nn.Module, loss: BatchLoss, batch: Any, parameters: Sequence[Tensor]
    ) -> None:
        total, self.count = loss(model, batch)
        self.parameters = parameters
        gradients: Sequence[Tensor | None] = [None] * len(parameters)
        if total.requires_grad:
            gradients = torch.autograd.grad(total, parameters, create_graph=True, allow_unused=True)
        # A parameter that the loss does not use, or uses linearly, has no second derivative.
        self._curved = {
            index: gradient
            for index, gradient in enumerate(gradients)
            if gradient is not None and gradient.requires_grad
        }
        _require_second_derivatives(self._curved.values())

    def add_products(self, columns: Tensor, out: Tensor, *, keep: bool) -> None:
        """Add the Hessian products of the summed loss with each row of `columns` to `out`.

        Parameters
        ----------
        columns, out : torch.Tensor, shape (k, n)
            One flat vector per row.
        keep : bool
            Whether the graph is needed again.
        """
        if not self._curved:
            return
        sizes = [parameter.numel() for parameter in self.parameters]
        for row in range(len(columns)):
            pieces = torch.split(columns[row], sizes)
            seeds = [pieces[i].view_as(self.parameters[i]) for i in self._curved]
            products = torch.autograd.grad(
                list(self._curved.values()),
                self.parameters,
                seeds,
                retain_graph=keep or row + 1 < len(columns),
                allow_unused=True,
            )
            for target, product in zip(torch.split(out[row], sizes), products, strict=True):
                if product is not None:
                    target.add_(product.reshape(-1))

    def num_bytes(self) -> int:
        """Return the memory that the graph holds, without the parameters themselves."""
        sizes: dict[int, int] = {}
        gradients = self._curved.values()
        for tensor in chain(gradients, _saved_tensors(gradients)):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        for parameter in self.parameters:
            sizes.pop(parameter.untyped_storage().data_ptr(), None)
        return sum(sizes.values())


class GraphCache:
    """Gradient graphs of micro-batches, kept within a budget and for one state of the model.

    Parameters
    ----------
    model : torch.nn.Module
        A change of its parameters, buffers or mode empties the cache.
    memory_budget : int
        Most bytes of graphs to hold. Unless it is 0, a copy of the model's tensors is held, too.
    """

    def __init__(self, model: nn.Module, memory_budget: int) -> None:
        self.memory_budget = memory_budget
        self.num_bytes = 0
        self._model = model
        self._graphs: dict[int, GradientGraph] = {}
        self._snapshot: _Snapshot | None = None
        self._full = False

    def __len__(self) -> int:
        return len(self._graphs)

    def get(self, index: int) -> GradientGraph | None:
        """Return the graph of a micro-batch, if it is kept."""
        return self._graphs.get(index)

    def drop_stale(self) -> None:
        """Forget all graphs if the model has changed since they were built."""
        if self._snapshot is not None and self._snapshot.fits(self._model):
            return
        self.clear()
        self._snapshot = _Snapshot(self._model) if self.memory_budget > 0 else None

    def offer(self, index: int, graph: GradientGraph) -> bool:
        """Keep a graph if it fits; tell whether it is kept."""
        if self.memory_budget <= 0 or self._full:
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


class _Snapshot:
    """Values, places and modes of a model at one moment.

    Values, because what is written through ``.data`` leaves no other trace; places and versions,
    because autograd refuses a graph whose tensors were written to, whatever was written.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = _places(model)
        self._modes = _modes(model)
        self._values = [tensor.detach().clone() for tensor in _strided(model)]

    def fits(self, model: nn.Module) -> bool:
        """Tell whether the model is as it was, by one synchronisation."""
        if self._places != _places(model) or self._modes != _modes(model):
            return False
        now = (tensor.detach() for tensor in _strided(model))
        # A NaN differs from itself: such a model gets its graphs anew, and is right.
        changed = [(a != b).any() for a, b in zip(now, self._values, strict=True)]
        return not changed or not bool(
            torch.stack([c.to(changed[0].device) for c in changed]).any()
        )


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


def _strided(model: nn.Module) -> Iterator[Tensor]:
    tensors = chain(model.parameters(), model.buffers())
    return (tensor for tensor in tensors if tensor.layout == torch.strided)


def _places(model: nn.Module) -> list[tuple[Any, ...]]:
    return [
        (
            tensor.data_ptr() if tensor.layout == torch.strided else id(tensor),
            tensor._version,
            tensor.shape,
        )
        for tensor in chain(model.parameters(), model.buffers())
    ]


def _modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def _require_second_derivatives(roots: Iterable[Tensor]) -> None:
    # No path leads through such a node, so that autograd would leave it out and give zero.
    if any(node.name() == "torch::autograd::Error" for node in _nodes(roots)):
        raise RuntimeError(
            "the model or the loss calls a torch.autograd.Function that is marked "
            "once_differentiable, so there is no Hessian: use one that can be differentiated twice"
        )


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
