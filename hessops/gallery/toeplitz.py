"""The Gram matrix of a bidiagonal Toeplitz matrix, whose determinant is a power."""

from __future__ import annotations

import math
from typing import Unpack

import numpy as np

from hessops.arrays import HostArray
from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.problem import Problem
from hessops.gallery.tridiagonal import Tridiagonal
from hessops.structure import POSITIVE_SEMIDEFINITE

__all__ = ["toeplitz_gram"]

# Halvings of an interval shorter than pi / 2: more than the 53 bits of a double.
_HALVINGS = 56


def toeplitz_gram(
    n: int, a: float = 2.0, b: float = 1.0, **options: Unpack[SpaceOptions]
) -> Problem:
    r"""Return B^T B, where B has a on the diagonal and b above it.

    It is tridiagonal and Toeplitz but for one corner; the determinant is :math:`a^{2 n}` and all
    eigenvalues lie between (a - b)^2 and (a + b)^2. This is how imate tests its log-determinants
    [1]_.

    The eigenvalues are :math:`a^2 + b^2 + 2 a b \cos \theta_j`, where :math:`\theta_j` is the one
    root between 0 and :math:`\pi` of :math:`(n + 1) \theta = j \pi + \arg(1 + (b / a) e^{i \theta})`,
    found by bisection to the last digit.

    Parameters
    ----------
    n : int
        Dimension.
    a, b : float
        The entries of B, with a > b > 0; the closer they are, the worse the condition.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Positive definite.

    Raises
    ------
    ValueError
        If `n` is not positive, or not a > b > 0.

    References
    ----------
    .. [1] S. Ameli, S. C. Shadden (2022). *imate: Implicit Matrix Trace Estimator*, documentation of
       ``imate.toeplitz``.

    Examples
    --------
    >>> import hessops.gallery
    >>> problem = hessops.gallery.toeplitz_gram(1000)
    >>> problem.trace, round(problem.logdet, 9)
    (4999.0, 1386.29436112)
    """
    require_at_least(1, n=n)
    if not a > b > 0:
        raise ValueError(f"a={a}, b={b}: the eigenvalues are known for a > b > 0 alone")
    diagonal = np.full(n, a * a + b * b)
    diagonal[0] = a * a
    return Problem(
        name=f"toeplitz_gram({n}, {a:g}, {b:g})",
        operator=Tridiagonal(
            array_space(n, **options),
            diagonal,
            np.full(n - 1, a * b),
            structure=POSITIVE_SEMIDEFINITE,
        ),
        spectrum=lambda: _eigenvalues(n, a, b),
        closed_trace=n * a * a + (n - 1) * b * b,
        closed_logdet=2 * n * math.log(a),
    )


def _eigenvalues(n: int, a: float, b: float) -> HostArray:
    j, ratio = np.arange(1, n + 1), b / a
    low, high = j * np.pi / (n + 1), (j + 0.5) * np.pi / (n + 1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        phase = np.arctan2(ratio * np.sin(middle), 1 + ratio * np.cos(middle))
        beyond = (n + 1) * middle > j * np.pi + phase
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    # A sum of squares, where a^2 + b^2 + 2 a b cos would cancel for small eigenvalues.
    eigenvalues: HostArray = (a - b) ** 2 + 4 * a * b * np.cos((low + high) / 4) ** 2
    return eigenvalues
