"""What split vectors need of a communicator beside sums: parts of blocks sent from rank to rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from hessops.array_space import ArraySpace
from hessops.arrays import Array, HostArray, device, namespace, numpy_namespace, to_numpy
from hessops.comm import Communicator
from hessops.together import raise_together, tried
from hessops_mpi.communicator import MpiComm
from hessops_mpi.row_comm import AloneComm, MpiRowComm

__all__ = [
    "RowCommunicator",
    "Transfer",
    "able",
    "all_gather_rows",
    "jointly",
    "reduce_scatter_rows",
    "row_communicator",
    "table",
]

T = TypeVar("T")

_OPERATIONS = ("exchange", "all_to_all", "all_gather_rows", "reduce_scatter_rows", "split")


class Transfer(Protocol):
    """Messages under way; the buffers belong to them until they have arrived."""

    def wait(self) -> None:
        """Return when all have been sent and received."""


class RowCommunicator(Communicator, Protocol):
    """A communicator of ranks that hold rows of blocks.

    Every method is collective, as those of a `Communicator` are.
    """

    def exchange(
        self, sends: Mapping[int, HostArray], receives: Mapping[int, HostArray]
    ) -> Transfer:
        """Start to send contiguous arrays to some ranks and to receive others in place of these.

        What a rank sends is what the other one expects, in shape and dtype. A rank that has nothing to
        send or to receive joins with empty mappings.
        """

    def all_to_all(self, numbers: HostArray) -> HostArray:
        """Return the integers that every rank has for this one, having given each its own."""

    def all_gather_rows(self, X: HostArray, counts: Sequence[int]) -> HostArray:
        """Return the rows of all ranks below each other; `counts` tells how many each has."""

    def reduce_scatter_rows(self, X: HostArray, counts: Sequence[int]) -> HostArray:
        """Return this rank's rows of the sum of all ranks' blocks."""

    def split(self, group: int) -> RowCommunicator:
        """Return the communicator of those ranks that give the same `group`, in their order here."""


def able(comm: Communicator) -> Communicator:
    """Return a communicator that can send rows, where there is one for these ranks; `comm` otherwise.

    Parameters
    ----------
    comm : Communicator
        Any.

    Returns
    -------
    Communicator
        Of the same ranks.
    """
    if isinstance(comm, MpiComm) and not isinstance(comm, MpiRowComm):
        return MpiRowComm(comm.mpi, cuda_aware=comm.cuda_aware)
    return comm


def row_communicator(comm: Communicator) -> RowCommunicator:
    """Return a communicator that can send rows, or say that it cannot.

    Parameters
    ----------
    comm : Communicator
        Any; a single process needs to send nothing.

    Returns
    -------
    RowCommunicator
        The same one.

    Raises
    ------
    TypeError
        If it lacks one of the methods and there is more than one rank.
    """
    comm = able(comm)
    missing = [name for name in _OPERATIONS if not hasattr(comm, name)]
    if not missing:
        return cast("RowCommunicator", comm)
    if comm.size == 1:
        return AloneComm()
    raise TypeError(
        f"{comm!r} cannot split vectors over ranks: it has no {', '.join(missing)}; use "
        "hessops_mpi.world()"
    )


def all_gather_rows(comm: Communicator, X: Array, counts: Sequence[int]) -> Array:
    """Return the rows of all ranks below each other.

    Parameters
    ----------
    comm : Communicator
        Of the ranks. One that cannot gather sums blocks of zeros but for these rows, which takes about
        twice the bytes.
    X : array, shape (counts[comm.rank], k)
        The rows of this rank, of any library.
    counts : sequence of int
        Rows of every rank.

    Returns
    -------
    array, shape (sum(counts), k)
        In the library and on the device of `X`.
    """
    if comm.size == 1:
        return X
    if not hasattr(comm, "all_gather_rows"):
        first = sum(counts[: comm.rank])
        whole = ArraySpace(sum(counts), X.dtype, *_home(X)).zeros(X.shape[1])
        whole[first : first + X.shape[0], ...] = X
        return comm.all_reduce(whole)
    gathered: HostArray = comm.all_gather_rows(np.ascontiguousarray(to_numpy(X)), counts)
    return _moved_like(X, gathered)


def reduce_scatter_rows(comm: Communicator, X: Array, counts: Sequence[int]) -> Array:
    """Return this rank's rows of the sum of all ranks' blocks.

    Parameters
    ----------
    comm : Communicator
        Of the ranks. One that cannot scatter a sum gives all of it to everybody, which takes about
        twice the bytes.
    X : array, shape (sum(counts), k)
        A whole block, of any library.
    counts : sequence of int
        Rows of every rank.

    Returns
    -------
    array, shape (counts[comm.rank], k)
        In the library and on the device of `X`.
    """
    if comm.size == 1:
        return X
    if not hasattr(comm, "reduce_scatter_rows"):
        first = sum(counts[: comm.rank])
        return comm.all_reduce(X)[first : first + counts[comm.rank], ...]
    scattered: HostArray = comm.reduce_scatter_rows(np.ascontiguousarray(to_numpy(X)), counts)
    return _moved_like(X, scattered)


def table(comm: Communicator, numbers: Sequence[float]) -> HostArray:
    """Return some numbers of every rank, one row for each, on every rank.

    Parameters
    ----------
    comm : Communicator
        Of the ranks.
    numbers : sequence of float
        As many on every rank; whole numbers are exact up to 2⁵³.

    Returns
    -------
    numpy.ndarray, shape (comm.size, len(numbers))
        In float64.
    """
    rows = np.zeros((comm.size, len(numbers)))
    rows[comm.rank] = numbers
    return to_numpy(comm.all_reduce(rows))


def jointly(comm: Communicator, action: Callable[[], T]) -> T:
    """Return what an action returns; if it fails on one rank, raise on all.

    Parameters
    ----------
    comm : Communicator
        Of the ranks, all of which call this.
    action : callable
        It must not communicate.

    Returns
    -------
    object
        What it returns here.

    Raises
    ------
    Exception
        As `hessops.together.raise_together`.
    """
    value, error = tried(action)
    raise_together(comm, error)
    return cast("T", value)


def _home(X: Array) -> tuple[Any, Any]:
    xp = namespace(X)
    return xp, None if xp is numpy_namespace else device(X)


def _moved_like(X: Array, host: HostArray) -> Array:
    xp, place = _home(X)
    return host if xp is numpy_namespace else xp.asarray(host, device=place)
