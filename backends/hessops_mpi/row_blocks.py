"""Rows of a sparse matrix, cut into those that can be multiplied at once and those that wait."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from hessops.arrays import HostArray
from hessops.partition import Partition
from hessops_mpi.halo import Halo
from hessops_mpi.transfers import RowCommunicator

__all__ = ["RowBlock"]


class RowBlock:
    """A rank's rows of a sparse matrix, multiplied while what they need of others is under way.

    Interior rows refer to entries held here only; border rows wait for the halo. Every row is summed
    in the order in which its entries are stored, as SciPy does it for the whole matrix: the product
    has the same bits for any number of ranks. Making one is collective.

    Parameters
    ----------
    rows : scipy.sparse.csr_array, shape (local_rows, n)
        This rank's rows, with global column indices.
    columns : Partition
        Of the vectors to multiply.
    comm : RowCommunicator
        Of the ranks.
    """

    def __init__(self, rows: Any, columns: Partition, comm: RowCommunicator) -> None:
        first, last = columns.rows(comm.rank)
        foreign = (rows.indices < first) | (rows.indices >= last)
        self.halo = Halo(np.unique(rows.indices[foreign]), columns, comm)
        per_row = np.diff(rows.indptr)
        of_row = np.repeat(np.arange(rows.shape[0]), per_row)
        waits = np.zeros(rows.shape[0], bool)
        waits[of_row[foreign]] = True
        self.border = np.flatnonzero(waits)
        self.dtype = rows.dtype
        self._interior = _without(rows, waits, first, last - first)
        border = rows[self.border]
        used = np.unique(border.indices)
        # The columns that border rows use, ours and others', in their global order.
        self._border = scipy.sparse.csr_array(
            (border.data, np.searchsorted(used, border.indices), border.indptr),
            shape=(len(self.border), len(used)),
        )
        own = (used >= first) & (used < last)
        self._own_places = np.flatnonzero(own)
        self._halo_places = np.flatnonzero(~own)
        self._own_rows = used[own] - first

    @property
    def nnz(self) -> int:
        """Return the number of stored entries."""
        return int(self._interior.nnz + self._border.nnz)

    def multiply(self, X: HostArray) -> HostArray:
        """Return these rows of the product.

        Parameters
        ----------
        X : numpy.ndarray, shape (local_columns, k)
            The rows of the block held here.

        Returns
        -------
        numpy.ndarray, shape (local_rows, k)
            By one exchange with the neighbours.
        """
        transfer, halo = self.halo.start(X)
        Y: HostArray = self._interior @ X
        transfer.wait()
        if len(self.border):
            used = np.empty((self._border.shape[1], X.shape[1]), X.dtype)
            used[self._own_places] = X[self._own_rows]
            used[self._halo_places] = halo
            Y[self.border] = self._border @ used
        return Y

    def multiply_adjoint(self, Y: HostArray) -> HostArray:
        """Return this rank's rows of the product of the whole matrix' adjoint.

        Parameters
        ----------
        Y : numpy.ndarray, shape (local_rows, k)
            The rows of the block held here.

        Returns
        -------
        numpy.ndarray, shape (local_columns, k)
            By one exchange with the neighbours, who add what they have for each other's rows.
        """
        used = self._border.conj().T @ Y[self.border]
        transfer, received = self.halo.start_back(np.ascontiguousarray(used[self._halo_places]))
        X: HostArray = self._interior.conj().T @ Y
        X[self._own_rows] += used[self._own_places]
        transfer.wait()
        self.halo.add_back(X, received)
        return X


def _without(rows: Any, left_out: HostArray, first: int, count: int) -> Any:
    """Return the matrix with some rows emptied, and its columns counted from the first held here."""
    shape = (rows.shape[0], count)
    inside = np.flatnonzero(~left_out)
    if len(inside) == 0:
        return scipy.sparse.csr_array(shape, dtype=rows.dtype)
    start, stop = int(inside[0]), int(inside[-1]) + 1
    if not left_out[start:stop].any():
        # As for bands and grids: all that is left lies together, and its entries need no copy.
        first_entry, last_entry = rows.indptr[start], rows.indptr[stop]
        pointers = np.clip(rows.indptr, first_entry, last_entry) - first_entry
        entries = slice(first_entry, last_entry)
        indices = rows.indices[entries] - first if first else rows.indices[entries]
        return scipy.sparse.csr_array((rows.data[entries], indices, pointers), shape=shape)
    per_row = np.diff(rows.indptr)
    kept = np.repeat(~left_out, per_row)
    pointers = np.concatenate([[0], np.cumsum(np.where(left_out, 0, per_row))])
    # Of the matrix' own type, which SciPy's compiled products are fastest with.
    parts = (rows.data[kept], rows.indices[kept] - first, pointers.astype(rows.indptr.dtype))
    return scipy.sparse.csr_array(parts, shape=shape)
