"""Ranks that are threads and send rows to each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from doubles import ThreadComm, _Group, run_on_ranks

T = TypeVar("T")


class RowThreadComm:
    """A `ThreadComm` that also sends rows."""

    def __init__(self, comm: ThreadComm) -> None:
        self._comm = comm
        self.rank, self.size = comm.rank, comm.size

    def all_reduce(self, array: Any) -> Any:
        return self._comm.all_reduce(array)

    def broadcast(self, value: T) -> T:
        return self._comm.broadcast(value)

    def exchange(self, sends: Any, receives: Any) -> Any:
        # Copied at once: a sender that overwrites its buffer too early is not what is tested here.
        posted = {rank: np.array(part, copy=True) for rank, part in sends.items()}
        everything = self._comm._exchange("exchange", (posted, set(receives)), None)
        for rank, (parts, expected) in enumerate(everything):
            if (self.rank in parts) != (rank in receives):
                raise RuntimeError(f"rank {rank} and rank {self.rank} do not expect each other")
            if (self.rank in expected) != (rank in sends):
                raise RuntimeError(f"rank {rank} waits for rank {self.rank} in vain")
        return _Arrival(receives, {rank: everything[rank][0][self.rank] for rank in receives})

    def all_to_all(self, numbers: Any) -> Any:
        rows = self._comm._exchange("all_to_all", numbers, numbers.shape)
        return np.array([row[self.rank] for row in rows])

    def all_gather_rows(self, X: Any, counts: Any) -> Any:
        parts = self._comm._exchange("all_gather_rows", X, (X.shape[1:], X.dtype))
        assert [len(part) for part in parts] == list(counts)
        return np.concatenate(parts)

    def reduce_scatter_rows(self, X: Any, counts: Any) -> Any:
        first = sum(counts[: self.rank])
        parts = self._comm._exchange("reduce_scatter_rows", X, (X.shape, X.dtype))
        return sum(parts[1:], parts[0])[first : first + counts[self.rank]]

    def split(self, group: int) -> RowThreadComm:
        parent = self._comm._group
        mine = _Group(self.size, parent.barrier._timeout, parent.noise)
        seen = self._comm._exchange("split", (group, mine), None)
        members = [rank for rank, (color, _) in enumerate(seen) if color == group]
        shared = seen[members[0]][1]
        if self.rank == members[0]:
            shared.size, shared.slots = len(members), [None] * len(members)
            shared.barrier = threading.Barrier(len(members), timeout=parent.barrier._timeout)
        self._comm.broadcast(None)
        return RowThreadComm(ThreadComm(members.index(self.rank), shared))


class _Arrival:
    """What other ranks have sent; it is there once it has been waited for."""

    def __init__(self, buffers: Any, parts: Any) -> None:
        self._buffers, self._parts = buffers, parts
        for buffer in buffers.values():
            # A product that does not wait for its halo must show.
            buffer.fill(-(2**30))

    def wait(self) -> None:
        for rank, buffer in self._buffers.items():
            part = self._parts[rank]
            if (part.shape, part.dtype) != (buffer.shape, buffer.dtype):
                raise RuntimeError(f"rank {rank} sent {part.shape} for {buffer.shape}")
            buffer[...] = part


def on_row_ranks(function: Callable[[Any], T], size: int, **options: Any) -> list[T]:
    """Return what `function` returns on each of `size` ranks that can send rows."""
    return run_on_ranks(lambda comm: function(RowThreadComm(comm)), size, **options)
