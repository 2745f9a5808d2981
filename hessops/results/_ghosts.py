"""Which eigenvalues of a tridiagonal matrix are ghosts of lost orthogonality."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.arrays import HostArray

__all__ = ["ghost_flags"]

_UNITS = 1000


def ghost_flags(alphas: HostArray, betas: HostArray, tol: float | None) -> HostArray:
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
