"""Estimates of the trace of a network's Hessian, refined round by round.

Every stratum of samples is seen by probes of z' H z, or by probes of z' (H - G) z and the trace of
its Gauss-Newton part G from gradients of samples: exactly, by all columns of S, or by some random
signs. A pilot shows both variances, from one graph at the cost of Hessian products alone; then the
cheapest way is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessops.algorithms._common import default_block_size
from hessops.algorithms._one_line import one_line
from hessops.algorithms.trace._probe_blocks import probe_blocks
from hessops.arrays import HostArray
from hessops.random import Purpose, Stream
from hessops.record import require_finite
from hessops.statistics import MeanVariance, t_quantile
from hessops_torch.graphs.cache import GraphCache
from hessops_torch.graphs.curvature_graph import CurvatureGraph
from hessops_torch.losses.contract import OutputLoss
from hessops_torch.losses.failures import name_of
from hessops_torch.objective.finite_losses import require_finite_losses
from hessops_torch.operators.hessian import Hessian
from hessops_torch.traces.allocation import allocate
from hessops_torch.traces.goals import TraceGoal
from hessops_torch.traces.squared_gradients import NoRootError, SquaredGradients
from hessops_torch.traces.strata import StrataBatches, Stratum, strata_of
from hessops_torch.traces.stratum_moments import NUM_FOLDS, StratumMoments
from hessops_torch.traces.stratum_ways import LEAST_PROBES, Prices, choose, chosen_way
from hessops_torch.traces.units import BUILD, PRODUCT

__all__ = ["TraceEngine", "TraceState"]

# Forward passes of the product with G besides, for a vector's forms by section.
_WHOLE = 2.0
_PILOT, _MOST_PILOT = 4, 16
_LEAST_FREEDOM = 8
# Estimates of the diagonal whose products of different ones have a jackknife error.
_LEAST_GROUPS = 4
_NEGLIGIBLE = 1e-3
# How far from the tolerance each round aims: the first find out what a relative one is relative to.
_AIMS = (4.0, 2.0)
_MOST_ROUNDS = 12
# The variance that ways are chosen for, by that wanted: whether it is reached then seldom rests on the
# choice, which would make a bias of its own.
_MARGIN = 0.5


@dataclass(frozen=True)
class TraceState:
    """What is known after a round.

    Parameters
    ----------
    step : int
        Rounds done.
    cost : float
        Forward passes over all data.
    num_probes : int
        Probes of the stratum that had most.
    passes : float
        Hessian products with the whole data, counted by samples.
    values : numpy.ndarray, shape (1 + num_columns,)
        The trace, and that of every section, or of what columns add up.
    variances, freedoms : numpy.ndarray, shape (m, 1 + num_columns) and (m,)
        Of the means that the values are sums of, and their degrees of freedom.
    ways : tuple of str
        How each stratum is seen.
    """

    step: int
    cost: float
    num_probes: int
    passes: float
    values: HostArray
    variances: HostArray
    freedoms: HostArray
    ways: tuple[str, ...]

    __repr__ = one_line

    @property
    def num_products(self) -> int:
        """Return the Hessian products with the whole data, rounded up."""
        return math.ceil(self.passes - 1e-9)

    def standard_error(self, column: int = 0) -> float:
        """Return the standard error of the trace, or of a section's."""
        return math.sqrt(float(self.variances[:, column].sum()))

    def freedom(self, column: int = 0) -> float:
        """Return the degrees of freedom of the standard error."""
        return self.freedom_of(self.variances[:, column])

    def freedom_of(self, parts: HostArray) -> float:
        """Return those of the root of a sum of estimated variances (Welch 1947), one for each mean."""
        total = float(parts.sum())
        if total <= 0:
            return math.inf
        effective = 1 / float(np.sum((parts / total) ** 2 / (self.freedoms + 2))) - 2
        return max(effective, float(self.freedoms[parts > 0].min()))

    def half_width(self, confidence: float, column: int = 0) -> float:
        """Return half the width of the interval by Student's t."""
        error = self.standard_error(column)
        return float(t_quantile(confidence, self.freedom(column))) * error if error else 0.0


class TraceEngine:
    """Probes and gradients of samples, as many as it takes.

    Parameters
    ----------
    operator : Hessian
        Whose trace is wanted.
    loss : OutputLoss
        Its loss.
    stream : Stream
        Where the probes come from.
    sections : bool
        Whether the traces of all parameter tensors are wanted.
    columns : numpy.ndarray, shape (num_columns, num_sections), optional
        Sums of sections that are wanted instead of each, with `sections`.
    num_groups : int
        With `sections`, groups of probes of which each gives an estimate of the diagonal; none if 0.
    """

    def __init__(
        self,
        operator: Hessian,
        loss: OutputLoss,
        *,
        stream: Stream,
        sections: bool,
        columns: HostArray | None = None,
        num_groups: int = 0,
    ) -> None:
        self.operator, self.objective, self.loss = operator, operator.objective, loss
        self.space = operator.domain
        self.stream, self.sections, self.columns = stream, sections, columns
        self.num_groups = num_groups
        objective = self.objective
        self.graphs: GraphCache[CurvatureGraph] = objective.new_cache(operator.graphs.memory_budget)
        with objective.ready(self.graphs):
            self.divisor = objective.divisor()
            self.squares = SquaredGradients(objective, loss)
            self.strata: StrataBatches = strata_of(objective, loss, separate=self.squares.separate)
        self.seen = [StratumMoments(stratum) for stratum in self.strata.strata]
        self.total = self.strata.num_samples
        sizes = [stop - start for start, stop in self.space.sections.values()] if sections else []
        self.of_decay = operator.weight_decay * self._in_columns(
            np.array([self.space.dim, *sizes], dtype=float)
        )
        self.weights: HostArray = np.eye(1, len(self.of_decay))[0]
        self.units = self.strata.cost * self.total
        self.passes = 0.0
        self.step = 0
        self._symmetric = False

    def product_cost(self) -> float:
        """Return what a Hessian product with the whole data costs, in forward passes over it."""
        return PRODUCT + (_WHOLE if self.sections else 0.0)

    def states(self, goal: TraceGoal, *, budget: float) -> Iterator[TraceState]:
        """Yield estimates until they are as good as asked for, or the budget is spent.

        Parameters
        ----------
        goal : TraceGoal
            What is asked for; without a tolerance the budget is spent.
        budget : float
            In forward passes over all data.

        Yields
        ------
        TraceState
            One round further.
        """
        for seen in self.seen:
            self._probe(seen, self.pilot(seen.stratum, budget))
        state = self.state()
        yield state
        for number in range(_MOST_ROUNDS):
            aim = _AIMS[number] if number < len(_AIMS) else 1.0
            self.weights = goal.weights(state)
            fixed = goal.variance(state, aim) is None
            # The folds choose for the tolerance itself at least once: to stop where it happens to be
            # reached before keeps what came out low, and mends the rest.
            if not fixed and number > len(_AIMS) and goal.reached(state):
                return
            before = self._spent_and_seen()
            self._follow(goal, state, aim, max(budget * self.total - self.units, 0.0))
            state = self.state()
            moved = self._spent_and_seen() != before
            if moved:
                yield state
            if fixed or (aim == 1.0 and not moved):
                return

    def _spent_and_seen(self) -> tuple[float, list[list[str]]]:
        """Return what makes one round unlike the one before."""
        return self.units, [seen.ways for seen in self.seen]

    def state(self) -> TraceState:
        """Return what is known now."""
        self.step += 1
        return self._state()

    def _fold_states(self) -> list[TraceState]:
        """Return what each fold of the probes knows."""
        return [self._state(fold) for fold in range(NUM_FOLDS)]

    def _state(self, fold: int | None = None) -> TraceState:
        values = sum(seen.values(fold) for seen in self.seen) / self.divisor + self.of_decay
        parts = [part for seen in self.seen for part in seen.errors(fold)]
        variances = np.concatenate([variance for variance, _ in parts]) / self.divisor**2
        freedoms = np.concatenate([np.full(len(v), float(f)) for v, f in parts])
        return TraceState(
            step=self.step,
            cost=self.units / self.total,
            num_probes=max(seen.num_probes for seen in self.seen),
            passes=self.passes / self.total,
            values=np.asarray(values),
            variances=variances,
            freedoms=freedoms,
            ways=tuple(seen.way for seen in self.seen),
        )

    def pilot(self, stratum: Stratum, budget: float) -> int:
        """Return how many probes are to show a stratum's variances: more, where they are cheap."""
        terms = len(stratum.groups)
        least = max(LEAST_PROBES, 1 + math.ceil(_LEAST_FREEDOM / terms))
        part = stratum.num_samples / self.total
        negligible = stratum.share < _NEGLIGIBLE
        wanted = round((LEAST_PROBES if negligible else _PILOT) / part)
        # By what a stratum costs: probes of a single sample often agree by chance, and look certain.
        most = int(min(_MOST_PILOT, max(budget / (4 * PRODUCT), budget / (8 * PRODUCT * part))))
        # A stratum of fewer probes than folds can judge by stays one of plain probes.
        lowest = LEAST_PROBES if negligible else NUM_FOLDS * LEAST_PROBES
        lowest = max(lowest, _LEAST_GROUPS if self.num_groups else 0)
        return max(lowest, min(most, max(least, wanted)))

    def _follow(self, goal: TraceGoal, state: TraceState, aim: float, budget: float) -> None:
        """Choose how to see every stratum, and go on until the aim is reached or the budget spent."""
        prices = Prices(self.product_cost(), self.squares.num_columns, self.squares.separate)
        variance, *by_folds = (
            None if wanted is None else wanted * self.divisor**2
            for wanted in (goal.variance(s, aim) for s in (state, *self._fold_states()))
        )
        by_folds = [None if wanted is None else _MARGIN * wanted for wanted in by_folds]
        choose(self.seen, self.weights, prices, variances=by_folds, budget=budget)
        # How many probes is judged by all of them: that bias shrinks as they become more.
        ways = [[chosen_way(seen, self.weights, prices)] for seen in self.seen]
        found = allocate(ways, variance=variance, budget=budget)
        for seen, counts in zip(self.seen, found.counts, strict=True):
            self._probe(seen, counts[0])
            try:
                if "exact" in seen.ways and seen.exact is None:
                    self._sum_exactly(seen)
                if "sampled" in seen.ways:
                    self._sample(seen, counts[1])
            except NoRootError:
                # Not all batches are like the first, by which G seemed to be of help.
                self.squares.num_columns = 0
                for each in self.seen:
                    each.see(["plain"] * NUM_FOLDS)
                    each.exact, each.sampled = None, None
                return

    def _probe(self, seen: StratumMoments, count: int) -> None:
        """Go on with probes of both matrices until there are `count`."""
        size = default_block_size(self.space, count)
        for indices in probe_blocks(size, count, start=seen.num_probes):
            forms = []
            # Rows z ∘ Hz of the sum over micro-batches, where diagonals are wanted.
            rows = self.space.zeros(len(indices)).T if self.num_groups else None
            with self.objective.ready(self.graphs):
                for number, batch in self.strata.batches(seen.stratum):
                    forms.append(self.forms(number, batch, indices, rows))
            block = np.stack(forms, axis=1)
            require_finite(block, indices.stop, self.operator)
            if rows is not None:
                seen.add_diagonals(rows, indices, self.num_groups)
            seen.add_forms(block, indices)
            self.passes += len(indices) * seen.stratum.num_samples
            self.units += self.product_cost() * len(indices) * seen.stratum.num_samples

    def forms(
        self, number: int, batch: object, indices: range, rows: Tensor | None = None
    ) -> HostArray:
        """Return one micro-batch's forms of H - G, G and H, shape (3, 1 + C, k).

        Its diagonals z ∘ Hz are added to `rows`.
        """
        graph = self.graphs.get(number)
        if graph is None:
            objective = self.objective
            parameters = list(objective.parameters.values())
            graph = CurvatureGraph(objective.model, self.loss, batch, parameters, name_of(number))
            require_finite_losses([graph.total], self.graphs, number)
            if not self._symmetric:
                self._symmetric = graph.shows_symmetry()
            self.graphs.offer(number, graph)
            self.units += BUILD * len(graph.outputs)
        Z: Any = self.space.probes(self.stream.for_term(number), indices, "rademacher")
        residual, forms, product = graph.products(Z.T.contiguous(), whole=self.sections)
        if product is None:
            of_residual = self.space.column_inner(Z, residual.T)[None]
            of_control = forms[None]
        else:
            of_residual = _with_whole(self.space.section_inner(Z, residual.T))
            of_control = _with_whole(self.space.section_inner(Z, product.T))
            if rows is not None:
                rows.addcmul_(Z.T, residual + product)
        both = self.space.xp.stack([of_residual, of_control]).cpu().numpy()
        both = np.stack([self._in_columns(one) for one in both])
        found: HostArray = np.concatenate([both, both.sum(axis=0, keepdims=True)])
        return found

    def _sum_exactly(self, seen: StratumMoments) -> None:
        with self.objective.ready(self.graphs):
            for number, batch in self.strata.batches(seen.stratum):
                squares = self.squares.exact(batch, number)
                sums = self._in_columns(squares.sums[:, 0])
                seen.exact = sums if seen.exact is None else seen.exact + sums
                self.units += squares.cost

    def _sample(self, seen: StratumMoments, count: int) -> None:
        start = 0 if seen.sampled is None else seen.sampled.count
        if count <= start:
            return
        stream = self.stream.for_purpose(Purpose.SKETCH)
        with self.objective.ready(self.graphs):
            found = []
            for number, batch in self.strata.batches(seen.stratum):
                squares = self.squares.sampled(
                    batch, number, stream.for_term(number), range(start, count)
                )
                found.append(self._in_columns(squares.sums))
                self.units += squares.cost
        moments = MeanVariance.of(np.stack(found))
        seen.sampled = moments if seen.sampled is None else seen.sampled.merged(moments)

    def diagonals(self) -> Tensor:
        """Return estimates of the diagonal, each of probes of its own: shape (n, m)."""
        count = min(self.num_groups, *(seen.num_probes for seen in self.seen))
        rows = self.space.zeros(count).T
        for seen in self.seen:
            rows += seen.diagonals(count)
        return (rows / self.divisor + self.operator.weight_decay).T

    def reason(self, state: TraceState) -> str:
        """Return what was chosen and why, in words."""
        words = {
            "plain": "by probes of H",
            "exact": "by probes of H - G, with the exact trace of G",
            "sampled": "by probes of H - G, with the trace of G by random signs",
            "mixed": "half by probes of H and half by probes of H - G",
        }
        counts = Counter(state.ways)
        strata, why = len(state.ways), self.strata.reason
        chosen = ", ".join(
            words[way] if strata == 1 else f"{counts[way]} {words[way]}"
            for way in words
            if counts[way]
        )
        cut = f"{strata} strata {why}" if strata > 1 else why
        return f"{cut}; {chosen}, as variances and costs make it cheapest"

    def method(self, state: TraceState) -> str:
        """Return what the estimator is called."""
        return "stratified" if set(state.ways) == {"plain"} else "gauss-newton"

    def _in_columns(self, sums: HostArray) -> HostArray:
        """Return the whole and what columns add up, of the whole and sections along the first axis."""
        if not self.sections:
            return sums[:1]
        if self.columns is None:
            return sums
        return np.concatenate([sums[:1], self.columns @ sums[1:]])


def _with_whole(sections: Any) -> Tensor:
    return torch.cat([sections.sum(0, keepdim=True), sections])
