"""The communicator of all ranks that the launcher has started."""

from __future__ import annotations

import math
import os

from mpi4py import MPI

from hessops_mpi.communicator import MpiComm
from hessops_mpi.device_buffers import is_cuda_aware
from hessops_mpi.watch import Watch

__all__ = ["world"]

_TIMEOUT = 1800.0
_VARIABLE = "HESSOPS_MPI_TIMEOUT"
_made: dict[str, MPI.Intracomm] = {}
_watches: list[Watch] = []


def world(*, timeout: float | None = None, cuda_aware: bool | None = None) -> MpiComm:
    """Return the communicator of all ranks; collective the first time.

    Of several ranks, it sees from then on that they end together: an exception that nobody catches on
    one of them is shown and ends all, with exit code 1; so does a rank that ends while others wait for
    it, and a wait in one collective of more than `timeout` seconds. That a rank was killed, ``mpirun``
    notices.

    Parameters
    ----------
    timeout : float, optional
        Seconds that a rank may wait for the others in one collective: more than the longest product.
        Where not given, ``HESSOPS_MPI_TIMEOUT`` in the environment, or half an hour.
    cuda_aware : bool, optional
        Whether MPI reads the memory of GPUs; as the library says where not given.

    Returns
    -------
    MpiComm
        Of a copy of ``MPI.COMM_WORLD``, so that other messages do not mix with those of hessops; of a
        single rank where the program was not started by ``mpirun``.

    Raises
    ------
    ValueError
        If the time-out is not positive.

    Examples
    --------
    >>> import hessops_mpi
    >>> hessops_mpi.world()
    MpiComm(rank 0 of 1)
    """
    seconds = _seconds(timeout)
    if not _made:
        _made["hessops"] = MPI.COMM_WORLD.Dup()
        if MPI.COMM_WORLD.Get_size() > 1:
            _watches.append(Watch(MPI.COMM_WORLD.Dup(), seconds))
    for watch in _watches:
        watch.timeout = seconds
    aware = is_cuda_aware() if cuda_aware is None else cuda_aware
    return MpiComm(_made["hessops"], cuda_aware=aware)


def _seconds(timeout: float | None) -> float:
    told = os.environ.get(_VARIABLE) if timeout is None else timeout
    try:
        seconds = _TIMEOUT if told in {None, ""} else float(told)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        name = _VARIABLE if timeout is None else "timeout"
        raise ValueError(f"{name}={told!r} must be a positive number of seconds")
    return seconds
