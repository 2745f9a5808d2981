"""What the products of one micro-batch cost: measured on it, by counts and by the clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hessops_torch.graphs.cache import GraphCache
from hessops_torch.graphs.gradient_graph import GradientGraph
from hessops_torch.losses.failures import name_of
from hessops_torch.objective.objective import Objective
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.operators.diagonal_blocks import whole_of
from hessops_torch.operators.hessian import Hessian
from hessops_torch.operators.output_sum import OutputSum
from hessops_torch.planning.live_memory import LiveMemory
from hessops_torch.products.clock import seconds_of
from hessops_torch.products.compiled_product import CompiledProduct
from hessops_torch.products.functional_product import FunctionalProduct

__all__ = ["MicroBatchCost", "differentiate", "measure_micro_batch", "rebuilt_and_kept", "work_of"]

# Columns that are measured at most; further ones cost as much each.
_WIDEST = 16
_ROUNDS = 3
# Units of matrix work for a model of which none is counted: forward, gradient, first, next product.
_UNITS = (1.0, 3.0, 9.0, 6.0)
_UNITS_BY_OUTPUTS = (1.0, 3.0, 7.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class MicroBatchCost:
    """What one micro-batch costs; work is in floating point operations.

    Parameters
    ----------
    forward_work, gradient_work : float
        Of the loss, and of its gradient.
    first_work, next_work, column_work : float
        Of a product with one vector, of one after it (through what it kept), and of each further
        vector of a block.
    graph_bytes : int
        What the first product keeps for others.
    counted_bytes : int
        The same as a memory budget counts it: with what the graph holds of the batch, which is there
        anyway.
    first_peak, next_peak, pair_peak, wide_peak : int
        The most bytes of tensors at a time during a first and a later product with one vector, and
        later ones with two and with `width`, without the vectors and their products.
    width : int
        Most vectors of a product that was measured.
    chunk : int or None
        Most vectors that go through function transforms at a time; None where there are none.
    by_budget : bool
        Whether that number is what a memory budget allows, counted in graphs, of which none is kept.
    first_seconds, next_seconds, column_seconds : tuple of float
        By the clock, several times.
    """

    forward_work: float
    gradient_work: float
    first_work: float
    next_work: float
    column_work: float
    graph_bytes: int
    counted_bytes: int
    first_peak: int
    next_peak: int
    pair_peak: int
    wide_peak: int
    width: int
    chunk: int | None
    by_budget: bool
    first_seconds: tuple[float, ...]
    next_seconds: tuple[float, ...]
    column_seconds: tuple[float, ...]

    def peak(self, columns: int) -> float:
        """Return the most bytes during a later product with some vectors."""
        if columns == 1 or self.width == 1:
            return self.next_peak
        # The second vector may be the one for which the graph is held on to.
        each = (self.wide_peak - self.pair_peak) / max(self.width - 2, 1)
        return self.pair_peak + max(each, 0.0) * (columns - 2)


def measure_micro_batch(
    operator: DataSum, index: int, batch: Any, width: int, usual: int
) -> MicroBatchCost:
    """Measure what one micro-batch costs, at the price of fifteen of its products, five of them wide.

    Parameters
    ----------
    operator : DataSum
        The operator.
    index : int
        Of the micro-batch.
    batch : object
        The micro-batch.
    width : int
        Most columns of a block.
    usual : int
        Columns for which the fastest way to multiply is looked for, where one is.

    Returns
    -------
    MicroBatchCost
        Of this micro-batch alone.
    """
    objective, domain = operator.objective, operator.objective.domain
    columns = domain.zeros(min(width, _WIDEST)).T + 1.0
    device, out = domain.device, torch.zeros_like(columns)

    def product(count: int) -> None:
        operator._add_products(index, batch, columns[:count], out[:count])

    with objective.ready(), _own_graphs(operator) as forget:
        # Also looks for symmetry, and for the fastest way to multiply.
        product(min(usual, len(columns)))
        forget()
        memory, (chunk, by_budget) = LiveMemory(device), _chunk(operator)
        # What function transforms are given of a memory budget is counted in graphs, too.
        counted_bytes = _graph_bytes(operator, index, batch) if by_budget else 0
        width = min(len(columns), chunk or len(columns))
        with memory, _uncompiled(operator):
            first_work = work_of(lambda: product(1))
            first_peak, graph_bytes = memory.peak, memory.now
            counted_bytes = counted_bytes or operator.graphs.num_bytes
            memory.reset_peak()
            next_work = work_of(lambda: product(1))
            next_peak = memory.peak - graph_bytes
            memory.reset_peak()
            product(min(width, 2))
            pair_peak = memory.peak - graph_bytes
            memory.reset_peak()
            wide_work = work_of(lambda: product(width))
            wide_peak = memory.peak - graph_bytes
        with torch.no_grad():
            forward_work = work_of(lambda: objective.evaluate(index, batch))
        gradient_work = work_of(lambda: differentiate(objective, index, batch))
        seconds = [rebuilt_and_kept(product, forget, width, device) for _ in range(_ROUNDS)]
        forget()
    if gradient_work == 0:
        units = _UNITS_BY_OUTPUTS if isinstance(operator, OutputSum) else _UNITS
        forward_work, gradient_work, first_work, next_work = units
        wide_work = width * next_work
    firsts, nexts, wides = zip(*seconds, strict=True)
    more = max(width - 1, 1)
    return MicroBatchCost(
        forward_work=forward_work,
        gradient_work=gradient_work,
        first_work=first_work,
        next_work=next_work,
        column_work=(wide_work - next_work) / more if width > 1 else next_work,
        graph_bytes=graph_bytes,
        counted_bytes=counted_bytes,
        first_peak=first_peak,
        next_peak=next_peak,
        pair_peak=pair_peak,
        wide_peak=wide_peak,
        width=width,
        chunk=chunk,
        by_budget=by_budget,
        first_seconds=firsts,
        next_seconds=nexts,
        column_seconds=tuple(
            max(w - n, 0.0) / more if width > 1 else n for w, n in zip(wides, nexts, strict=True)
        ),
    )


@contextmanager
def _own_graphs(operator: DataSum) -> Iterator[Callable[[], None]]:
    """Let an operator keep any graph, apart from those that it has; yields what forgets them."""
    kept = operator.graphs
    budget = math.inf if kept.memory_budget > 0 else 0.0
    # Diagonal blocks multiply with the graphs of the whole.
    owners = [operator, whole_of(operator)]

    def use(graphs: GraphCache[Any]) -> None:
        for owner in owners:
            owner.graphs = graphs

    def forget() -> None:
        use(GraphCache((), budget))

    forget()
    try:
        yield forget
    finally:
        use(kept)


@contextmanager
def _uncompiled(operator: DataSum) -> Iterator[None]:
    """Let a compiled product go uncompiled, as what machine code does cannot be counted."""
    functional = operator._functional if isinstance(operator, Hessian) else None
    if not (isinstance(operator, Hessian) and isinstance(functional, CompiledProduct)):
        yield
        return
    operator._functional = FunctionalProduct(
        operator.objective, functional.order, functional.chunk_size
    )
    try:
        yield
    finally:
        operator._functional = functional


def _chunk(operator: DataSum) -> tuple[int | None, bool]:
    """Return how many vectors go through function transforms at a time, and if a budget says so."""
    if isinstance(operator, Hessian) and operator._functional is not None:
        return operator._functional.chunk_size, True
    whole = whole_of(operator)
    if isinstance(whole, OutputSum) and whole._jacobian is not None:
        return whole._jacobian.chunk_size, False
    return None, False


def _graph_bytes(operator: DataSum, index: int, batch: Any) -> int:
    objective = operator.objective
    parameters = list(objective.parameters.values())
    graph = GradientGraph(objective.model, objective.loss, batch, parameters, name_of(index))
    return graph.num_bytes()


def rebuilt_and_kept(
    product: Callable[[int], None], forget: Callable[[], None], width: int, device: torch.device
) -> tuple[float, ...]:
    """Return the seconds of a first product with a vector, of a later one, and of one with many.

    Parameters
    ----------
    product : callable
        Multiplies so many vectors.
    forget : callable
        Forgets the graph that was kept.
    width : int
        How many are many.
    device : torch.device
        Where it goes on.

    Returns
    -------
    tuple of float
        Three of them.
    """
    forget()
    return tuple(seconds_of(partial(product, count), device) for count in (1, 1, width))


def differentiate(objective: Objective, index: int, batch: Any) -> None:
    """Compute one micro-batch's gradient, while the model is ready, for what it costs.

    Parameters
    ----------
    objective : Objective
        Of an operator.
    index : int
        Of the micro-batch.
    batch : object
        The micro-batch.
    """
    total, _count = objective.evaluate(index, batch)
    if total.requires_grad:
        torch.autograd.grad(total, list(objective.parameters.values()), allow_unused=True)


def work_of(function: Callable[[], object]) -> float:
    """Return the floating point operations of matrix products that a function does.

    Parameters
    ----------
    function : callable
        Called once.

    Returns
    -------
    float
        As PyTorch counts them.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())
