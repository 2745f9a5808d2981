"""A communicator that counts what goes through it."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from hessops.arrays import Array, HostArray
from hessops.comm import Communicator
from hessops_mpi.transfers import RowCommunicator, Transfer, row_communicator

__all__ = ["CountingComm"]

T = TypeVar("T")


class CountingComm:
    """Another communicator, whose calls and bytes are counted on this rank.

    Bytes are those that this rank hands over, once: what an algorithm of the MPI library makes of them
    on the wire is not seen. A broadcast counts the pickled value on rank 0.

    Parameters
    ----------
    comm : Communicator
        Any.

    Examples
    --------
    >>> import numpy as np, hessops_mpi
    >>> comm = hessops_mpi.CountingComm(hessops_mpi.world())
    >>> _ = comm.all_reduce(np.ones(4))
    >>> comm.calls, comm.sent_bytes
    ({'all_reduce': 1}, {'all_reduce': 32})
    """

    def __init__(self, comm: Communicator) -> None:
        self.inner = comm
        self.rank, self.size = comm.rank, comm.size
        self._calls: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @property
    def calls(self) -> dict[str, int]:
        """Return how often every operation was called."""
        return dict(self._calls)

    @property
    def sent_bytes(self) -> dict[str, int]:
        """Return how many bytes this rank handed to every operation."""
        return dict(self._bytes)

    def reset(self) -> None:
        """Begin to count anew."""
        self._calls.clear()
        self._bytes.clear()

    def all_reduce(self, array: Array) -> Array:
        """Return the sum over all ranks."""
        self._count("all_reduce", array)
        return self.inner.all_reduce(array)

    def broadcast(self, value: T) -> T:
        """Return rank 0's value."""
        self._calls["broadcast"] += 1
        self._bytes["broadcast"] += len(pickle.dumps(value)) if self.rank == 0 else 0
        return self.inner.broadcast(value)

    def exchange(
        self, sends: Mapping[int, HostArray], receives: Mapping[int, HostArray]
    ) -> Transfer:
        """Start an exchange with neighbours."""
        self._count("exchange", *sends.values())
        return self._rows.exchange(sends, receives)

    def all_to_all(self, numbers: HostArray) -> HostArray:
        """Return the integers that every rank has for this one."""
        self._count("all_to_all", numbers)
        return self._rows.all_to_all(numbers)

    def all_gather_rows(self, X: HostArray, counts: Sequence[int]) -> HostArray:
        """Return the rows of all ranks."""
        self._count("all_gather_rows", X)
        return self._rows.all_gather_rows(X, counts)

    def reduce_scatter_rows(self, X: HostArray, counts: Sequence[int]) -> HostArray:
        """Return this rank's rows of the sum."""
        self._count("reduce_scatter_rows", X)
        return self._rows.reduce_scatter_rows(X, counts)

    def split(self, group: int) -> CountingComm:
        """Return a part of the ranks, with counts of its own."""
        self._count("split")
        return CountingComm(self._rows.split(group))

    @property
    def _rows(self) -> RowCommunicator:
        return row_communicator(self.inner)

    def _count(self, call: str, *arrays: Any) -> None:
        self._calls[call] += 1
        self._bytes[call] += sum(int(array.nbytes) for array in arrays)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CountingComm) and self.inner == other.inner

    def __hash__(self) -> int:
        return hash((CountingComm, self.inner))

    def __repr__(self) -> str:
        return f"CountingComm({self.inner!r})"
