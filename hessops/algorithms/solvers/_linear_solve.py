"""What solvers of linear systems share: checks, the drive to true residuals, and the verdict."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessops.agreement import require_same_call, require_same_vectors, to_host
from hessops.algorithms._common import (
    require_positive,
    require_real,
    require_tolerance,
    self_adjoint_operator,
)
from hessops.algorithms._precision import product_precision
from hessops.algorithms.solvers._lock_step import masked
from hessops.algorithms.solvers.linear_solve_state import LinearSolveState
from hessops.arrays import Array, HostArray, is_array
from hessops.counted import counted
from hessops.errors import NonFiniteError
from hessops.operator import LinearOperator
from hessops.record import Callback, History, Outcome, require_finite, run
from hessops.results.linear_solve import LinearSolveResult
from hessops.space import rows_here

__all__ = ["LinearSystem", "checked_preconditioner", "solve_tolerance"]

_MOST_STEPS = 10_000
# A true residual that has not even halved since the last one will not get to the tolerance.
_PROGRESS = 0.5

Engine = Callable[..., Iterator[LinearSolveState]]


@dataclass(frozen=True)
class LinearSystem:
    """The systems (A + shift I) x = b of a block of right-hand sides, checked."""

    operator: LinearOperator
    B: Array
    start: Array | None
    vector: bool
    norms: HostArray
    preconditioner: LinearOperator | None
    shift: float
    tol: float
    max_steps: int
    method: str

    @classmethod
    def checked(
        cls,
        A: Any,
        B: Array,
        method: str,
        *,
        preconditioner: Any,
        shift: float,
        x0: Array | None,
        tol: float | None,
        max_steps: int | None,
    ) -> LinearSystem:
        """Return the systems, or say what is wrong with them."""
        operator = self_adjoint_operator(A, method)
        require_same_call(operator.domain)
        require_positive(max_steps=max_steps)
        require_real(shift=shift)
        if not math.isfinite(shift):
            raise ValueError(f"shift={shift} must be finite")
        block = _block(operator, B, "B")
        if x0 is not None and (not is_array(x0) or tuple(x0.shape) != tuple(B.shape)):
            found = tuple(x0.shape) if is_array(x0) else type(x0).__name__
            raise ValueError(f"x0 must have the shape {tuple(B.shape)} of B, got {found}")
        return cls(
            operator=operator,
            B=block,
            start=None if x0 is None else _block(operator, x0, "x0"),
            vector=B.ndim == 1,
            norms=_norms(operator, block),
            preconditioner=checked_preconditioner(operator, preconditioner, method),
            shift=float(shift),
            tol=solve_tolerance(operator, tol, 0.5),
            max_steps=max_steps or _MOST_STEPS,
            method=method,
        )

    def solved(
        self, engine: Engine, *, verify: bool, callback: Callback | None
    ) -> LinearSolveResult:
        """Run an engine until the true residuals are small enough or shrink no more."""
        clock = time.perf_counter()
        progress = _Progress(self)
        while True:
            outcome = progress.round(engine, callback)
            if not verify:
                break
            progress.verify()
            if not progress.to_improve(outcome):
                break
        return progress.result(verify, outcome.reason, time.perf_counter() - clock)


class _Progress:
    """Where the columns stand between rounds of an engine, each from the true residuals."""

    def __init__(self, system: LinearSystem) -> None:
        self.system = system
        count = len(system.norms)
        # None is a first guess of 0, which the engine makes.
        self.X: Any = system.start
        self.R = system.B
        self.num_products = self.step = 0
        self.residuals = system.norms.copy()
        self.endings = np.full(count, "", dtype="<U18")
        self.lengths = np.zeros(count, dtype=np.int64)
        self.curvature = math.nan
        self.history: list[History] = []
        self.pending = np.ones(count, dtype=bool)
        # Where the round began, and with what residuals: what is worse is not taken.
        self._before = (self.X, self.R)
        self._previous = self.residuals
        if system.start is not None:
            self.verify()
            self._before, self._previous = (self.X, self.R), self.residuals

    @property
    def targets(self) -> HostArray:
        return self.system.tol * self.system.norms

    def round(self, engine: Engine, callback: Callback | None) -> Outcome[LinearSolveState]:
        """Run the engine from the residuals as they are, for the columns that are pending."""
        system = self.system
        targets = np.where(self.pending, self.targets, math.inf)
        states = engine(
            system.operator,
            self.R,
            preconditioner=system.preconditioner,
            shift=system.shift,
            targets=targets,
            start=self.X,
        )
        step, products, scale = self.step, self.num_products, _divisors(system.norms)
        outcome = run(
            (
                dataclasses.replace(
                    state, step=state.step + step, num_products=state.num_products + products
                )
                for state in states
            ),
            space=system.operator.domain,
            stop=lambda _: None,
            row=lambda state: (
                float(np.sum(state.endings == "")),
                float(np.max(state.residual_norms / scale)),
            ),
            max_steps=system.max_steps,
            callback=callback,
        )
        state, new = outcome.state, self.pending
        self.X, self.step, self.num_products = state.solution, state.step, state.num_products
        self.residuals = np.where(new, state.residual_norms, self.residuals)
        self.endings = np.where(new, state.endings, self.endings)
        self.lengths = self.lengths + np.where(new, state.lengths, 0)
        self.curvature = float(np.fmin(self.curvature, state.curvature))
        self.history.append(outcome.history)
        return outcome

    def verify(self) -> None:
        """Multiply the iterates, and take the residuals from there."""
        system, space = self.system, self.system.operator.domain
        product = system.operator.apply(self.X)
        self.R = system.B - (product + self.X * system.shift if system.shift else product)
        self.num_products += len(system.norms)
        squares = to_host(space, space.column_norms_squared(self.R))
        require_finite(squares, self.num_products, system.operator)
        self.residuals = np.sqrt(squares)

    def to_improve(self, outcome: Outcome[LinearSolveState]) -> bool:
        """Judge the true residuals; tell whether another round may bring them to the tolerance."""
        above = self.residuals > self.targets
        believed = np.isin(self.endings, ["converged", "exhausted"])
        self.endings = np.where(believed & ~above, "converged", self.endings)
        shrinking = self.residuals < _PROGRESS * self._previous
        ended = believed | (self.endings == "least squares")
        self._keep_better(ended & (self.residuals > self._previous))
        self.pending = believed & above & shrinking
        self.endings = np.where(believed & above & ~shrinking, "stagnated", self.endings)
        stopped = outcome.reason is not None or self.step >= self.system.max_steps
        self.endings = np.where(self.pending & stopped, "", self.endings)
        return bool(self.pending.any()) and not stopped

    def _keep_better(self, worse: HostArray) -> None:
        operator, (X, R) = self.system.operator, self._before
        self.X = masked(operator, worse, self.X * 0 if X is None else X, self.X)
        self.R = masked(operator, worse, R, self.R)
        self.residuals = np.where(worse, self._previous, self.residuals)
        self._before, self._previous = (self.X, self.R), self.residuals

    def result(self, verified: bool, reason: str | None, seconds: float) -> LinearSolveResult:
        """Package what there is."""
        system = self.system
        small = self.residuals <= self.targets
        endings = np.where(self.endings == "", "unfinished", self.endings)
        endings = np.where((endings == "exhausted") & ~small, "stagnated", endings)
        # Whatever the recurrence thought of it, a true residual that is small enough is enough.
        endings = np.where(small, "converged", endings)
        relative = self.residuals / _divisors(system.norms)
        status = _status(system, endings, relative, self, reason)
        converged = bool(small.all())
        return LinearSolveResult(
            solution=self.X[:, 0] if system.vector else self.X,
            residual_norms=relative,
            verified=verified,
            endings=endings,
            curvature=self.curvature,
            method=system.method,
            num_steps=int(np.max(self.lengths)),
            num_products=self.num_products,
            status=status,
            converged=converged,
            history=History(row for part in self.history for row in _rows(part)),
            seed=None,
            seconds=seconds,
            rows_here=rows_here(system.operator.domain),
        )


def solve_tolerance(operator: LinearOperator, tol: float | None, power: float) -> float:
    """Return the tolerance, a power of the precision where not given."""
    if tol is None:
        return float(product_precision(operator) ** power)
    require_tolerance(tol=tol)
    return float(tol)


def checked_preconditioner(
    operator: LinearOperator, given: Any, verb: str
) -> LinearOperator | None:
    """Return a preconditioner that fits the operator, or say what is wrong with it."""
    if given is None:
        return None
    preconditioner = self_adjoint_operator(given, f"the preconditioner of {verb}")
    mine, other = operator.domain, preconditioner.domain
    if preconditioner.shape != operator.shape or not mine.compatible_with(other):
        raise ValueError(f"the preconditioner {preconditioner} does not fit {operator}")
    if mine.dtype != other.dtype:
        raise ValueError(
            f"the preconditioner {preconditioner} and {operator} differ in dtype; make them of one"
        )
    return preconditioner


def _block(operator: LinearOperator, B: Array, name: str) -> Array:
    if not is_array(B):
        raise TypeError(
            f"{name} must be an array, got {type(B).__name__}; wrap it, e.g. np.asarray({name})"
        )
    if B.ndim not in {1, 2} or (B.ndim == 2 and B.shape[1] == 0):
        raise ValueError(
            f"{name} must have shape (n,) or (n, m) with m at least 1, got {tuple(B.shape)}"
        )
    block = operator.domain.validate(B[:, None] if B.ndim == 1 else B)
    require_same_vectors(operator.domain, block, name)
    return block


def _norms(operator: LinearOperator, B: Array) -> HostArray:
    space, xp = operator.domain, operator.xp
    moduli = xp.abs(B)
    both = space.column_inners((moduli, moduli), (moduli, moduli * 0 + 1))
    squares, sums = np.real(to_host(space, both))
    if not np.isfinite(squares).all():
        raise NonFiniteError(
            "B holds NaN or infinity, or overflows when squared: look at its entries"
        )
    if np.any((squares < np.finfo(np.float64).tiny) & (sums > 0)):
        raise ValueError(
            f"a column of B has entries of size {np.min(sums[sums > 0]):.2g} or less, whose squares "
            "underflow; scale B up, and the solution down"
        )
    norms: HostArray = np.sqrt(squares)
    return norms


def _divisors(norms: HostArray) -> HostArray:
    return np.where(norms > 0, norms, 1.0)


def _rows(history: History) -> Iterator[tuple[float, ...]]:
    for record in history:
        yield tuple(record[column] for column in History.columns)


_ADVICE = {
    "stagnated": "the accuracy attainable in this precision: raise tol, or work in a higher precision",
    "flat": "the operator is singular along a search direction, to rounding: use hessops.minres, or a "
    "positive shift",
    "least squares": "no smaller one was found: the system has no solution, and this solves it in "
    "the sense of least squares, to half the digits; or it is too ill-conditioned for this precision",
    "unfinished": "raise max_steps or tol, or give a (better) preconditioner",
}


def _status(
    system: LinearSystem,
    endings: HostArray,
    relative: HostArray,
    progress: _Progress,
    reason: str | None,
) -> str:
    steps, worst = int(np.max(progress.lengths)), float(np.max(relative))
    failed = [ending for ending in (*_ADVICE, "negative curvature") if ending in endings]
    if not failed:
        return f"converged in {counted(steps, 'step')}"
    count = (
        ""
        if len(endings) == 1
        else f" in {np.sum(endings != 'converged')} of {len(endings)} columns"
    )
    parts = []
    for ending in failed:
        seen = float(np.max(relative[endings == ending]))
        if ending == "negative curvature":
            parts.append(
                f"a search direction has the negative curvature {progress.curvature:.3g}, so the "
                "operator is not positive definite: use hessops.minres, or a shift above "
                f"{-progress.curvature:.3g}"
            )
        else:
            parts.append(f"{ending} at a relative residual of {seen:.2g}: {_ADVICE[ending]}")
    before = f"{reason} after" if reason else "not converged in"
    return (
        f"{before} {counted(steps, 'step')}{count}, above tol={system.tol:.2g} with {worst:.2g}: "
        + "; ".join(parts)
    )
