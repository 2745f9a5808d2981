"""The spectral norm, the largest singular value, by Lanczos from a random start.

What the products show is a lower bound, and it is certain: ‖A x‖ / ‖x‖ for the best x so far. No number
of products with one start excludes a larger singular value whose vector that start happens to miss.
How probable that is is known, and gives an upper bound of another kind.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from hessops.agreement import agreed_seed, together_to_host
from hessops.algorithms._common import require_positive, start_vector, warn_if_failed
from hessops.algorithms._precision import require_exact_products
from hessops.algorithms.norms._extreme_bounds import (
    ExtremeState,
    extreme_steps,
    most_steps,
    require_options,
    ritz_vectors,
    unlucky_overlap,
)
from hessops.algorithms.norms._smaller_gram import smaller_gram
from hessops.blocks.rounding import rounding
from hessops.bounds.random_start import lanczos_overlap_error
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream
from hessops.record import Callback, run
from hessops.results.norms import SpectralNormResult
from hessops.wrap import aslinearoperator

__all__ = ["spectral_norm"]


def spectral_norm(
    A: Any,
    *,
    rtol: float = 0.01,
    failure: float = 1e-3,
    max_steps: int | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> SpectralNormResult:
    """Bound the spectral norm of any operator from both sides.

    Runs Lanczos on A if it is declared self-adjoint, one product a step, and otherwise on the smaller
    of A^H A and A A^H, two products a step, until the two bounds are close. One product more
    certifies the lower bound. All basis vectors are kept.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Of shape (m, n), with an adjoint.
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
    SpectralNormResult
        Value, certified lower bound, probable upper bound.

    Raises
    ------
    NotSelfAdjointError
        If `A` is declared self-adjoint and its products show that it is not.
    NotImplementedError
        If `A` is not self-adjoint and knows no adjoint.
    ValueError
        If an option is out of range, or products are so small that squares underflow, or in a lower
        precision than their dtype's.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the bounds are further apart than `rtol`.

    Notes
    -----
    The upper bound is the smaller of two that fail together, if at all: where the Lanczos polynomial
    reaches what the start's overlap allows (Van Dorsselaer, Hochstenbach & van der Vorst 2000), and
    `hessops.bounds.lanczos_overlap_error`, which knows no more than the number of steps.

    References
    ----------
    Kuczyński & Woźniakowski (1992), SIAM J. Matrix Anal. Appl. 13(4); Van Dorsselaer, Hochstenbach &
    van der Vorst (2000), SIAM J. Matrix Anal. Appl. 22(3).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = np.diag(np.arange(1.0, 101.0))[:, :80]
    >>> result = hessops.spectral_norm(A, rng=0)
    >>> bool(result.lower_bound <= 80.0 <= result.upper_bound <= 1.01 * 80.0)
    True
    """
    operator = aslinearoperator(A)
    require_exact_products(operator, "the bounds of spectral_norm are certain of exact ones alone")
    require_positive(max_steps=max_steps)
    require_options(rtol, failure)
    goal = _Goal(operator, rtol, failure)
    seed = agreed_seed(operator.domain, rng)
    clock = time.perf_counter()
    space = goal.squared.domain
    steps = min(max_steps or most_steps(space), space.dim)
    outcome = run(
        extreme_steps(
            goal.squared,
            start_vector(space, None, Stream(seed, Purpose.START)),
            overlap=goal.overlap,
            num_steps=steps,
        ),
        space=space,
        stop=goal.stop,
        row=goal.row,
        callback=callback,
    )
    state = outcome.state
    value = goal.verified(state)
    lower = max(0.0, value - rounding(space, value))
    upper = max(goal.upper(state), value)
    status, converged = goal.verdict(state, value, upper, outcome.reason)
    warn_if_failed(converged, status, space.comm)
    return SpectralNormResult(
        value=value,
        lower_bound=lower,
        upper_bound=upper,
        failure=failure,
        num_steps=state.step,
        num_products=goal.products_per_step * state.num_products + 1,
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
    )


class _Goal:
    """What Lanczos runs on, and what its extreme Ritz values say of the norm of A."""

    def __init__(self, A: LinearOperator, rtol: float, failure: float) -> None:
        self.direct = A.structure.self_adjoint
        self.operator, self.squared = (A, A) if self.direct else smaller_gram(A)
        self.rtol = rtol
        self.semidefinite = self.squared.structure.positive_semidefinite
        self.products_per_step = 1 if self.direct else 2
        self.overlap = unlucky_overlap(self.squared.domain, failure)

    def value(self, state: ExtremeState) -> float:
        """Return the norm that the Ritz values show."""
        return self._norm(max(abs(state.ritz.low), abs(state.ritz.high)))

    def upper(self, state: ExtremeState) -> float:
        """Return the upper bound of the norm."""
        size = max(abs(state.ritz.low), abs(state.ritz.high))
        # The spread of the eigenvalues is at most the norm, or twice that.
        spread = 1.0 if self.semidefinite else 2.0
        share = spread * float(lanczos_overlap_error(state.step, self.overlap))
        by_steps = size / (1.0 - share) + state.rounding if share < 1 else math.inf
        # The smallest eigenvalue of a semidefinite operator is no candidate for the norm.
        low = 0.0 if self.semidefinite else -state.outer.low
        return self._norm(min(max(low, state.outer.high), by_steps))

    def row(self, state: ExtremeState) -> tuple[float, float]:
        """Return the value, and how far the upper bound is above it."""
        return self.value(state), self.upper(state) - self.value(state)

    def stop(self, state: ExtremeState) -> str | None:
        """Stop when the bounds are close."""
        close = self.upper(state) <= (1 + self.rtol) * self.value(state)
        return "tolerance reached" if close else None

    def verified(self, state: ExtremeState) -> float:
        """Return ‖A x‖ / ‖x‖ for the Ritz vector x, from one more product."""
        space = self.squared.domain
        column = int(abs(state.ritz.high) >= abs(state.ritz.low))
        x = ritz_vectors(state)[:, column : column + 1]
        product = self.operator.apply(x)
        squares, length = together_to_host(
            space,
            self.operator.codomain.column_norms_squared(product),
            space.column_norms_squared(x),
        )
        return float(np.sqrt(squares[0] / length[0]))

    def verdict(
        self, state: ExtremeState, value: float, upper: float, reason: str | None
    ) -> tuple[str, bool]:
        """Return the status sentence and whether the bounds are close."""
        steps = counted(state.step, "step")
        if upper <= (1 + self.rtol) * value:
            return f"bounds within {self.rtol:g} of each other after {steps}", True
        if value == 0:
            return f"the operator is zero to its precision: it is at most {upper:.3g}", upper == 0
        apart = f"after {steps} the upper bound is {upper / value - 1:.2g} above the value"
        if not state.lanczos.alive[0] or state.step >= self.squared.domain.dim:
            return (
                f"{apart}, and more steps show no more in this precision: loosen rtol={self.rtol:g}"
            ), False
        stopped = "" if reason is None else f"{reason}; "
        return f"{stopped}{apart}: raise max_steps, or loosen rtol or failure", False

    def _norm(self, ritz: float) -> float:
        return ritz if self.direct else math.sqrt(max(ritz, 0.0))
