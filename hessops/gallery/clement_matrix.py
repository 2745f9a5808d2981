"""Clement's tridiagonal matrix, whose eigenvalues are integers."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.problem import Problem
from hessops.gallery.tridiagonal import Tridiagonal

__all__ = ["clement"]


def clement(n: int, **options: Unpack[SpaceOptions]) -> Problem:
    r"""Return the symmetric matrix of Clement (or Kac, or Sylvester).

    Tridiagonal with zeros on the diagonal and :math:`\sqrt{i (n - i)}` beside it, for i = 1, ...,
    n - 1. Its eigenvalues are -n + 1, -n + 3, ..., n - 1 [1]_.

    Parameters
    ----------
    n : int
        Dimension, at least 2.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Indefinite, with trace 0; singular where n is odd.

    Raises
    ------
    ValueError
        If `n` is smaller than 2.

    References
    ----------
    .. [1] P. A. Clement (1959). A class of triple-diagonal matrices for test purposes. *SIAM Review*
       1, 50-52.

    Examples
    --------
    >>> import hessops.gallery
    >>> hessops.gallery.clement(5).eigenvalues
    array([-4., -2.,  0.,  2.,  4.])
    """
    require_at_least(2, n=n)
    i = np.arange(1.0, n)
    return Problem(
        name=f"clement({n})",
        operator=Tridiagonal(array_space(n, **options), np.zeros(n), np.sqrt(i * (n - i))),
        spectrum=lambda: np.arange(1.0 - n, n, 2),
        closed_trace=0.0,
    )
