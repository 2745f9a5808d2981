"""Eigenvalues that tie in modulus, or are multiple: how power iteration sees and says so."""

from __future__ import annotations

import numpy as np

from hessops.agreement import to_host
from hessops.algorithms._precision import half_the_digits
from hessops.algorithms.eigen._rayleigh_ritz import rayleigh_ritz
from hessops.arrays import Array, HostArray
from hessops.operator import LinearOperator

__all__ = ["TRUSTED", "describe_ties", "two_block_pairs"]

TRUSTED = 10
"""A guard with a residual norm up to this many times the tolerance may be company."""


def two_block_pairs(
    operator: LinearOperator, blocks: list[Array], products: list[Array], number: int
) -> tuple[HostArray, HostArray, Array]:
    """Return the Ritz pairs of the span of two successive blocks of power iteration.

    If +λ and -λ are both dominant, a block X turns between them for ever; X and A X together span
    both eigenvectors. The products of both blocks are known, so nothing is multiplied.

    Parameters
    ----------
    operator : LinearOperator
        Self-adjoint.
    blocks, products : list of two arrays, shape (n, p)
        Successive blocks and their products.
    number : int
        Of the last product, for the message if it is not finite.

    Returns
    -------
    values, residual_norms : numpy.ndarray, shape (r,)
        By decreasing modulus, without the pairs that are far from converged.
    vectors : array, shape (n, r)
        Ritz vectors.
    """
    space, xp = operator.domain, operator.xp
    X, product = xp.concat(blocks, axis=1), xp.concat(products, axis=1)
    # One pass leaves rounding over the smallest share kept.
    for _ in range(2):
        shares, directions = space.comm.broadcast(np.linalg.eigh(to_host(space, space.gram(X, X))))
        # Directions that the blocks share to half the digits carry nothing but rounding.
        kept = shares > half_the_digits(operator)
        transform = space.from_host(directions[:, kept] / np.sqrt(shares[kept]))
        X, product = X @ transform, product @ transform
    values, residuals, vectors, _ = rayleigh_ritz(operator, X, product, number)
    small = residuals <= 10 * np.min(residuals) + 1e-3 * np.max(np.abs(values))
    keep = np.flatnonzero(small)
    chosen: Array = xp.take(vectors, xp.asarray(keep, device=space.device), axis=1)
    return values[keep], residuals[keep], chosen


def describe_ties(
    values: HostArray, residuals: HostArray, *, wanted: int, allowed: float, rounding: float
) -> str:
    """Say which of the wanted eigenvalues are multiple or tied in modulus with another.

    Parameters
    ----------
    values, residuals : numpy.ndarray, shape (p,)
        Ritz values by decreasing modulus, guards included, and their residual norms.
    wanted : int
        How many of them are the result.
    allowed : float
        Residual norm that counts as converged.
    rounding : float
        Differences below this are rounding.

    Returns
    -------
    str
        Empty if there is nothing to say.
    """
    # A guard that is far from converged says nothing of where its eigenvalue is.
    trusted = residuals <= TRUSTED * allowed
    remarks: list[str] = []
    seen: set[int] = set()
    for index in range(wanted):
        if index in seen:
            continue
        value = values[index]
        near = residuals + residuals[index] + rounding
        copies = np.flatnonzero(trusted & (np.abs(values - value) <= near))
        mirrored = np.flatnonzero(trusted & (np.abs(values + value) <= near))
        seen.update(copies.tolist())
        if len(copies) > 1:
            remarks.append(f"{value:.6g} is multiple, at least {len(copies)} times")
        if abs(value) > rounding and len(set(mirrored) - set(copies)) > 0:
            seen.update(mirrored.tolist())
            dominant = "no unique dominant eigenvalue: " if index == 0 else ""
            remarks.append(f"{dominant}{abs(value):.6g} and {-abs(value):.6g} tie in modulus")
    return "; ".join(remarks)
