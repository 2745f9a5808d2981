"""The plan of a run of `hessian_trace`, or of what `layer_curvature` does for a network's Hessian.

What it spends is known, and so is what probes and graphs cost. Which samples are seen by plain probes
and which with gradients of samples, and so how many probes there are in the end, is chosen by a pilot;
it costs much the same, and is counted here as if all were plain probes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hessops.algorithms._common import default_block_size
from hessops.random import Purpose, Stream
from hessops_torch.data.batch import num_samples, split_batch
from hessops_torch.layers.sweep import group_count
from hessops_torch.losses.contract import OutputLoss
from hessops_torch.model.state import uses_batch_statistics
from hessops_torch.operators.hessian import Hessian
from hessops_torch.planning.asked import TracesAsked
from hessops_torch.planning.form_cost import FormCost, measure_forms
from hessops_torch.planning.result import Plan
from hessops_torch.planning.run_bytes import (
    inner_product_bytes,
    kept_graphs,
    standing_bytes,
    working_bytes,
)
from hessops_torch.planning.search import cut, survey
from hessops_torch.planning.work import Work
from hessops_torch.traces.trace_engine import TraceEngine
from hessops_torch.traces.units import BUILD, PRODUCT

__all__ = ["plan_of_engine"]

# Products by which the first graph of all shows that it is symmetric.
_LOOKS = 2


def plan_of_engine(operator: Hessian, work: Work, memory_limit: int | None) -> Plan:
    """Return the plan of a run of a `TraceEngine`.

    Costs two forward passes over the data, besides what measuring micro-batches does.

    Parameters
    ----------
    operator : Hessian
        Whose loss shows the outputs.
    work : Work
        With what is asked for.
    memory_limit : int or None
        Bytes that it may take.

    Returns
    -------
    Plan
        Of as much as it may spend.
    """
    asked, objective = work.asked, operator.objective
    assert asked is not None
    assert isinstance(objective.loss, OutputLoss)
    counting = int(objective.loss.averages and objective.misses_counts())
    engine = TraceEngine(
        operator, objective.loss, stream=Stream(0, Purpose.TRACE), sections=asked.sections
    )
    if asked.layers is not None:
        engine.num_groups = group_count(operator.domain, len(engine.seen))
    run = _Run(operator, work, asked, memory_limit, engine, counting)
    sizes, largest, batch = survey(operator)
    size = objective.batches.micro_batch_size
    whole = uses_batch_statistics(objective.model, objective.mode)
    while True:
        cost = measure_forms(engine, largest, batch, run.widest)
        found = run.predicted(cost, cut(sizes, size), size)
        smaller = (size or max(sizes)) // 2
        if found.fits or smaller < 1 or whole or num_samples(batch) is None:
            return found
        size = smaller
        batch = split_batch(batch, size)[0]


@dataclass(frozen=True)
class _Run:
    """What is asked for, and an engine that says what it begins with."""

    operator: Hessian
    work: Work
    asked: TracesAsked
    memory_limit: int | None
    engine: TraceEngine
    counting: int

    @property
    def pilot(self) -> list[tuple[int, float]]:
        """Return the first probes of every stratum, and its share of the samples."""
        engine, budget = self.engine, PRODUCT * self.asked.budget
        return [
            (engine.pilot(one, budget), one.num_samples / engine.total)
            for one in engine.strata.strata
        ]

    @property
    def pilot_passes(self) -> float:
        """Return the same in probes of all the data."""
        return sum(count * share for count, share in self.pilot)

    @property
    def passes(self) -> float:
        """Return the probes of all the data, if all is spent on probes."""
        each = self.engine.product_cost()
        spent = self.engine.strata.cost + BUILD + each * self.pilot_passes
        return self.pilot_passes + max(PRODUCT * self.asked.budget - spent, 0.0) / each

    @property
    def widest(self) -> int:
        """Return the most probes of a block."""
        first = max(count for count, _ in self.pilot)
        # Of several strata one of few samples, and of much variance, gets far more than all together.
        alone = len(self.engine.strata.strata) == 1
        more = round(self.passes - first) if alone else self.asked.budget
        return default_block_size(self.operator.domain, max(first, more))

    def predicted(self, cost: FormCost, sizes: Sequence[int], micro_batch_size: int | None) -> Plan:
        """Scale what one micro-batch costs up to all."""
        shares = [size / max(sizes) for size in sizes]
        budget = self._budget(cost, shares)
        kept = kept_graphs(cost.probes, shares, budget)
        if self.memory_limit is not None and kept == 0:
            budget = 0
        memory = standing_bytes(self.operator, keeps=budget > 0)
        memory["kept graphs"] = round(
            sum(cost.probes.graph_bytes * share for share in shares[:kept])
        )
        memory["vectors"] = self._held()
        memory["scratch"] = self._scratch(cost, shares, kept)
        seconds = sorted(
            self._scaled(shares, kept, *timing)
            for timing in zip(
                cost.probes.first_seconds,
                cost.probes.next_seconds,
                cost.probes.column_seconds,
                strict=True,
            )
        )
        return Plan(
            work=replace(self.work, num_products=round(self.passes), block_size=self.widest),
            micro_batch_size=micro_batch_size,
            num_micro_batches=len(sizes),
            kept_graphs=kept,
            memory_budget=budget,
            product=self.operator.product_found,
            memory=memory,
            memory_limit=self.memory_limit,
            gradient_equivalents=self._gradients(cost, shares, kept),
            seconds=(seconds[0], statistics.median(seconds), seconds[-1]),
            least_gradients=self._gradients(cost, shares, kept, pilot=True)
            if self.asked.adaptive
            else None,
        )

    def _budget(self, cost: FormCost, shares: Sequence[float]) -> int:
        """Return the bytes for graphs, as they are counted."""
        if self.memory_limit is None:
            return self.operator.objective.memory_budget
        standing = sum(standing_bytes(self.operator, keeps=True).values())
        alone = self._held() + self._scratch(cost, shares, 0)
        room = max(self.memory_limit - standing - alone, 0)
        return round(room * cost.probes.counted_bytes / max(cost.probes.graph_bytes, 1))

    def _held(self) -> int:
        """Return the bytes of estimates of the diagonal, which every stratum has."""
        return self._vectors(self.engine.num_groups * len(self.engine.seen))

    def _scratch(self, cost: FormCost, shares: Sequence[float], kept: int) -> int:
        """Return the bytes of whatever takes most: probes, their inner products, gradients, the end."""
        width, groups = self.widest, self.engine.num_groups
        probing = working_bytes(cost.probes, shares, kept, width, None)
        # Probes, products with H - G and, for sections, with G; the diagonal of both.
        vectors = width * (2 + self.asked.sections + bool(groups))
        doubles = inner_product_bytes(self.operator, width, by_section=self.asked.sections)
        return max(
            probing,
            self._vectors(vectors) + doubles,
            round(cost.squares_peak * max(shares)),
            self._vectors(3 * groups),
        )

    def _vectors(self, count: int) -> int:
        item = next(iter(self.operator.objective.parameters.values())).element_size()
        return count * self.operator.domain.dim * item

    def _gradients(
        self, cost: FormCost, shares: Sequence[float], kept: int, *, pilot: bool = False
    ) -> float:
        one = cost.probes
        products = self._scaled(
            shares, kept, one.first_work, one.next_work, one.column_work, pilot=pilot
        )
        passes = self.engine.strata.cost + self.counting
        return (
            products / (one.gradient_work * sum(shares))
            + passes * one.forward_work / one.gradient_work
        )

    def _scaled(
        self,
        shares: Sequence[float],
        kept: int,
        first: float,
        following: float,
        column: float,
        *,
        pilot: bool = False,
    ) -> float:
        """Return the cost of all probes, and of graphs: once, or for every block of probes."""
        build = first - following
        passes = self.pilot_passes if pilot else self.passes
        more = max(passes - self.pilot_passes, 0.0)
        blocks = 1 + (0 if pilot else math.ceil(more / self.widest))
        builds = build * (sum(shares[:kept]) + blocks * sum(shares[kept:]))
        return builds + passes * column * sum(shares) + _LOOKS * following * shares[0]
