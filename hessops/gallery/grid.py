"""The Laplacian on a line and on a rectangle, by its stencil."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np

from hessops.arrays import Array, HostArray
from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.problem import Problem
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.structure import POSITIVE_SEMIDEFINITE

__all__ = ["GridLaplacian", "laplacian_1d", "laplacian_2d"]


def laplacian_1d(n: int, **options: Unpack[SpaceOptions]) -> Problem:
    r"""Return the second difference on n points between two Dirichlet ends.

    It is tridiagonal with 2 on the diagonal and -1 beside it. Its eigenvalues are
    :math:`2 - 2 \cos(j \pi / (n + 1)) = 4 \sin^2(j \pi / (2 n + 2))` for j = 1, ..., n, its
    determinant is n + 1, and the trace of its inverse n (n + 2) / 6 [1]_.

    Parameters
    ----------
    n : int
        Number of points.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Positive definite.

    Raises
    ------
    ValueError
        If `n` is not positive.

    References
    ----------
    .. [1] G. Strang (1999). The discrete cosine transform. *SIAM Review* 41, 135-147.

    Examples
    --------
    >>> import hessops.gallery
    >>> problem = hessops.gallery.laplacian_1d(100)
    >>> round(problem.trace_of(lambda x: 1 / x), 9)
    1700.0
    """
    require_at_least(1, n=n)
    return Problem(
        name=f"laplacian_1d({n})",
        operator=GridLaplacian(array_space(n, **options), (n,)),
        spectrum=lambda: _line(n),
        closed_trace=2.0 * n,
        closed_logdet=math.log(n + 1),
    )


def laplacian_2d(rows: int, columns: int | None = None, **options: Unpack[SpaceOptions]) -> Problem:
    r"""Return the five-point Laplacian on a rectangle between Dirichlet edges.

    The grid has n = rows * columns points, numbered row by row. The eigenvalues are the sums of those
    of two lines, :math:`4 \sin^2(i \pi / (2 r + 2)) + 4 \sin^2(j \pi / (2 c + 2))`. On a square most
    occur twice, as i and j may be exchanged, and 4 occurs `rows` times.

    Parameters
    ----------
    rows : int
        Number of rows of points, r.
    columns : int, optional
        Number of columns, c; as many as rows where not given.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Positive definite.

    Raises
    ------
    ValueError
        If a number of points is not positive.

    References
    ----------
    .. [1] J. W. Demmel (1997). *Applied Numerical Linear Algebra*, section 6.3. SIAM.

    Examples
    --------
    >>> import hessops.gallery
    >>> problem = hessops.gallery.laplacian_2d(30)
    >>> problem.eigenvalues[[0, -1]].round(6)
    array([0.020523, 7.979477])
    >>> problem.trace, round(problem.logdet, 6)
    (3600.0, 1065.000688)
    """
    columns = rows if columns is None else columns
    require_at_least(1, rows=rows, columns=columns)
    return Problem(
        name=f"laplacian_2d({rows}, {columns})",
        operator=GridLaplacian(array_space(rows * columns, **options), (rows, columns)),
        spectrum=lambda: np.add.outer(_line(rows), _line(columns)).ravel(),
        closed_trace=4.0 * rows * columns,
    )


class GridLaplacian(LinearOperator):
    """The sum over the axes of a grid of second differences, zero outside the grid.

    Parameters
    ----------
    space : Space
        Of as many dimensions as there are points, all of them held here.
    points : sequence of int
        Number of points along every axis; the last axis varies fastest.
    """

    returns_own_memory = True

    def __init__(self, space: Space, points: Sequence[int]) -> None:
        super().__init__(space, structure=POSITIVE_SEMIDEFINITE)
        self.points = tuple(points)

    def _apply(self, X: Array) -> Array:
        product = 2.0 * len(self.points) * X
        outer = 1
        for count in self.points:
            # Points before this axis, along it, and after it together with the columns.
            shape = (outer, count, -1)
            values = self.xp.reshape(X, shape)
            differences = self.xp.reshape(product, shape)
            differences[:, 1:, :] -= values[:, :-1, :]
            differences[:, :-1, :] -= values[:, 1:, :]
            product = self.xp.reshape(differences, X.shape)
            outer *= count
        return product

    def _describe(self) -> str:
        return "grid " + "x".join(str(count) for count in self.points)


def _line(n: int) -> HostArray:
    # The square of a sine keeps all digits of the small eigenvalues, where 2 - 2 cos cancels.
    halves = np.arange(1, n + 1) * (np.pi / (2 * n + 2))
    eigenvalues: HostArray = 4 * np.sin(halves) ** 2
    return eigenvalues
