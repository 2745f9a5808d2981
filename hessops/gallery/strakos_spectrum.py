"""Strakoš's spectrum, on which Lanczos without reorthogonalization visibly loses orthogonality."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.problem import Problem
from hessops.operators.elementary import Diagonal

__all__ = ["strakos"]


def strakos(
    n: int = 24,
    low: float = 0.1,
    high: float = 100.0,
    rho: float = 0.8,
    **options: Unpack[SpaceOptions],
) -> Problem:
    r"""Return a diagonal matrix, its eigenvalues dense at the low end and sparse at the high end.

    They are :math:`\lambda_i = low + \frac{i - 1}{n - 1} (high - low) \rho^{n - i}` for i = 1, ...,
    n [1]_. A Lanczos run that does not reorthogonalize, started from equal entries, finds `high` twice
    after 24 steps and four times after 48 with the values given here.

    Parameters
    ----------
    n : int
        Dimension.
    low, high : float
        The extreme eigenvalues.
    rho : float
        Between 0 and 1; the smaller, the denser the low end.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Positive definite where `low` is positive.

    Raises
    ------
    ValueError
        If `n` is smaller than 2, `high` does not exceed `low`, or `rho` is not in (0, 1].

    References
    ----------
    .. [1] Z. Strakoš (1991). On the real convergence rate of the conjugate gradient method. *Linear
       Algebra and its Applications* 154-156, 535-549.

    Examples
    --------
    >>> import hessops.gallery
    >>> problem = hessops.gallery.strakos()
    >>> round(problem.trace, 6), round(problem.logdet, 6)
    (415.543222, 30.487036)
    """
    require_at_least(2, n=n)
    if not high > low:
        raise ValueError(f"low={low}, high={high}: the largest eigenvalue must exceed the smallest")
    if not 0 < rho <= 1:
        raise ValueError(f"rho={rho} must be in (0, 1]")
    i = np.arange(1, n + 1)
    eigenvalues = low + (i - 1) / (n - 1) * (high - low) * rho ** (n - i)
    return Problem(
        name=f"strakos({n}, {low:g}, {high:g}, {rho:g})",
        operator=Diagonal(array_space(n, **options).from_host(eigenvalues)),
        spectrum=lambda: eigenvalues,
    )
