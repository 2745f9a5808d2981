"""Sparse matrices on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from hessops.arrays import Array, dtype_name, eps, namespace
from hessops.operator import LinearOperator
from hessops.operators.declared import Declared
from hessops.operators.elementary import require_finite_entries, space_like
from hessops.structure import GENERAL

__all__ = ["SparseOperator"]


class SparseOperator(LinearOperator):
    """Products with a matrix of ``cupyx.scipy.sparse``, by cuSPARSE, on the matrix's device.

    The matrix is kept as CSR without duplicates, which is what the products are made with; of one
    that is not self-adjoint the adjoint is kept, too, as products with the transpose of a CSR matrix
    are slow. Whether it is self-adjoint is looked at here, once.

    Parameters
    ----------
    matrix : cupyx.scipy.sparse matrix or array, shape (m, n)
        Of any format and of floating type. It is left alone, but not copied where it serves as it
        is: changing its entries later changes the operator.

    Raises
    ------
    ValueError
        If it has not two dimensions, an empty one, or lives on a device that is not current.
    TypeError
        If its dtype is not floating.
    NonFiniteError
        If it holds NaN or infinity.
    """

    def __init__(self, matrix: Any) -> None:
        if matrix.ndim != 2:
            raise ValueError(f"expected a matrix, got a sparse array of shape {matrix.shape}")
        if not np.issubdtype(matrix.dtype, np.inexact):
            raise TypeError(
                f"the matrix has the dtype {dtype_name(matrix.dtype)}, and products would be rounded "
                "to it; convert it to a floating type first, e.g. A.astype('float64')"
            )
        self.matrix = _compressed(matrix)
        entries = self.matrix.data
        require_finite_entries(entries, "the matrix")
        domain, codomain = (space_like(entries, size) for size in reversed(matrix.shape))
        flipped = _compressed(self.matrix.conj().T)
        structure = GENERAL
        if matrix.shape[0] == matrix.shape[1]:
            self.asymmetry = _largest((self.matrix - flipped).data), _largest(entries)
            structure = Declared(None, False).held_against(
                *self.asymmetry, eps(domain.xp, domain.dtype)
            )
        self._adjoint_matrix = None if structure.self_adjoint else flipped
        super().__init__(domain, codomain, structure=structure)

    def _apply(self, X: Array) -> Array:
        return _multiply(self.matrix, X)

    def _apply_adjoint(self, X: Array) -> Array:
        return _multiply(self.matrix if self._adjoint_matrix is None else self._adjoint_matrix, X)

    def _describe(self) -> str:
        return f"{self.matrix.nnz} entries"


def _compressed(matrix: Any) -> Any:
    """Return a matrix as CSR without duplicates; what was given keeps its arrays."""
    rows = matrix.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    return rows


def _multiply(matrix: Any, X: Any) -> Array:
    """Return the product with a block, without a copy of the block.

    CuPy's ``@`` copies a block that is stored row by row, as all that its arithmetic returns are, to
    one that is stored column by column. The transpose of such a block is stored column by column as
    it is, and cuSPARSE transposes it back as it multiplies.
    """
    by_rows = X.flags.c_contiguous and not X.flags.f_contiguous
    product: Array = _multiply_transposed(matrix, X.T) if by_rows else matrix @ X
    return product


def _multiply_transposed(matrix: Any, columns: Any) -> Any:
    # Its import loads cuSPARSE.
    from cupyx import cusparse

    return cusparse.spmm(matrix, columns, transb=True)


def _largest(entries: Any) -> float:
    xp = namespace(entries)
    return float(xp.max(xp.abs(entries))) if entries.shape[0] else 0.0
