"""The hook of operators that know a better way to their trace than products with random vectors.

`hessops.trace` works with products alone, whatever it is given; ``hessops analyze`` asks here first.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from hessops.operator import LinearOperator
from hessops.random import RandomState
from hessops.record import Callback
from hessops.results.trace import TraceResult

__all__ = ["OffersTraceEstimator", "TraceEstimator", "trace_estimator_of"]


def trace_estimator_of(
    operator: LinearOperator, max_products: int | None = None
) -> TraceEstimator | None:
    """Return an operator's own way to its trace, if it offers one.

    Parameters
    ----------
    operator : LinearOperator
        Any.
    max_products : int, optional
        What may be spent, in units of a product; as `hessops.trace` does where not given.

    Returns
    -------
    TraceEstimator or None
        None where products are all there is.
    """
    if not isinstance(operator, OffersTraceEstimator):
        return None
    return operator.trace_estimator(max_products)


@runtime_checkable
class OffersTraceEstimator(Protocol):
    """An operator that knows more of its trace than its products tell."""

    def trace_estimator(self, max_products: int | None = None) -> TraceEstimator | None:
        """Return a better way to the trace.

        Parameters
        ----------
        max_products : int, optional
            What may be spent, in units of a product; as `hessops.trace` does where not given.

        Returns
        -------
        TraceEstimator or None
            None where the budget is too small for it, or this operator has none after all. Every rank
            returns the same.
        """


class TraceEstimator(Protocol):
    """Estimates the trace of one operator.

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
