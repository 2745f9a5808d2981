"""A few singular triplets of any operator by Golub-Kahan-Lanczos bidiagonalisation.

The promises are those of `eigsh`: residual norms of all Ritz triplets are looked at after every step,
memory is bounded by restarts, exhausted Krylov spaces are gone beyond until nothing new comes, and a
check from a random vector may look for what was missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from hessops.agreement import agreed_seed, to_host, together_to_host
from hessops.algorithms._common import require_positive, start_vector, warn_if_failed
from hessops.algorithms._precision import half_the_digits, widened
from hessops.algorithms.eigen._basis_limit import basis_limit, kept
from hessops.algorithms.eigen._checked_run import checked
from hessops.algorithms.eigen._eigsh_completeness import CompletenessCheck
from hessops.algorithms.eigen._eigsh_goal import Goal, goal_tolerance, least_tolerance
from hessops.algorithms.eigen.golub_kahan import (
    KnownTriplets,
    SvdsState,
    known_triplets,
    svds_steps,
)
from hessops.arrays import Array, HostArray, eps
from hessops.blocks.rounding import rounding
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream
from hessops.record import Callback, Outcome, require_finite, run
from hessops.results.singular import SingularResult, singular_error_bounds
from hessops.space import rows_here
from hessops.wrap import aslinearoperator

__all__ = ["SvdsState", "svds", "svds_steps"]

Which = Literal["LM", "SM"]
# Singular values are not negative: the largest in modulus are the largest.
_ENDS: dict[str, Literal["LA", "SA"]] = {"LM": "LA", "SM": "SA"}
_MOST_STEPS = 10_000


def svds(
    A: Any,
    k: int = 6,
    *,
    which: Which = "LM",
    tol: float | None = None,
    max_basis: int | None = None,
    max_steps: int | None = None,
    start: Array | None = None,
    verify: bool = True,
    check_completeness: bool = False,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> SingularResult:
    """Compute `k` singular triplets at an end of the singular spectrum.

    Costs two products a step, one of them with the adjoint, as many steps as convergence takes, and
    ``2 * k`` more products to verify the residuals.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Of any shape (m, n), real or complex, with an adjoint.
    k : int
        Triplets wanted, at most the smaller of m and n.
    which : {'LM', 'SM'}
        Largest or smallest singular values. The smallest converge slowly where they lie close to each
        other relative to the largest, as in most ill-conditioned operators.
    tol : float, optional
        Residual norm asked for, relative to the largest Ritz value; eps^(2/3) of the operator's
        precision where not given (3.7e-11 in float64, 2.4e-5 in float32), or its `product_error` if
        that is more: no less can be had. Less than rounding (7.1e-15, 3.8e-6) counts as that, and the
        status says so. Smaller singular values than that are not told from zero.
    max_basis : int, optional
        Most vectors to keep in each of the two bases, at least ``k + 2``, or the smaller of m and n if
        less. More take fewer products. Where not given, as many as fit a gigabyte in all, but at
        least 2 k + 20 and at most 500 + 10 k.
    max_steps : int, optional
        Most steps, 10 000 where not given.
    start : array, shape (n,), optional
        Right start vector; a left one of shape (m,) where m is below n. Random where not given.
    verify : bool
        Multiply the computed vectors once more (blocks of `k`, by A and by its adjoint) and report the
        residual norms so found instead of those of the recurrence.
    check_completeness : bool
        After convergence, run from a random vector off what was found. A missed copy or member of a
        cluster is found, or the status says beyond where none is missing but for a probability of 1 %.
        Takes two dozen products if the next singular value is far, and up to about eighty.
    rng : int, numpy.random.Generator or None
        Where start vectors come from.
    callback : callable, optional
        Called with every `SvdsState`; returning True ends the run.

    Returns
    -------
    SingularResult
        Decreasing for 'LM', increasing for 'SM'.

    Raises
    ------
    NotImplementedError
        If `A` knows no adjoint.
    ValueError
        If an option is out of range, or products show that the adjoint of `A` is not its adjoint or
        that `A` is not linear.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If some residual norm is above the tolerance.

    See Also
    --------
    randomized_svd : Many triplets to fewer digits, in blocks of products.

    Notes
    -----
    Until its Krylov space is exhausted, a run sees one copy of a multiple singular value; the others
    may be missing from the result.

    References
    ----------
    Golub & Kahan (1965), SIAM J. Numer. Anal. 2; Baglama & Reichel (2005), SIAM J. Sci. Comput. 27;
    Hernández, Román & Tomás (2008), Electron. Trans. Numer. Anal. 31; Simon & Zha (2000), SIAM J. Sci.
    Comput. 21; Kuczyński & Woźniakowski (1992) for the check.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = np.diag(np.arange(1.0, 9.0))[:, :6]
    >>> hessops.svds(A, 2, rng=0).singular_values.round(6)
    array([6., 5.])
    """
    operator = aslinearoperator(A)
    require_positive(k=k, max_basis=max_basis, max_steps=max_steps)
    goal = _goal(operator, k, which, tol)
    wide = operator.shape[0] < operator.shape[1]
    tall = operator.H if wide else operator
    seed = agreed_seed(tall.domain, rng)
    limit = basis_limit([tall.domain, tall.codomain], "triplets", k, 1, max_basis)
    clock = time.perf_counter()
    search = _Search(tall, goal, limit, seed, max_steps or _MOST_STEPS, callback)
    vector = start_vector(tall.domain, start, Stream(seed, Purpose.START))
    outcome, sentence = search.run(vector, check_completeness=check_completeness)
    state = outcome.state
    found = _wanted_triplets(tall, state, goal.wanted(state), verify)
    status, converged = goal.verdict(
        state, found.residual_norms, rounding(tall.domain, state.size), outcome.reason, sentence
    )
    warn_if_failed(converged, status, tall.domain.comm)
    left, right = (found.right, found.left) if wide else (found.left, found.right)
    return SingularResult(
        singular_values=found.values,
        left_vectors=left,
        right_vectors=right,
        residual_norms=found.residual_norms,
        error_bounds=found.error_bounds,
        num_products=state.num_products + (2 * len(found.values) if verify else 0),
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
        rows_here=rows_here(tall.domain),
    )


def _goal(operator: LinearOperator, k: int, which: Which, tol: float | None) -> Goal:
    """Return what is wanted, or say which option is out of range."""
    if which not in get_args(Which):
        raise ValueError(f"which={which!r} is unknown; choose one of {', '.join(get_args(Which))}")
    if k > min(operator.shape):
        raise ValueError(f"k={k} singular triplets asked of an operator of shape {operator.shape}")
    return Goal(
        k,
        _ENDS[which],
        goal_tolerance(operator, tol),
        1,
        least=least_tolerance(operator),
        value_name="singular value",
        unit_name="triplets",
    )


@dataclass(frozen=True)
class _Search:
    """The runs of the engine: one to find the triplets, and others to look for what it missed."""

    operator: LinearOperator
    goal: Goal
    limit: int
    seed: int
    max_steps: int
    callback: Callback | None

    def run(
        self, start: Array, *, check_completeness: bool
    ) -> tuple[Outcome[SvdsState], str | None]:
        """Return the outcome and, if completeness was checked, what is known of it."""
        outcome = self._run(start, 0, self.goal.stop)
        if not check_completeness:
            return outcome, None
        return checked(outcome, self.goal, self._check_again, self.max_steps)

    def _check_again(
        self, state: SvdsState, attempt: int
    ) -> tuple[CompletenessCheck, Outcome[SvdsState]]:
        space = self.operator.domain
        known = known_triplets(state, self.goal.wanted(state))
        check = CompletenessCheck(self.goal, known.values, space.dim, attempt, singular=True)
        fresh = space.probes(self._stream(attempt), range(1), "normal")
        return check, self._run(fresh, attempt, check.stop, known)

    def _run(
        self,
        start: Array,
        attempt: int,
        stop: Callable[[SvdsState], str | None],
        known: KnownTriplets | None = None,
    ) -> Outcome[SvdsState]:
        goal = self.goal
        return run(
            svds_steps(
                self.operator,
                start,
                stream=self._stream(attempt),
                count=goal.k + 1,
                smallest=goal.which == "SA",
                tol=goal.tol,
                max_basis=self.limit,
                keep=partial(goal.select, count=kept(goal.k, self.limit, 1)),
                known=known,
            ),
            space=self.operator.domain,
            stop=stop,
            row=goal.row,
            max_steps=self.max_steps,
            callback=self.callback,
        )

    def _stream(self, attempt: int) -> Stream:
        return Stream(self.seed, Purpose.RESTART, attempt)


@dataclass(frozen=True)
class _WantedTriplets:
    """The triplets of the result, of the operator that has no fewer rows than columns."""

    values: HostArray
    residual_norms: HostArray
    error_bounds: HostArray
    left: Array
    right: Array


def _wanted_triplets(
    operator: LinearOperator, state: SvdsState, chosen: HostArray, verify: bool
) -> _WantedTriplets:
    """Form the vectors of some Ritz triplets, and multiply them once more if asked."""
    U, V = (
        basis.combined(basis.space.from_host(coefficients[:, chosen]))
        for basis, coefficients in (
            (state.left, state.left_coefficients),
            (state.right, state.right_coefficients),
        )
    )
    values, residuals = state.values[chosen], state.residual_norms[chosen]
    if verify:
        values, residuals = _verified(operator, U, V, values, state)
    bounds = singular_error_bounds(
        values,
        residuals,
        np.delete(state.values, chosen),
        np.delete(state.residual_norms, chosen),
        eps(operator.xp, operator.dtype),
        square=operator.shape[0] == operator.shape[1],
    )
    # Of the smallest singular values it is the largest that rounding is relative to.
    floor = rounding(operator.domain, state.size)
    bounds = np.maximum(widened(bounds, operator, state.size), floor)
    return _WantedTriplets(values, residuals, bounds, U, V)


def _verified(
    operator: LinearOperator, U: Array, V: Array, expected: HostArray, state: SvdsState
) -> tuple[HostArray, HostArray]:
    """Return u^H A v and the true residual norms of approximate triplets."""
    left, right = operator.codomain, operator.domain
    AV, AHU = operator.apply(V), operator.apply_adjoint(U)
    inner = np.real(to_host(left, left.column_inner(U, AV)))
    require_finite(inner, state.num_products + len(expected), operator)
    # Exhausted Krylov spaces leave out couplings of half the digits.
    allowed = 4 * half_the_digits(operator) * state.size
    worst = int(np.argmax(np.abs(inner - expected)))
    if np.abs(inner[worst] - expected[worst]) > allowed:
        raise ValueError(
            f"{operator} is not linear, or not the same at every product: the singular value "
            f"{expected[worst]:.6g} was found where products with its vectors give "
            f"{inner[worst]:.6g}; see hessops.check_operator"
        )
    values = np.maximum(inner, 0.0)
    of_left, of_right = together_to_host(
        left,
        left.column_norms_squared(AV - U * left.from_host(values)),
        right.column_norms_squared(AHU - V * right.from_host(values)),
    )
    squares = of_left + of_right
    require_finite(squares, state.num_products + 2 * len(expected), operator)
    return values, np.sqrt(squares)
