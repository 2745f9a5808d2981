"""The communicator of all ranks that the launcher has started."""

from __future__ import annotations

from mpi4py import MPI

from hessops_mpi.communicator import MpiComm
from hessops_mpi.device_buffers import is_cuda_aware

__all__ = ["world"]


def world(*, cuda_aware: bool | None = None) -> MpiComm:
    """Return the communicator of all ranks.

    Parameters
    ----------
    cuda_aware : bool, optional
        Whether MPI reads the memory of GPUs; as the library says where not given.

    Returns
    -------
    MpiComm
        Of ``MPI.COMM_WORLD``; of a single rank where the program was not started by ``mpirun``.

    Examples
    --------
    >>> import hessops_mpi
    >>> hessops_mpi.world()
    MpiComm(rank 0 of 1)
    """
    aware = is_cuda_aware() if cuda_aware is None else cuda_aware
    return MpiComm(MPI.COMM_WORLD, cuda_aware=aware)
