"""How a value by quadrature is printed, and what is said first where it is not to be trusted."""

from __future__ import annotations

import math

from hessops.result import Interval
from hessops.results.numbers import estimate_cells, estimate_text, interval_text

__all__ = ["headline", "is_resolved", "statistics_text"]


def is_resolved(interval: Interval, bracket: Interval, *, converged: bool) -> bool:
    """Tell whether quadrature leaves no more open than the probes do.

    Parameters
    ----------
    interval : Interval
        Of the probes; infinite after one of them.
    bracket : Interval
        Of the quadrature.
    converged : bool
        What the verb said. A tolerance of the interval that was missed does not make a value wrong.

    Returns
    -------
    bool
        Whether the value may be printed with its error.
    """
    if converged:
        return True
    width, open_to = interval.high - interval.low, bracket.high - bracket.low
    return math.isfinite(width) and math.isfinite(open_to) and bool(open_to <= width)


def headline(name: str, value: float, error: float, *, resolved: bool) -> str:
    """Return a value with its error or, where quadrature does not resolve it, a warning before it.

    Parameters
    ----------
    name : str
        Of the quantity; may be empty.
    value, error : float
        The estimate, and the standard error of the probes.
    resolved : bool
        As `is_resolved` says.

    Returns
    -------
    str
        Without an error where that would not be one of the quantity.
    """
    if resolved:
        return f"{name} = " * bool(name) + estimate_text(value, error)
    return f"{name}: " * bool(name) + f"not to be trusted, about {estimate_cells(value, error)[0]}"


def statistics_text(interval: Interval, confidence: float, *, resolved: bool) -> str:
    """Return the interval of the probes, which says nothing of a value that is not resolved.

    Parameters
    ----------
    interval : Interval
        It.
    confidence : float
        Its nominal coverage.
    resolved : bool
        As `is_resolved` says.

    Returns
    -------
    str
        To stand before what the quadrature leaves open.
    """
    if not resolved:
        return "quadrature not resolved,"
    return f"{confidence:.0%} interval {interval_text(*interval)}; quadrature"
