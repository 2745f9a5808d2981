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
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.planning.live_memory import LiveMemory
from hessops_torch.products.clock import seconds_of

__all__ = ["MicroBatchCost", "measure_micro_batch"]

# Columns that are measured at most; further ones cost as much each.
_WIDEST = 8
_ROUNDS = 3
# Units of matrix work for a model of which none is counted: forward, gradient, first, next product.
_UNITS = (1.0, 3.0, 9.0, 6.0)


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
        The same as a memory budget counts it, which looks at the whole of what a batch is cut from.
    first_peak, next_peak : int
        The most bytes of tensors at a time during a first and a later product, without the vectors
        and their products.
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
    first_seconds: tuple[float, ...]
    next_seconds: tuple[float, ...]
    column_seconds: tuple[float, ...]


def measure_micro_batch(operator: DataSum, index: int, batch: Any, width: int) -> MicroBatchCost:
    """Measure what one micro-batch costs, at the price of some twenty of its products.

    Parameters
    ----------
    operator : DataSum
        The operator.
    index : int
        Of the micro-batch.
    batch : object
        The micro-batch.
    width : int
        Columns of a block.

    Returns
    -------
    MicroBatchCost
        Of this micro-batch alone.
    """
    objective = operator.objective
    device = objective.domain.device
    width = min(width, _WIDEST)
    columns = torch.ones(width, objective.domain.dim, dtype=objective.domain.dtype, device=device)
    out = torch.zeros_like(columns)

    def product(count: int) -> None:
        operator._add_products(index, batch, columns[:count], out[:count])

    def gradient() -> None:
        total, _count = objective.evaluate(index, batch)
        if total.requires_grad:
            torch.autograd.grad(total, list(objective.parameters.values()), allow_unused=True)

    with objective.ready(), _own_graphs(operator) as forget:
        product(1)  # Also looks for symmetry, and for a way to compute products.
        forget()
        memory = LiveMemory(device)
        with memory:
            first_work = _work(lambda: product(1))
            first_peak, graph_bytes = memory.peak, memory.now
            counted_bytes = operator.graphs.num_bytes
            memory.reset_peak()
            next_work = _work(lambda: product(1))
            wide_work = _work(lambda: product(width))
            next_peak = memory.peak - graph_bytes
        gradient_work = _work(gradient)
        with torch.no_grad():
            forward_work = _work(lambda: objective.evaluate(index, batch))
        seconds: list[tuple[float, ...]] = []
        for _ in range(_ROUNDS):
            forget()
            columns_at_a_time = (1, 1, width)
            seconds.append(
                tuple(seconds_of(partial(product, count), device) for count in columns_at_a_time)
            )
        forget()
    if gradient_work == 0:
        forward_work, gradient_work, first_work, next_work = _UNITS
        wide_work = width * next_work
    firsts, nexts, wides = zip(*seconds, strict=True)
    more = max(width - 1, 1)
    further = wides if width > 1 else nexts
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
        first_seconds=firsts,
        next_seconds=nexts,
        column_seconds=tuple(
            max(w - n, 0.0) / more if width > 1 else n for w, n in zip(further, nexts, strict=True)
        ),
    )


@contextmanager
def _own_graphs(operator: DataSum) -> Iterator[Callable[[], None]]:
    """Let an operator keep any graph, apart from those that it has; yields what forgets them."""
    kept = operator.graphs
    budget = math.inf if kept.memory_budget > 0 else 0.0

    def forget() -> None:
        operator.graphs = GraphCache((), budget)

    forget()
    try:
        yield forget
    finally:
        operator.graphs = kept


def _work(function: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())
