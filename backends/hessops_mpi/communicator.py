"""A communicator of mpi4py as hessops asks for one."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

import numpy as np
from mpi4py import MPI

from hessops.arrays import Array, HostArray, device, is_on_host, namespace, to_numpy
from hessops_mpi.device_buffers import synchronize
from hessops_mpi.row_comm import RowsByMpi
from hessops_mpi.watch import end_all, waiting

__all__ = ["MpiComm"]

T = TypeVar("T")


class MpiComm(RowsByMpi):
    """The ranks of an mpi4py communicator; `world` makes that of all ranks.

    Sums are the same to the last bit on every rank, as the standard demands of ``MPI_Allreduce``; for
    another number of ranks they are added in another order, and differ by rounding.

    Parameters
    ----------
    mpi : mpi4py.MPI.Intracomm
        Whose ranks they are.
    cuda_aware : bool
        Hand arrays on a CUDA device to MPI as they are; otherwise they go by way of the host.

    Examples
    --------
    >>> import numpy as np
    >>> from mpi4py import MPI
    >>> from hessops_mpi import MpiComm
    >>> comm = MpiComm(MPI.COMM_SELF)
    >>> comm.all_reduce(np.ones(2)), comm.broadcast("word")
    (array([1., 1.]), 'word')
    """

    def __init__(self, mpi: MPI.Intracomm, *, cuda_aware: bool = False) -> None:
        self.mpi = mpi
        self.cuda_aware = cuda_aware
        self.rank: int = mpi.Get_rank()
        self.size: int = mpi.Get_size()
        self._local: tuple[int, int] | None = None

    def local_rank(self) -> int:
        """Return the number of this rank among those on its machine; collective the first time."""
        return self._on_machine()[0]

    def local_size(self) -> int:
        """Return the number of ranks on this rank's machine; collective the first time."""
        return self._on_machine()[1]

    def all_reduce(self, array: Array) -> Array:
        """Return the sum of `array` over all ranks, the same bits on every rank.

        Parameters
        ----------
        array : array
            Of any library and device, the same shape and dtype on every rank.

        Returns
        -------
        array
            A new one, of the same library, device, shape and dtype.
        """
        if self.size == 1:
            return array
        if self.cuda_aware and not is_on_host(array):
            return self._reduced_on_device(array)
        host = np.asarray(to_numpy(array), order="C")
        total = np.empty_like(host)
        with waiting("all_reduce"):
            self.mpi.Allreduce(host, total)
        return _as_was(total, array)

    def broadcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank.

        Parameters
        ----------
        value : object
            Anything small that can be pickled.

        Returns
        -------
        object
            Rank 0's own, copies of it elsewhere.
        """
        if self.size == 1:
            return value
        with waiting("broadcast"):
            received: T = self.mpi.bcast(value)
        return value if self.rank == 0 else received

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once, of every communicator, with an exit code.

        Parameters
        ----------
        code : int
            Not 0.
        """
        end_all(code)

    def _on_machine(self) -> tuple[int, int]:
        if self._local is None:
            with waiting("split by machines"):
                neighbours = self.mpi.Split_type(MPI.COMM_TYPE_SHARED)
            self._local = neighbours.Get_rank(), neighbours.Get_size()
            neighbours.Free()
        return self._local

    def _reduced_on_device(self, array: Any) -> Array:
        xp = namespace(array)
        # Contiguous, and memory of its own.
        buffer = xp.asarray(array, copy=True)
        buffer = xp.reshape(xp.reshape(buffer, (-1,)), array.shape)
        # MPI knows nothing of the library's queue.
        synchronize(buffer)
        with waiting("all_reduce"):
            self.mpi.Allreduce(MPI.IN_PLACE, buffer)
        reduced: Array = buffer
        return reduced

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MpiComm) and bool(self.mpi == other.mpi)

    def __hash__(self) -> int:
        return hash((MpiComm, self.mpi.handle))

    def __repr__(self) -> str:
        return f"MpiComm(rank {self.rank} of {self.size})"


def _as_was(host: HostArray, like: Array) -> Array:
    """Return a host array in the library and on the device of another."""
    if isinstance(like, np.ndarray):
        return host
    moved: Array = namespace(like).asarray(host, device=device(like))
    return moved
