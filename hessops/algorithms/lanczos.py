"""The Lanczos recurrence (Lanczos 1950; Paige 1971) for one or many start vectors in lock-step.

After k steps from a unit vector q_1, the columns of Q = [q_1 ... q_k] are orthonormal and

    A Q = Q T + r e_k^T,   T = tridiag(betas, alphas, betas),   r orthogonal to Q.

Many start vectors share each product but keep a recurrence each: that is what stochastic Lanczos
quadrature wants, one wide product a step. One reduction a step gives alpha and one beta; full
reorthogonalisation adds one, by two passes of classical Gram-Schmidt ("twice is enough").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.algorithms._common import (
    require_positive,
    self_adjoint_operator,
    start_norms,
    start_vector,
)
from hessops.arrays import Array, HostArray, eps, is_complex, to_numpy
from hessops.basis import Basis
from hessops.errors import NotSelfAdjointError
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream, seed_from
from hessops.record import Callback, require_finite, run
from hessops.result import Result

__all__ = ["LanczosResult", "LanczosState", "lanczos", "lanczos_steps"]

# A residual this many roundings of the operator's scale small is rounding: the space is exhausted.
_BREAKDOWN = 32


@dataclass(frozen=True)
class LanczosState:
    """The recurrences after k steps; column j satisfies ``A Q = Q T + betas[-1, j] q e_k^T``.

    Parameters
    ----------
    step : int
        The number k of steps taken.
    num_products : int
        Columns multiplied so far.
    alphas : numpy.ndarray, shape (k, m)
        Diagonals of the m tridiagonal matrices, float64 on the host.
    betas : numpy.ndarray, shape (k, m)
        Off-diagonals; the last row holds the norms of the residuals r.
    lengths : numpy.ndarray, shape (m,)
        Steps until each recurrence ended because its Krylov space was exhausted; k if it goes on.
    alive : numpy.ndarray, shape (m,)
        Which recurrences go on.
    scale : float
        Largest absolute row sum of T seen: the size of the operator.
    rounding : float
        What is rounding at that size, in the operator's precision.
    residual : array, shape (n, m)
        The vectors r.
    basis : Basis or None
        The vectors Q, if kept.
    """

    step: int
    num_products: int
    alphas: HostArray
    betas: HostArray
    lengths: HostArray
    alive: HostArray
    scale: float
    rounding: float
    residual: Array
    basis: Basis | None

    def tridiagonal(self, column: int = 0) -> tuple[HostArray, HostArray]:
        """Return the diagonal and off-diagonal of one recurrence's T."""
        length = int(self.lengths[column])
        return self.alphas[:length, column], self.betas[: length - 1, column]

    def residual_norm(self, column: int = 0) -> float:
        """Return ‖r‖ of one recurrence; 0 once its Krylov space is exhausted."""
        return float(self.betas[-1, column]) if self.alive[column] else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class LanczosResult(Result):
    """A Lanczos tridiagonalisation ``A Q = Q T + residual_norm * q e_k^T``.

    Parameters
    ----------
    alphas : numpy.ndarray, shape (k,)
        Diagonal of T.
    betas : numpy.ndarray, shape (k - 1,)
        Off-diagonal of T.
    residual_norm : float
        Norm of what the Krylov space lacks to be invariant.
    basis : array, shape (n, k), or None
        Q, in the operator's library, if kept.
    """

    alphas: HostArray
    betas: HostArray
    residual_norm: float
    basis: Array | None = field(metadata={"long": True}, repr=False)

    def ritz(self) -> tuple[HostArray, HostArray]:
        """Return the Ritz values, ascending, and their residual norms, both (k,)."""
        values, vectors = eigh_tridiagonal(self.alphas, self.betas)
        return values, self.residual_norm * np.abs(vectors[-1])

    def __str__(self) -> str:
        values, _ = self.ritz()
        return (
            f"Lanczos: {len(self.alphas)} steps, Ritz values in [{values[0]:.6g}, "
            f"{values[-1]:.6g}], residual norm {self.residual_norm:.2g} ({self._cost()})"
        )


def lanczos(
    A: Any,
    *,
    num_steps: int,
    start: Array | None = None,
    reorthogonalize: bool = True,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> LanczosResult:
    """Tridiagonalise a self-adjoint operator by `num_steps` products.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    num_steps : int
        Steps to take; fewer are taken if the Krylov space is exhausted before.
    start : array, shape (n,), optional
        Start vector; random (normal) where not given.
    reorthogonalize : bool
        Keep the basis and orthogonalise every vector against all before it, twice. Without it
        nothing is kept, the cost per step stays constant, and the basis slowly loses orthogonality:
        quadrature survives that, counting eigenvalues does not (copies, "ghosts", appear).
    rng : int, numpy.random.Generator or None
        Where a random start vector comes from.
    callback : callable, optional
        Called with every `LanczosState`; returning True ends the run.

    Returns
    -------
    LanczosResult
        T, the basis if kept, the residual norm, cost.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If `num_steps` is no positive integer or the start vector is zero or of the wrong shape.
    NonFiniteError
        If a product holds NaN or infinity.

    References
    ----------
    Lanczos (1950), J. Res. NBS 45; Giraud, Langou, Rozložník & van den Eshof (2005), Numer. Math.
    101 (two passes).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> result = hessops.lanczos(np.diag([1.0, 2.0, 2.0, 5.0]), num_steps=10, rng=0)
    >>> result.ritz()[0].round(8)
    array([1., 2., 5.])
    """
    operator = self_adjoint_operator(A, "lanczos")
    require_positive(num_steps=num_steps)
    seed = seed_from(rng)
    space = operator.domain
    block = start_vector(space, start, Stream(seed, Purpose.START))
    states = lanczos_steps(
        operator, block, reorthogonalize=reorthogonalize, capacity=min(num_steps, space.dim)
    )
    outcome = run(
        states,
        space=space,
        stop=lambda _: None,
        max_steps=num_steps,
        callback=callback,
        row=lambda state: (state.alphas[-1, 0], state.residual_norm()),
    )
    state = outcome.state
    alphas, betas = state.tridiagonal()
    exhausted = not state.alive[0]
    status = outcome.reason or f"took all {state.step} steps asked for"
    if exhausted:
        status = f"the Krylov space is exhausted after {state.step} steps: T holds its eigenvalues"
    return LanczosResult(
        alphas=alphas,
        betas=betas,
        residual_norm=state.residual_norm(),
        basis=None if state.basis is None else state.basis.vectors(),
        num_products=state.num_products,
        status=status,
        converged=True,
        history=outcome.history,
        seed=seed,
        seconds=outcome.seconds,
    )


def lanczos_steps(
    A: LinearOperator,
    start: Array,
    *,
    reorthogonalize: bool = True,
    basis: Basis | None = None,
    scale: float = 0.0,
    breakdown: float = 0.0,
    capacity: int = 16,
) -> Iterator[LanczosState]:
    """Yield the state of m Lanczos recurrences in lock-step; end when all are exhausted.

    One product with m columns a step, and one synchronisation of a device.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    start : array, shape (n, m)
        Start vectors; they need no particular norm.
    reorthogonalize : bool
        Keep the bases, and orthogonalise against them twice a step.
    basis : Basis, optional
        Vectors of an earlier run (of an invariant subspace) to stay orthogonal to; extended in
        place. `start` must be orthogonal to them.
    scale : float
        Size of the operator as the earlier run saw it: within a null space, everything is rounding.
    breakdown : float
        A Krylov space is exhausted once its residual norm is this small, relative to the scale; at
        least 32 roundings of the operator's precision.
    capacity : int
        Steps to make room for at first.

    Yields
    ------
    LanczosState
        One step further.

    Raises
    ------
    ValueError
        If a start vector is zero or not finite.
    NotSelfAdjointError
        If products show that the operator is not self-adjoint (seen by reorthogonalisation, and
        wherever there are several start vectors).
    """
    space = A.domain
    count = start.shape[1]
    if reorthogonalize and basis is None:
        basis = Basis(space, count, capacity)
    deflated = basis.size if basis is not None else 0
    recurrence = _Recurrence(A, count, deflated, scale, breakdown)
    Q = start * _inverse(space, start_norms(space, start))
    previous, beta = space.zeros(count), None
    while True:
        W = A.apply(Q)
        if beta is None and count > 1:
            recurrence.require_symmetric(space.gram(Q, W), space.column_norms_squared(W))
        if basis is not None:
            basis.append(Q)
            W, alpha, stray = _reorthogonalized(W, basis, deflated, beta)
        else:
            W = W if beta is None else W - previous * beta
            alpha, stray = space.column_inner(Q, W), None
            W = W - Q * space.coefficients(_real(A, alpha))
        norms = A.xp.sqrt(space.column_norms_squared(W))
        yield recurrence.advance(W, _to_host(A, alpha, norms, stray), basis)
        if not recurrence.alive.any():
            return
        inverse = np.divide(1.0, recurrence.betas[-1], where=recurrence.alive, out=np.zeros(count))
        beta = space.from_host(recurrence.betas[-1])
        previous, Q = Q, W * space.from_host(inverse)


class _Recurrence:
    """The coefficients of m recurrences on the host, and which of them go on."""

    def __init__(
        self, A: LinearOperator, count: int, deflated: int, scale: float, breakdown: float
    ) -> None:
        self.operator = A
        self.eps = eps(A.xp, A.dtype)
        self.breakdown = max(_BREAKDOWN * self.eps, breakdown)
        # A space of dimension n holds no more than n orthogonal vectors.
        self.room = A.domain.dim - deflated
        self.alphas: list[HostArray] = []
        self.betas: list[HostArray] = []
        self.alive = np.ones(count, dtype=bool)
        self.lengths = np.zeros(count, dtype=np.int64)
        self.scale = scale
        self.num_products = 0

    def advance(self, residual: Array, host: HostArray, basis: Basis | None) -> LanczosState:
        """Record one step's coefficients and find out which recurrences are exhausted."""
        alpha, beta, stray = host
        self.num_products += len(alpha)
        require_finite(host, self.num_products, self.operator)
        before = self.betas[-1] if self.betas else np.zeros_like(beta)
        self.scale = max(self.scale, float(np.max(np.abs(alpha) + beta + before)))
        # From a null vector the first step sees nothing but rounding.
        if self.alphas:
            self._require_self_adjoint(stray, self.scale)
        self.lengths = self.lengths + self.alive
        rounding = _BREAKDOWN * self.eps * self.scale
        alive = self.alive & (beta > self.breakdown * self.scale)
        if basis is not None and len(self.alphas) + 1 >= self.room:
            alive = np.zeros_like(alive)
        self.alphas.append(np.where(self.alive, alpha, 0.0))
        self.betas.append(np.where(alive, beta, 0.0))
        self.alive = alive
        return LanczosState(
            len(self.alphas),
            self.num_products,
            np.array(self.alphas),
            np.array(self.betas),
            self.lengths,
            alive,
            self.scale,
            rounding,
            residual,
            None if basis is None else basis.snapshot(),
        )

    def require_symmetric(self, projected: Array, squares: Array) -> None:
        """Raise if Q^H A Q of the start vectors shows that A is not self-adjoint."""
        host = to_numpy(projected)
        require_finite(host, len(host), self.operator)
        scale = float(np.sqrt(np.max(to_numpy(squares))))
        self._require_self_adjoint(np.abs(host - host.conj().T), scale)

    def _require_self_adjoint(self, asymmetry: HostArray, scale: float) -> None:
        worst = float(np.max(asymmetry))
        if worst > np.sqrt(self.eps) * scale:
            raise NotSelfAdjointError(
                f"{self.operator} is declared self-adjoint, but its products are not: inner "
                f"products <q_i, A q_j> and <A q_i, q_j> differ by {worst:.3g} at a scale of "
                f"{scale:.3g}; see hessops.check_operator"
            )


def _reorthogonalized(
    W: Array, basis: Basis, deflated: int, beta: Array | None
) -> tuple[Array, Array, Array]:
    xp = basis.space.xp
    W, first = basis.project(W)
    W, second = basis.project(W)
    alpha = first[:, -1] + second[:, -1]
    if beta is None:
        return W, alpha, xp.abs(alpha) * 0
    # What a self-adjoint operator does not do: <q_i, A q_k> is 0 but for beta_{k-1} and alpha_k.
    stray = [first[:, deflated:-2], (first[:, -2] - beta)[:, None]]
    return W, alpha, xp.max(xp.abs(xp.concat(stray, axis=1)), axis=1)


def _inverse(space: Any, norms: HostArray) -> Array:
    inverse: Array = space.from_host(1.0 / norms)
    return inverse


def _real(A: LinearOperator, small: Array) -> Array:
    real: Array = A.xp.real(small) if is_complex(A.xp, small.dtype) else small
    return real


def _to_host(A: LinearOperator, alpha: Array, norms: Array, stray: Array | None) -> HostArray:
    """Copy the coefficients of one step to the host together: the step's one synchronisation."""
    double = A.xp.float64
    real = _real(A, alpha)
    imaginary = A.xp.abs(alpha - real)
    rows = [real, norms, imaginary if stray is None else imaginary + stray]
    together: Array = A.xp.stack([A.xp.astype(row, double) for row in rows])
    return to_numpy(together)
