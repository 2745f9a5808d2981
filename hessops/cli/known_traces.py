"""Traces that stored entries tell exactly, where an estimate would be the worse answer."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import scipy.sparse

from hessops.algorithms.functions.polynomial_control import known_power_traces
from hessops.operator import LinearOperator
from hessops.operators.elementary import MatrixOperator
from hessops.record import History
from hessops.result import Interval
from hessops.results.trace import TraceResult

__all__ = ["exact_trace", "known_traces"]

_HOW = "sum of the diagonal"


def known_traces(operator: LinearOperator) -> tuple[float, ...]:
    """Return tr A and, of a self-adjoint operator, tr A², if what is stored tells them.

    Parameters
    ----------
    operator : LinearOperator
        Square.

    Returns
    -------
    tuple of float
        None, one or two; none that is not finite, as products say more of NaN in the entries.
    """
    traces = known_power_traces(operator, "auto")[:2] or _diagonal_sum(operator)
    return traces if all(map(math.isfinite, traces)) else ()


def exact_trace(
    operator: LinearOperator, traces: tuple[float, ...], *, confidence: float, seed: int
) -> TraceResult:
    """Return a known trace as a result, exact to rounding and at no product.

    Parameters
    ----------
    operator : LinearOperator
        Whose it is.
    traces : tuple of float
        What `known_traces` returned.
    confidence : float
        For the record.
    seed : int
        For the record, too.

    Returns
    -------
    TraceResult
        Its method is 'exact', with no probe.
    """
    start = time.perf_counter()
    value, half = traces[0], _rounding(operator, traces)
    return TraceResult(
        value=value,
        standard_error=half,
        interval=Interval(value - half, value + half),
        confidence=confidence,
        method="exact",
        reason=_HOW,
        num_probes=0,
        probe="unit",
        num_terms=1,
        term_scatter=math.nan,
        num_products=0,
        status=f"exact: {_HOW}",
        converged=True,
        history=History([(0, 0, value, half, 0.0)]),
        seed=seed,
        seconds=time.perf_counter() - start,
    )


def _rounding(operator: LinearOperator, traces: tuple[float, ...]) -> float:
    """Return about what rounding is in the sum, whose terms are no larger than |tr A²| allows."""
    dim = operator.shape[0]
    terms = math.sqrt(dim * traces[1]) if len(traces) > 1 else abs(traces[0])
    return float(np.finfo(np.float64).eps * max(terms, abs(traces[0])))


def _diagonal_sum(operator: LinearOperator) -> tuple[float, ...]:
    """Return the trace of a real matrix that is not self-adjoint, from its entries."""
    matrix: Any = operator.matrix if isinstance(operator, MatrixOperator) else None
    stored = isinstance(matrix, np.ndarray) or scipy.sparse.issparse(matrix)
    if not stored or operator.shape[0] != operator.shape[1] or matrix.dtype.kind == "c":
        return ()
    return (float(np.sum(matrix.diagonal(), dtype=np.float64)),)
