"""What is certain of a spectrum, and whether quadrature of a function in it may be trusted."""

from __future__ import annotations

import math

from hessops.arrays import HostArray
from hessops.density.block_quadrature import Quadrature
from hessops.result import Estimate, Interval

__all__ = ["known_bounds", "quadrature_verdict"]

# Of the value: for a single probe, which has no interval to compare with, and for rounding.
_SHARE_FOR_ONE_PROBE, _ROUNDED = 0.01, 1e-8


def known_bounds(
    nodes: HostArray, rounding: float, interval: tuple[float, float] | None, *, semidefinite: bool
) -> Interval:
    """Return bounds of the spectrum that are certain: what was given, and what was declared."""
    low, high = (-math.inf, math.inf) if interval is None else map(float, interval)
    outside = nodes[(nodes < low - rounding) | (nodes > high + rounding)]
    if len(outside) or not low <= high:
        beyond = f": there is a Ritz value {outside[0]:.6g}" if len(outside) else ""
        raise ValueError(f"interval=({low:.6g}, {high:.6g}) does not hold the spectrum{beyond}")
    return Interval(max(low, 0.0) if semidefinite else low, high)


def quadrature_verdict(
    rules: Quadrature, estimate: Estimate, num_steps: int, *, single: bool
) -> tuple[str, bool]:
    """Return a sentence, and whether the bracket is narrow beside the interval."""
    low, high = estimate.interval
    allowed, size = float(high - low), abs(float(estimate.value))
    if single:
        allowed = _SHARE_FOR_ONE_PROBE * size
    if rules.movement <= max(allowed, _ROUNDED * size):
        return f"quadrature is off by {rules.movement:.2g} at most", True
    return (
        f"the value is not to be trusted: quadrature with {num_steps} steps may be off by "
        f"{rules.movement:.2g}, more than the interval is wide; raise the budget, or give bounds of "
        "the spectrum, interval=(low, high)"
    ), False
