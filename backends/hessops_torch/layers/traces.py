"""The traces of all blocks at once: by plain probes, or with the Gauss-Newton part taken apart.

Plain probes do for any operator. For a network's Hessian `hessops_torch.trace_engine` spends them where
the variance of blocks is, and takes the traces of the Gauss-Newton matrix from gradients of samples
where that is cheaper; its products tell the diagonal as those of plain probes do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hessops.algorithms.trace._terms import is_stratified
from hessops.arrays import HostArray
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Stream
from hessops.record import Callback, History, run
from hessops.result import Estimate, Interval
from hessops.statistics import t_quantile
from hessops_torch.layers.sweep import (
    LayerState,
    group_count,
    layer_steps,
    ratio_interval,
    rms_of_groups,
)
from hessops_torch.losses.contract import OutputLoss
from hessops_torch.operators.hessian import Hessian
from hessops_torch.traces.goals import BlockGoal, worst
from hessops_torch.traces.trace_engine import TraceEngine, TraceState
from hessops_torch.traces.units import GRADIENT, PRODUCT

__all__ = ["FIRST_STAGE", "LayerRequest", "LayerTraces", "by_gauss_newton", "by_probes"]

FIRST_STAGE = 16
"""Probes of a run with a tolerance before it looks at its error."""
_FIRST_AIM = 2.0


@dataclass(frozen=True, kw_only=True)
class LayerRequest:
    """What is asked for.

    Parameters
    ----------
    rtol : float
        Half-width of every block's interval, by its trace or that of the average block; 0 for none.
    budget : int
        Products to spend, at most if there is a tolerance.
    confidence : float
        Of the intervals.
    stream : Stream
        Where probes come from.
    probe : str
        Their distribution.
    stratify : bool or None
        Whether every term has probes of its own; where there are several if None.
    block_size : int
        Probes to a product.
    callback : callable or None
        Called with every state.
    """

    rtol: float
    budget: int
    confidence: float
    stream: Stream
    probe: ProbeKind
    stratify: bool | None
    block_size: int
    callback: Callback | None


@dataclass(frozen=True, kw_only=True)
class LayerTraces:
    """What was found.

    Parameters
    ----------
    trace, traces, shares, rms_diagonals : as in `LayerCurvature`
        Of the whole, and of blocks.
    num_probes, num_terms, num_products, num_gradients : as in `LayerCurvature`
        What it took.
    method, reason : str
        How it was found, and why so.
    status : str
        How it ended.
    converged : bool
        Whether the tolerance was reached, if there is one.
    history : History
        One record for every state of the engine.
    """

    trace: Estimate
    traces: dict[str, Estimate]
    shares: dict[str, tuple[float, Interval]]
    rms_diagonals: dict[str, tuple[float, Interval]]
    num_probes: int
    num_terms: int
    num_products: int
    num_gradients: float
    method: str
    reason: str
    status: str
    converged: bool
    history: History


def by_probes(
    operator: LinearOperator, members: Mapping[str, tuple[str, ...]], asked: LayerRequest
) -> LayerTraces:
    """Estimate traces by one sweep of products with the operator.

    Parameters
    ----------
    operator : LinearOperator
        On a space with sections.
    members : mapping of str to tuple of str
        The sections in every block.
    asked : LayerRequest
        What is asked for.

    Returns
    -------
    LayerTraces
        With what it cost.
    """
    rounds = _Rounds(asked, len(members))
    outcome = run(
        layer_steps(
            operator,
            members,
            stream=asked.stream,
            num_probes=rounds.limit,
            probe=asked.probe,
            block_size=asked.block_size,
            stratify=is_stratified(operator, asked.stratify),
        ),
        space=operator.domain,
        stop=rounds.stop,
        row=lambda state: (state.sums.estimate(), state.sums.standard_error()),
        callback=asked.callback,
    )
    state: LayerState = outcome.state
    count = state.sums.num_probes
    columns = {block: index for index, block in enumerate(members, start=1)}
    reached = not asked.rtol or rounds.excess(state) <= 1.0
    status = outcome.reason or f"used all {count} probes asked for"
    if asked.rtol and outcome.reason == rounds.reached:
        status = f"{outcome.reason}: {counted(count, 'probe')}"
    if not reached:
        status += _missed(rounds.excess(state))
    if count < 2:
        status = "one probe gives no error: use num_probes=2 or more"
    confidence = asked.confidence
    return LayerTraces(
        trace=state.trace(0, confidence),
        traces={block: state.trace(column, confidence) for block, column in columns.items()},
        shares={block: state.share(column, confidence) for block, column in columns.items()},
        rms_diagonals=state.rms_diagonals(operator.domain, members, confidence),
        num_probes=count,
        num_terms=len(state.sums.num_samples),
        num_products=state.num_products,
        num_gradients=math.nan,
        method="probes",
        reason="",
        status=status,
        converged=reached,
        history=outcome.history,
    )


def by_gauss_newton(
    operator: Hessian, members: Mapping[str, tuple[str, ...]], asked: LayerRequest
) -> LayerTraces:
    """Estimate traces with probes where the variance is, and G by gradients of samples where it pays.

    Parameters
    ----------
    operator : Hessian
        For which `shows_gauss_newton`.
    members : mapping of str to tuple of str
        The sections in every block.
    asked : LayerRequest
        What is asked for.

    Returns
    -------
    LayerTraces
        With what it cost.
    """
    loss = operator.objective.loss
    assert isinstance(loss, OutputLoss)
    # The whole, each block, and the whole without each: so the share's noise is known.
    rows = np.array(
        [[float(name in names) for name in operator.domain.sections] for names in members.values()]
    )
    engine = TraceEngine(
        operator,
        loss,
        stream=asked.stream,
        sections=True,
        columns=np.concatenate([rows, 1.0 - rows]),
    )
    # Every stratum has groups of its own.
    engine.num_groups = group_count(operator.domain, len(engine.seen))
    goal = BlockGoal(len(members), asked.rtol, asked.confidence)
    outcome = run(
        engine.states(goal, budget=PRODUCT * asked.budget),
        space=operator.domain,
        stop=lambda _: None,
        row=lambda state: (float(state.values[0]), state.standard_error()),
        callback=asked.callback,
    )
    state: TraceState = outcome.state
    diagonals = engine.diagonals()
    reached = goal.reached(state)
    used = f"{state.num_products} products and {state.cost / GRADIENT:.1f} gradients in all"
    status = f"{outcome.reason}: {used}" if outcome.reason else f"used the budget: {used}"
    if outcome.reason is None and asked.rtol and reached:
        status = f"tolerance reached: {used}"
    if not reached:
        status += _missed(goal.excess(state))
    columns = {block: index for index, block in enumerate(members, start=1)}
    return LayerTraces(
        trace=_estimate(state, 0, asked.confidence),
        traces={name: _estimate(state, c, asked.confidence) for name, c in columns.items()},
        shares={
            name: _share(state, c, c + len(members), asked.confidence)
            for name, c in columns.items()
        },
        rms_diagonals=rms_of_groups(
            operator.domain,
            members,
            diagonals,
            np.ones(diagonals.shape[1], dtype=np.int64),
            asked.confidence,
        ),
        num_probes=state.num_probes,
        num_terms=sum(len(stratum.groups) for stratum in engine.strata.strata),
        num_products=state.num_products,
        num_gradients=state.cost / GRADIENT,
        method=engine.method(state),
        reason=engine.reason(state),
        status=status,
        converged=reached,
        history=outcome.history,
    )


class _Rounds:
    """How many plain probes a tolerance takes: a first stage, half of the way, and all of it."""

    reached = "tolerance reached"

    def __init__(self, asked: LayerRequest, num_blocks: int) -> None:
        self._asked = asked
        self._columns = range(1, 1 + num_blocks)
        self._aim = _FIRST_AIM
        self._wanted = min(asked.budget, FIRST_STAGE) if asked.rtol else asked.budget

    def limit(self) -> int:
        """Return the probes to draw, as far as is known."""
        return self._wanted

    def stop(self, state: LayerState) -> str | None:
        """Look at the errors after every round, and say if they are as asked for."""
        count = state.sums.num_probes
        if not self._asked.rtol or count < self._wanted:
            return None
        excess = self.excess(state)
        if excess <= 1.0:
            return self.reached
        # Aimed at half of the way first, as what errors are relative to is not known yet.
        aim, self._aim = (self._aim if excess > self._aim else 1.0), 1.0
        more = math.ceil(min(count * (excess / aim) ** 2, 1e9))
        self._wanted = min(self._asked.budget, max(more, count + 1))
        return None

    def excess(self, state: LayerState) -> float:
        """Return the half-width of the worst block, by what is asked for."""
        sums = state.sums
        if sums.num_probes < 2:
            return math.inf
        halves = [
            float(t_quantile(self._asked.confidence, sums.freedom(c))) * sums.standard_error(c)
            for c in self._columns
        ]
        traces = np.array([sums.estimate(column) for column in self._columns])
        return worst(np.array(halves), traces) / self._asked.rtol


def _missed(excess: float) -> str:
    return (
        f"; the half-width of the worst block is {excess:.3g} times what rtol allows: raise "
        "max_products"
    )


def _estimate(state: TraceState, column: int, confidence: float) -> Estimate:
    return Estimate(
        value=float(state.values[column]),
        standard_error=state.standard_error(column),
        freedom=state.freedom(column),
        confidence=confidence,
    )


def _share(state: TraceState, block: int, rest: int, confidence: float) -> tuple[float, Interval]:
    """Return the share of a block, and an interval by Fieller's theorem."""
    of_block, whole = float(state.values[block]), float(state.values[0])
    if whole == 0:
        return math.nan, Interval(-math.inf, math.inf)
    variances: list[HostArray] = [state.variances[:, c] for c in (block, 0, rest)]
    # Of each mean; what block and whole have in common is in the variance of the rest.
    mixed = (variances[0] + variances[1] - variances[2]) / 2
    ratio = of_block / whole
    both = np.maximum(variances[0] - 2 * ratio * mixed + ratio**2 * variances[1], 0.0)
    factor = float(t_quantile(confidence, state.freedom_of(both))) ** 2
    squares = [factor * float(part.sum()) for part in (variances[0], mixed, variances[1])]
    return ratio, ratio_interval(of_block, whole, squares)
