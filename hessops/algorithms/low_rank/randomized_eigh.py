"""The dominant eigenpairs of a self-adjoint operator, by products with random blocks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from hessops.agreement import agreed_seed
from hessops.algorithms._common import self_adjoint_operator, warn_if_failed
from hessops.algorithms.eigen._rayleigh_ritz import rayleigh_ritz
from hessops.algorithms.low_rank._range_search import Leak, RangeSearch
from hessops.algorithms.low_rank._rank_plan import RankPlan, require_not_negative
from hessops.algorithms.low_rank._sketch_error import block_norms, outside_of
from hessops.algorithms.low_rank.range_finder import RangeState
from hessops.operator import LinearOperator
from hessops.random import RandomState
from hessops.record import Callback
from hessops.results.low_rank import LowRankEigen
from hessops.space import rows_here

__all__ = ["randomized_eigh"]


def randomized_eigh(
    A: Any,
    k: int | None = None,
    *,
    tol: float | None = None,
    max_rank: int | None = None,
    oversampling: int = 10,
    power_steps: int = 1,
    num_test_probes: int | None = None,
    confidence: float = 0.99,
    frobenius_norm: float | None = None,
    block_size: int | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> LowRankEigen:
    """Compute `k` eigenpairs of largest modulus, or as many as a tolerance takes.

    Costs ``(k + oversampling) * (2 * power_steps + 2)`` products, and `num_test_probes` more for the
    bound of the error. It makes few wide products where `eigsh`, more accurate, makes many with
    single vectors.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint, of shape (n, n).
    k : int, optional
        Rank wanted; or give `tol`.
    tol : float, optional
        Spectral error wanted, relative to the largest singular value; Frobenius error relative to
        `frobenius_norm`, where that is given. The basis grows block by block until it is reached, and
        the smallest rank is returned that keeps it.
    max_rank : int, optional
        With `tol`: vectors in the basis at most; no limit but n where not given.
    oversampling : int
        With `k`: vectors in the basis beyond `k`.
    power_steps : int
        Steps with A² for every block; they bring out large eigenvalues where the others do not fall
        off fast.
    num_test_probes : int, optional
        Products with fresh random vectors, by which the error is bounded; 10 where not given, none
        where `frobenius_norm` is.
    confidence : float
        Probability that the bound of the spectral error holds.
    frobenius_norm : float, optional
        ‖A‖_F, if known: the Frobenius error then is, too.
    block_size : int, optional
        Columns multiplied at once. With `tol` it is also by how many columns the basis grows, 16
        where not given.
    rng : int, numpy.random.Generator or None
        Where random vectors come from.
    callback : callable, optional
        Called with every `RangeState`; returning True ends the run.

    Returns
    -------
    LowRankEigen
        Fewer than `k` pairs where the operator has a lower rank, to rounding.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If an option is out of range, or `frobenius_norm` turns out too small.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached.

    Notes
    -----
    With P = Q Q^H, C = (I - P) A P and e = ‖(I - P) A‖_2, the error of P A P is at most
    sqrt(e² + ‖C‖_2²), of which C is known from the products made: never more than the 2 e of the
    reference.

    References
    ----------
    Halko, Martinsson & Tropp (2011), SIAM Review 53(2), section 5.3.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = np.diag((-0.5) ** np.arange(30.0))
    >>> result = hessops.randomized_eigh(A, 3, rng=0)
    >>> result.eigenvalues.round(6)
    array([ 1.  , -0.5 ,  0.25])
    """
    clock = time.perf_counter()
    operator = self_adjoint_operator(A, "randomized_eigh")
    require_not_negative(power_steps=power_steps)
    plan = RankPlan.checked(
        operator,
        name="k",
        rank=k,
        tol=tol,
        max_rank=max_rank,
        oversampling=oversampling,
        num_test_probes=num_test_probes,
        confidence=confidence,
        block_size=block_size,
        norm=frobenius_norm,
    )
    seed = agreed_seed(operator.domain, rng)
    search = RangeSearch(operator, plan, power_steps, seed, _leak_of(operator))
    outcome = search.run(callback)
    state = outcome.state
    values, residuals, vectors = np.zeros(0), np.zeros(0), state.Q
    if state.Q.shape[1]:
        values, residuals, vectors, _ = rayleigh_ritz(
            operator, state.Q, state.adjoint_product, state.num_products
        )
    verdict = search.verdict(outcome, values)
    kept = slice(0, verdict.kept)
    warn_if_failed(verdict.converged, verdict.status, operator.domain.comm)
    return LowRankEigen(
        eigenvalues=values[kept],
        eigenvectors=vectors[:, kept],
        residual_norms=residuals[kept],
        shape=operator.shape,
        spectral_bound=verdict.spectral_bound,
        confidence=verdict.confidence,
        error=verdict.error,
        error_norm="Frobenius",
        error_kind=verdict.error_kind,
        num_products=state.num_products + plan.num_test_probes,
        status=verdict.status,
        converged=verdict.converged,
        history=outcome.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
        rows_here=rows_here(operator.domain),
    )


def _leak_of(operator: LinearOperator) -> Leak:
    """Return what makes the norms of (I - P) A P, which P A P lacks beside (I - P) A."""
    space = operator.domain

    def leak(state: RangeState) -> tuple[float, float]:
        return block_norms(space, outside_of(space, state.Q, state.adjoint_product))

    return leak
