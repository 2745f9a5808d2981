"""How ranks talk: the little that algorithms and spaces ask of a communicator."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from hessops.arrays import Array

__all__ = ["Communicator", "SerialComm", "require_communicator", "share"]

T = TypeVar("T")


class Communicator(Protocol):
    """A group of processes (or threads) that run the same program on their parts of the data.

    Every method is collective: all ranks call it, in the same order.
    """

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0."""

    @property
    def size(self) -> int:
        """Return the number of processes."""

    def all_reduce(self, array: Array) -> Array:
        """Return the sum of `array` over all ranks, on every rank the same but for rounding."""

    def broadcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank."""


class SerialComm:
    """The communicator of a single process: every collective is the identity."""

    rank = 0
    size = 1

    def all_reduce(self, array: Array) -> Array:
        """Return `array`."""
        return array

    def broadcast(self, value: T) -> T:
        """Return `value`."""
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SerialComm)

    def __hash__(self) -> int:
        return hash(SerialComm)

    def __repr__(self) -> str:
        return "SerialComm()"


def require_communicator(comm: Any) -> None:
    """Raise if something is no communicator, such as one of mpi4py's.

    Parameters
    ----------
    comm : object
        To look at.

    Raises
    ------
    TypeError
        If it lacks what a `Communicator` has.
    """
    if all(hasattr(comm, name) for name in ("rank", "size", "all_reduce", "broadcast")):
        return
    raise TypeError(
        f"comm={comm!r} is no communicator: pass hessops_mpi.world(), hessops_mpi.MpiComm(...) of one "
        "of mpi4py's, hessops_torch.distributed_comm(), or hessops.SerialComm() for one process"
    )


def share(comm: Communicator, count: int, multiple: int = 1) -> range:
    """Return which of `count` things a rank gets: neighbours, in the order of the ranks.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    count : int
        How many there are; fewer than ranks leave some without.
    multiple : int
        Deal them out by so many at a time.

    Returns
    -------
    range
        Those of this rank; no two ranks differ by more than one lot.
    """
    lots = -(-count // multiple)
    first, last = (min(lots * r // comm.size * multiple, count) for r in (comm.rank, comm.rank + 1))
    return range(first, last)
