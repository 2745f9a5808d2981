"""The dominant singular values and vectors of any operator, by products with random blocks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from hessops.agreement import agreed_seed, to_host
from hessops.algorithms._common import warn_if_failed
from hessops.algorithms.low_rank._range_search import RangeSearch
from hessops.algorithms.low_rank._rank_plan import RankPlan, require_not_negative
from hessops.algorithms.low_rank.range_finder import RangeState, orthonormal_remainder
from hessops.arrays import HostArray
from hessops.operator import LinearOperator
from hessops.random import RandomState
from hessops.record import Callback
from hessops.results.low_rank import LowRankSVD
from hessops.space import rows_here
from hessops.wrap import aslinearoperator

__all__ = ["randomized_svd"]


def randomized_svd(
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
) -> LowRankSVD:
    """Compute `k` singular triplets of largest singular value, or as many as a tolerance takes.

    Costs ``(k + oversampling) * (2 * power_steps + 2)`` products, half of them with the adjoint, and
    `num_test_probes` more for the bound of the error.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Of any shape (m, n), real or complex, with an adjoint.
    k : int, optional
        Rank wanted; or give `tol`.
    tol : float, optional
        Spectral error wanted, relative to the largest singular value; Frobenius error relative to
        `frobenius_norm`, where that is given. The basis grows block by block until it is reached, and
        the smallest rank is returned that keeps it.
    max_rank : int, optional
        With `tol`: vectors in the basis at most; no limit but the shape where not given.
    oversampling : int
        With `k`: vectors in the basis beyond `k`.
    power_steps : int
        Steps with A A^H for every block; they bring out large singular values where the others do
        not fall off fast.
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
    LowRankSVD
        Fewer than `k` triplets where the operator has a lower rank, to rounding.

    Raises
    ------
    ValueError
        If an option is out of range, or `frobenius_norm` turns out too small.
    NotImplementedError
        If `A` has no adjoint.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached.

    Notes
    -----
    With p = `oversampling` and no power steps, the basis Q alone has in expectation at most
    1 + k / (p - 1) times the smallest squared Frobenius error of any rank-k approximation.

    References
    ----------
    Halko, Martinsson & Tropp (2011), SIAM Review 53(2); Yu, Gu & Li (2018), SIAM J. Matrix Anal.
    Appl. 39(3), for the error by ‖A‖_F; Epperly & Tropp (2024), SIAM J. Sci. Comput. 46(3), for
    leaving one out.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = np.diag(0.5 ** np.arange(30.0))[:, :20]
    >>> result = hessops.randomized_svd(A, 3, rng=0)
    >>> result.S.round(6)
    array([1.  , 0.5 , 0.25])
    >>> result.num_products
    62
    """
    clock = time.perf_counter()
    operator = aslinearoperator(A)
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
    search = RangeSearch(operator, plan, power_steps, seed, lambda _state: (0.0, 0.0))
    outcome = search.run(callback)
    state = outcome.state
    left, values, right, P = _decomposed(operator, state)
    verdict = search.verdict(outcome, values)
    kept = slice(0, verdict.kept)
    warn_if_failed(verdict.converged, verdict.status, operator.domain.comm)
    return LowRankSVD(
        U=state.Q @ operator.codomain.from_host(left[:, kept]),
        S=values[kept],
        V=P @ operator.domain.from_host(right[:, kept]),
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


def _decomposed(
    operator: LinearOperator, state: RangeState
) -> tuple[HostArray, HostArray, HostArray, Any]:
    """Return W, S, X on the host and P such that Q B = (Q W) diag(S) (P X)^H."""
    domain, Z = operator.domain, state.adjoint_product
    P = orthonormal_remainder(domain, domain.zeros(0), Z)
    R = to_host(domain, domain.gram(P, Z))
    R = R.astype(np.complex128 if np.iscomplexobj(R) else np.float64)
    # A^H Q = P R = P X S W^H. Decomposed once, as ranks that rounded differently would turn their
    # parts of a vector apart.
    X, values, W = domain.comm.broadcast(np.linalg.svd(R, full_matrices=False))
    return W.conj().T, values, X, P
