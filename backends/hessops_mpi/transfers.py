"""What split vectors need of a communicator beside sums: parts of blocks sent from rank to rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from hessops.arrays import HostArray
from hessops.comm import Communicator, require_communicator
from hessops_mpi.row_comm import AloneComm

__all__ = ["RowCommunicator", "Transfer", "row_communicator"]

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
        If it lacks one of the methods and there is more than one rank, or is no communicator.
    """
    require_communicator(comm)
    missing = [name for name in _OPERATIONS if not hasattr(comm, name)]
    if not missing:
        return cast("RowCommunicator", comm)
    if comm.size == 1:
        return AloneComm()
    raise TypeError(
        f"{comm!r} cannot split vectors over ranks: it has no {', '.join(missing)}; use "
        "hessops_mpi.world()"
    )
