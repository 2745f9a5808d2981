"""Traces of powers of a sparse matrix that is split by rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from hessops.arrays import HostArray
from hessops.partition import Partition
from hessops.row_collectives import table
from hessops_mpi.halo import Halo
from hessops_mpi.transfers import RowCommunicator

__all__ = ["power_traces"]

# A product of sparse matrices may cost so many products with a vector, as in the core.
_MOST_PRODUCTS = 16


def power_traces(own: Any, rows: Partition, comm: RowCommunicator) -> tuple[float, ...]:
    """Return the traces of the first powers of a self-adjoint sparse matrix, on every rank.

    Collective.

    Parameters
    ----------
    own : scipy.sparse.csr_array, shape (local_rows, n)
        This rank's rows.
    rows : Partition
        Of its rows, and of its columns.
    comm : RowCommunicator
        Of the ranks.

    Returns
    -------
    tuple of float
        The traces of A and A², and of A³ and A⁴ too where A² costs no more than 16 products with a
        vector.
    """
    if not own.has_canonical_format:
        own = own.copy()
        own.sum_duplicates()
    own = own.astype(np.result_type(own.dtype, np.float64), copy=False)
    first, last = rows.rows(comm.rank)
    traces = [own.diagonal(k=first).real.sum(), np.vdot(own.data, own.data).real]
    foreign = (own.indices < first) | (own.indices >= last)
    halo = Halo(np.unique(own.indices[foreign]), rows, comm)
    lengths = np.diff(own.indptr).astype(np.float64)
    transfer, theirs = halo.start(lengths[:, None])
    transfer.wait()
    # Rows in the order of their columns: those held here, then those of others.
    places = np.where(
        foreign, len(lengths) + np.searchsorted(halo.needed, own.indices), own.indices - first
    )
    work = np.concatenate([lengths, theirs[:, 0]])[places].sum()
    total, size = table(comm, [work, own.nnz]).sum(axis=0)
    if total <= _MOST_PRODUCTS * size:
        needed = _with_halo_rows(own, halo, theirs[:, 0].astype(np.int64), comm)
        compressed = scipy.sparse.csr_array(
            (own.data, places, own.indptr), shape=(own.shape[0], needed.shape[0])
        )
        square = scipy.sparse.csr_array(compressed @ needed)
        third = (square * own.conj()).sum()
        traces += [third.real, np.vdot(square.data, square.data).real]
    sums = table(comm, [float(trace) for trace in traces]).sum(axis=0)
    return tuple(float(trace) for trace in sums)


def _with_halo_rows(own: Any, halo: Halo, lengths: HostArray, comm: RowCommunicator) -> Any:
    """Return the rows held here, and below them those of others that these refer to."""
    if comm.size == 1:
        return own
    indices = halo.fetch_rows(own.indptr, own.indices.astype(np.int64), lengths)
    data = halo.fetch_rows(own.indptr, own.data, lengths)
    pointers = np.concatenate([own.indptr, own.indptr[-1] + np.cumsum(lengths)])
    parts = (np.concatenate([own.data, data]), np.concatenate([own.indices, indices]), pointers)
    return scipy.sparse.csr_array(parts, shape=(len(pointers) - 1, own.shape[1]))
