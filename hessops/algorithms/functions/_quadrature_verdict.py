"""When an estimate of tr f(A) may stop, and what its two errors together let it claim."""

from __future__ import annotations

import math

from hessops.algorithms.functions.quadrature import QuadratureState
from hessops.algorithms.trace._probe_plan import ProbePlan
from hessops.arrays import eps
from hessops.blocks.rounding import ROUNDINGS
from hessops.counted import counted
from hessops.result import Interval

__all__ = ["allowed", "enough", "stop", "verdict"]

# Of a tolerance, so that what the quadrature lacks takes no coverage from the interval.
_SHARE_OF_QUADRATURE = 0.1
# Of the value, for a single probe, which has no interval to compare with.
_SHARE_FOR_ONE_PROBE = 0.01
# Before that, a value that does not move says nothing.
_FEWEST_STEPS_WITHOUT_BRACKET = 8


def _target(plan: ProbePlan[QuadratureState], state: QuadratureState) -> float:
    return max(plan.atol, plan.rtol * state.size())


def enough(plan: ProbePlan[QuadratureState], state: QuadratureState) -> bool:
    """Tell whether a block has taken the steps that the tolerance needs."""
    if not plan.adaptive:
        return False
    if state.bracket_kind() == "none" and state.num_steps < _FEWEST_STEPS_WITHOUT_BRACKET:
        return False
    # The first probes may already do better than asked: then for the width that their interval has.
    half = state.quantile(plan.confidence) * state.standard_error()
    width = min(_target(plan, state), max(half, _half_of_the_digits(state)))
    return state.quadrature_error() <= _SHARE_OF_QUADRATURE * width


def stop(plan: ProbePlan[QuadratureState], state: QuadratureState) -> str | None:
    """Count probes where a block is complete: before, its values are those of too few steps."""
    if not state.complete:
        return None
    # Rank 0 decides: the plan itself talks to all ranks.
    if plan.adaptive and plan.comm.broadcast(state.quadrature_error() > _target(plan, state)):
        return (
            f"stopped at the most steps allowed, {state.num_steps},"  # more probes would not help
        )
    return plan.stop(state)


def allowed(plan: ProbePlan[QuadratureState], state: QuadratureState, interval: Interval) -> float:
    """Return how wide the bracket may be: as the interval, and no wider than the tolerance."""
    if state.num_probes < 2:
        return _target(plan, state) if plan.adaptive else _SHARE_FOR_ONE_PROBE * state.size()
    width = float(max(interval.high - interval.low, _half_of_the_digits(state)))
    return min(width, _target(plan, state)) if plan.adaptive else width


def _half_of_the_digits(state: QuadratureState) -> float:
    """Return what probes that agree to all digits ask for."""
    space = state.blocks[0].lanczos.space
    return math.sqrt(ROUNDINGS * eps(space.xp, space.dtype)) * state.size()


def verdict(
    plan: ProbePlan[QuadratureState], state: QuadratureState, reason: str | None, allowed: float
) -> tuple[str, bool]:
    """Return the status sentence and whether both errors are as small as they have to be."""
    error, rounding = state.quadrature_error(), state.rounding_error()
    if not error <= allowed:
        return _too_coarse(plan, state, allowed), False
    if not rounding <= allowed:
        sentence = (
            f"rounding of the products may change the value by {rounding:.2g}, more than the "
            f"{allowed:.2g} allowed: use double precision, or shift the operator away from where the "
            "function is steep"
        )
        return sentence, False
    status, reached = plan.verdict(state, reason)
    if state.bracket_kind() == "none":
        note = (
            f"no bracket without the signs of the derivatives, the value changed by {error:.2g} over "
            f"the last quarter of {counted(state.num_steps, 'step')}"
        )
    else:
        how = ", by an estimated bound of the spectrum"
        how = how if state.bracket_kind() == "estimated" else ""
        note = (
            f"quadrature with {counted(state.num_steps, 'step')} is off by at most {error:.2g}{how}"
        )
    return f"{status}; {note}", reached


def _too_coarse(plan: ProbePlan[QuadratureState], state: QuadratureState, allowed: float) -> str:
    """Say that the quadrature is too coarse, and what would do."""
    kind, steps = state.bracket_kind(), state.num_steps
    by_tolerance = plan.adaptive and allowed >= _target(plan, state)
    beside = "the tolerance" if by_tolerance else "the interval of the probes"
    (low, high), needed = state.bracket(), state.steps_needed(allowed)
    sentence = f"the value is not to be trusted: after {counted(steps, 'step')} "
    if kind == "none":
        return sentence + (
            f"it still changed by {state.quadrature_error():.2g} over the last quarter of them, more "
            f"than {beside} ({allowed:.2g}); raise num_steps"
        )
    if kind == "open":
        return sentence + (
            f"the quadrature is only known to lie between {low:.4g} and {high:.4g}; give bounds of the "
            "spectrum that exclude where the function is singular, interval=(low, high), or raise "
            "num_steps"
        )
    advice = f"about {needed:.0f} steps would do" if math.isfinite(needed) else "raise num_steps"
    return sentence + (
        f"the quadrature is only known to lie between {low:.6g} and {high:.6g}: {high - low:.2g} is "
        f"wider than {beside} ({allowed:.2g}); {advice}"
    )
