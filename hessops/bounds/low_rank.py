"""Errors of low-rank approximations from a Gaussian sketch: randomized SVD and Nyström."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from hessops.arrays import HostArray
from hessops.bounds._arguments import count, inside, reals, spectrum

__all__ = [
    "nystrom_nuclear_error",
    "range_finder_frobenius_error",
    "range_finder_sampled_error",
    "range_finder_spectral_error",
]

_Bound: TypeAlias = Callable[[HostArray, HostArray, HostArray], HostArray]
"""Of the values, the target ranks and the oversampling."""


def range_finder_frobenius_error(
    singular_values: ArrayLike, sketch_size: int, *, rank: int | None = None
) -> float:
    """Bound the expected squared error ``E ‖A - QQᴴA‖_F²`` of the randomized range finder.

    Parameters
    ----------
    singular_values : array
        All singular values of A, in any order.
    sketch_size : int
        Columns ``ℓ = k + p`` of the Gaussian sketch, at least 3, of which Q is a basis of the range of
        ``A Ω``.
    rank : int, optional
        Target rank k, from 1 to ℓ - 2. By default the one with the smallest bound.

    Returns
    -------
    float
        ``(1 + k / (p - 1)) Σ_{j>k} σj²``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a real standard normal Ω; A may be any real matrix. The error is that of ℓ columns, while
    the sum is that of rank k.

    References
    ----------
    Halko, Martinsson & Tropp (2011), Theorem 10.5.

    Examples
    --------
    >>> import numpy as np
    >>> round(range_finder_frobenius_error(0.5 ** np.arange(50), 10), 7)
    0.0001831
    """
    values = spectrum(singular_values, "singular_values", 0.0)
    return _over_ranks(_frobenius, values**2, sketch_size, rank)


def range_finder_spectral_error(
    singular_values: ArrayLike,
    sketch_size: int,
    *,
    rank: int | None = None,
    power_steps: int = 0,
) -> float:
    """Bound the expected error ``E ‖A - QQᴴA‖`` of the randomized range finder, by power steps too.

    Parameters
    ----------
    singular_values : array
        All singular values of A, in any order.
    sketch_size : int
        Columns ``ℓ = k + p`` of the Gaussian sketch, at least 3.
    rank : int, optional
        Target rank k, from 1 to ℓ - 2. By default the one with the smallest bound.
    power_steps : int
        Number q of power steps, where Q is a basis of the range of ``(A Aᴴ)^q A Ω``.

    Returns
    -------
    float
        ``[(1 + √(k/(p-1))) σ_{k+1}^s + e √(k+p) / p (Σ_{j>k} σj^(2s))^(1/2)]^(1/s)``, ``s = 2q + 1``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a real standard normal Ω; A may be any real matrix.

    References
    ----------
    Halko, Martinsson & Tropp (2011), Theorem 10.6 and Corollary 10.10.

    Examples
    --------
    >>> import numpy as np
    >>> values = 1.0 / np.arange(1.0, 101.0)
    >>> [round(range_finder_spectral_error(values, 15, power_steps=q), 3) for q in (0, 1, 4)]
    [0.71, 0.163, 0.093]
    """
    values = spectrum(singular_values, "singular_values", 0.0)
    exponent = 2 * count(power_steps, "power_steps", 0) + 1
    return _over_ranks(partial(_spectral, exponent=exponent), values, sketch_size, rank)


def range_finder_sampled_error(residual_norms: ArrayLike, failure: float | None = None) -> float:
    """Bound ``‖A - QQᴴA‖`` by residuals of Gaussian vectors that Q has not seen.

    Parameters
    ----------
    residual_norms : array, shape (r,)
        ``‖(I - QQᴴ) A ω‖`` for independent real standard normal ω.
    failure : float, optional
        Probability that the bound is too small. By default ``10**-r``.

    Returns
    -------
    float
        ``α √(2/π)`` times the largest residual, where ``α^-r`` is the failure probability; so
        ``10 √(2/π)`` times by default.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes that the vectors were not used to make Q. Nothing is assumed of A.

    References
    ----------
    Halko, Martinsson & Tropp (2011), Lemma 4.1 and equation (4.3).

    Examples
    --------
    >>> round(range_finder_sampled_error([0.5, 1.0, 0.2]), 4)
    7.9788
    """
    norms = reals(residual_norms, "residual_norms", 0.0)
    if norms.ndim != 1 or norms.size == 0:
        raise ValueError(f"residual_norms has the shape {norms.shape}; give a list of at least one")
    factor = 10.0
    if failure is not None:
        factor = float(inside(failure, "failure", 0.0, 1.0)) ** (-1.0 / norms.size)
    return float(factor * math.sqrt(2.0 / math.pi) * norms.max())


def nystrom_nuclear_error(
    eigenvalues: ArrayLike, sketch_size: int, *, rank: int | None = None
) -> float:
    """Bound the expected error ``E tr(A - Â)`` of the Nyström approximation.

    Parameters
    ----------
    eigenvalues : array
        All eigenvalues of A, non-negative, in any order.
    sketch_size : int
        Columns ``ℓ = k + p`` of the Gaussian sketch Ω, at least 3, with
        ``Â = AΩ (ΩᴴAΩ)⁺ (AΩ)ᴴ``.
    rank : int, optional
        Target rank k, from 1 to ℓ - 2. By default the one with the smallest bound.

    Returns
    -------
    float
        ``(1 + k / (p - 1)) Σ_{j>k} λj``, which bounds the nuclear norm of the error.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a real positive semidefinite A and a real standard normal Ω. The error is the squared
    Frobenius error of the range finder for ``A^(1/2)``, so this is its Theorem 10.5.

    References
    ----------
    Halko, Martinsson & Tropp (2011), Theorem 10.5; Tropp & Webber (2023).

    Examples
    --------
    >>> import numpy as np
    >>> round(nystrom_nuclear_error(0.5 ** np.arange(50), 10), 5)
    0.07031
    """
    values = spectrum(eigenvalues, "eigenvalues", 0.0)
    return _over_ranks(_frobenius, values, sketch_size, rank)


def _over_ranks(bound: _Bound, values: HostArray, sketch_size: int, rank: int | None) -> float:
    size = count(sketch_size, "sketch_size", 3)
    if rank is None:
        ranks = np.arange(1, size - 1)
    else:
        ranks = np.array([count(rank, "rank")])
        if ranks[0] > size - 2:
            raise ValueError(
                f"rank is {rank} and sketch_size {size}; the bound needs two columns more than the rank"
            )
    if size >= values.size:  # Q spans everything
        return 0.0
    return float(np.min(bound(values, ranks, size - ranks)))


def _tails(squares: HostArray, ranks: HostArray) -> HostArray:
    """Return the sums of what comes after each rank, added from the smallest."""
    return np.asarray(np.cumsum(squares[::-1])[::-1][ranks])


def _frobenius(squares: HostArray, k: HostArray, p: HostArray) -> HostArray:
    return np.asarray((1.0 + k / (p - 1.0)) * _tails(squares, k))


def _spectral(values: HostArray, k: HostArray, p: HostArray, *, exponent: int) -> HostArray:
    # In units of σ_{k+1}, so that high powers of what is below 1 do not underflow to an error of 0.
    best = values[k]
    tail = [
        np.linalg.norm((values[j:] / values[j]) ** exponent) if values[j] > 0.0 else 0.0 for j in k
    ]
    factor = 1.0 + np.sqrt(k / (p - 1.0)) + math.e * np.sqrt(k + p) / p * np.array(tail)
    return np.asarray(best * factor ** (1.0 / exponent))
