"""The estimators of a trace, each run to its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hessops.algorithms.trace._deflation import Deflation
from hessops.algorithms.trace._flat_end import switch_to_xtrace
from hessops.algorithms.trace._leave_one_out import LeaveOneOutState
from hessops.algorithms.trace._probe_plan import ProbePlan
from hessops.algorithms.trace._trace_choice import Choice
from hessops.algorithms.trace.control_variate import Control, ControlState, control_steps
from hessops.algorithms.trace.exact_trace import ExactTraceState, exact_trace_steps
from hessops.algorithms.trace.hutchinson import HutchinsonState, hutchinson_steps
from hessops.algorithms.trace.hutchpp import (
    DeflatedState,
    deflated_steps,
    hutchpp_steps,
    na_hutchpp,
)
from hessops.algorithms.trace.xnystrace import xnystrace_steps
from hessops.algorithms.trace.xtrace import xtrace_steps
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Stream
from hessops.record import Callback, Outcome, run
from hessops.result import Estimate, Interval
from hessops.results.trace import TraceResult

__all__ = ["ESTIMATORS", "Task"]

S = TypeVar("S", HutchinsonState, LeaveOneOutState, ExactTraceState, ControlState)

_ADAPTIVE_DIRECTIONS = 32
_LEAST_TO_SWITCH = 8
_LEAST_TO_STOP = 16


@dataclass(frozen=True)
class Task:
    """What all estimators are told.

    Parameters
    ----------
    operator : LinearOperator
        Square.
    choice : Choice
        The estimator, why it, and what was spent on choosing.
    plan : ProbePlan
        Products to spend and tolerances.
    stream : Stream
        Where the probes come from.
    probe : str or None
        Distribution asked for.
    stratify : bool
        Whether every term of a finite sum gets probes of its own.
    block_size : int
        Most probes per product.
    callback : callable or None
        Called with every state.
    control : Control or None
        An operator that helps.
    deflation : Deflation or None
        Directions that are known already.
    """

    operator: LinearOperator
    choice: Choice
    plan: ProbePlan[HutchinsonState]
    stream: Stream
    probe: ProbeKind | None
    stratify: bool
    block_size: int
    callback: Callback | None
    control: Control | None = None
    deflation: Deflation | None = None

    def options(self) -> dict[str, Any]:
        """Return what engines of independent probes are told."""
        return {
            "stream": self.stream,
            "probe": self.probe or "rademacher",
            "block_size": self.block_size,
            "stratify": self.stratify,
        }

    def run(self, states: Iterator[S], stop: Callable[[S], str | None]) -> Outcome[S]:
        """Drive an engine to its end."""
        return run(
            states,
            space=self.operator.domain,
            stop=stop,
            row=lambda state: (state.estimate(), state.standard_error()),
            callback=self.callback,
        )

    def result(self, outcome: Outcome[S], **parts: Any) -> TraceResult:
        """Return the result of a run, with what depends on the estimator in `parts`."""
        state = outcome.state
        defaults = {"num_terms": 1, "term_scatter": math.nan, "reason": self.choice.reason}
        return TraceResult(
            **{**defaults, **parts},
            value=state.estimate(),
            standard_error=state.standard_error(),
            confidence=self.plan.confidence,
            num_probes=state.num_probes,
            num_products=state.num_products,
            history=outcome.history,
            seed=self.stream.seed,
            seconds=outcome.seconds,
        )


def _exact(task: Task) -> TraceResult:
    states = exact_trace_steps(task.operator, block_size=task.block_size)
    outcome = task.run(states, lambda _: None)
    state = outcome.state
    complete = state.num_probes == task.operator.shape[0]
    value, half = state.estimate(), state.standard_error() if complete else math.inf
    sections = state.sections(task.operator.domain) if complete else {}
    return task.result(
        outcome,
        method="exact",
        interval=Interval(value - half, value + half),
        probe="unit",
        sections=sections,
        status="all unit vectors used: exact to rounding" if complete else f"{outcome.reason}",
        converged=complete,
    )


def _hutchinson(task: Task) -> TraceResult:
    if task.deflation is not None:
        return _deflated(task, task.deflation)
    # The pilot's products are spent.
    spent = task.choice.num_products
    plan = task.plan.with_budget(task.plan.budget - spent)
    states = hutchinson_steps(task.operator, num_probes=plan.limit, **task.options())
    counted = (replace(state, num_products=state.num_products + spent) for state in states)
    return _from_probes(task, plan, counted, "hutchinson")


def _deflated(task: Task, deflation: Deflation) -> TraceResult:
    plan = task.plan.with_budget(task.plan.budget - deflation.cost(task.operator))
    states = deflated_steps(
        task.operator,
        deflation.basis,
        eigenvalues=deflation.eigenvalues,
        num_probes=plan.limit,
        **task.options(),
    )
    return _from_probes(task, plan, states, "hutchinson")


def _hutchpp(task: Task) -> TraceResult:
    directions = task.choice.num_products or min(task.plan.budget // 3, task.operator.shape[0])
    if task.plan.adaptive:
        directions = min(directions, _ADAPTIVE_DIRECTIONS)
    plan = task.plan.with_budget(task.plan.budget - 2 * directions)
    states = hutchpp_steps(
        task.operator,
        num_directions=directions,
        num_probes=plan.limit,
        known=task.choice.products,
        **task.options(),
    )
    return _from_probes(task, plan, states, "hutchpp")


def _na_hutchpp(task: Task) -> TraceResult:
    budget = task.plan.budget
    state = na_hutchpp(
        task.operator,
        stream=task.stream,
        num_products=budget,
        probe=task.probe or "rademacher",
        block_size=task.block_size,
    )
    return _from_probes(task, task.plan.with_budget(state.num_probes), iter([state]), "na-hutchpp")


def _from_probes(
    task: Task, plan: ProbePlan[HutchinsonState], states: Iterator[HutchinsonState], method: str
) -> TraceResult:
    """Run an estimator whose probes are independent."""
    outcome = task.run(states, plan.stop)
    state = outcome.state
    status, converged = plan.verdict(state, outcome.reason)
    # What a subspace holds of a section follows from A Q alone if A is its own adjoint.
    whole = not isinstance(state, DeflatedState)
    known = whole or (method != "na-hutchpp" and task.operator.structure.self_adjoint)
    sections = task.operator.domain.sections if known else {}
    return task.result(
        outcome,
        method=method,
        interval=state.interval(plan.source(state), plan.confidence),
        probe=task.probe or "rademacher",
        num_terms=len(state.moments.mean),
        term_scatter=state.term_scatter(),
        sections={
            name: Estimate(
                value=state.estimate(column),
                standard_error=state.standard_error(column),
                freedom=state.freedom(column),
                confidence=plan.confidence,
            )
            for column, name in enumerate(sections, start=1)
        },
        status=status,
        converged=converged,
    )


def _xtrace(task: Task) -> TraceResult:
    states = xtrace_steps(
        task.operator,
        stream=task.stream,
        num_probes=max(1, min(task.plan.budget // 2, task.operator.shape[0])),
        probe=task.probe or "sphere",
        block_size=task.block_size,
        known=task.choice.products,
    )
    return _from_leave_one_out(task, states)


def _xnystrace(task: Task) -> TraceResult:
    return _from_leave_one_out(task, _semidefinite_steps(task))


def _semidefinite_steps(task: Task) -> Iterator[LeaveOneOutState]:
    """Yield XNysTrace's states; where the choice is free, go over to XTrace once that promises more."""
    operator, budget = task.operator, task.plan.budget
    probe = task.probe or "sphere"
    # Only probes that are invariant under rotations see a flat end of the spectrum as such.
    free = task.choice.products is not None and probe in {"sphere", "normal"}
    options: dict[str, Any] = {
        "stream": task.stream,
        "probe": probe,
        "block_size": task.block_size,
    }
    total = min(budget, operator.shape[0])
    for state in xnystrace_steps(operator, num_probes=total, known=task.choice.products, **options):
        yield state
        enough = _LEAST_TO_SWITCH <= state.num_probes <= budget // 2
        if free and enough and switch_to_xtrace(state, operator, task.stream, probe):
            onwards = xtrace_steps(
                operator, num_probes=min(budget // 2, total), known=state.products, **options
            )
            for later in onwards:
                yield replace(later, step=state.step + later.step)
            return


def _from_leave_one_out(task: Task, states: Iterator[LeaveOneOutState]) -> TraceResult:
    """Run an estimator whose probes depend on each other."""
    plan = task.plan

    def reached(state: LeaveOneOutState) -> bool:
        target = max(plan.atol, plan.rtol * abs(state.estimate()))
        # After fewer probes a lucky draw looks like an answer.
        enough = state.num_probes >= min(_LEAST_TO_STOP, task.operator.shape[0])
        return enough and state.half_width(plan.confidence) <= target

    def stop(state: LeaveOneOutState) -> str | None:
        return "tolerance reached" if plan.adaptive and reached(state) else None

    outcome = task.run(states, stop)
    state = outcome.state
    half = state.half_width(plan.confidence)
    converged = not plan.adaptive or reached(state)
    taken = counted(state.num_products, "product")
    status = f"{outcome.reason or 'used all products asked for'}: {taken}"
    if not converged:
        status += f"; the half-width of the interval is {half:.3g}: raise max_products"
    elif state.num_probes < 2:
        status = "one probe gives no error: raise max_products"
    reason = task.choice.reason
    if state.method == "xtrace" and task.choice.method == "xnystrace":
        reason += "; but for its end the spectrum is flat, which XTrace sees better"
    return task.result(
        outcome,
        method=state.method,
        reason=reason,
        interval=Interval(state.estimate() - half, state.estimate() + half),
        probe=task.probe or "sphere",
        status=status,
        converged=converged,
    )


def _control(task: Task) -> TraceResult:
    assert task.control is not None
    states = control_steps(task.operator, task.control, budget=task.plan.budget, **task.options())
    outcome = task.run(states, lambda _: None)
    state = outcome.state
    helped = f"correlation {state.correlation():.4f}" if state.helps else "of no help, and left"
    return task.result(
        outcome,
        method="control",
        interval=state.interval(task.plan.confidence),
        probe=task.probe or "rademacher",
        status=(
            f"{outcome.reason or 'used the budget'}: {counted(state.num_products, 'product')} and "
            f"{state.num_control_products} with the control ({helped})"
        ),
        num_control_products=state.num_control_products,
        converged=True,
    )


ESTIMATORS: dict[str, Callable[[Task], TraceResult]] = {
    "control": _control,
    "exact": _exact,
    "hutchinson": _hutchinson,
    "hutchpp": _hutchpp,
    "na-hutchpp": _na_hutchpp,
    "xtrace": _xtrace,
    "xnystrace": _xnystrace,
}
