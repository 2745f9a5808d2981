"""Golub-Kahan bidiagonalisation with thick restart (Golub & Kahan 1965; Baglama & Reichel 2005).

With orthonormal vectors U and V, as many of one as of the other, and a small real bidiagonal B,

    A V = U B,   A^H U = V B^T + r e^T,   V^H r = 0,

where e is the last unit vector. A triplet B q = σ p, B^T p = σ q gives the Ritz triplet (U p, σ, V q)
with A V q = σ U p exactly, and A^H U p = σ V q + r (e^T p): its residual norm ‖r‖ |e^T p| is known
without a product. V spans the Krylov space of A^H A, whose Lanczos matrix is B^T B; but singular values
are found to rounding of the largest, where their squares would be lost from half the digits on.

Both bases are orthogonalised in full. If only V is, U loses orthogonality by the condition number of B
(Simon & Zha 2000): at 10^10, inner products of left vectors were 4e-7, and 1e-15 with both. Singular
values were as right; but an operator of low rank shows only against an orthogonal U. And both bases are
needed anyway, as a restart turns both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hessops.algorithms._common import require_product_in_range, start_norms, start_width
from hessops.algorithms._one_line import one_line
from hessops.algorithms._precision import half_the_digits
from hessops.algorithms.eigen._bidiagonal import Bidiagonal, SmallTriplets
from hessops.algorithms.eigen._block_orthonormal import OrthonormalRest, orthonormal_rest
from hessops.arrays import Array, HostArray, eps
from hessops.blocks.basis import Basis
from hessops.blocks.rounding import ROUNDINGS
from hessops.operator import LinearOperator
from hessops.random import Stream
from hessops.record import require_finite
from hessops.space import Space

__all__ = ["KnownTriplets", "SvdsState", "known_triplets", "svds_steps"]

Keep = Callable[[HostArray], HostArray]


@dataclass(frozen=True)
class SvdsState:
    """The Ritz triplets at an end of the singular spectrum after some number of products.

    Parameters
    ----------
    step : int
        Vectors multiplied by A so far; as many were by its adjoint.
    num_products : int
        Both counted: twice the steps.
    values : numpy.ndarray, shape (r,)
        Ritz values, ascending: the largest; or the smallest, and the largest of all.
    residual_norms : numpy.ndarray, shape (r,)
        √(‖A v - σ u‖² + ‖A^H u - σ v‖²) of each: by the identity, and what was left out of it.
    left_coefficients, right_coefficients : numpy.ndarray, shape (size, r)
        Column i holds Ritz vectors i in the bases.
    size : float
        Largest Ritz value so far.
    lengths : tuple of int
        Steps in each Krylov space so far, the current one last.
    exhausted : bool
        Whether the current one is invariant.
    blurred_after : int
        Steps in the current one when a residual had lost half its digits to rounding; 0 if none has.
    num_restarts : int
        How often the bases were full.
    left, right : Basis
        The vectors U and V; they serve until the next restart.
    """

    step: int
    num_products: int
    values: HostArray
    residual_norms: HostArray
    left_coefficients: HostArray
    right_coefficients: HostArray
    size: float
    lengths: tuple[int, ...]
    exhausted: bool
    blurred_after: int
    num_restarts: int
    left: Basis
    right: Basis

    __repr__ = one_line

    @property
    def filled(self) -> bool:
        """Tell whether V spans the whole domain."""
        return self.right.size >= self.right.space.dim


@dataclass(frozen=True)
class KnownTriplets:
    """Approximate singular triplets to begin with.

    Parameters
    ----------
    left, right : Basis
        Their vectors; they are extended in place.
    values, residual_norms : numpy.ndarray, shape (p,)
        Their Ritz values and residual norms.
    size : float
        Largest Ritz value seen.
    step, num_restarts : int
        What was done to find them.
    """

    left: Basis
    right: Basis
    values: HostArray
    residual_norms: HostArray
    size: float = 0.0
    step: int = 0
    num_restarts: int = 0


def known_triplets(state: SvdsState, chosen: HostArray) -> KnownTriplets:
    """Return some Ritz triplets of a state to begin with; their vectors replace its bases."""
    for basis, coefficients in (
        (state.left, state.left_coefficients),
        (state.right, state.right_coefficients),
    ):
        basis.replace(basis.space.from_host(coefficients[:, chosen]))
    return KnownTriplets(
        state.left,
        state.right,
        state.values[chosen],
        state.residual_norms[chosen],
        state.size,
        state.step,
        state.num_restarts,
    )


def svds_steps(
    A: LinearOperator,
    start: Array,
    *,
    stream: Stream,
    count: int,
    smallest: bool = False,
    tol: float = 0.0,
    max_basis: int | None = None,
    keep: Keep | None = None,
    known: KnownTriplets | None = None,
) -> Iterator[SvdsState]:
    """Yield the outermost Ritz triplets after every step; end when the right basis fills the domain.

    A step takes a product with A and one with its adjoint, each followed by three reductions, one copy
    of coefficients to the host and one back. Where A v brings nothing new to the left basis, or A^H u
    to the right one, the Krylov space is exhausted, and another follows from a random vector orthogonal
    to that basis.

    Parameters
    ----------
    A : LinearOperator
        With an adjoint, and at least as many rows as columns.
    start : array, shape (n, 1)
        Start vector; it needs no particular norm.
    stream : Stream
        Where new vectors come from, once a Krylov space is exhausted.
    count : int
        Triplets to look at.
    smallest : bool
        Whether to look at the smallest singular values, and not at the largest.
    tol : float
        A direction whose residual norm is a quarter of that, relative to the scale, is exhausted:
        all triplets that need it have converged.
    max_basis : int, optional
        Most vectors in each basis; as many as come where not given. At least 2 more than `keep` keeps.
    keep : callable, optional
        From all Ritz values to the indices of those kept at a restart, the most wanted first;
        the largest, half as many as a basis holds, where not given.
    known : KnownTriplets, optional
        Approximate triplets to stay orthogonal to, and to count among the Ritz triplets.

    Yields
    ------
    SvdsState
        One step further.

    Raises
    ------
    ValueError
        If the start vector is zero or not finite, if there are fewer rows than columns, or if products
        show that the adjoint is not the adjoint: if <u, A v> and <A^H u, v> differ by more than half
        the digits.
    NonFiniteError
        If a product holds NaN or infinity.
    """
    if A.shape[0] < A.shape[1]:
        raise ValueError(f"{A} has fewer rows than columns; take its adjoint, A.H")
    start_width(A.domain, start)
    engine = _GolubKahan(A, start, stream, known, tol, max_basis)
    while engine.right.size < A.domain.dim:
        engine.require_following()
        if engine.right.size + 1 > engine.limit:
            engine.restart(keep or _largest(engine.limit // 2))
        engine.multiply()
        yield engine.state(count, smallest)


class _GolubKahan:
    """The two bases, the small matrix and the next right vector."""

    def __init__(
        self,
        A: LinearOperator,
        start: Array,
        stream: Stream,
        known: KnownTriplets | None,
        tol: float,
        max_basis: int | None,
    ) -> None:
        self.operator, self.stream = A, stream
        self.limit = min(max_basis or A.domain.dim, A.domain.dim)
        if known is None:
            left, right = (Basis(space, 1, limit=self.limit) for space in (A.codomain, A.domain))
            known = KnownTriplets(left, right, np.zeros(0), np.zeros(0))
        self.left, self.right = known.left, known.right
        self.scale = self.size = known.size
        self.step, self.num_restarts = known.step, known.num_restarts
        self.lengths: list[int] = []
        self.small = Bidiagonal(known.values, known.residual_norms)
        self._drawn = 0
        self._eps = eps(A.xp, A.dtype)
        # A loose tolerance must not end a space that has yet to see the spectrum.
        self._half_the_digits = math.sqrt(self._eps)
        self._breakdown = max(ROUNDINGS * self._eps, min(tol / 4, self._half_the_digits))
        self.exhausted, self._blurred_after = True, 0
        self.following = self._off(self.right, start)

    def require_following(self) -> None:
        """Draw another right vector where there is none that follows from the last."""
        while self.following.shape[1] == 0:
            self.following = self._off(self.right, self._fresh(self.operator.domain))
        if self.exhausted:
            self.lengths.append(0)
            self.exhausted, self._blurred_after = False, 0

    def restart(self, keep: Keep) -> None:
        """Replace the bases by the Ritz vectors to keep."""
        triplets = self.small.triplets()
        chosen = keep(triplets.values)[: self.limit - 1]
        kept = self.operator.domain.comm.broadcast(
            SmallTriplets(*(part[..., chosen] for part in vars(triplets).values()))
        )
        for basis, coefficients in zip(
            (self.left, self.right), self.small.restart(kept), strict=True
        ):
            basis.replace(basis.space.from_host(coefficients))
        self.num_restarts += 1

    def multiply(self) -> None:
        """Multiply the next right vector, what is new in that as the next left one, and so on."""
        product = self.operator.apply(self.following)
        if self.scale == 0:
            require_product_in_range(self.operator, product, 2 * self.step + 1)
        self.step += 1
        self.lengths[-1] += 1
        self.right.extend(self.following)
        rest = orthonormal_rest(self.left, product, self._negligible)
        inner = rest.coefficients[:, 0]
        self._require_adjoint(self.small.stray_left(inner), self.small.lost_right)
        u = rest.block
        while u.shape[1] == 0:
            # Any u orthogonal to U will do; one of a Krylov space of its own finds further triplets.
            u = self._off(self.left, self._fresh(self.operator.codomain))
            self.exhausted = True
        product = self.operator.apply_adjoint(u)
        self.left.extend(u)
        back = orthonormal_rest(self.right, product, self._negligible)
        left = (inner, _length(rest), float(rest.dropped[0]))
        stray = np.array(back.coefficients[:, 0])
        stray[-1] -= left[1]
        self._require_adjoint(stray, np.append(self.small.lost_left, left[2]))
        right = (back.coefficients[:, 0], _length(back), float(back.dropped[0]))
        self.small.grow(left, right)
        self.following = back.block
        self.exhausted = self.exhausted or back.block.shape[1] == 0
        least = min(math.hypot(*left[1:]), math.hypot(*right[1:]))
        if not self._blurred_after and least <= self._half_the_digits * self.scale:
            self._blurred_after = self.lengths[-1]

    def state(self, count: int, smallest: bool) -> SvdsState:
        """Return the outermost Ritz triplets."""
        triplets = self.operator.domain.comm.broadcast(
            self.small.outermost(count, smallest=smallest)
        )
        self.size = max(self.size, float(triplets.values[-1]))
        return SvdsState(
            self.step,
            2 * self.step,
            triplets.values,
            triplets.residual_norms,
            triplets.left,
            triplets.right,
            self.size,
            tuple(self.lengths),
            self.exhausted,
            self._blurred_after,
            self.num_restarts,
            self.left.snapshot(),
            self.right.snapshot(),
        )

    def _fresh(self, space: Space) -> Array:
        self._drawn += 1
        return space.probes(self.stream, range(self._drawn, self._drawn + 1), "normal")

    def _off(self, basis: Basis, vector: Array) -> Array:
        """Return what is new in a vector, normalised; no column if that is rounding."""
        space = basis.space
        block = vector * space.from_host(1.0 / start_norms(space, vector))
        return orthonormal_rest(basis, block, lambda *_: ROUNDINGS * self._eps).block

    def _negligible(self, inner: HostArray, gram: HostArray) -> float:
        """Return the norm up to which a direction is exhausted, at the scale seen so far."""
        require_finite(inner, 2 * self.step, self.operator)
        require_finite(gram, 2 * self.step, self.operator)
        self.scale = max(self.scale, math.hypot(_norm(inner), math.sqrt(np.abs(gram).sum())))
        return self._breakdown * self.scale

    def _require_adjoint(self, stray: HostArray, lost: HostArray) -> None:
        # Errors of local orthogonality may add up over the steps, by some roundings each.
        half = half_the_digits(self.operator)
        allowed = max(half, ROUNDINGS * self._eps * self.step) * self.scale
        if np.any(np.abs(stray) > allowed + lost):
            raise ValueError(
                f"the adjoint of {self.operator} is not its adjoint: inner products <u, A v> and "
                f"<A^H u, v> differ by {np.max(np.abs(stray)):.3g} at a scale of {self.scale:.3g}; "
                "see hessops.check_operator"
            )


def _largest(count: int) -> Keep:
    def keep(values: HostArray) -> HostArray:
        return np.argsort(-values, kind="stable")[:count]

    return keep


def _length(rest: OrthonormalRest) -> float:
    """Return the norm of what was left of a single vector, 0 where that was dropped."""
    return float(np.real(rest.factor).sum())


def _norm(matrix: HostArray) -> float:
    return float(np.linalg.norm(matrix))
