"""How many probes a trace takes, and what may be claimed of it afterwards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hessops.result import Interval
from hessops.statistics import probes_needed, t_quantile

if TYPE_CHECKING:
    from hessops.algorithms.hutchinson import HutchinsonState

__all__ = ["ProbePlan"]

_DEFAULT_PROBES = 32
_DEFAULT_BUDGET = 1000
_FIRST_STAGE = 16


class ProbePlan:
    """How many probes to draw, and what to claim of the result.

    Without a tolerance, as many as asked for. With one, Stein's two stages: the variance of a first
    stage fixes the number, and the interval keeps that variance, which keeps its coverage (exactly
    for `atol`; with `rtol`, as far as the estimate it is relative to is known).

    Parameters
    ----------
    num_probes : int or None
        Probes asked for; with a tolerance, the most to draw.
    rtol, atol : float or None
        Half-width asked for of the interval.
    confidence : float
        Coverage of the interval.

    Raises
    ------
    ValueError
        If a tolerance is not positive or the confidence not between 0 and 1.
    """

    def __init__(
        self, num_probes: int | None, rtol: float | None, atol: float | None, confidence: float
    ) -> None:
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be positive and finite")
        t_quantile(confidence, 1.0)
        self.confidence = confidence
        self.rtol, self.atol = rtol or 0.0, atol or 0.0
        self.adaptive = rtol is not None or atol is not None
        self.budget = num_probes or (_DEFAULT_BUDGET if self.adaptive else _DEFAULT_PROBES)
        self.first_stage = min(self.budget, _FIRST_STAGE) if self.adaptive else self.budget
        self.needed = math.inf
        self._first: HutchinsonState | None = None

    def limit(self) -> int:
        """Return how many probes to draw, as far as is known."""
        return self.first_stage if self._first is None else int(min(self.needed, self.budget))

    def stop(self, state: HutchinsonState) -> str | None:
        """Fix the number of probes after the first stage; stop when it is reached."""
        if not self.adaptive:
            return None
        count = state.moments.count
        if self._first is None and count >= max(self.first_stage, 2):
            self._first = state
            self.needed = self._number(self._first, state)
        elif self._first is not None and count >= self.needed:
            # A relative tolerance moves with the estimate, and may ask for more in the end.
            self.needed = self._number(self._first, state)
        return "tolerance reached" if count >= self.needed else None

    def interval(self, state: HutchinsonState) -> Interval:
        """Return the interval: with the first stage's variance if that fixed the number."""
        source = state
        if self._first is not None and state.moments.count >= self.needed:
            source = self._first
        if source.moments.count < 2:
            return Interval(-math.inf, math.inf)
        error = math.sqrt(source.probe_variance() / state.moments.count)
        half = float(self._quantile(source)) * error if error > 0 else 0.0
        return Interval(state.estimate() - half, state.estimate() + half)

    def verdict(self, state: HutchinsonState, reason: str | None) -> tuple[str, bool]:
        """Return the status sentence and whether the tolerance was reached."""
        count = state.moments.count
        reached = count >= self.needed if self.adaptive else True
        if reached and self.adaptive:
            return f"tolerance reached with {count} probes", True
        if reason is not None:
            before = "" if reached else ", before the tolerance was reached"
            return f"{reason} after {count} probes{before}", reached
        if count < 2:
            return "one probe gives no error: use num_probes=2 or more", reached
        if reached:
            return f"used all {count} probes asked for", True
        return f"used all {count} probes; {self._advice()}", False

    def _advice(self) -> str:
        if math.isinf(self.needed):
            return "the estimate is 0, and no relative error is small beside it: give atol"
        return (
            f"about {self.needed:.0f} would reach the tolerance: raise num_probes or loosen rtol or "
            "atol"
        )

    def _number(self, first: HutchinsonState, state: HutchinsonState) -> float:
        deviation = math.sqrt(first.probe_variance())
        return probes_needed(deviation, self._target(state), self._quantile(first))

    def _target(self, state: HutchinsonState) -> float:
        return max(self.atol, self.rtol * abs(state.estimate()))

    def _quantile(self, state: HutchinsonState) -> float:
        return float(t_quantile(self.confidence, state.freedom()))
