"""How far a matrix that is split by rows is from its conjugate transpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from hessops.arrays import HostArray
from hessops.partition import Partition
from hessops.row_collectives import table
from hessops_mpi.transfers import RowCommunicator

__all__ = ["asymmetry_and_size"]


def asymmetry_and_size(own: Any, rows: Partition, comm: RowCommunicator) -> tuple[float, float]:
    """Return the largest moduli in A - A^H and in A, the same on every rank.

    Every entry outside this rank's diagonal block is sent to the rank that holds the transposed one.

    Parameters
    ----------
    own : scipy.sparse.csr_array, shape (local_rows, n)
        This rank's rows of a square matrix.
    rows : Partition
        Of its rows, and of its columns.
    comm : RowCommunicator
        Of the ranks.

    Returns
    -------
    tuple of float
        Both moduli.
    """
    first, _ = rows.rows(comm.rank)
    entries = own.tocoo()
    entries.sum_duplicates()
    i, j, values = entries.row.astype(np.int64) + first, entries.col.astype(np.int64), entries.data
    owners = rows.owners(j)
    here = owners == comm.rank
    theirs = _transposed(i[~here], j[~here], values[~here], owners[~here], comm)
    flipped_i = np.concatenate([j[here], theirs[0]]) - first
    flipped_j = np.concatenate([i[here], theirs[1]])
    flipped = np.concatenate([values[here], theirs[2]]).conj()
    transposed = scipy.sparse.csr_array((flipped, (flipped_i, flipped_j)), shape=own.shape)
    difference = np.abs((scipy.sparse.csr_array(own) - transposed).data)
    both = table(comm, [np.max(difference, initial=0.0), np.max(np.abs(own.data), initial=0.0)])
    asymmetry, largest = both.max(axis=0)
    return float(asymmetry), float(largest)


def _transposed(
    i: HostArray, j: HostArray, values: HostArray, owners: HostArray, comm: RowCommunicator
) -> tuple[HostArray, HostArray, HostArray]:
    """Give the owner of every row j an entry (i, j); return those that this rank is given."""
    if comm.size == 1:
        return j, i, values
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, minlength=comm.size)
    incoming = comm.all_to_all(counts.astype(np.int64))
    out_ends = np.concatenate([[0], np.cumsum(counts)])
    in_ends = np.concatenate([[0], np.cumsum(incoming)])
    received = []
    for part in (j, i, values):
        sorted_part = np.ascontiguousarray(part[order])
        arrived = np.empty(in_ends[-1], part.dtype)
        sends = {int(r): sorted_part[out_ends[r] : out_ends[r + 1]] for r in np.flatnonzero(counts)}
        gets = {int(r): arrived[in_ends[r] : in_ends[r + 1]] for r in np.flatnonzero(incoming)}
        comm.exchange(sends, gets).wait()
        received.append(arrived)
    return received[0], received[1], received[2]
