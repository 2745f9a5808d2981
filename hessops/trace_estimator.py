"""What an operator offers that knows a better way to its trace than products with random vectors."""

from __future__ import annotations

from typing import Protocol

from hessops.random import RandomState
from hessops.record import Callback
from hessops.results.trace import TraceResult

__all__ = ["TraceEstimator"]


class TraceEstimator(Protocol):
    """Estimates the trace of one operator; `LinearOperator.trace_estimator` returns it.

    It takes what `hessops.trace` takes, to the same meaning: the defaults, the interval and its
    coverage, one seed for one answer.
    """

    def __call__(
        self,
        *,
        max_products: int | None = None,
        rtol: float | None = None,
        confidence: float = 0.95,
        sections: bool = False,
        rng: RandomState = None,
        callback: Callback | None = None,
    ) -> TraceResult:
        """Estimate the trace.

        Parameters
        ----------
        max_products : int, optional
            What to spend, in units of a product with the operator; with a tolerance, the most.
        rtol : float, optional
            Half-width asked for of the interval, relative to the trace.
        confidence : float
            Nominal coverage of the interval.
        sections : bool
            Whether the traces of the sections of the space are wanted, too.
        rng : int, numpy.random.Generator or None
            Where the randomness comes from.
        callback : callable, optional
            Called with every state; returning True ends the run.

        Returns
        -------
        TraceResult
            Whose `method` and `reason` say how it was found.
        """
