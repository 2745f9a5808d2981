"""What the probes and the gradients of samples of a trace engine cost on one micro-batch."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hessops_torch.data.batch import num_samples, taken
from hessops_torch.graphs.cache import GraphCache
from hessops_torch.planning.live_memory import LiveMemory
from hessops_torch.planning.micro_batch_cost import (
    MicroBatchCost,
    differentiate,
    rebuilt_and_kept,
    work_of,
)
from hessops_torch.traces.squared_gradients import NoRootError
from hessops_torch.traces.trace_engine import TraceEngine

__all__ = ["FormCost", "measure_forms"]

# Probes that are measured at most; further ones cost as much each.
_WIDEST = 8
_ROUNDS = 3
# Units of matrix work for a model of which none is counted: forward, gradient, first, next form.
_UNITS = (1.0, 3.0, 9.0, 6.0)


@dataclass(frozen=True, kw_only=True)
class FormCost:
    """What one micro-batch costs a trace engine.

    Parameters
    ----------
    probes : MicroBatchCost
        Of forms, for which vectors are part of the peaks.
    squares_peak : int
        The most bytes at a time while gradients of samples are squared; 0 where they are not.
    """

    probes: MicroBatchCost
    squares_peak: int


def measure_forms(engine: TraceEngine, index: int, batch: Any, width: int) -> FormCost:
    """Measure what one micro-batch costs an engine, at the price of some fifteen of its products.

    Parameters
    ----------
    engine : TraceEngine
        That is not used for anything else.
    index : int
        Of the micro-batch.
    batch : object
        The micro-batch.
    width : int
        Probes to a block.

    Returns
    -------
    FormCost
        Of this micro-batch alone.
    """
    objective, work = engine.objective, _Steps(engine, index, batch)
    width, memory = min(width, _WIDEST), LiveMemory(engine.space.device)
    with objective.ready():
        work.forget()
        work.forms(1)  # Also looks for symmetry.
        work.forget()
        with memory:
            first_work = work_of(partial(work.forms, 1))
            first_peak, graph_bytes = memory.peak, memory.now
            counted_bytes = engine.graphs.num_bytes
            memory.reset_peak()
            next_work = work_of(partial(work.forms, 1))
            next_peak = memory.peak - graph_bytes
            memory.reset_peak()
            work.forms(min(width, 2))
            pair_peak = memory.peak - graph_bytes
            memory.reset_peak()
            wide_work = work_of(partial(work.forms, width))
            wide_peak = memory.peak - graph_bytes
            memory.reset_peak()
            work.squares()
            squares_peak = memory.peak - graph_bytes
        forward_work, gradient_work = work_of(work.forward), work_of(work.gradient)
        seconds = [
            rebuilt_and_kept(work.forms, work.forget, width, engine.space.device)
            for _ in range(_ROUNDS)
        ]
        work.forget()
    if gradient_work == 0:
        forward_work, gradient_work, first_work, next_work = _UNITS
        wide_work = width * next_work
    firsts, nexts, wides = zip(*seconds, strict=True)
    probes = MicroBatchCost(
        forward_work=forward_work,
        gradient_work=gradient_work,
        first_work=first_work,
        next_work=next_work,
        column_work=wide_work / width,
        graph_bytes=graph_bytes,
        counted_bytes=counted_bytes,
        first_peak=first_peak,
        next_peak=next_peak,
        pair_peak=pair_peak,
        wide_peak=wide_peak,
        width=width,
        chunk=None,
        by_budget=False,
        first_seconds=firsts,
        next_seconds=nexts,
        column_seconds=tuple(wide / width for wide in wides),
    )
    return FormCost(probes=probes, squares_peak=squares_peak)


@dataclass(frozen=True)
class _Steps:
    """What an engine does with one micro-batch."""

    engine: TraceEngine
    index: int
    batch: Any

    def forms(self, count: int) -> None:
        rows = self.engine.space.zeros(count).T if self.engine.num_groups else None
        self.engine.forms(self.index, self._rows(), range(count), rows)

    def squares(self) -> None:
        if not self.engine.squares.num_columns:
            return
        # A run goes on without them, too, where a batch turns out to have no root of M. With two signs
        # there is what the one before left while the next is computed.
        with suppress(NoRootError):
            self.engine.squares.sampled(self._rows(), self.index, self.engine.stream, range(2))

    def forward(self) -> None:
        with torch.no_grad():
            self.engine.objective.evaluate(self.index, self.batch)

    def gradient(self) -> None:
        differentiate(self.engine.objective, self.index, self.batch)

    def forget(self) -> None:
        self.engine.graphs = GraphCache((), math.inf)

    def _rows(self) -> Any:
        # Strata are of copies of their samples, which graphs keep.
        count = num_samples(self.batch)
        if len(self.engine.strata.strata) == 1 or not count:
            return self.batch
        return taken(self.batch, torch.arange(count))
