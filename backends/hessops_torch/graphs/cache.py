"""Graphs of micro-batches, kept between products as long as memory and the model's state allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from hessops_torch.model.snapshot import Snapshot

__all__ = ["GraphCache"]


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

    def __getstate__(self) -> dict[str, Any]:
        # Tensors of a graph cannot be copied, and without it they are of no use.
        return {**self.__dict__, "_graphs": {}, "_snapshot": None, "num_bytes": 0, "_full": False}

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
