"""Traces of powers of a matrix whose entries are at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from hessops.arrays import Array, HostArray, is_complex, to_numpy
from hessops.space import Space

__all__ = ["dense_power_traces", "shifted_power_traces", "sparse_power_traces"]

# A product of sparse matrices may cost so many products with a vector.
_MOST_PRODUCTS = 16


def dense_power_traces(matrix: Array, space: Space) -> tuple[float, ...]:
    """Return tr A and tr A² of a self-adjoint dense matrix, summed in double precision.

    Parameters
    ----------
    matrix : array, shape (n, n)
        The matrix.
    space : Space
        Where its columns live.

    Returns
    -------
    tuple of float
        The traces.
    """
    xp, entries = space.xp, space.xp.linalg.diagonal(matrix)
    # Summed where the matrix is: no vector travels.
    real = xp.real(entries) if is_complex(xp, entries.dtype) else entries
    first = xp.sum(xp.astype(real, xp.float64))
    trace, square = to_numpy(xp.stack([first, xp.sum(space.column_norms_squared(matrix))]))
    return float(trace), float(square)


def sparse_power_traces(matrix: Any) -> tuple[float, ...]:
    """Return the traces of the first powers of a self-adjoint sparse matrix.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array, shape (n, n)
        The matrix.

    Returns
    -------
    tuple of float
        The traces of A and A², and of A³ and A⁴ too where A² costs no more than 16 products with a
        vector.
    """
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    matrix = matrix.astype(np.result_type(matrix.dtype, np.float64), copy=False)
    traces = [matrix.diagonal().real.sum(), np.vdot(matrix.data, matrix.data).real]
    per_column = np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.float64)
    if per_column @ np.diff(matrix.indptr) <= _MOST_PRODUCTS * matrix.nnz:
        square = scipy.sparse.csr_array(matrix @ matrix)
        third = (square * matrix.conj()).sum()
        traces += [third.real, np.vdot(square.data, square.data).real]
    return tuple(float(trace) for trace in traces)


def shifted_power_traces(traces: tuple[float, ...], dim: int, shift: float) -> tuple[float, ...]:
    """Return the traces of the powers of A - shift I.

    Parameters
    ----------
    traces : tuple of float
        Those of the powers of A, from the first on.
    dim : int
        Dimension n of A.
    shift : float
        The shift.

    Returns
    -------
    tuple of float
        As many.
    """
    powers = np.array([float(dim), *traces])
    polynomial: HostArray = np.ones(1)
    shifted: list[float] = []
    for _ in traces:
        polynomial = np.polynomial.polynomial.polymul(polynomial, [-shift, 1.0])
        shifted.append(float(polynomial @ powers[: len(polynomial)]))
    return tuple(shifted)
