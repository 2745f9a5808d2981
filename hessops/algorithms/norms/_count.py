"""The count of eigenvalues in a range, or outside of it, that its verbs share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hessops.agreement import agreed_seed
from hessops.algorithms._common import require_positive
from hessops.algorithms.functions.quadrature import checkpoint
from hessops.algorithms.krylov.lanczos import LanczosState, lanczos_steps
from hessops.algorithms.norms._markov import mass_below
from hessops.arrays import Array, HostArray
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, RandomState, Stream
from hessops.record import Callback, run
from hessops.result import Interval
from hessops.results.norms import EigenvalueCountResult
from hessops.statistics import MeanVariance, t_quantile

__all__ = ["CountState", "Range", "count", "count_steps"]

_RARE_UNTIL = 16
# Of the statistical interval, so that what the quadrature lacks takes no coverage from it.
_SHARE_OF_QUADRATURE = 0.1
# Of one eigenvalue: a bracket as narrow as this is as good as none.
_HALF = 0.5
# Of the count, for a single probe, which has no interval to compare with.
_SHARE_FOR_ONE_PROBE = 0.01


class Range(NamedTuple):
    """The eigenvalues to count, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class CountState:
    """What the probes say of a count after k steps.

    Parameters
    ----------
    step : int
        Lanczos steps.
    num_products : int
        Columns multiplied so far.
    lanczos : LanczosState
        The recurrences.
    within : Range
        Where eigenvalues are counted.
    complement : bool
        Whether all others are counted instead.
    """

    step: int
    num_products: int
    lanczos: LanczosState
    within: Range
    complement: bool

    @cached_property
    def bounds(self) -> HostArray:
        """Return lower and upper bounds of every probe's z^H P z, shape (num_probes, 2)."""
        shares = np.array([self._share(column) for column in range(len(self.lanczos.alive))])
        return self.lanczos.space.dim * (1.0 - shares[:, ::-1] if self.complement else shares)

    @property
    def bracket(self) -> Interval:
        """Return between which the mean of z^H P z of these probes lies."""
        low, high = self.bounds.mean(axis=0)
        return Interval(float(low), float(high))

    def estimate(self) -> float:
        """Return the mean over probes of the middle of their brackets."""
        return float(self._moments.mean)

    def standard_error(self) -> float:
        """Return the standard error that the probes leave."""
        return float(self._moments.deviation) / math.sqrt(self._moments.count)

    def interval(self, confidence: float) -> Interval:
        """Return Student's interval about both ends of the bracket, cut to what is possible.

        Probes that count none, or all, agree: what is left open is then all the error there is.
        """
        half, most = self._half_width(confidence), float(self.lanczos.space.dim)
        low, high = self.bracket
        return Interval(max(low - half, 0.0), min(high + half, most))

    def allowed(self, confidence: float) -> float:
        """Return how wide the bracket may be."""
        if self._moments.count < 2:
            return max(_HALF, _SHARE_FOR_ONE_PROBE * self.estimate())
        return max(_HALF, 2.0 * self._half_width(confidence))

    def _half_width(self, confidence: float) -> float:
        if self._moments.count < 2:
            return math.inf
        return float(t_quantile(confidence, self._moments.count - 1.0)) * self.standard_error()

    @cached_property
    def _moments(self) -> MeanVariance:
        return MeanVariance.of(self.bounds.mean(axis=1))

    def _share(self, column: int) -> tuple[float, float]:
        """Return bounds on the share of one probe's measure."""
        below = self._mass_below(column, self.within.low, inclusive=False)
        upto = self._mass_below(column, self.within.high, inclusive=True)
        return max(upto.low - below.high, 0.0), max(upto.high - below.low, 0.0)

    def _mass_below(self, column: int, x: float, *, inclusive: bool) -> Interval:
        if not math.isfinite(x):
            return Interval(1.0, 1.0) if x > 0 else Interval(0.0, 0.0)
        state = self.lanczos
        length = int(state.lengths[column])
        return mass_below(
            state.alphas[:length, column],
            state.betas[:length, column],
            x,
            state.rounding,
            exhausted=not state.alive[column],
            inclusive=inclusive,
        )


def count_steps(
    A: LinearOperator,
    start: Array,
    within: Range,
    *,
    complement: bool = False,
    num_steps: int,
    reorthogonalize: bool = False,
) -> Iterator[CountState]:
    """Yield counts after 1, 2, 4, 8 and 16 Lanczos steps, and then every eighth to fourth of them.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    start : array, shape (n, m)
        Probes.
    within : Range
        Where to count.
    complement : bool
        Count all others instead.
    num_steps : int
        Most steps.
    reorthogonalize : bool
        Keep and use the bases.

    Yields
    ------
    CountState
        At checkpoints, at the last step, and when all Krylov spaces are exhausted.
    """
    for state in lanczos_steps(
        A, start, reorthogonalize=reorthogonalize, capacity=min(num_steps, A.domain.dim)
    ):
        ended = state.step >= num_steps or not state.alive.any()
        often = state.step > _RARE_UNTIL and checkpoint(state.step)
        if ended or often or state.step.bit_count() == 1:
            yield CountState(state.step, state.num_products, state, within, complement)
        if ended:
            return


def count(
    operator: LinearOperator,
    within: Range,
    *,
    complement: bool = False,
    root: bool = False,
    num_probes: int,
    num_steps: int,
    confidence: float,
    probe: ProbeKind,
    reorthogonalize: bool,
    rng: RandomState,
    callback: Callback | None,
) -> EigenvalueCountResult:
    """Count eigenvalues within a range, or all others.

    Parameters
    ----------
    operator : LinearOperator
        Self-adjoint.
    within : Range
        Where to count.
    complement : bool
        Count all others instead.
    root : bool
        Whether the eigenvalues are the squares of singular values, at two products each.
    num_probes, num_steps : int
        As of the verbs.
    confidence : float
        As of the verbs.
    probe : str
        As of the verbs.
    reorthogonalize : bool
        As of the verbs.
    rng : int, numpy.random.Generator or None
        As of the verbs.
    callback : callable, optional
        As of the verbs.

    Returns
    -------
    EigenvalueCountResult
        The result of the verbs.
    """
    require_positive(num_probes=num_probes, num_steps=num_steps)
    t_quantile(confidence, 1.0)
    seed, space = agreed_seed(operator.domain, rng), operator.domain
    outcome = run(
        count_steps(
            operator,
            space.probes(Stream(seed, Purpose.COUNT), range(num_probes), probe),
            within,
            complement=complement,
            num_steps=num_steps,
            reorthogonalize=reorthogonalize,
        ),
        space=space,
        stop=lambda state: _stop(state, confidence, complement, root),
        row=lambda state: (state.estimate(), state.standard_error()),
        callback=callback,
    )
    state = outcome.state
    status, converged = _verdict(state, confidence, outcome.reason)
    end = math.sqrt(within.high) if root else 1.0
    return EigenvalueCountResult(
        value=state.estimate(),
        standard_error=state.standard_error(),
        interval=state.interval(confidence),
        confidence=confidence,
        bracket=state.bracket,
        # Of a square near tol², read as a singular value.
        rounding=state.lanczos.rounding / (2 * end if root else 1.0),
        dim=space.dim,
        num_probes=num_probes,
        num_steps=state.step,
        probe=probe,
        num_products=state.num_products * (2 if root else 1),
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=outcome.seconds,
    )


def _stop(state: CountState, confidence: float, complement: bool, root: bool) -> str | None:
    """Stop when the bracket is narrow; refuse to count what is zero to rounding."""
    lanczos = state.lanczos
    if complement and lanczos.rounding >= state.within.high:
        given, size, least = state.within.high, lanczos.scale, lanczos.rounding
        if root:
            given, size, least = math.sqrt(given), math.sqrt(size), math.sqrt(least)
        raise ValueError(
            f"tol={given:.3g} is rounding for an operator of size {size:.3g} in its precision; give "
            f"more than {least:.3g}"
        )
    low, high = state.bracket
    narrow = high - low <= _SHARE_OF_QUADRATURE * state.allowed(confidence)
    return "the bracket is narrow" if narrow else None


def _verdict(state: CountState, confidence: float, reason: str | None) -> tuple[str, bool]:
    """Return the status sentence and whether the bracket is narrow beside the interval."""
    (low, high), allowed = state.bracket, state.allowed(confidence)
    probes, steps = len(state.bounds), counted(state.step, "step")
    if high - low <= allowed:
        note = "" if probes > 1 else "; one probe gives no error: use num_probes=2 or more"
        left = f"{steps} leave {high - low:.2g} eigenvalues open{note}"
        stopped = reason == "stopped by the callback"
        return (
            f"{reason}; {left}" if stopped else f"used {counted(probes, 'probe')}; {left}"
        ), True
    beside = "the interval of the probes" if probes > 1 else "what is of use"
    return (
        f"the value is not to be trusted: after {steps} the mean of these probes is only known to lie "
        f"between {low:.4g} and {high:.4g}, wider than {beside} ({allowed:.2g}); raise num_steps, or "
        "move the ends of the range into gaps of the spectrum"
    ), False
