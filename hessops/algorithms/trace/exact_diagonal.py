"""The diagonal by products with all unit vectors: n of them, and nothing left to chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hessops.algorithms._one_line import one_line
from hessops.algorithms.trace._entry_moments import entry_norms
from hessops.arrays import Array, eps
from hessops.operator import LinearOperator
from hessops.record import require_finite

__all__ = ["ExactDiagonalState", "exact_diagonal_steps"]


@dataclass(frozen=True)
class ExactDiagonalState:
    """Some entries of a diagonal.

    Parameters
    ----------
    step : int
        Blocks of unit vectors done.
    num_products : int
        Unit vectors done.
    values : array, shape (n,)
        The entries that are known, and zeros.
    standard_errors : array, shape (n,)
        What is rounding in them, and infinity.
    norm, error_norm : float
        2-norms of both.
    """

    step: int
    num_products: int
    values: Array
    standard_errors: Array
    norm: float
    error_norm: float

    __repr__ = one_line

    @property
    def num_probes(self) -> int:
        """Return the unit vectors done."""
        return self.num_products


def exact_diagonal_steps(
    A: LinearOperator, *, block_size: int = 32
) -> Iterator[ExactDiagonalState]:
    """Yield more and more entries of a diagonal.

    Parameters
    ----------
    A : LinearOperator
        Square.
    block_size : int
        Unit vectors per product.

    Yields
    ------
    ExactDiagonalState
        One block further.
    """
    space, xp = A.domain, A.xp
    values = space.zeros(1)[:, 0]
    missing = xp.abs(values) + math.inf
    for step, start in enumerate(range(0, space.dim, block_size), start=1):
        stop = min(start + block_size, space.dim)
        E = space.unit_vectors(start, stop)
        values = values + xp.sum(E * A.apply(E), axis=1)
        here = xp.abs(xp.sum(E, axis=1)) == 1
        missing = xp.where(here, xp.zeros_like(missing), missing)
        errors = eps(xp, space.dtype) * xp.abs(values) + missing
        norm, error_norm = entry_norms(space, values, errors)
        require_finite(np.asarray(norm), stop, A)
        yield ExactDiagonalState(step, stop, values, errors, norm, error_norm)
