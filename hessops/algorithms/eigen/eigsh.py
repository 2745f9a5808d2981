"""A few eigenpairs at the ends of the spectrum by thick-restart block Lanczos.

The residual norms of all Ritz pairs are looked at as soon as the pairs asked for may be there. While
the basis fits into memory nothing is restarted, and enough reorthogonalisation makes it the method of
fewest products.

A Krylov space of blocks of b vectors holds b copies of each eigenvalue. When it is exhausted, the run
goes on from new random vectors orthogonal to it, until a fresh Krylov space brings nothing new to the
pairs wanted. When it is not, a check from a random vector may look for what was missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hessops.agreement import agreed_seed
from hessops.algorithms._common import (
    require_positive,
    self_adjoint_operator,
    start_vector,
    warn_if_failed,
)
from hessops.algorithms._precision import widened
from hessops.algorithms.eigen._basis_limit import basis_limit, kept
from hessops.algorithms.eigen._checked_run import checked
from hessops.algorithms.eigen._eigsh_completeness import CompletenessCheck
from hessops.algorithms.eigen._eigsh_goal import Goal, Which, eigsh_goal
from hessops.algorithms.eigen._eigsh_pace import Pace
from hessops.algorithms.eigen._verified_pairs import verified_pairs
from hessops.algorithms.eigen.eigsh_state import EigshState, KnownPairs, known_pairs
from hessops.algorithms.eigen.thick_restart import eigsh_steps
from hessops.arrays import Array, HostArray, eps
from hessops.blocks.rounding import rounding
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream
from hessops.record import Callback, Outcome, run
from hessops.results.eigenpairs import EigenResult, error_bounds
from hessops.space import rows_here
from hessops.together import any_together

__all__ = ["Which", "eigsh"]

_MOST_STEPS = 10_000


def eigsh(
    A: Any,
    k: int = 6,
    *,
    which: Which = "LM",
    tol: float | None = None,
    block_size: int = 1,
    max_basis: int | None = None,
    max_steps: int | None = None,
    start: Array | None = None,
    verify: bool = True,
    check_completeness: bool = False,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> EigenResult:
    """Compute `k` eigenpairs at the ends of the spectrum of a self-adjoint operator.

    Costs `block_size` products a step, as many steps as convergence takes, and `k` more to verify
    the residuals.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    k : int
        Pairs wanted.
    which : {'LM', 'LA', 'SA', 'BE'}
        Largest in modulus, largest, smallest, or half from each end (one more from the high end if
        `k` is odd).
    tol : float, optional
        Residual norm asked for, relative to the largest Ritz value in modulus; eps^(2/3) of the
        operator's precision where not given (3.7e-11 in float64, 2.4e-5 in float32), or its
        `product_error` if that is more: no less can be had. Less than rounding (7.1e-15, 3.8e-6)
        counts as that, and the status says so.
    block_size : int
        Vectors to multiply at once. A block of b finds up to b copies of a multiple eigenvalue, and
        takes more products than single vectors where there are none.
    max_basis : int, optional
        Most basis vectors to keep, at least ``k + 2 * block_size``, or the dimension if less. More
        take fewer products. Where not given, as many as fit a gigabyte, but at least 2 k + 20 and at
        most 500 + 10 k.
    max_steps : int, optional
        Most steps, 10 000 where not given.
    start : array, shape (n,), optional
        Start vector, random where not given; so are the others of a block.
    verify : bool
        Multiply the computed eigenvectors once more (one block of `k` products) and report the
        residual norms so found instead of those of the Lanczos identity.
    check_completeness : bool
        After convergence, run Lanczos from a random vector off what was found. A missed copy or
        member of a cluster is found, or the status says beyond where none is missing but for a
        probability of 1 %. Takes a dozen products if the next eigenvalue is far, and up to about
        forty.
    rng : int, numpy.random.Generator or None
        Where start vectors come from.
    callback : callable, optional
        Called with every `EigshState`; returning True ends the run. Without, the Ritz pairs are looked
        at when they may have converged, and the history shows those of the last look between.

    Returns
    -------
    EigenResult
        Sorted by decreasing modulus for 'LM', decreasing for 'LA', increasing for 'SA' and 'BE'.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If an option is out of range, or verified values show that `A` is not linear.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If some residual norm is above the tolerance.

    Notes
    -----
    Until its Krylov space is exhausted, a block of b start vectors sees b copies of a multiple
    eigenvalue; the others may be missing from the result.

    The run keeps at most `max_basis` vectors and an eighth more, besides the start vectors and a few
    blocks of `block_size` for its step. At the end the eigenvectors and their products come on top,
    2 k vectors, or 3 k where an operator does not give its products away (`returns_own_memory`).

    References
    ----------
    Parlett (1998), The Symmetric Eigenvalue Problem, chapter 13; Wu & Simon (2000), SIAM J. Matrix
    Anal. Appl. 22; Stewart (2001), SIAM J. Matrix Anal. Appl. 23; Kuczyński & Woźniakowski (1992)
    for the check.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> hessops.eigsh(np.diag(np.arange(-3.0, 9.0)), 2, rng=0).eigenvalues.round(6)
    array([8., 7.])
    """
    operator = self_adjoint_operator(A, "eigsh")
    space = operator.domain
    require_positive(k=k, block_size=block_size, max_basis=max_basis, max_steps=max_steps)
    block_size = min(block_size, space.dim)
    goal = eigsh_goal(operator, k, which, tol, block_size)
    # First of all that ranks do together.
    seed = agreed_seed(space, rng)
    limit = basis_limit([space], "pairs", k, block_size, max_basis)
    clock = time.perf_counter()
    search = _Search(operator, goal, limit, block_size, seed, max_steps or _MOST_STEPS, callback)
    outcome, checked = search.run(start, check_completeness=check_completeness)
    found = _wanted_pairs(operator, outcome.state, goal.wanted(outcome.state), verify)
    # Verified residuals carry the rounding of the product itself.
    status, converged = goal.verdict(
        outcome.state,
        found.residual_norms,
        rounding(space, outcome.state.size),
        outcome.reason,
        checked,
    )
    warn_if_failed(converged, status, space.comm)
    return EigenResult(
        eigenvalues=found.values,
        eigenvectors=found.vectors,
        residual_norms=found.residual_norms,
        error_bounds=found.error_bounds,
        num_products=outcome.state.num_products + (len(found.values) if verify else 0),
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
        rows_here=rows_here(space),
    )


@dataclass(frozen=True)
class _Search:
    """The runs of the engine: one to find the pairs, and others to look for what it missed."""

    operator: LinearOperator
    goal: Goal
    limit: int
    block_size: int
    seed: int
    max_steps: int
    callback: Callback | None

    def run(
        self, start: Array | None, *, check_completeness: bool
    ) -> tuple[Outcome[EigshState], str | None]:
        """Return the outcome and, if completeness was checked, what is known of it."""
        goal, space = self.goal, self.operator.domain
        stream = Stream(self.seed, Purpose.START)
        block = start_vector(space, start, stream)
        if self.block_size > 1:
            others = space.probes(stream, range(1, self.block_size), "normal")
            block = space.xp.concat([block, others], axis=1)
        outcome = self._run(block, 0, goal.stop)
        if not check_completeness:
            return outcome, None
        return checked(outcome, goal, self._check_again, self.max_steps)

    def _check_again(
        self, state: EigshState, attempt: int
    ) -> tuple[CompletenessCheck, Outcome[EigshState]]:
        space = self.operator.domain
        known = known_pairs(state, self.goal.wanted(state))
        check = CompletenessCheck(self.goal, known.values, space.dim, attempt)
        fresh = space.probes(self._stream(attempt), range(1), "normal")
        return check, self._run(fresh, attempt, check.stop, known)

    def _run(
        self,
        start: Array,
        attempt: int,
        stop: Callable[[EigshState], str | None],
        known: KnownPairs | None = None,
    ) -> Outcome[EigshState]:
        goal = self.goal
        # Who watches sees every step, on whatever rank.
        watched = any_together(self.operator.domain.comm, self.callback is not None, None)
        return run(
            eigsh_steps(
                self.operator,
                start,
                stream=self._stream(attempt),
                num_ends=goal.k + 1,
                tol=goal.tol,
                max_basis=self.limit,
                keep=partial(goal.select, count=kept(goal.k, self.limit, start.shape[1])),
                known=known,
                pace=None if watched or known is not None else Pace(goal, self.max_steps),
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
class _WantedPairs:
    """The eigenpairs of the result."""

    values: HostArray
    residual_norms: HostArray
    error_bounds: HostArray
    vectors: Array


def _wanted_pairs(
    operator: LinearOperator, state: EigshState, pairs: HostArray, verify: bool
) -> _WantedPairs:
    """Form the vectors of some Ritz pairs, and multiply them once more if asked."""
    vectors = state.basis.combined(operator.domain.from_host(state.coefficients[:, pairs]))
    values, residuals = state.values[pairs], state.residual_norms[pairs]
    if verify:
        values, residuals = verified_pairs(
            operator,
            vectors,
            values,
            num_products=state.num_products,
            size=state.size,
            method="Lanczos",
        )
    bounds = error_bounds(
        values,
        residuals,
        np.delete(state.values, pairs),
        np.delete(state.residual_norms, pairs),
        eps(operator.xp, operator.dtype),
    )
    return _WantedPairs(values, residuals, widened(bounds, operator, state.size), vectors)
