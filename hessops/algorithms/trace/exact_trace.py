"""The trace by products with all unit vectors: n of them, and nothing left to chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hessops.algorithms._one_line import one_line
from hessops.arrays import HostArray, eps, to_numpy
from hessops.operator import LinearOperator
from hessops.record import require_finite
from hessops.result import Estimate
from hessops.space import Space

__all__ = ["ExactTraceState", "exact_trace_steps"]


@dataclass(frozen=True)
class ExactTraceState:
    """The sum of some diagonal entries.

    Parameters
    ----------
    step : int
        Blocks of unit vectors done.
    num_products : int
        Unit vectors done.
    sums : numpy.ndarray, shape (max(num_sections, 1),)
        Of the diagonal entries, by section.
    rounding : numpy.ndarray, shape (max(num_sections, 1),)
        What is rounding in them.
    """

    step: int
    num_products: int
    sums: HostArray
    rounding: HostArray

    __repr__ = one_line

    @property
    def num_probes(self) -> int:
        """Return the unit vectors done."""
        return self.num_products

    def estimate(self) -> float:
        """Return the sum of the entries so far."""
        return float(self.sums.sum())

    def standard_error(self) -> float:
        """Return what is rounding in it."""
        return float(self.rounding.sum())

    def sections(self, space: Space) -> dict[str, Estimate]:
        """Return the trace of every section."""
        return {
            name: Estimate(value=float(value), standard_error=float(error), freedom=np.inf)
            for name, value, error in zip(space.sections, self.sums, self.rounding, strict=False)
        }


def exact_trace_steps(A: LinearOperator, *, block_size: int = 32) -> Iterator[ExactTraceState]:
    """Yield the sum of more and more diagonal entries.

    Parameters
    ----------
    A : LinearOperator
        Square.
    block_size : int
        Unit vectors per product.

    Yields
    ------
    ExactTraceState
        One block further.
    """
    space = A.domain
    sums = rounding = np.zeros(max(len(space.sections), 1))
    for step, start in enumerate(range(0, space.dim, block_size), start=1):
        stop = min(start + block_size, space.dim)
        E = space.unit_vectors(start, stop)
        entries = np.real(to_numpy(space.section_inner(E, A.apply(E))))
        require_finite(entries, stop, A)
        sums = sums + entries.sum(axis=1)
        rounding = rounding + eps(space.xp, space.dtype) * np.abs(entries).sum(axis=1)
        yield ExactTraceState(step, stop, sums, rounding)
