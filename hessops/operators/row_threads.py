"""A sparse matrix whose products with a block several threads share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse

from hessops.arrays import HostArray
from hessops.blocks.numpy_sweeps import in_threads

__all__ = ["RowThreads"]

# Few enough that a piece of the product is still in the cache when it is copied to its place.
_ROWS = 8192


class RowThreads:
    """A sparse matrix, cut into pieces of rows that threads multiply one after another.

    The entries are not copied, and every row is multiplied as SciPy does it: the product has the same
    bits for any number of threads.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array, shape (m, n)
        The matrix; it must not change.
    num_threads : int
        Threads that share its rows.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> from hessops.operators.row_threads import RowThreads
    >>> RowThreads(scipy.sparse.csr_array(np.diag([1.0, 2.0])), 2) @ np.ones((2, 1))
    array([[1.],
           [2.]])
    """

    def __init__(self, matrix: scipy.sparse.csr_array[Any], num_threads: int) -> None:
        self.shape, self.dtype, self.num_threads = matrix.shape, matrix.dtype, num_threads
        self.whole = matrix
        ends = [*range(0, self.shape[0], _ROWS), self.shape[0]]
        self._pieces = [(slice(*rows), _rows(matrix, *rows)) for rows in pairwise(ends)]

    def __matmul__(self, X: HostArray) -> HostArray:
        product = np.empty((self.shape[0], *X.shape[1:]), np.result_type(self.dtype, X.dtype))

        def share(pieces: Sequence[tuple[slice, Any]]) -> list[None]:
            for rows, piece in pieces:
                product[rows] = piece @ X
            return [None] * len(pieces)

        in_threads(share, self._pieces, self.num_threads)
        return product


def _rows(matrix: scipy.sparse.csr_array[Any], start: int, stop: int) -> Any:
    """Return rows of a matrix that share its entries, where slicing would copy them."""
    first, last = matrix.indptr[start], matrix.indptr[stop]
    pointers = matrix.indptr[start : stop + 1] - first
    parts = (matrix.data[first:last], matrix.indices[first:last], pointers)
    return scipy.sparse.csr_array(parts, shape=(stop - start, matrix.shape[1]))
