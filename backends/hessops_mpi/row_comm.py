"""Rows sent from rank to rank by MPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from mpi4py import MPI

from hessops.arrays import HostArray
from hessops.comm import SerialComm
from hessops_mpi.watch import waiting

__all__ = ["AloneComm", "RowsByMpi"]

_TAG = 7


class RowsByMpi:
    """What `MpiComm` can do with rows: a `hessops_mpi.transfers.RowCommunicator`.

    Rows go by way of the host.
    """

    mpi: MPI.Intracomm
    rank: int
    cuda_aware: bool

    def exchange(
        self, sends: Mapping[int, HostArray], receives: Mapping[int, HostArray]
    ) -> _Requests:
        """Start to send contiguous arrays to some ranks and to receive others in place of these."""
        requests = [self.mpi.Irecv(buffer, rank, _TAG) for rank, buffer in receives.items()]
        requests += [self.mpi.Isend(buffer, rank, _TAG) for rank, buffer in sends.items()]
        return _Requests(requests, [*sends.values(), *receives.values()])

    def all_to_all(self, numbers: HostArray) -> HostArray:
        """Return the integers that every rank has for this one, having given each its own."""
        received = np.empty_like(numbers)
        with waiting("all_to_all"):
            self.mpi.Alltoall(np.ascontiguousarray(numbers), received)
        return received

    def all_gather_rows(self, X: HostArray, counts: Sequence[int]) -> HostArray:
        """Return the rows of all ranks below each other."""
        whole = np.empty((sum(counts), *X.shape[1:]), X.dtype)
        width = int(np.prod(X.shape[1:], dtype=np.int64))
        with waiting("all_gather_rows"):
            self.mpi.Allgatherv(X, [whole, [count * width for count in counts]])
        return whole

    def reduce_scatter_rows(self, X: HostArray, counts: Sequence[int]) -> HostArray:
        """Return this rank's rows of the sum of all ranks' blocks."""
        own = np.empty((counts[self.rank], *X.shape[1:]), X.dtype)
        width = int(np.prod(X.shape[1:], dtype=np.int64))
        with waiting("reduce_scatter_rows"):
            self.mpi.Reduce_scatter(X, own, [count * width for count in counts])
        return own

    def split(self, group: int) -> Self:
        """Return the communicator of those ranks that give the same `group`, in their order here."""
        with waiting("split"):
            part: Any = self.mpi.Split(group, self.rank)
        return type(self)(part, cuda_aware=self.cuda_aware)  # type: ignore[call-arg]


class _Requests:
    """Messages under way, and the buffers that they must not outlive."""

    def __init__(self, requests: list[MPI.Request], buffers: list[HostArray]) -> None:
        self._requests, self._buffers = requests, buffers

    def wait(self) -> None:
        with waiting("exchange"):
            MPI.Request.Waitall(self._requests)


class AloneComm(SerialComm):
    """The only rank: it holds all rows and sends none."""

    def exchange(
        self, sends: Mapping[int, HostArray], receives: Mapping[int, HostArray]
    ) -> _Requests:
        """Send nothing."""
        if sends or receives:
            raise ValueError(f"ranks {sorted({*sends, *receives})} do not exist: there is only one")
        return _Requests([], [])

    def all_to_all(self, numbers: HostArray) -> HostArray:
        """Return `numbers`."""
        return numbers

    def all_gather_rows(self, X: HostArray, counts: Sequence[int]) -> HostArray:
        """Return `X`."""
        del counts
        return X

    def reduce_scatter_rows(self, X: HostArray, counts: Sequence[int]) -> HostArray:
        """Return `X`."""
        del counts
        return X

    def split(self, group: int) -> AloneComm:
        """Return the communicator itself."""
        del group
        return self
