"""The condition number of a definite operator, from both ends of its spectrum by Lanczos.

Rayleigh quotients lie within the spectrum. So their quotient is at most the condition number: a lower
bound that is certain. An upper bound needs the smallest eigenvalue from below, which no products show
for certain; what is given for it fails with a probability over start vectors that is known.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from hessops.agreement import agreed_seed, to_host
from hessops.algorithms._common import (
    require_positive,
    self_adjoint_operator,
    start_vector,
    warn_if_failed,
)
from hessops.algorithms._precision import require_exact_products
from hessops.algorithms.norms._extreme_bounds import (
    ExtremeState,
    extreme_steps,
    most_steps,
    require_options,
    ritz_vectors,
    unlucky_overlap,
)
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream
from hessops.record import Callback, run
from hessops.result import Interval
from hessops.results.norms import ConditionNumberResult

__all__ = ["condition_number"]


def condition_number(
    A: Any,
    *,
    rtol: float = 0.01,
    failure: float = 1e-3,
    max_steps: int | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> ConditionNumberResult:
    """Bound the condition number of a positive or negative definite operator from both sides.

    Costs one product a step, about as many steps as the square root of the condition number times the
    digits asked for, and two more to certify the lower bound. All basis vectors are kept.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint and definite; it need not be declared definite.
    rtol : float
        How far the upper bound may be above the value, relative to it.
    failure : float
        Probability over start vectors that the upper bound is too low.
    max_steps : int, optional
        Most steps; where not given, as many as fit a gigabyte, from 100 to 1000.
    rng : int, numpy.random.Generator or None
        Where the start vector comes from.
    callback : callable, optional
        Called with a state at steps 1 to 8 and then every eighth to fourth of the steps done;
        returning True ends the run.

    Returns
    -------
    ConditionNumberResult
        Value, certified lower bound, probable upper bound.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If Ritz values of both signs show that `A` is indefinite, if it is zero, if products are in a
        lower precision than their dtype's, or if an option is out of range.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the bounds are further apart than `rtol`, or the smallest eigenvalue is zero to rounding.

    Notes
    -----
    That `A` is definite is taken for granted until a Ritz value contradicts it. The upper bound, where
    it is finite, shows with the same probability that `A` is definite.

    References
    ----------
    Kuczyński & Woźniakowski (1992), SIAM J. Matrix Anal. Appl. 13(4); Van Dorsselaer, Hochstenbach &
    van der Vorst (2000), SIAM J. Matrix Anal. Appl. 22(3).

    Examples
    --------
    >>> import hessops, hessops.gallery
    >>> problem = hessops.gallery.laplacian_1d(50)
    >>> exact = problem.eigenvalues[-1] / problem.eigenvalues[0]
    >>> result = hessops.condition_number(problem.operator, rng=0)
    >>> bool(result.lower_bound <= exact <= result.upper_bound <= 1.01 * exact)
    True
    """
    operator = self_adjoint_operator(A, "condition_number")
    require_exact_products(
        operator, "the bounds of condition_number are certain of exact ones alone"
    )
    require_positive(max_steps=max_steps)
    require_options(rtol, failure)
    goal = _Goal(operator, rtol)
    seed = agreed_seed(operator.domain, rng)
    clock = time.perf_counter()
    space = operator.domain
    outcome = run(
        extreme_steps(
            operator,
            start_vector(space, None, Stream(seed, Purpose.START)),
            # Either end may be missed.
            overlap=unlucky_overlap(space, failure / 2),
            num_steps=min(max_steps or most_steps(space), space.dim),
        ),
        space=space,
        stop=goal.stop,
        row=goal.row,
        callback=callback,
    )
    state = outcome.state
    ends = _moduli(_rayleigh_quotients(operator, state))
    singular = ends.low <= state.rounding
    value = math.inf if singular else ends.high / ends.low
    lower = max(1.0, (ends.high - state.rounding) / (max(ends.low, 0.0) + state.rounding))
    upper = max(goal.upper(state), value)
    status, converged = goal.verdict(state, value, upper, outcome.reason)
    warn_if_failed(converged, status, space.comm)
    sign = math.copysign(1.0, _leading(state.ritz))
    return ConditionNumberResult(
        value=value,
        lower_bound=lower,
        upper_bound=upper,
        failure=failure,
        largest=sign * ends.high,
        smallest=sign * ends.low,
        rounding=state.rounding,
        num_steps=state.step,
        num_products=state.num_products + 2,
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
    )


class _Goal:
    """When the bounds are close enough, and what to claim of them."""

    def __init__(self, operator: LinearOperator, rtol: float) -> None:
        self.operator, self.rtol = operator, rtol

    def value(self, state: ExtremeState) -> float:
        """Return the quotient of the extreme Ritz values."""
        low, high = _moduli(state.ritz)
        return high / low if low > state.rounding else math.inf

    def upper(self, state: ExtremeState) -> float:
        """Return the upper bound: infinite while it does not exclude the eigenvalue 0."""
        low, high = _moduli(state.outer, _leading(state.ritz))
        return high / low if low > 0 else math.inf

    def row(self, state: ExtremeState) -> tuple[float, float]:
        """Return the value, and how far the upper bound is above it."""
        value, upper = self.value(state), self.upper(state)
        return value, upper - value if math.isfinite(upper) else math.inf

    def stop(self, state: ExtremeState) -> str | None:
        """Stop when the bounds are close, or there is nothing left to bound."""
        self._require_definite(state)
        # A single Ritz value that is zero is none of a singular operator yet.
        seen = state.step > 1 or not state.lanczos.alive[0]
        if seen and not math.isfinite(self.value(state)):
            return "singular"
        close = self.upper(state) <= (1 + self.rtol) * self.value(state)
        return "tolerance reached" if close else None

    def verdict(
        self, state: ExtremeState, value: float, upper: float, reason: str | None
    ) -> tuple[str, bool]:
        """Return the status sentence and whether the bounds are close."""
        steps, smallest = counted(state.step, "step"), _moduli(state.ritz).low
        if not math.isfinite(value):
            return (
                f"singular to working precision: after {steps} the smallest Ritz value is "
                f"{smallest:.2g}, and {state.rounding:.2g} is rounding; shift the operator, or project "
                "its null space out"
            ), False
        if upper <= (1 + self.rtol) * value:
            return f"bounds within {self.rtol:g} of each other after {steps}", True
        apart = f"after {steps} the upper bound is {upper / value - 1:.2g} above the value"
        if not math.isfinite(upper):
            apart = f"after {steps} nothing keeps the smallest eigenvalue away from 0"
        if not state.lanczos.alive[0] or state.step >= self.operator.domain.dim:
            return f"{apart}, and more steps show no more in this precision: loosen rtol", False
        stopped = "" if reason is None else f"{reason}; "
        return f"{stopped}{apart}: raise max_steps, or loosen rtol or failure", False

    def _require_definite(self, state: ExtremeState) -> None:
        low, high = state.ritz
        if state.lanczos.scale == 0:
            raise ValueError(f"{self.operator} is zero: it has no condition number")
        if low < -state.rounding and high > state.rounding:
            raise ValueError(
                f"condition_number needs a definite operator, and {self.operator} is indefinite: there "
                f"are Ritz values {low:.6g} and {high:.6g}; take the root of condition_number(A @ A)"
            )


def _leading(ritz: Interval) -> float:
    """Return the Ritz value of larger modulus, which has the sign of a definite operator."""
    return float(max(ritz, key=abs))


def _moduli(ends: Interval, sign: float | None = None) -> Interval:
    """Return smallest and largest modulus of a definite operator's spectrum, given its two ends."""
    low, high = ends
    return Interval(low, high) if (sign or _leading(ends)) >= 0 else Interval(-high, -low)


def _rayleigh_quotients(operator: LinearOperator, state: ExtremeState) -> Interval:
    """Return the Rayleigh quotients of both extreme Ritz vectors, from one block of two products."""
    space = operator.domain
    X = ritz_vectors(state)
    inner, squares = np.real(to_host(space, space.column_inners((X, operator.apply(X)), (X, X))))
    low, high = inner / squares
    return Interval(float(low), float(high))
