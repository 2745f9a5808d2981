"""What `lanczos` returns, and which of its Ritz values are ghosts of lost orthogonality."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.arrays import Array, HostArray
from hessops.counted import counted
from hessops.result import Result

__all__ = ["LanczosResult"]

_UNITS = 1000


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
        >>> import numpy as np, hessops, hessops.gallery
        >>> A = hessops.gallery.strakos(24).operator
        >>> start, cost = np.ones(24), {"num_steps": 48, "reorthogonalize": "none"}
        >>> int(hessops.lanczos(A, start=start, **cost).ghosts().sum())
        24
        """
        return _ghost_flags(self.alphas, self.betas, tol)

    def __str__(self) -> str:
        values, _ = self.ritz()
        return (
            f"Lanczos: {counted(len(self.alphas), 'step')}, Ritz values in [{values[0]:.6g}, "
            f"{values[-1]:.6g}], residual norm {self.residual_norm:.2g} ({self._cost()})"
        )


def _ghost_flags(alphas: HostArray, betas: HostArray, tol: float | None) -> HostArray:
    """Flag spurious eigenvalues and copies, as `LanczosResult.ghosts` explains.

    Parameters
    ----------
    alphas, betas : numpy.ndarray, shape (k,) and (k - 1,)
        Diagonal and off-diagonal of T.
    tol : float or None
        What counts as equal, relative to the largest eigenvalue in modulus.

    Returns
    -------
    numpy.ndarray of bool, shape (k,)
        For the eigenvalues in ascending order.
    """
    if tol is not None and not 0 <= tol < 1:
        raise ValueError(f"tol={tol} must be at least 0 and below 1")
    values = eigh_tridiagonal(alphas, betas, eigvals_only=True)
    relative = (_UNITS + len(values)) * np.finfo(np.float64).eps if tol is None else tol
    near = relative * float(np.max(np.abs(values)))
    # Numbered by value: equal numbers are copies.
    cluster = np.concatenate([[0], np.cumsum(np.diff(values) > near)])
    copy = np.concatenate([[False], np.diff(cluster) == 0])
    if len(values) == 1:
        return copy
    lower = eigh_tridiagonal(alphas[1:], betas[1:], eigvals_only=True)
    place = np.clip(np.searchsorted(lower, values), 1, max(1, len(lower) - 1))
    nearest = np.minimum(
        np.abs(lower[place - 1] - values), np.abs(lower[place % len(lower)] - values)
    )
    simple = np.bincount(cluster)[cluster] == 1
    flags: HostArray = copy | (simple & (nearest <= near))
    return flags
