"""The Kneser graph of disjoint subsets: few distinct eigenvalues of large multiplicity."""

from __future__ import annotations

import math
from typing import Unpack

import numpy as np

from hessops.array_space import ArraySpace
from hessops.arrays import Array, HostArray
from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.problem import Problem
from hessops.operator import LinearOperator
from hessops.structure import SELF_ADJOINT

__all__ = ["KneserGraph", "kneser"]

# A product adds over all 2^n subsets; past this they need gigabytes for a column.
_MOST_THINGS = 26


def kneser(n: int, k: int, **options: Unpack[SpaceOptions]) -> Problem:
    r"""Return the adjacency matrix of the Kneser graph K(n, k).

    Its vertices are the :math:`\binom{n}{k}` subsets of k out of n things; two are adjacent if they
    have nothing in common. The eigenvalues are :math:`(-1)^i \binom{n - k - i}{k - i}` with
    multiplicity :math:`\binom{n}{i} - \binom{n}{i - 1}`, for i = 0, ..., k [1]_. K(5, 2) is the
    Petersen graph.

    Parameters
    ----------
    n : int
        Number of things, at most 26: a product takes n 2^n additions.
    k : int
        Size of the subsets, at most half of n, so that there are disjoint ones.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Indefinite, with trace 0.

    Raises
    ------
    ValueError
        If not 1 <= k <= n / 2, or `n` is larger than 26.

    References
    ----------
    .. [1] C. Godsil, G. Royle (2001). *Algebraic Graph Theory*, section 9.4. Springer.

    Examples
    --------
    >>> import hessops.gallery
    >>> hessops.gallery.kneser(5, 2).levels()
    (array([-2.,  1.,  3.]), array([4, 5, 1]))
    """
    require_at_least(1, k=k)
    if not 2 * k <= n <= _MOST_THINGS:
        raise ValueError(
            f"n={n}, k={k}: n must be at least {2 * k}, for disjoint subsets, and at most "
            f"{_MOST_THINGS}, for memory"
        )
    return Problem(
        name=f"kneser({n}, {k})",
        operator=KneserGraph(array_space(math.comb(n, k), **options), n, k),
        spectrum=lambda: _eigenvalues(n, k),
        closed_trace=0.0,
    )


class KneserGraph(LinearOperator):
    """The adjacency matrix of a Kneser graph, by sums over all subsets of a set.

    A vertex is a number whose binary digits say which things it holds; the vertices are ordered by
    it. What is disjoint from S is a subset of the complement of S, and the sums over subsets take one
    addition for every thing and subset (the zeta transform of Yates).

    Parameters
    ----------
    space : ArraySpace
        Of dimension n over k, all rows held here.
    n : int
        Number of things.
    k : int
        Size of the subsets.
    """

    def __init__(self, space: ArraySpace, n: int, k: int) -> None:
        super().__init__(space, structure=SELF_ADJOINT)
        self.n = n
        numbers = np.arange(2**n)
        vertices = np.flatnonzero(np.bitwise_count(numbers) == k)
        # Subsets of another size take a row of zeros that stands after the vectors.
        rows = np.full(2**n, len(vertices))
        rows[vertices] = np.arange(len(vertices))
        self._rows = space.xp.asarray(rows, device=space.device)
        self._complements = space.xp.asarray(2**n - 1 - vertices, device=space.device)

    def _apply(self, X: Array) -> Array:
        xp, count = self.xp, X.shape[1]
        padded = xp.concat([X, self.domain.zeros(count)], axis=0)[: X.shape[0] + 1, :]
        sums = xp.take(padded, self._rows, axis=0)
        for thing in range(self.n):
            pairs = xp.reshape(sums, (2 ** (self.n - 1 - thing), 2, -1))
            pairs[:, 1, :] += pairs[:, 0, :]
            sums = xp.reshape(pairs, (2**self.n, count))
        product: Array = xp.take(sums, self._complements, axis=0)
        return product


def _eigenvalues(n: int, k: int) -> HostArray:
    order = range(k + 1)
    values = [(-1.0) ** i * math.comb(n - k - i, k - i) for i in order]
    counts = [math.comb(n, i) - (math.comb(n, i - 1) if i else 0) for i in order]
    return np.repeat(values, counts)
