"""How many probes an estimate takes, and from which of them its error may be read."""

from __future__ import annotations

import math
from typing import Generic, Protocol, TypeVar

from hessops.algorithms._common import require_real
from hessops.comm import Communicator, SerialComm
from hessops.counted import counted
from hessops.statistics import probes_needed, t_quantile

__all__ = ["ProbePlan", "ProbeState"]

_DEFAULT_PROBES = 32
_DEFAULT_BUDGET = 1000
_FIRST_STAGE = 16


class ProbeState(Protocol):
    """What a plan has to know of an engine's state."""

    @property
    def num_probes(self) -> int:
        """Return the probes done."""

    def size(self) -> float:
        """Return what a relative tolerance is relative to."""

    def probe_deviation(self) -> float:
        """Return the standard deviation of one probe."""

    def quantile(self, confidence: float) -> float:
        """Return how many standard errors a tolerance is meant to bound."""


S = TypeVar("S", bound=ProbeState)


class ProbePlan(Generic[S]):
    """How many probes to draw, and from which to read the error.

    Without a tolerance, as many as asked for. With one, Stein's two stages: the variance of a first
    stage fixes the number, and the error keeps that variance, which keeps the coverage of intervals
    (exactly for `atol` and normal samples; with `rtol`, as far as the estimate it is relative to is
    known).

    Parameters
    ----------
    num_probes : int or None
        Probes asked for; with a tolerance, the most to draw.
    rtol, atol : float or None
        Error asked for, relative and absolute; the looser one counts.
    confidence : float
        Coverage of the intervals.
    comm : Communicator, optional
        The ranks that have to draw the same probes: what is read off rounded numbers, rank 0 reads.

    Raises
    ------
    ValueError
        If a tolerance is not positive or the confidence not between 0 and 1.
    """

    def __init__(
        self,
        num_probes: int | None,
        rtol: float | None,
        atol: float | None,
        confidence: float,
        comm: Communicator | None = None,
    ) -> None:
        require_real(confidence=confidence)
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value is not None:
                require_real(**{name: value})
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be positive and finite")
        t_quantile(confidence, 1.0)
        self.confidence = confidence
        self.comm: Communicator = SerialComm() if comm is None else comm
        self._tolerances = rtol, atol
        # Python's numbers, which do not take what they are multiplied with to single precision.
        self.rtol, self.atol = float(rtol or 0.0), float(atol or 0.0)
        self.adaptive = rtol is not None or atol is not None
        self.budget = num_probes or (_DEFAULT_BUDGET if self.adaptive else _DEFAULT_PROBES)
        self.first_stage = min(self.budget, _FIRST_STAGE) if self.adaptive else self.budget
        self.needed = math.inf
        self._first: S | None = None

    def with_budget(self, num_probes: int) -> ProbePlan[S]:
        """Return the same plan, not begun, for another number of probes."""
        return ProbePlan(num_probes, *self._tolerances, self.confidence, self.comm)

    def limit(self) -> int:
        """Return how many probes to draw, as far as is known."""
        return self.first_stage if self._first is None else int(min(self.needed, self.budget))

    def stop(self, state: S) -> str | None:
        """Fix the number of probes after the first stage; stop when it is reached."""
        if not self.adaptive:
            return None
        if self._first is None and state.num_probes >= max(self.first_stage, 2):
            self._first = state
            self.needed = self._number(self._first, state)
        elif self._first is not None and state.num_probes >= self.needed:
            # A relative tolerance moves with the estimate, and may ask for more in the end.
            self.needed = self._number(self._first, state)
        return "tolerance reached" if self._reached(state) else None

    def source(self, state: S) -> S:
        """Return whose variance to claim: the first stage's if that fixed the number of probes."""
        fixed = self._first is not None and state.num_probes >= self.needed
        return self._first if fixed and self._first is not None else state

    def verdict(self, state: S, reason: str | None) -> tuple[str, bool]:
        """Return the status sentence and whether the tolerance was reached."""
        count, reached = state.num_probes, self._reached(state)
        if reached and self.adaptive:
            return f"tolerance reached with {counted(count, 'probe')}", True
        if reason is not None:
            before = "" if reached else ", before the tolerance was reached"
            return f"{reason} after {counted(count, 'probe')}{before}", reached
        if count < 2:
            return "one probe gives no error: use num_probes=2 or more", reached
        if reached:
            return f"used all {counted(count, 'probe')} asked for", True
        return f"used all {counted(count, 'probe')}; {self._advice(state)}", False

    def _reached(self, state: S) -> bool:
        return state.num_probes >= self.needed if self.adaptive else True

    def _advice(self, state: S) -> str:
        if self._target(state) == 0:
            return "the estimate is 0, and no relative error is small beside it: give atol"
        return (
            f"about {self.needed:.0f} would reach the tolerance: raise num_probes or loosen rtol or "
            "atol"
        )

    def _number(self, first: S, state: S) -> float:
        quantile = first.quantile(self.confidence)
        needed = probes_needed(first.probe_deviation(), self._target(state), quantile)
        return self.comm.broadcast(needed)

    def _target(self, state: S) -> float:
        return max(self.atol, self.rtol * state.size())
