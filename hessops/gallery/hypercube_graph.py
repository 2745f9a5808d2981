"""The graph of the hypercube: few distinct eigenvalues of large multiplicity."""

from __future__ import annotations

import math
from typing import Unpack

import numpy as np

from hessops.arrays import Array, namespace
from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.problem import Problem
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.structure import SELF_ADJOINT

__all__ = ["HypercubeGraph", "hypercube", "sum_of_bit_flips"]


def hypercube(d: int, **options: Unpack[SpaceOptions]) -> Problem:
    r"""Return the adjacency matrix of the d-dimensional hypercube, of dimension 2^d.

    Two corners are adjacent if their numbers differ in one binary digit. The eigenvalues are d - 2 i
    with multiplicity :math:`\binom{d}{i}`, for i = 0, ..., d [1]_; a Krylov space of one vector ends
    after d + 1 steps.

    Parameters
    ----------
    d : int
        Dimension of the cube.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Indefinite, with trace 0.

    Raises
    ------
    ValueError
        If `d` is not positive.

    References
    ----------
    .. [1] A. E. Brouwer, W. H. Haemers (2012). *Spectra of Graphs*, section 1.4.6. Springer.

    Examples
    --------
    >>> import hessops.gallery
    >>> hessops.gallery.hypercube(3).levels()
    (array([-3., -1.,  1.,  3.]), array([1, 3, 3, 1]))
    """
    require_at_least(1, d=d)
    return Problem(
        name=f"hypercube({d})",
        operator=HypercubeGraph(array_space(2**d, **options)),
        spectrum=lambda: np.repeat(
            np.arange(d, -d - 1.0, -2), [math.comb(d, i) for i in range(d + 1)]
        ),
        closed_trace=0.0,
    )


class HypercubeGraph(LinearOperator):
    """The adjacency matrix of a hypercube.

    Parameters
    ----------
    space : Space
        Its dimension is a power of two, and all rows are held here.
    """

    def __init__(self, space: Space) -> None:
        super().__init__(space, structure=SELF_ADJOINT)

    def _apply(self, X: Array) -> Array:
        return sum_of_bit_flips(X)


def sum_of_bit_flips(X: Array) -> Array:
    """Return for every row the sum of the rows whose number differs in one binary digit.

    Parameters
    ----------
    X : array, shape (2^d, k)
        A block of vectors.

    Returns
    -------
    array, shape (2^d, k)
        The sums of d rows each.
    """
    xp = namespace(X)
    size, total = X.shape[0], xp.zeros_like(X)
    for bit in range(size.bit_length() - 1):
        pairs = xp.reshape(X, (size >> (bit + 1), 2, -1))
        total += xp.reshape(xp.flip(pairs, axis=1), X.shape)
    flipped: Array = total
    return flipped
