"""A few eigenpairs at the ends of the spectrum by Lanczos with full reorthogonalisation.

After k steps each Ritz pair (θ, x = Q s) has the residual norm ‖A x - θ x‖ = β_k |s_k|, known without
a product. It is looked at after every step, so the run ends as soon as the pairs asked for are there.

A Krylov space holds one copy of each eigenvalue. When it is exhausted, the run goes on from a new
random vector orthogonal to it, until a fresh Krylov space brings nothing new to the pairs wanted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy.linalg import block_diag

from hessops.algorithms._common import (
    require_positive,
    self_adjoint_operator,
    start_vector,
    warn_if_failed,
)
from hessops.algorithms._end_pairs import EndPairs, end_pairs
from hessops.algorithms.lanczos import lanczos_steps
from hessops.arrays import Array, HostArray, eps, numpy_dtype, to_numpy
from hessops.basis import Basis
from hessops.eigenpairs import EigenResult, error_bounds
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream, seed_from
from hessops.record import Callback, run
from hessops.rounding import rounding
from hessops.space import Space

__all__ = ["EigshState", "Which", "eigsh", "eigsh_steps"]

Which = Literal["LM", "LA", "SA", "BE"]

_LOOSE = 1e-4
_BASIS_BYTES = 2**30
_MIN_STEPS, _MAX_STEPS = 100, 2000


@dataclass(frozen=True)
class EigshState:
    """The Ritz pairs at both ends of the spectrum after some number of products.

    Parameters
    ----------
    step : int
        Products with single vectors so far.
    num_products : int
        The same.
    values : numpy.ndarray, shape (r,)
        Ritz values: the outermost of every Krylov space.
    residual_norms : numpy.ndarray, shape (r,)
        Of each, by the Lanczos identity.
    coefficients : numpy.ndarray, shape (step, r)
        Column i holds Ritz vector i in the basis.
    lengths : tuple of int
        Dimensions of the Krylov spaces so far, the current one last.
    exhausted : bool
        Whether the current one is invariant.
    blurred : bool
        Whether a residual of the current one has lost half its digits to rounding, which then
        brings in copies of multiple eigenvalues, some of them and not others.
    basis : Basis
        Its and the earlier spaces' vectors.
    """

    step: int
    num_products: int
    values: HostArray
    residual_norms: HostArray
    coefficients: HostArray
    lengths: tuple[int, ...]
    exhausted: bool
    blurred: bool
    basis: Basis


def eigsh(
    A: Any,
    k: int = 6,
    *,
    which: Which = "LM",
    tol: float | None = None,
    max_steps: int | None = None,
    start: Array | None = None,
    verify: bool = True,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> EigenResult:
    """Compute `k` eigenpairs at the ends of the spectrum of a self-adjoint operator.

    Costs one product a step, as many steps as convergence takes, and `k` more to verify the
    residuals. All basis vectors are kept.

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
        operator's precision where not given (3.7e-11 in float64, 2.4e-5 in float32).
    max_steps : int, optional
        Most steps; where not given, as many as fit a gigabyte, but at least 100 + 10 k and at most
        2000 + 10 k.
    start : array, shape (n,), optional
        Start vector, random where not given.
    verify : bool
        Multiply the computed eigenvectors once more (one block of `k` products) and report the
        residual norms so found instead of those of the Lanczos identity.
    rng : int, numpy.random.Generator or None
        Where start vectors come from.
    callback : callable, optional
        Called with every `EigshState`; returning True ends the run.

    Returns
    -------
    EigenResult
        Sorted by decreasing modulus for 'LM', decreasing for 'LA', increasing for 'SA' and 'BE'.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If an option is out of range.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If some residual norm is above the tolerance.

    Notes
    -----
    Until its Krylov space is exhausted, a single start vector sees one copy of a multiple
    eigenvalue; the others may be missing from the result.

    References
    ----------
    Parlett (1998), The Symmetric Eigenvalue Problem, chapter 13.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> hessops.eigsh(np.diag(np.arange(-3.0, 9.0)), 2, rng=0).eigenvalues.round(6)
    array([8., 7.])
    """
    operator = self_adjoint_operator(A, "eigsh")
    goal = _goal(operator, k, which, tol, max_steps)
    seed = seed_from(rng)
    clock = time.perf_counter()
    outcome = run(
        eigsh_steps(
            operator,
            start_vector(operator.domain, start, Stream(seed, Purpose.START)),
            stream=Stream(seed, Purpose.RESTART),
            num_ends=k + 1,
            tol=goal.tol,
        ),
        space=operator.domain,
        stop=goal.stop,
        row=goal.row,
        max_steps=min(operator.domain.dim, max_steps or _default_steps(operator.domain, k)),
        callback=callback,
    )
    found = _wanted_pairs(operator, outcome.state, goal.wanted(outcome.state), verify)
    status, converged = goal.verdict(outcome.state, found.residual_norms, outcome.reason)
    warn_if_failed(converged, status)
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
    )


def eigsh_steps(
    A: LinearOperator, start: Array, *, stream: Stream, num_ends: int, tol: float = 0.0
) -> Iterator[EigshState]:
    """Yield the outermost Ritz pairs after every product; end when the basis fills the space.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    start : array, shape (n, 1)
        Start vector.
    stream : Stream
        Where new start vectors come from, once a Krylov space is exhausted.
    num_ends : int
        Pairs to look at from each end of each Krylov space.
    tol : float
        A Krylov space whose residual norm is a quarter of that, relative to the scale, is exhausted:
        all its pairs have converged.

    Yields
    ------
    EigshState
        One product further.
    """
    space = A.domain
    basis = Basis(space, 1)
    finished: list[EndPairs] = []
    scale = 0.0
    # The scale is up to three times the largest Ritz value; and a loose tolerance must not end a
    # space that has yet to see the spectrum.
    half_the_digits = math.sqrt(eps(A.xp, A.dtype))
    breakdown = min(tol / 4, half_the_digits)
    while True:
        blurred = False
        for state in lanczos_steps(A, start, basis=basis, scale=scale, breakdown=breakdown):
            scale = state.scale
            blurred = blurred or state.residual_norm() <= half_the_digits * scale
            current = end_pairs(state, num_ends)
            yield _combined([*finished, current], not state.alive[0], blurred, basis)
        finished.append(current)
        if basis.size >= space.dim:
            return
        start = space.probes(stream, range(len(finished), len(finished) + 1), "normal")
        for _ in range(2):
            start, _coefficients = basis.project(start)


def _goal(
    operator: LinearOperator, k: int, which: Which, tol: float | None, max_steps: int | None
) -> _Goal:
    """Return what is wanted, or say which option is out of range."""
    require_positive(k=k, max_steps=max_steps)
    if which not in get_args(Which):
        raise ValueError(f"which={which!r} is unknown; choose one of {', '.join(get_args(Which))}")
    if k > operator.domain.dim:
        raise ValueError(
            f"k={k} eigenpairs asked of an operator of dimension {operator.domain.dim}"
        )
    tol = eps(operator.xp, operator.dtype) ** (2 / 3) if tol is None else tol
    if not tol > 0:
        raise ValueError(f"tol={tol} must be positive")
    return _Goal(k, which, tol)


class _Goal:
    """Which pairs are wanted, when they are there, and what to claim of them."""

    def __init__(self, k: int, which: Which, tol: float) -> None:
        self.k, self.which, self.tol = k, which, tol
        self._before: HostArray | None = None
        self._complete = False

    def wanted(self, state: EigshState) -> HostArray:
        """Return the indices of the wanted Ritz pairs, in the order of the result."""
        values = state.values
        ascending = np.argsort(values, kind="stable")
        if self.which == "LM":
            return np.argsort(-np.abs(values), kind="stable")[: self.k]
        if self.which == "LA":
            return ascending[::-1][: self.k]
        if self.which == "SA":
            return ascending[: self.k]
        low = min(self.k // 2, len(values))
        high = ascending[low:][max(0, len(values) - low - (self.k - self.k // 2)) :]
        return np.concatenate([ascending[:low], high])

    def stop(self, state: EigshState) -> str | None:
        """Stop when the wanted pairs have converged and a fresh Krylov space adds none."""
        pairs = self.wanted(state)
        if len(pairs) < self.k:
            return None
        *earlier, current = state.lengths
        if state.exhausted:
            # The space may lack copies of multiple eigenvalues: hold it against the one before.
            values, before = np.sort(state.values[pairs]), self._before
            self._before = values
            near = self._allowed(state)
            self._complete = before is not None and np.allclose(values, before, rtol=0, atol=near)
        if np.any(state.residual_norms[pairs] > self._allowed(state)):
            return None
        # From a random start, later Krylov spaces are no longer than the first, but for what rounding
        # adds. One that is says that the start was special, and counts as the first.
        first = not earlier or current > 2 * max(earlier) + 10
        return "converged" if self._complete or (first and not state.blurred) else None

    def row(self, state: EigshState) -> tuple[float, float]:
        """Return the leading wanted Ritz value and the largest residual norm of the wanted."""
        pairs = self.wanted(state)
        return float(state.values[pairs[0]]), float(np.max(state.residual_norms[pairs]))

    def verdict(
        self, state: EigshState, residuals: HostArray, reason: str | None
    ) -> tuple[str, bool]:
        """Return the status sentence and whether all residual norms are small enough."""
        allowed = self._allowed(state)
        # Verified residuals carry the rounding of the product itself.
        size = float(np.max(np.abs(state.values)))
        reached = residuals <= allowed + rounding(state.basis.space, size)
        cost = f"{state.num_products} steps"
        filled = state.step >= state.basis.space.dim
        if bool(np.all(reached)) and len(residuals) == self.k:
            if self._complete or filled:
                return f"converged in {cost}; no copies of multiple eigenvalues are missing", True
            missed = "a multiple eigenvalue would appear once"
            if self.tol > _LOOSE:
                missed += ", and at so loose a tolerance any may have been passed over"
            return f"converged in {cost}; {missed}", True
        stopped = "" if reason in {None, "converged"} else f"{reason}; "
        return (
            f"{stopped}{int(np.sum(reached))} of {self.k} pairs converged in {cost}: the largest "
            f"residual norm is {residuals.max():.3g}, asked for {allowed:.3g}; raise max_steps or tol"
        ), False

    def _allowed(self, state: EigshState) -> float:
        return self.tol * float(np.max(np.abs(state.values)))


def _combined(spaces: list[EndPairs], exhausted: bool, blurred: bool, basis: Basis) -> EigshState:
    lengths = tuple(space.length for space in spaces)
    return EigshState(
        sum(lengths),
        sum(lengths),
        np.concatenate([space.values for space in spaces]),
        np.concatenate([space.residual_norms for space in spaces]),
        block_diag(*(space.vectors for space in spaces)),
        lengths,
        exhausted,
        blurred,
        basis.snapshot(),
    )


def _default_steps(space: Space, k: int) -> int:
    vector_bytes = max(space.local_dim, 1) * numpy_dtype(space.dtype).itemsize
    return min(max(_BASIS_BYTES // vector_bytes, _MIN_STEPS), _MAX_STEPS) + 10 * k


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
        values, residuals = _verified(operator, vectors)
    bounds = error_bounds(
        values,
        residuals,
        np.delete(state.values, pairs),
        np.delete(state.residual_norms, pairs),
        eps(operator.xp, operator.dtype),
    )
    return _WantedPairs(values, residuals, bounds, vectors)


def _verified(operator: LinearOperator, vectors: Array) -> tuple[HostArray, HostArray]:
    """Return Rayleigh quotients and true residual norms of approximate eigenvectors."""
    space = operator.domain
    product = operator.apply(vectors)
    values = np.real(to_numpy(space.column_inner(vectors, product)))
    residual = product - vectors * space.from_host(values)
    return values, np.sqrt(to_numpy(space.column_norms_squared(residual)))
