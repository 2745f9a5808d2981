"""The halo: entries of a split vector that this rank's rows of a matrix need from other ranks.

Each rank asks the owners once for the indices that its rows refer to. From then on every product sends
just these entries, from neighbour to neighbour; with rows of a grid, the edges of the blocks.
"""

from __future__ import annotations

import numpy as np

from hessops.arrays import HostArray
from hessops.partition import Partition
from hessops_mpi.transfers import RowCommunicator, Transfer

__all__ = ["Halo"]


class Halo:
    """Which entries come from which rank, and which go where.

    Making one is collective.

    Parameters
    ----------
    needed : numpy.ndarray of int
        Indices that the rows of this rank refer to and other ranks hold, ascending, each once.
    partition : Partition
        Of the vector.
    comm : RowCommunicator
        Of the ranks.
    """

    def __init__(self, needed: HostArray, partition: Partition, comm: RowCommunicator) -> None:
        self.needed = needed
        self._comm = comm
        owners = partition.owners(needed)
        wanted = np.bincount(owners, minlength=comm.size)
        ends = np.concatenate([[0], np.cumsum(wanted)])
        self._from = {
            int(rank): slice(int(ends[rank]), int(ends[rank + 1]))
            for rank in np.flatnonzero(wanted)
        }
        self._to = self._asked_for(wanted, partition)

    @property
    def neighbours(self) -> tuple[int, ...]:
        """Return the ranks that send something to this one or get something from it."""
        return tuple(sorted({*self._from, *self._to}))

    def start(self, X: HostArray) -> tuple[Transfer, HostArray]:
        """Begin to fetch the halo of a block.

        Parameters
        ----------
        X : numpy.ndarray, shape (local_dim, k)
            The rows held here.

        Returns
        -------
        transfer : Transfer
            To wait for.
        halo : numpy.ndarray, shape (len(needed), k)
            The rows `needed`, once it has arrived.
        """
        halo = np.empty((len(self.needed), X.shape[1]), X.dtype)
        sends = {rank: X[rows] for rank, rows in self._to.items()}
        receives = {rank: halo[rows] for rank, rows in self._from.items()}
        return self._comm.exchange(sends, receives), halo

    def start_back(self, halo: HostArray) -> tuple[Transfer, dict[int, HostArray]]:
        """Begin to give every owner what this rank has for its entries, as adjoints do.

        Parameters
        ----------
        halo : numpy.ndarray, shape (len(needed), k)
            Contributions to the rows `needed`.

        Returns
        -------
        transfer : Transfer
            To wait for.
        received : dict of int to numpy.ndarray
            From every rank that has some, its contributions, once they have arrived; `add_back` adds
            them.
        """
        sends = {rank: halo[rows] for rank, rows in self._from.items()}
        received = {
            rank: np.empty((len(rows), halo.shape[1]), halo.dtype)
            for rank, rows in self._to.items()
        }
        return self._comm.exchange(sends, received), received

    def add_back(self, Y: HostArray, received: dict[int, HostArray]) -> None:
        """Add what other ranks had for rows held here, in the order of the ranks."""
        for rank in sorted(received):
            # No index occurs twice in what one rank asked for.
            Y[self._to[rank]] += received[rank]

    def fetch_rows(self, pointers: HostArray, values: HostArray, lengths: HostArray) -> HostArray:
        """Return what other ranks store in the rows `needed` of a sparse matrix, one after the other.

        Parameters
        ----------
        pointers : numpy.ndarray of int
            Where the rows held here begin in `values`, and where the last ends.
        values : numpy.ndarray
            What this rank stores, row by row.
        lengths : numpy.ndarray of int, shape (len(needed),)
            How much there is in every row that is needed.

        Returns
        -------
        numpy.ndarray, shape (sum(lengths),)
            Of the dtype of `values`.
        """
        fetched = np.empty(int(lengths.sum()), values.dtype)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        sends = {
            rank: np.concatenate([values[pointers[row] : pointers[row + 1]] for row in rows])
            for rank, rows in self._to.items()
        }
        receives = {
            rank: fetched[ends[rows.start] : ends[rows.stop]] for rank, rows in self._from.items()
        }
        self._comm.exchange(sends, receives).wait()
        return fetched

    def _asked_for(self, wanted: HostArray, partition: Partition) -> dict[int, HostArray]:
        """Return the local indices that every other rank needs of this one."""
        comm = self._comm
        if comm.size == 1:
            return {}
        counts = comm.all_to_all(wanted.astype(np.int64))
        asked = {int(rank): np.empty(counts[rank], np.int64) for rank in np.flatnonzero(counts)}
        requests = {
            rank: np.ascontiguousarray(self.needed[rows], np.int64)
            for rank, rows in self._from.items()
        }
        comm.exchange(requests, asked).wait()
        first, _ = partition.rows(comm.rank)
        return {rank: indices - first for rank, indices in asked.items()}
