"""Wilkinson's tridiagonal matrix, whose largest eigenvalues come in pairs that nearly coincide."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Unpack

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from hessops.arrays import HostArray
from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.problem import Problem
from hessops.gallery.tridiagonal import Tridiagonal

__all__ = ["wilkinson"]

_DIGITS = 60
_NEWTON_STEPS = 2


def wilkinson(n: int = 21, **options: Unpack[SpaceOptions]) -> Problem:
    r"""Return Wilkinson's matrix :math:`W_n^+`.

    Tridiagonal with m, m - 1, ..., 0, ..., m - 1, m on the diagonal, n = 2 m + 1, and ones beside it.
    No two eigenvalues are equal, but the largest two of the usual n = 21 differ by 7.1e-14 [1]_: a
    method that claims to have found both must have done more than a Krylov space of one vector can.

    There is no closed form. The mirror symmetry splits the matrix into two smaller ones, whose
    eigenvalues are well apart; those of a tridiagonal solver in double precision are refined there by
    Newton's method in arithmetic of 60 digits. `eigenvalues` are the results, rounded once, at a cost
    of order n^2.

    Parameters
    ----------
    n : int
        Dimension, odd.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Indefinite, with trace m (m + 1).

    Raises
    ------
    ValueError
        If `n` is even or smaller than 3.

    References
    ----------
    .. [1] J. H. Wilkinson (1965). *The Algebraic Eigenvalue Problem*, section 5.45. Oxford University
       Press.

    Examples
    --------
    >>> import hessops.gallery
    >>> hessops.gallery.wilkinson(21).eigenvalues[-2:]
    array([10.74619418, 10.74619418])
    """
    require_at_least(3, n=n)
    if n % 2 == 0:
        raise ValueError(f"n={n} is even; the matrix has a middle row, so take {n - 1} or {n + 1}")
    half = n // 2
    return Problem(
        name=f"wilkinson({n})",
        operator=Tridiagonal(
            array_space(n, **options), np.abs(np.arange(-half, half + 1.0)), np.ones(n - 1)
        ),
        spectrum=lambda: _eigenvalues(half),
        closed_trace=float(half * (half + 1)),
    )


def _eigenvalues(half: int) -> HostArray:
    # Odd vectors vanish in the middle; even ones meet it with sqrt(2) (e_i + e_-i) / sqrt(2).
    odd = (list(range(half, 0, -1)), [1] * (half - 1))
    even = (list(range(half, -1, -1)), [1] * (half - 1) + [2])
    return np.array([*_sector(*odd), *_sector(*even)])


def _sector(diagonal: list[int], squares: list[int]) -> list[float]:
    """Return the eigenvalues of a tridiagonal matrix by its diagonal and squared off-diagonal."""
    starts = eigvalsh_tridiagonal(np.array(diagonal, dtype=float), np.sqrt(squares))
    with localcontext() as context:
        context.prec = _DIGITS
        return [float(_refined(float(start), diagonal, squares)) for start in starts]


def _refined(start: float, diagonal: list[int], squares: list[int]) -> Decimal:
    # Each step squares an error of 1e-13 or less, as neighbours are at least 0.9 apart.
    x = Decimal(start)
    for _ in range(_NEWTON_STEPS):
        value, slope = _characteristic(x, diagonal, squares)
        x -= value / slope
    return x


def _characteristic(x: Decimal, diagonal: list[int], squares: list[int]) -> tuple[Decimal, Decimal]:
    """Return the characteristic polynomial and its derivative by the three-term recurrence."""
    before, before_slope = Decimal(0), Decimal(0)
    value, slope = Decimal(1), Decimal(0)
    for entry, square in zip(diagonal, [0, *squares], strict=True):
        factor = entry - x
        slope, before_slope = factor * slope - value - square * before_slope, slope
        value, before = factor * value - square * before, value
    return value, slope
