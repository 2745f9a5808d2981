"""The Laplacian of a grid, split by rows, of which no rank ever holds more than its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from hessops.comm import Communicator
from hessops.partition import Partition
from hessops.structure import POSITIVE_SEMIDEFINITE
from hessops.together import require_same
from hessops_mpi.sharded_matrix import ShardedMatrix
from hessops_mpi.transfers import row_communicator

__all__ = ["sharded_laplacian"]


def sharded_laplacian(
    points: Sequence[int], comm: Communicator, *, row_counts: Sequence[int] | None = None
) -> ShardedMatrix:
    """Return the sum over the axes of a grid of second differences, zero outside, split by rows.

    Parameters
    ----------
    points : sequence of int
        Number of points along every axis; the last axis varies fastest.
    comm : Communicator
        As for `sharded_matrix`.
    row_counts : sequence of int, optional
        Points for every rank; an even split where not given.

    Returns
    -------
    ShardedMatrix
        Positive semidefinite.

    Raises
    ------
    ValueError
        If a number of points is not positive, or the counts do not fit.

    References
    ----------
    .. [1] J. W. Demmel (1997). *Applied Numerical Linear Algebra*, section 6.3. SIAM.

    Examples
    --------
    >>> import hessops, hessops_mpi
    >>> A = hessops_mpi.sharded_laplacian((30, 30), hessops_mpi.world())
    >>> hessops.eigsh(A, 1, which="LA", rng=0).eigenvalues.round(6)
    array([7.979477])
    """
    shape = tuple(int(count) for count in points)
    if not shape or min(shape) < 1:
        raise ValueError(f"points={shape} must be positive numbers, one for each axis")
    ranks = row_communicator(comm)
    facts = {"points": shape, "row_counts": None if row_counts is None else tuple(row_counts)}
    require_same(comm, facts, "pass the same on every rank")
    rows = Partition.of(math.prod(shape), comm.size, row_counts, "row_counts")
    own = _rows_of_laplacian(shape, *rows.rows(comm.rank))
    # Known to be so, and not looked at.
    return ShardedMatrix(own, rows, rows, ranks, POSITIVE_SEMIDEFINITE, (0.0, 2.0 * len(shape)))


def _rows_of_laplacian(shape: tuple[int, ...], first: int, last: int) -> Any:
    """Return some rows, from lowest column to highest."""
    n = int(np.prod(shape))
    here = np.arange(first, last)
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    places = np.unravel_index(here, shape)
    columns = [here]
    inside = [np.ones(len(here), bool)]
    for axis, stride in enumerate(strides):
        columns = [here - stride, *columns, here + stride]
        inside = [places[axis] > 0, *inside, places[axis] < shape[axis] - 1]
    # The axis of the longest stride is the first: its neighbours are the farthest away.
    order = np.argsort([int(c[0]) if len(c) else 0 for c in columns], kind="stable")
    kept = np.stack([inside[i] for i in order], axis=1)
    indices = np.stack([columns[i] for i in order], axis=1)[kept]
    value = np.where(np.arange(len(order)) == list(order).index(len(shape)), 2.0 * len(shape), -1.0)
    data = np.broadcast_to(value, kept.shape)[kept]
    pointers = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    if max(n, len(data)) < 2**31:
        indices, pointers = indices.astype(np.int32), pointers.astype(np.int32)
    return scipy.sparse.csr_array((data, indices, pointers), shape=(last - first, n))
