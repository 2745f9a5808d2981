"""Directions that a user knows already: eigenpairs found before, or any orthonormal basis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hessops.agreement import require_same_vectors
from hessops.arrays import Array, HostArray, is_array
from hessops.operator import LinearOperator
from hessops.results.eigenpairs import EigenResult

__all__ = ["Deflation", "as_deflation"]


@dataclass(frozen=True)
class Deflation:
    """An orthonormal basis, and the Rayleigh quotients of its columns if these are known.

    Parameters
    ----------
    basis : array, shape (n, r)
        Orthonormal columns.
    eigenvalues : numpy.ndarray, shape (r,), or None
        Their Rayleigh quotients.
    """

    basis: Array
    eigenvalues: HostArray | None = None

    def cost(self, A: LinearOperator) -> int:
        """Return the products that the trace on the subspace takes."""
        known = self.eigenvalues is not None and not A.domain.sections
        return 0 if known else int(self.basis.shape[1])


def as_deflation(A: LinearOperator, deflate: Any) -> Deflation:
    """Return what a user gave to deflate A of.

    Parameters
    ----------
    A : LinearOperator
        The operator whose trace is wanted.
    deflate : EigenResult or array, shape (n, r)
        Eigenpairs of A, or orthonormal columns.

    Returns
    -------
    Deflation
        With the columns in the dtype of A.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If the columns do not fit A; that they are orthonormal is checked where they are projected off.
    """
    if isinstance(deflate, EigenResult):
        basis = A.domain.validate(deflate.eigenvectors)
        require_same_vectors(A.domain, basis, "deflate")
        return Deflation(basis, np.asarray(deflate.eigenvalues, dtype=np.float64))
    if not is_array(deflate) or deflate.ndim != 2:
        found = f"shape {tuple(deflate.shape)}" if is_array(deflate) else type(deflate).__name__
        raise TypeError(
            "deflate must be eigenpairs as eigsh returns them, or an array of orthonormal columns, "
            f"shape (n, r), got {found}"
        )
    basis = A.domain.validate(deflate)
    require_same_vectors(A.domain, basis, "deflate")
    return Deflation(basis)
