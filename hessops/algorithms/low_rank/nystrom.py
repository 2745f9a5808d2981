"""The Nyström approximation of a positive semidefinite operator, from one product with random vectors.

For any vectors Ω, A⟨Ω⟩ = A Ω (Ω^H A Ω)^+ (A Ω)^H has the rank of A Ω, agrees with A on Ω, and is
nowhere above A. It depends on the span of Ω alone, which is therefore kept as an orthonormal basis.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from hessops.agreement import agreed_seed, to_host, together_to_host
from hessops.algorithms._asymmetry import not_self_adjoint
from hessops.algorithms._common import self_adjoint_operator, warn_if_failed
from hessops.algorithms._one_line import one_line
from hessops.algorithms._precision import half_the_digits
from hessops.algorithms.low_rank._rank_plan import RankPlan
from hessops.algorithms.low_rank._sketch_error import ErrorProbes
from hessops.algorithms.low_rank.range_finder import orthonormal_remainder, product_in_blocks
from hessops.arrays import Array, HostArray, eps
from hessops.blocks.rounding import ROUNDINGS, rounding
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream
from hessops.record import Callback, run
from hessops.results.low_rank import NystromResult
from hessops.space import rows_here

__all__ = ["NystromState", "nystrom", "nystrom_steps"]


@dataclass(frozen=True)
class NystromState:
    """A basis and its product: all that the approximation A⟨Ω⟩ is made of.

    Parameters
    ----------
    step : int
        Blocks so far.
    num_products : int
        Columns multiplied so far.
    basis : array, shape (n, l)
        Ω, orthonormal: a basis of the span of all normal vectors G drawn so far.
    product : array, shape (n, l)
        A Ω.
    coefficients : numpy.ndarray, shape (l, w)
        Ω^H G, so that G = Ω (Ω^H G).
    """

    step: int
    num_products: int
    basis: Array
    product: Array
    coefficients: HostArray

    __repr__ = one_line


def nystrom(
    A: Any,
    rank: int | None = None,
    *,
    tol: float | None = None,
    max_rank: int | None = None,
    num_test_probes: int = 10,
    confidence: float = 0.99,
    block_size: int | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> NystromResult:
    """Approximate a positive semidefinite operator from one product with `rank` random vectors.

    Costs `rank` products, and `num_test_probes` more for the bound of the error.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Positive semidefinite, and declared to be.
    rank : int, optional
        Random vectors, and so the rank; or give `tol`.
    tol : float, optional
        Spectral error wanted, relative to the largest eigenvalue: the approximation grows block by
        block until it is reached.
    max_rank : int, optional
        With `tol`: random vectors at most; no limit but n where not given.
    num_test_probes : int
        Products with fresh random vectors, by which the error is bounded.
    confidence : float
        Probability that the bound of the spectral error holds.
    block_size : int, optional
        Columns multiplied at once. With `tol` it is also by how many columns the approximation
        grows, 16 where not given.
    rng : int, numpy.random.Generator or None
        Where random vectors come from.
    callback : callable, optional
        Called with every `NystromState`; returning True ends the run.

    Returns
    -------
    NystromResult
        Fewer than `rank` pairs where the operator has a lower rank, to rounding.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If `A` is not declared positive semidefinite, or its products show that it is not; or if an
        option is out of range.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached.

    Notes
    -----
    The expected trace of the error is at most 1 + k / (rank - k - 1) times that of the best
    approximation of rank k, for any k below rank - 1. Computed by the Cholesky factor of
    Ω^H (A + ν I) Ω with ν = eps ‖A Ω‖_F, which is taken off the eigenvalues; where there is none, by
    the eigenvalues of that matrix above rounding. An operator of rank r is recovered to rounding by a
    few vectors more than r; by just r, the shift comes out amplified. Beside the products, every block
    takes of the order of n l² operations with the l vectors there are.

    References
    ----------
    Tropp, Yurtsever, Udell & Cevher (2017), NeurIPS, for the shift; Frangella, Tropp & Udell (2023),
    SIAM J. Matrix Anal. Appl. 44(2); Tropp & Webber (2023), arXiv 2306.12418, for the bound; Epperly &
    Tropp (2024), SIAM J. Sci. Comput. 46(3), for leaving one out.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = hessops.Diagonal(0.1 ** np.arange(20.0))
    >>> result = hessops.nystrom(A, 5, rng=0)
    >>> result.eigenvalues[:3].round(4)
    array([1.  , 0.1 , 0.01])
    >>> result.num_products
    15
    """
    clock = time.perf_counter()
    operator = self_adjoint_operator(A, "nystrom")
    if not operator.structure.positive_semidefinite:
        raise ValueError(
            f"nystrom needs a positive semidefinite operator and {operator} is not known to be: if "
            "it is, say aslinearoperator(..., positive_semidefinite=True); if not, use "
            "randomized_eigh"
        )
    plan = RankPlan.checked(
        operator,
        name="rank",
        rank=rank,
        tol=tol,
        max_rank=max_rank,
        oversampling=0,
        num_test_probes=num_test_probes,
        confidence=confidence,
        block_size=block_size,
    )
    seed = agreed_seed(operator.domain, rng)
    stream = Stream(seed, Purpose.SKETCH)
    search = _Search(operator, plan, stream)
    outcome = run(
        nystrom_steps(
            operator,
            stream=stream,
            width=plan.width,
            max_columns=plan.max_columns,
            block_size=plan.block_size,
        ),
        space=operator.domain,
        stop=search.stop,
        row=search.row,
        callback=callback,
    )
    state, found = outcome.state, search.found
    status, converged = plan.judged(
        len(found.values),
        state.basis.shape[1],
        search.spectral,
        math.nan,
        found.scale,
        outcome.reason,
    )
    warn_if_failed(converged, status, operator.domain.comm)
    return NystromResult(
        eigenvalues=found.values,
        eigenvectors=found.vectors,
        shift=found.shift,
        shape=operator.shape,
        spectral_bound=search.spectral,
        confidence=plan.confidence if plan.num_test_probes else math.nan,
        error=found.left_out,
        error_norm="nuclear",
        error_kind="exact" if state.basis.shape[1] == operator.shape[0] else "leave-one-out",
        num_products=state.num_products + plan.num_test_probes,
        status=status,
        converged=converged,
        history=plan.with_test_products(outcome.history),
        seed=seed,
        seconds=time.perf_counter() - clock,
        rows_here=rows_here(operator.domain),
    )


def nystrom_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    width: int,
    max_columns: int,
    block_size: int | None = None,
) -> Iterator[NystromState]:
    """Yield a growing random basis and its products; end when it has as many columns as asked for.

    Parameters
    ----------
    A : LinearOperator
        Positive semidefinite.
    stream : Stream
        Where the random vectors come from.
    width : int
        Columns of a block.
    max_columns : int
        Columns of the basis at most.
    block_size : int, optional
        Columns multiplied at once; all of a block where not given.

    Yields
    ------
    NystromState
        One product further with every column of a block.
    """
    space, xp = A.domain, A.xp
    basis, product = space.zeros(0), space.zeros(0)
    coefficients = np.zeros((0, 0))
    step, drawn = 0, 0
    while drawn < max_columns:
        count = min(width, max_columns - drawn)
        G = space.probes(stream, range(drawn, drawn + count), "normal")
        fresh = orthonormal_remainder(space, basis, G)
        made = product_in_blocks(A, A.apply, space, fresh, basis.shape[1], block_size)
        above = np.zeros((fresh.shape[1], drawn))
        basis = xp.concat([basis, fresh], axis=1)
        product = xp.concat([product, made], axis=1)
        coefficients = np.hstack(
            [np.vstack([coefficients, above]), _wide(to_host(space, space.gram(basis, G)))]
        )
        drawn, step = drawn + count, step + 1
        yield NystromState(step, basis.shape[1], basis, product, coefficients)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Eigenpairs of the approximation, the largest ever seen, and the trace of the error."""

    values: HostArray
    vectors: Array
    scale: float
    shift: float
    left_out: float


class _Search:
    """What a run looks at, and when it stops."""

    def __init__(self, operator: LinearOperator, plan: RankPlan, stream: Stream) -> None:
        self.operator, self.plan = operator, plan
        self.spectral = math.nan
        self.found: _Found
        self._probes: ErrorProbes | None = None
        if plan.num_test_probes:
            self._probes = ErrorProbes.drawn(
                operator, stream.for_term(1), plan.num_test_probes, plan.block_size
            )

    def row(self, state: NystromState) -> tuple[float, float]:
        """Judge a state: the largest eigenvalue, and the bound of the error."""
        space = self.operator.domain
        self.found = found = _factored(self.operator, state)
        if self._probes is not None:
            scaled = found.vectors * space.from_host(found.values)
            own = self._probes.bound(
                lambda X, product: product - scaled @ space.coefficients(
                    space.gram(found.vectors, X)
                ),
                self.plan.failure(state.step),
            )  # fmt: skip
            self.spectral = own + rounding(space, found.scale)
        return found.scale, self.spectral

    def stop(self, _state: NystromState) -> str | None:
        """Stop when the bound of the spectral error is small enough."""
        tol = self.plan.tol
        small = tol is not None and self.spectral <= tol * self.found.scale
        return "converged" if small else None


def _factored(operator: LinearOperator, state: NystromState) -> _Found:
    """Return the eigenpairs of the approximation by small matrices in double precision."""
    space, Y = operator.domain, state.product
    squares, gram = together_to_host(
        space, space.column_norms_squared(Y), space.gram(state.basis, Y)
    )
    size = math.sqrt(float(np.sum(squares)))
    if size == 0:
        return _Found(
            values=np.zeros(0), vectors=space.zeros(0), scale=0.0, shift=0.0, left_out=0.0
        )
    # ‖Y‖_F / sqrt(n) for normal vectors, which are sqrt(n) longer.
    shift = eps(space.xp, space.dtype) * size
    core = _semidefinite(operator, _wide(gram), size)
    Y = Y + shift * state.basis
    Q = orthonormal_remainder(space, space.zeros(0), Y)
    R = _wide(to_host(space, space.gram(Q, Y)))
    left, roots, left_out = space.comm.broadcast(_small(core, R, state.coefficients, shift))
    if len(core) == space.dim:  # nothing is left to err about
        left_out = 0.0
    values = np.maximum(roots**2 - shift, 0.0)
    kept = values > rounding(space, float(np.max(values, initial=0.0)))
    return _Found(
        values=values[kept],
        vectors=Q @ space.from_host(left[:, kept]),
        scale=float(np.max(values, initial=0.0)),
        shift=shift,
        left_out=max(left_out, rounding(space, float(np.sum(values)))),
    )


def _small(
    core: HostArray, R: HostArray, coefficients: HostArray, shift: float
) -> tuple[HostArray, HostArray, float]:
    """Return the singular vectors and values of the approximation's root, and its left-out trace."""
    shifted = core + shift * np.eye(len(core))
    eigenvalues, vectors = np.linalg.eigh(shifted)
    try:
        root = solve_triangular(np.linalg.cholesky(shifted), R.conj().T, lower=True).conj().T
    except np.linalg.LinAlgError:
        # Of fewer vectors, of which the approximation is as far from above A as of all.
        sound = eigenvalues > ROUNDINGS * shift
        root = R @ (vectors[:, sound] / np.sqrt(eigenvalues[sound]))
    left, roots, _ = np.linalg.svd(root, full_matrices=False)
    inverse_root = vectors / np.sqrt(np.maximum(eigenvalues, shift))
    return left, roots, _left_out_trace(coefficients, inverse_root)


def _left_out_trace(coefficients: HostArray, inverse_root: HostArray) -> float:
    """Return the trace of the error by the basis' own random vectors, without a product.

    g_j^H (A - A⟨G_j⟩) g_j, with all random vectors but g_j, is an unbiased estimate of the mean trace
    of the error from one vector less, and 1 / [(G^H A G)^-1]_jj (Epperly, Tropp & Webber 2024).
    """
    if coefficients.shape[0] < coefficients.shape[1]:
        return 0.0
    try:
        rows = np.linalg.solve(coefficients, inverse_root)
    except np.linalg.LinAlgError:
        return 0.0
    return float(np.mean(1 / np.sum(np.abs(rows) ** 2, axis=1)))


def _semidefinite(operator: LinearOperator, core: HostArray, size: float) -> HostArray:
    """Return the Hermitian part of Ω^H A Ω, or say what the products show A not to be."""
    allowed = half_the_digits(operator) * size
    asymmetry = float(np.max(np.abs(core - core.conj().T)))
    if asymmetry > allowed:
        raise not_self_adjoint(operator, asymmetry, size)
    core = (core + core.conj().T) / 2
    smallest = float(np.linalg.eigvalsh(core)[0])
    if smallest < -allowed:
        raise ValueError(
            f"{operator} is declared positive semidefinite, but <x, A x> = {smallest:.3g} for a unit "
            f"vector x, at a scale of {size:.3g}; use randomized_eigh"
        )
    return core


def _wide(host: HostArray) -> HostArray:
    return host.astype(np.complex128 if np.iscomplexobj(host) else np.float64)
