"""The estimators of a diagonal, each run to its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from hessops.algorithms.trace._probe_plan import ProbePlan
from hessops.algorithms.trace._trace_choice import Choice
from hessops.algorithms.trace.diagonal_control import (
    DiagonalControl,
    DiagonalControlState,
    diagonal_control_steps,
)
from hessops.algorithms.trace.exact_diagonal import ExactDiagonalState, exact_diagonal_steps
from hessops.algorithms.trace.hutchinson_diagonal import DiagonalState, diagonal_steps
from hessops.algorithms.trace.xdiag import XDiagState, xdiag_steps
from hessops.arrays import Array
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Stream
from hessops.record import Callback, Outcome, run
from hessops.results.diagonal import DiagonalResult
from hessops.space import rows_here

__all__ = ["DIAGONAL_ESTIMATORS", "DiagonalTask"]

S = TypeVar("S", DiagonalState, XDiagState, ExactDiagonalState, DiagonalControlState)

_LEAST_TO_STOP = 16


@dataclass(frozen=True)
class DiagonalTask:
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
    probe : str
        Their distribution.
    stratify : bool
        Whether every term of a finite sum gets probes of its own.
    block_size : int
        Most probes per product.
    callback : callable or None
        Called with every state.
    control : DiagonalControl or None
        An operator that helps.
    """

    operator: LinearOperator
    choice: Choice
    plan: ProbePlan[DiagonalState]
    stream: Stream
    probe: ProbeKind
    stratify: bool
    block_size: int
    callback: Callback | None
    control: DiagonalControl | None = None

    def run(self, states: Iterator[S], stop: Callable[[S], str | None]) -> Outcome[S]:
        """Drive an engine to its end."""
        return run(
            states,
            space=self.operator.domain,
            stop=stop,
            row=lambda state: (state.norm, state.error_norm),
            callback=self.callback,
        )

    def result(
        self, outcome: Outcome[S], *, values: Array, standard_errors: Array, **parts: Any
    ) -> DiagonalResult:
        """Return the result of a run, with what depends on the estimator in `parts`."""
        space, state = self.operator.domain, outcome.state
        real = space.xp.abs(space.zeros(0)).dtype
        defaults = {"norm_error": state.error_norm, "probe": self.probe}
        return DiagonalResult(
            **{**defaults, **parts},
            values=space.coefficients(values),
            standard_errors=space.xp.astype(standard_errors, real, copy=False),
            norm=state.norm,
            dim=self.operator.shape[0],
            confidence=self.plan.confidence,
            method=self.choice.method,
            reason=self.choice.reason,
            num_probes=state.num_probes,
            num_products=state.num_products,
            history=outcome.history,
            seed=self.stream.seed,
            seconds=outcome.seconds,
            rows_here=rows_here(space),
        )


def _exact(task: DiagonalTask) -> DiagonalResult:
    states = exact_diagonal_steps(task.operator, block_size=task.block_size)
    outcome = task.run(states, lambda _: None)
    state = outcome.state
    complete = state.num_probes == task.operator.shape[0]
    return task.result(
        outcome,
        values=state.values,
        standard_errors=state.standard_errors,
        freedom=math.inf,
        probe="unit",
        status="all unit vectors used: exact to rounding" if complete else f"{outcome.reason}",
        converged=complete,
    )


def _hutchinson(task: DiagonalTask) -> DiagonalResult:
    plan, pilot = task.plan, task.choice.products
    states = diagonal_steps(
        task.operator,
        stream=task.stream,
        probe=task.probe,
        num_probes=plan.limit,
        block_size=task.block_size,
        stratify=task.stratify,
        known=pilot,
    )
    outcome = task.run(states, plan.stop)
    state, source = outcome.state, plan.source(outcome.state)
    status, converged = plan.verdict(state, outcome.reason)
    return task.result(
        outcome,
        values=state.moments.mean,
        standard_errors=source.moments.standard_errors(state.num_probes),
        norm_error=source.probe_deviation() / math.sqrt(state.num_probes),
        freedom=source.moments.freedom(),
        status=status,
        converged=converged,
    )


def _xdiag(task: DiagonalTask) -> DiagonalResult:
    plan = task.plan
    states = xdiag_steps(
        task.operator,
        stream=task.stream,
        num_probes=max(1, min(plan.budget // 2, task.operator.shape[0])),
        probe=task.probe,
        block_size=task.block_size,
        known=task.choice.products,
    )

    def reached(state: XDiagState) -> bool:
        # After fewer probes a lucky draw looks like an answer.
        enough = state.num_probes >= min(_LEAST_TO_STOP, task.operator.shape[0])
        return enough and state.error_norm <= max(plan.atol, plan.rtol * state.norm)

    def stop(state: XDiagState) -> str | None:
        return "tolerance reached" if plan.adaptive and reached(state) else None

    outcome = task.run(states, stop)
    state = outcome.state
    converged = not plan.adaptive or task.operator.domain.agree(reached(state))
    taken = counted(state.num_products, "product")
    status = f"{outcome.reason or 'used all products asked for'}: {taken}"
    if not converged:
        status += f"; the norm of the errors is {state.error_norm:.3g}: raise max_products"
    elif state.num_probes < 2:
        status = "one probe gives no error: raise max_products"
    return task.result(
        outcome,
        values=state.values,
        standard_errors=state.standard_errors,
        freedom=float(state.num_probes - 1),
        status=status,
        converged=converged,
    )


def _control(task: DiagonalTask) -> DiagonalResult:
    assert task.control is not None
    states = diagonal_control_steps(
        task.operator,
        task.control,
        stream=task.stream,
        budget=task.plan.budget,
        probe=task.probe,
        block_size=task.block_size,
        stratify=task.stratify,
    )
    outcome = task.run(states, lambda _: None)
    state = outcome.state
    helped = f"correlation {state.correlation:.4f}" if state.helps else "of no help, and left"
    return task.result(
        outcome,
        values=state.values,
        standard_errors=state.standard_errors,
        freedom=state.freedom,
        status=(
            f"{outcome.reason or 'used the budget'}: {counted(state.num_products, 'product')} and "
            f"{state.num_control_products} with the control ({helped})"
        ),
        num_control_products=state.num_control_products,
        converged=True,
    )


DIAGONAL_ESTIMATORS: dict[str, Callable[[DiagonalTask], DiagonalResult]] = {
    "control": _control,
    "exact": _exact,
    "hutchinson": _hutchinson,
    "xdiag": _xdiag,
}
