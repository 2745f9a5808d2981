"""From an estimate of a power of a norm to the norm: tolerances, errors and intervals."""

from __future__ import annotations

import math

from hessops.result import Interval
from hessops.scalars import require_real

__all__ = ["power_rtol", "root", "root_error", "root_interval"]


def power_rtol(rtol: float | None, p: float) -> float | None:
    """Return the relative tolerance on x^p that keeps x to `rtol`.

    The lower end of the interval is the one further from the estimate: with x^p (1 - u) there, x is
    off by 1 - (1 - u)^(1/p).
    """
    if rtol is None:
        return None
    require_real(rtol=rtol)
    if not 0 < rtol < 1:
        return rtol
    return -math.expm1(p * math.log1p(-rtol))


def root(power: float, p: float) -> float:
    """Return the p-th root, 0 of what is negative by chance or rounding."""
    return float(max(power, 0.0) ** (1 / p))


def root_error(power: float, error: float, p: float) -> float:
    """Return the error of the p-th root to first order."""
    if power <= 0:
        return root(error, p)
    return root(power, p) * (error / power) / p


def root_interval(interval: Interval, p: float) -> Interval:
    """Return the roots of both ends."""
    return Interval(root(interval.low, p), root(interval.high, p))
