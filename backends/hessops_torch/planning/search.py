"""The plan of a run of products: sizes of micro-batches, graphs kept, vectors at a time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hessops_torch.data.batch import length_of, num_samples, split_batch
from hessops_torch.model.state import uses_batch_statistics
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.operators.diagonal_blocks import whole_of
from hessops_torch.operators.gradient_covariance import GradientCovariance
from hessops_torch.operators.hessian import Hessian
from hessops_torch.operators.output_sum import OutputSum
from hessops_torch.planning.micro_batch_cost import (
    MicroBatchCost,
    differentiate,
    measure_micro_batch,
    work_of,
)
from hessops_torch.planning.result import Plan
from hessops_torch.planning.run_bytes import (
    kept_graphs,
    standing_bytes,
    vectors_and_scratch,
    working_bytes,
)
from hessops_torch.planning.work import Work

__all__ = ["cut", "gradient_work", "plan_of_products", "survey"]

# Vectors to a product beyond which sharing a graph gains nothing: it is a sixtieth of their work.
_MOST_COLUMNS = 32
# What smaller micro-batches have to save; more of them take longer than their operations say.
_WORTH_CUTTING = 0.9


def plan_of_products(
    operator: DataSum, work: Work, memory_limit: int | None, planned: DataSum | None = None
) -> Plan:
    """Return the plan of a run of products, as `plan` does.

    Parameters
    ----------
    operator : DataSum
        The operator.
    work : Work
        The run.
    memory_limit : int or None
        Bytes that it may take.
    planned : DataSum, optional
        The operator with the way to compute products that is planned for.

    Returns
    -------
    Plan
        Of this run.
    """
    planned = operator if planned is None else planned
    # What is too far off in a lower precision is computed in that of the model.
    planned._look_at_precision()
    search = _Search(planned, work, memory_limit, *_passes_first(operator, work))
    sizes, largest, batch = survey(operator)
    size = operator.objective.batches.micro_batch_size
    whole = uses_batch_statistics(operator.objective.model, operator.objective.mode)
    best: Plan | None = None
    while True:
        cost = measure_micro_batch(planned, largest, batch, search.widest, search.usual)
        parts = cut(sizes, size)
        found = search.cheapest(cost, parts, size)
        best = found if best is None else _better(best, found)
        smaller = (size or max(sizes)) // 2
        if smaller < 1 or whole or num_samples(batch) is None or search.is_done(found, cost, parts):
            return best if best.fits else search.with_fitting_probes(best, cost, parts, size)
        size = smaller
        batch = split_batch(batch, size)[0]


@dataclass(frozen=True)
class _Search:
    """What is asked: the operator, the run, the bytes allowed, and passes before the first product."""

    operator: DataSum
    work: Work
    memory_limit: int | None
    num_forwards: int
    num_gradients: int

    @property
    def widest(self) -> int:
        """Return the most vectors to any product that may be planned."""
        return max(_columns(work) for work in self._works())

    @property
    def usual(self) -> int:
        """Return the most vectors to the products that a run mostly makes."""
        return max(work.block_size for work in self._works())

    def cheapest(
        self, cost: MicroBatchCost, sizes: Sequence[int], micro_batch_size: int | None
    ) -> Plan:
        """Return the plan that costs the fewest gradients of those that fit, or takes least memory."""
        found = [
            self._predict(work, cost, sizes, micro_batch_size, chunk)
            for work in self._works()
            for chunk in self._chunks(work, cost)
        ]

        def order(one: Plan) -> tuple[float, ...]:
            size = one.gradient_equivalents if one.fits else one.peak_bytes
            # Of those that differ by rounding, the one with the fewest calls.
            return not one.fits, float(f"{size:.6g}"), -one.block_size, -one.memory_budget

        return min(found, key=order)

    def is_done(self, found: Plan, cost: MicroBatchCost, sizes: Sequence[int]) -> bool:
        """Tell whether smaller micro-batches are not needed, and gain nothing by wider blocks."""
        if not found.fits or self.work.of_block_size is None:
            return found.fits
        widest = max(self._works(), key=_columns)
        shares = [size / max(sizes) for size in sizes]
        at_best = self._gradients(widest, cost, shares, found.kept_graphs, cost.chunk)
        return at_best > _WORTH_CUTTING * found.gradient_equivalents

    def with_fitting_probes(
        self,
        best: Plan,
        cost: MicroBatchCost,
        sizes: Sequence[int],
        micro_batch_size: int | None,
    ) -> Plan:
        """Return a plan that does not fit with the number of probes that would, if all go at once."""
        smaller = self.work.of_num_probes
        if smaller is None:
            return best
        for count in range(self.work.block_size - 1, 0, -1):
            # Through function transforms one at a time takes least.
            chunk = 1 if cost.by_budget else cost.chunk
            if self._predict(smaller(count), cost, sizes, micro_batch_size, chunk).fits:
                return replace(best, fitting_probes=count)
        return replace(best, fitting_probes=0)

    def _works(self) -> list[Work]:
        """Return the run with every block size that may be chosen, or as it is."""
        if self.work.of_block_size is None or self.memory_limit is None:
            return [self.work]
        count = self.work.num_products
        # Of block sizes with as many products, the least.
        calls = {-(-count // width) for width in range(1, min(count, _MOST_COLUMNS) + 1)}
        return [self.work.with_block_size(-(-count // number)) for number in sorted(calls)]

    def _chunks(self, work: Work, cost: MicroBatchCost) -> Sequence[int | None]:
        """Return how many vectors may go through function transforms at a time."""
        if cost.chunk is None or not cost.by_budget or self.memory_limit is None:
            return [cost.chunk]
        return range(min(cost.chunk, _columns(work)), 0, -1)

    def _predict(
        self,
        work: Work,
        cost: MicroBatchCost,
        sizes: Sequence[int],
        micro_batch_size: int | None,
        chunk: int | None,
    ) -> Plan:
        """Scale what one micro-batch costs up to all, and to all products."""
        operator, columns = self.operator, _columns(work)
        shares = [size / max(sizes) for size in sizes]
        budget = self._budget(work, cost, shares, chunk)
        kept = kept_graphs(cost, shares, budget)
        if self.memory_limit is not None and kept == 0 and not cost.by_budget:
            budget = 0
        memory = standing_bytes(operator, keeps=budget > 0)
        memory["kept graphs"] = round(sum(cost.graph_bytes * share for share in shares[:kept]))
        memory["vectors"], memory["scratch"] = vectors_and_scratch(
            operator, work, working_bytes(cost, shares, kept, columns, chunk)
        )
        seconds = sorted(
            _scaled(work, chunk, shares, kept, *timing)
            for timing in zip(
                cost.first_seconds, cost.next_seconds, cost.column_seconds, strict=True
            )
        )
        return Plan(
            work=work,
            micro_batch_size=micro_batch_size,
            num_micro_batches=len(sizes),
            kept_graphs=kept,
            memory_budget=budget,
            product=_product_of(operator),
            memory=memory,
            memory_limit=self.memory_limit,
            gradient_equivalents=self._gradients(work, cost, shares, kept, chunk),
            seconds=(seconds[0], statistics.median(seconds), seconds[-1]),
        )

    def _budget(
        self, work: Work, cost: MicroBatchCost, shares: Sequence[float], chunk: int | None
    ) -> int:
        """Return the bytes for graphs, as the operator counts them."""
        if self.memory_limit is None:
            return self.operator.objective.memory_budget
        if cost.by_budget:
            assert chunk is not None
            # As many graphs as vectors go through transforms at a time, and a bit for ragged batches.
            return round((chunk + 0.5) * cost.counted_bytes) if chunk > 1 else 0
        working = working_bytes(cost, shares, 0, _columns(work), chunk)
        standing = standing_bytes(self.operator, keeps=True)
        alone = sum(vectors_and_scratch(self.operator, work, working))
        room = max(self.memory_limit - sum(standing.values()) - alone, 0)
        return round(room * cost.counted_bytes / max(cost.graph_bytes, 1))

    def _gradients(
        self,
        work: Work,
        cost: MicroBatchCost,
        shares: Sequence[float],
        kept: int,
        chunk: int | None,
    ) -> float:
        products = _scaled(
            work, chunk, shares, kept,
            cost.first_work, cost.next_work, cost.column_work,
        )  # fmt: skip
        before = self.num_gradients + self.num_forwards * cost.forward_work / cost.gradient_work
        return products / (cost.gradient_work * sum(shares)) + before


def _better(best: Plan, cut: Plan) -> Plan:
    """Return the plan with smaller micro-batches where it has to be, or saves enough."""
    if not best.fits:
        return cut
    saves = cut.gradient_equivalents < _WORTH_CUTTING * best.gradient_equivalents
    return cut if cut.fits and saves else best


def _columns(work: Work) -> int:
    return max(work.widest or 1, work.block_size)


def _calls(work: Work, chunk: int | None) -> int:
    """Return how often a micro-batch's products pay the price of the first column."""
    calls, rest = divmod(work.num_products, work.block_size)
    if chunk is None:
        return calls + bool(rest)
    return calls * -(-work.block_size // chunk) + -(-rest // chunk)


def _scaled(
    work: Work,
    chunk: int | None,
    shares: Sequence[float],
    kept: int,
    first: float,
    following: float,
    column: float,
) -> float:
    """Return the cost of all products, of which some micro-batches pay the first price once only."""
    first_prices = sum(shares[:kept]) + _calls(work, None) * sum(shares[kept:])
    calls = _calls(work, chunk)
    products = calls * following + (work.num_products - calls) * column
    return first_prices * (first - following) + sum(shares) * products


def _passes_first(operator: DataSum, work: Work) -> tuple[int, int]:
    """Return the forward passes and the gradients over all data that come before products."""
    objective = operator.objective
    # Of single terms it is not known from their products what they are divided by.
    forwards = int(work.per_term and objective.loss.averages and objective.misses_counts())
    covariance = whole_of(operator)
    if not isinstance(covariance, GradientCovariance):
        return forwards, 0
    return forwards + covariance.misses_samples(), int(covariance.centred)


def survey(operator: DataSum) -> tuple[list[int], int, Any]:
    """Return the sizes of all micro-batches, and the index of the largest with its data.

    Parameters
    ----------
    operator : DataSum
        The operator.

    Returns
    -------
    (list of int, int, object)
        Samples of each, and the largest.
    """
    sizes: list[int] = []
    largest, chosen = 0, None
    for index, batch in enumerate(operator.objective.batches):
        sizes.append(max(length_of(batch), 1))
        if chosen is None or sizes[-1] > sizes[largest]:
            largest, chosen = index, batch
    return sizes, largest, chosen


def cut(sizes: Sequence[int], size: int | None) -> list[int]:
    """Return the sizes of micro-batches once batches are cut.

    Parameters
    ----------
    sizes : sequence of int
        Of batches.
    size : int or None
        Most samples to a part; None leaves batches whole.

    Returns
    -------
    list of int
        Of the parts.
    """
    if size is None:
        return list(sizes)
    return [min(size, whole - start) for whole in sizes for start in range(0, whole, size)]


def _product_of(operator: DataSum) -> str | None:
    """Return the way to compute products that the operator is to be made with, if there is one."""
    if type(operator) is Hessian:
        return operator.product_found
    if isinstance(operator, OutputSum) and operator.product is not None:
        return operator.product_found
    return None


def gradient_work(operator: DataSum) -> float:
    """Return the floating point operations of a gradient by an operator's parameters.

    Parameters
    ----------
    operator : DataSum
        The operator.

    Returns
    -------
    float
        Of the largest micro-batch; 3 where none is counted.
    """
    objective = operator.objective
    _, largest, batch = survey(operator)
    with objective.ready():
        return work_of(lambda: differentiate(objective, largest, batch)) or 3.0
