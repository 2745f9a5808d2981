"""A Lanczos tridiagonalisation: its Ritz values, and which of them are ghosts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.arrays import Array, HostArray
from hessops.result import Result
from hessops.results._ghosts import ghost_flags

__all__ = ["LanczosResult"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LanczosResult(Result):
    """A Lanczos tridiagonalisation ``A Q = Q T + residual_norm * q e_k^T``.

    Parameters
    ----------
    alphas : numpy.ndarray, shape (k,)
        Diagonal of T.
    betas : numpy.ndarray, shape (k - 1,)
        Off-diagonal of T.
    residual_norm : float
        Norm of what the Krylov space lacks to be invariant.
    basis : array, shape (n, k), or None
        Q, in the operator's library, if kept.
    orthogonality : float
        Largest modulus of an inner product of two columns of Q, by the ω-recurrence.
    num_inner_products : int
        Inner products of vectors that reorthogonalisation took.
    """

    alphas: HostArray
    betas: HostArray
    residual_norm: float
    basis: Array | None = field(metadata={"long": True}, repr=False)
    orthogonality: float = math.nan
    num_inner_products: int = 0

    def ritz(self) -> tuple[HostArray, HostArray]:
        """Return the Ritz values, ascending, and their residual norms, both (k,)."""
        values, vectors = eigh_tridiagonal(self.alphas, self.betas)
        return values, self.residual_norm * np.abs(vectors[-1])

    def ghosts(self, tol: float | None = None) -> HostArray:
        """Tell which Ritz values come from lost orthogonality alone, by Cullum and Willoughby.

        A simple eigenvalue of T that is one of T without its first row and column, too, is spurious:
        the start vector has no part in it. Of several that agree, one stands for an eigenvalue of the
        operator, and the others are copies of it.

        Parameters
        ----------
        tol : float, optional
            What counts as equal, relative to the largest Ritz value in modulus; 1000 + k units of
            double precision where not given. Copies that have yet to converge need a larger one.

        Returns
        -------
        numpy.ndarray of bool, shape (k,)
            In the order of `ritz`.

        References
        ----------
        Cullum & Willoughby (1985), Lanczos Algorithms for Large Symmetric Eigenvalue Computations,
        volume 1, chapter 4.

        Examples
        --------
        >>> import numpy as np, hessops
        >>> A = hessops.gallery.strakos(24).operator
        >>> start, cost = np.ones(24), {"num_steps": 48, "reorthogonalize": "none"}
        >>> int(hessops.lanczos(A, start=start, **cost).ghosts().sum())
        24
        """
        return ghost_flags(self.alphas, self.betas, tol)

    def __str__(self) -> str:
        values, _ = self.ritz()
        return (
            f"Lanczos: {len(self.alphas)} steps, Ritz values in [{values[0]:.6g}, "
            f"{values[-1]:.6g}], residual norm {self.residual_norm:.2g} ({self._cost()})"
        )
