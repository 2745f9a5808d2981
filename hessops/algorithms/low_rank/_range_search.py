"""What the randomized SVD and eigendecomposition share: a range, its error, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hessops.agreement import to_host
from hessops.algorithms.low_rank._rank_plan import RankPlan, frobenius_rest
from hessops.algorithms.low_rank._sketch_error import (
    ErrorProbes,
    block_norms,
    leave_one_out,
    outside_of,
)
from hessops.algorithms.low_rank.range_finder import RangeState, range_finder_steps
from hessops.arrays import Array, HostArray, eps
from hessops.blocks.rounding import ROUNDINGS, rounding
from hessops.operator import LinearOperator
from hessops.random import Purpose, Stream
from hessops.record import Callback, Outcome, run

__all__ = ["Leak", "RangeSearch", "Verdict"]

Leak = Callable[[RangeState], tuple[float, float]]
"""From a state to the spectral and Frobenius norm of an error that adds to that of its basis."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How many values to keep, and what is then known of the error."""

    kept: int
    spectral_bound: float
    confidence: float
    error: float
    error_kind: str
    status: str
    converged: bool


class RangeSearch:
    """A run of the range finder: what it looks at, when it stops, and what to claim of the error."""

    def __init__(
        self, operator: LinearOperator, plan: RankPlan, power_steps: int, seed: int, leak: Leak
    ) -> None:
        self.operator, self.plan, self.leak = operator, plan, leak
        self.power_steps = power_steps
        self._stream = Stream(seed, Purpose.RANGE)
        self._probes: ErrorProbes | None = None
        self._looks = 0
        self._scale = 0.0
        self._spectral = math.nan
        self._leaked = 0.0

    def run(self, callback: Callback | None) -> Outcome[RangeState]:
        """Drive the range finder."""
        plan, A = self.plan, self.operator
        if plan.num_test_probes:
            self._probes = ErrorProbes.drawn(
                A, self._stream.for_term(1), plan.num_test_probes, plan.block_size
            )
        states = range_finder_steps(
            A,
            stream=self._stream,
            width=plan.width,
            max_columns=plan.max_columns,
            power_steps=self.power_steps,
            block_size=plan.block_size,
        )
        outcome = run(states, space=A.codomain, stop=self._stop, row=self._row, callback=callback)
        return Outcome(
            outcome.state,
            outcome.reason,
            plan.with_test_products(outcome.history),
            outcome.seconds,
        )

    def verdict(self, outcome: Outcome[RangeState], values: HostArray) -> Verdict:
        """Return what to keep of an approximation with these values, the largest modulus first."""
        state, plan = outcome.state, self.plan
        sizes = np.abs(values)
        sizes = sizes[sizes > rounding(self.operator.codomain, self._scale)]
        kept = plan.kept(sizes, self._spectral, self._scale)
        spectral = math.hypot(self._spectral, float(np.max(sizes[kept:], initial=0.0)))
        error, kind = self._frobenius(state, sizes, kept)
        confidence = plan.confidence
        if self._probes is None:
            known = plan.norm is not None
            spectral, confidence = (error, 1.0) if known else (math.nan, math.nan)
        status, converged = plan.judged(
            kept, state.Q.shape[1], spectral, error, self._scale, outcome.reason
        )
        return Verdict(
            kept=kept,
            spectral_bound=spectral,
            confidence=confidence,
            error=error,
            error_kind=kind,
            status=status,
            converged=converged and (plan.rank is None or state.finished),
        )

    def _row(self, state: RangeState) -> tuple[float, float]:
        """Judge a state: the largest singular value seen, and the error with all of its basis."""
        domain, Z = self.operator.domain, state.adjoint_product
        self._scale = block_norms(domain, Z)[0]
        self._looks += state.finished
        spectral_leak, self._leaked = self.leak(state)
        if self._probes is not None:
            failure = self.plan.failure(max(self._looks, 1))
            own = self._probes.bound(self._outside(state.Q), failure)
            self._spectral = math.hypot(own, spectral_leak) + rounding(domain, self._scale)
        if self.plan.norm is not None:
            return self._scale, self._known_rest(state)
        return self._scale, self._spectral

    def _stop(self, state: RangeState) -> str | None:
        plan = self.plan
        if plan.tol is None or not state.finished:
            return None
        if plan.norm is not None:
            small = self._known_rest(state) <= plan.tol * plan.norm
        else:
            small = self._spectral <= plan.tol * self._scale
        return "converged" if small else None

    def _known_rest(self, state: RangeState) -> float:
        """Return the Frobenius error of all of the basis, by the norm of A."""
        space, norm = self.operator.domain, self.plan.norm or 0.0
        lengths = np.sqrt(to_host(space, space.column_norms_squared(state.adjoint_product)))
        size = float(np.linalg.norm(lengths))
        if size > norm * (1 + math.sqrt(eps(space.xp, space.dtype))):
            raise ValueError(
                f"frobenius_norm={norm} is not that of {self.operator}: a part of it has {size}"
            )
        return math.hypot(frobenius_rest(norm, lengths), self._leaked)

    def _frobenius(self, state: RangeState, sizes: HostArray, kept: int) -> tuple[float, str]:
        """Return the Frobenius error after truncation, and how it was come by."""
        space, norm = self.operator.codomain, self.plan.norm
        if norm is not None:
            resolved = math.sqrt(ROUNDINGS * eps(space.xp, space.dtype)) * norm
            return max(frobenius_rest(norm, sizes[:kept]), resolved), "exact"
        cut = float(np.linalg.norm(sizes[kept:]))
        if state.Q.shape[1] == min(self.operator.shape):
            basis, kind = 0.0, "exact"
        elif state.num_blocks == 1 and state.step == 1:
            basis, kind = leave_one_out(state, space), "leave-one-out"
        elif self._probes is not None:
            basis, kind = self._probes.frobenius(self._outside(state.Q)), "test probes"
        else:
            return math.nan, "unknown"
        # Of an error that small, vectors of this precision show nothing.
        return max(math.hypot(basis, self._leaked, cut), rounding(space, self._scale)), kind

    def _outside(self, Q: Array) -> Callable[[Array, Array], Array]:
        return lambda _vectors, products: outside_of(self.operator.codomain, Q, products)
