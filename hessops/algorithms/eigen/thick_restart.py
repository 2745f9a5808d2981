"""Thick-restart block Lanczos (Wu & Simon 2000; Krylov-Schur, Stewart 2001).

With orthonormal basis vectors V, the next block Q, orthonormal and orthogonal to V, and a small
Hermitian T,

    A V = V T + Q B,   B = [0 ... 0 R].

An eigenpair T s = θ s gives the Ritz pair (θ, V s) with the residual norm ‖B s‖, known without a
product. When the basis is full it is replaced by the span of some Ritz vectors, in place, which
satisfy the same identity with the same Q. So memory is bounded, and nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from hessops.agreement import to_host
from hessops.algorithms._asymmetry import not_self_adjoint
from hessops.algorithms._common import require_in_range, start_norms, start_width
from hessops.algorithms._precision import half_the_digits
from hessops.algorithms.eigen._block_orthonormal import OrthonormalRest, orthonormal_rest
from hessops.algorithms.eigen._block_tridiagonal import BlockTridiagonal, SmallPairs
from hessops.algorithms.eigen._semi_orthogonal import SemiOrthogonal
from hessops.algorithms.eigen.eigsh_state import EigshState, KnownPairs
from hessops.arrays import Array, HostArray, eps
from hessops.blocks.basis import Basis
from hessops.blocks.rounding import ROUNDINGS
from hessops.operator import LinearOperator
from hessops.random import Stream
from hessops.record import require_finite

__all__ = ["ThickRestart", "eigsh_steps"]

Keep = Callable[[HostArray], HostArray]
Pace = Callable[[EigshState], int]


def eigsh_steps(
    A: LinearOperator,
    start: Array,
    *,
    stream: Stream,
    num_ends: int,
    tol: float = 0.0,
    max_basis: int | None = None,
    keep: Keep | None = None,
    known: KnownPairs | None = None,
    pace: Pace | None = None,
) -> Iterator[EigshState]:
    """Yield the outermost Ritz pairs after every block; end when the basis fills the space.

    A step with one vector takes one product, three reductions, one copy of coefficients to the host
    and one back; two reductions if `tol` leaves room for a basis that is not orthogonal to rounding,
    and two more, with another copy, in steps that take the vector off all others. A block of
    dependent columns goes on with fewer. Once none is left the Krylov space is exhausted, and another
    follows from random vectors orthogonal to it.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    start : array, shape (n, b)
        Start vectors; they need no particular norm.
    stream : Stream
        Where new start vectors come from, once a Krylov space is exhausted.
    num_ends : int
        Pairs to look at from each end.
    tol : float
        A direction whose residual norm is a quarter of that, relative to the scale, is exhausted:
        all pairs that need it have converged.
    max_basis : int, optional
        Most basis vectors; as many as come where not given. At least b more than `keep` keeps.
    keep : callable, optional
        From all Ritz values to the indices of those kept at a restart, the most wanted first;
        those of largest modulus, half as many as the basis holds, where not given.
    known : KnownPairs, optional
        Approximate eigenpairs to stay orthogonal to, and to count among the Ritz pairs.
    pace : callable, optional
        From a state whose Ritz pairs are new to the number of steps that may pass until the next
        such; the states between hold the same pairs, which remain Ritz pairs of a smaller space.
        Pairs are new in every step where not given; and after a restart and at the end of a space.

    Yields
    ------
    EigshState
        One block further.

    Raises
    ------
    ValueError
        If a start vector is zero or not finite.
    NonFiniteError
        If a product holds NaN or infinity.
    NotSelfAdjointError
        If products show that the operator is not self-adjoint: if an inner product <q_i, A q_k>
        that is 0 or known by symmetry differs by more than half the digits.
    """
    width, drawn = start_width(A.domain, start), 0
    engine = ThickRestart(A, start, known, tol, max_basis)
    while engine.basis.size < A.domain.dim:
        while engine.following.shape[1] == 0:
            wanted = min(width, A.domain.dim - engine.basis.size)
            engine.begin(A.domain.probes(stream, range(1 + drawn, 1 + drawn + wanted), "normal"))
            drawn += wanted
        if engine.must_restart():
            engine.restart(keep or _largest(engine.limit // 2))
        engine.multiply()
        yield engine.state(num_ends, pace)


class ThickRestart:
    """The basis, the small matrix and the next block.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    start : array, shape (n, b)
        Start vectors.
    known : KnownPairs or None
        Approximate eigenpairs to begin with.
    tol : float
        As for `eigsh_steps`.
    max_basis : int or None
        Most basis vectors.
    """

    def __init__(
        self,
        A: LinearOperator,
        start: Array,
        known: KnownPairs | None,
        tol: float,
        max_basis: int | None,
    ) -> None:
        space = A.domain
        self.operator = A
        self.limit = min(max_basis or space.dim, space.dim)
        if known is None:
            basis = Basis(space, 1, limit=self.limit)
            known = KnownPairs(basis, np.zeros(0), np.zeros(0))
        self.basis = known.basis
        self.scale, self.size = known.scale, known.size
        self.step, self.num_products = known.step, known.num_products
        self.num_restarts = known.num_restarts
        self.lengths: list[int] = []
        self.small = BlockTridiagonal(known.values, known.residual_norms, 0)
        self._eps = eps(A.xp, A.dtype)
        # The scale is up to three times the largest Ritz value; and a loose tolerance must not end a
        # space that has yet to see the spectrum.
        self._half_the_digits = math.sqrt(self._eps)
        self._breakdown = max(ROUNDINGS * self._eps, min(tol / 4, self._half_the_digits))
        self._seen: SmallPairs | None = None
        self._next_look = 0
        # How fast orthogonality is lost is known of rounding, not of products in a lower precision.
        bound = None if A.product_error else SemiOrthogonal.pays(self._eps, tol)
        alone = self.basis.size == 0 and start.shape[1] == 1
        self._semi = SemiOrthogonal(self._eps, bound) if bound is not None and alone else None
        self.begin(start)

    def begin(self, start: Array) -> None:
        """Begin a Krylov space of what is new in some start vectors.

        `started` then holds the start vectors in the basis, the next block included.
        """
        space = self.operator.domain
        norms = start_norms(space, start)
        block, inside = start * space.from_host(1.0 / norms), np.eye(1)
        if self.basis.size > 0 or block.shape[1] > 1:
            rest = orthonormal_rest(self.basis, block, lambda _inner, _gram: ROUNDINGS * self._eps)
            block, inside = rest.block, np.concatenate([rest.coefficients, rest.factor])
        self.following, self.started = block, inside * norms
        self.small.start(block.shape[1])
        self._blurred_after = 0
        if block.shape[1]:
            self.lengths.append(0)

    def must_restart(self) -> bool:
        """Tell whether the basis has no room for the next block."""
        return self.basis.size + self.following.shape[1] > self.limit

    def restart(self, keep: Keep) -> None:
        """Replace the basis by the Ritz vectors to keep."""
        space = self.operator.domain
        pairs = self.small.pairs()
        width = self.following.shape[1]
        chosen = keep(pairs.values)[: self.limit - width]
        kept = self.small.restart(
            SmallPairs(*space.comm.broadcast((
                pairs.values[chosen], pairs.residual_norms[chosen], pairs.vectors[:, chosen],
            )))
        )  # fmt: skip
        self.basis.replace(space.from_host(kept))
        self.num_restarts += 1
        self._seen = None
        if self._semi is not None:
            self._semi.restarted(self.basis, self.following)

    def multiply(self) -> None:
        """Multiply the next block, add it to the basis and find the one after it."""
        space, width = self.operator.domain, self.following.shape[1]
        product = self.operator.apply(self.following)
        self.step += 1
        self.num_products += width
        self.lengths[-1] += width
        self.basis.extend(self.following)
        # Blocks are let go as soon as they have served.
        self.following = space.zeros(0)
        if self.scale == 0:
            largest = float(np.max(to_host(space, space.column_norms_squared(product))))
            require_finite(np.array(largest), self.num_products, self.operator)
            require_in_range(self.operator, math.sqrt(largest), product)
        blocks = [product]
        del product
        # Blocks, and Krylov spaces beside others, are kept fully orthogonal.
        if len(self.lengths) > 1 or not self.small.tridiagonal:
            self._semi = None
        if self._semi is None:
            rest = orthonormal_rest(self.basis, blocks.pop(), self._negligible)
        else:
            rest = self._semi.rest(self.basis, blocks.pop(), self.small, self._negligible)
        self._require_self_adjoint(rest.coefficients)
        self.small.grow(rest.coefficients, rest.factor, rest.dropped)
        self.following = rest.block
        if not self._blurred_after and self._is_blurred(rest):
            self._blurred_after = self.lengths[-1]

    def state(self, num_ends: int, pace: Pace | None) -> EigshState:
        """Return the outermost Ritz pairs, those of the last look until the next is due."""
        exhausted = self.following.shape[1] == 0
        filled = self.basis.size >= self.operator.domain.dim
        looks = self._seen is None or self.step >= self._next_look or exhausted or filled
        if looks:
            ends = self.small.ends(num_ends)
            self._seen = self.operator.domain.comm.broadcast(ends)
            self.size = max(self.size, float(np.max(np.abs(self._seen.values))))
        state = self._state(exhausted)
        if looks and pace is not None:
            self._next_look = self.step + self.operator.domain.comm.broadcast(pace(state))
        return state

    def _state(self, exhausted: bool) -> EigshState:
        assert self._seen is not None
        seen, size = self._seen, self.basis.size
        coefficients = seen.vectors
        if len(coefficients) < size:
            added = np.zeros((size - len(coefficients), coefficients.shape[1]))
            coefficients = np.concatenate([coefficients, added])
        return EigshState(
            self.step,
            self.num_products,
            seen.values,
            seen.residual_norms,
            coefficients,
            self.size,
            tuple(self.lengths),
            exhausted,
            self._blurred_after,
            self.num_restarts,
            self.basis.snapshot(),
            math.nan if self._semi is None else self._semi.level,
        )

    def _negligible(self, inner: HostArray, gram: HostArray) -> float:
        """Return the norm up to which a direction is exhausted, at the scale seen so far."""
        require_finite(inner, self.num_products, self.operator)
        require_finite(gram, self.num_products, self.operator)
        own = inner[len(inner) - inner.shape[1] :]
        left = math.sqrt(_norm(gram))
        self.scale = max(self.scale, _norm(own) + left + _norm(self.small.coupling))
        return self._breakdown * self.scale

    def _is_blurred(self, rest: OrthonormalRest) -> bool:
        norm = max(_norm(rest.factor), float(np.linalg.norm(rest.dropped)))
        return norm <= self._half_the_digits * self.scale

    def _require_self_adjoint(self, coefficients: HostArray) -> None:
        before, width = self.small.size, coefficients.shape[1]
        # From a null vector the first step sees nothing but rounding.
        if before == 0 and width == 1:
            return
        asymmetry = np.abs(self.small.asymmetry(coefficients)).max(axis=1)
        # Errors of local orthogonality may add up over the steps, by some roundings each.
        half = half_the_digits(self.operator)
        allowed = max(half, ROUNDINGS * self._eps * self.step) * self.scale
        excess = asymmetry - np.concatenate([self.small.lost, np.zeros(width)])
        if np.any(excess > allowed):
            raise not_self_adjoint(self.operator, float(asymmetry.max()), self.scale)


def _largest(count: int) -> Keep:
    def keep(values: HostArray) -> HostArray:
        return np.argsort(-np.abs(values), kind="stable")[:count]

    return keep


def _norm(matrix: HostArray) -> float:
    """Return the 2-norm of a small matrix, which may be empty."""
    if matrix.size <= 1:
        return float(np.abs(matrix).sum())
    return float(np.linalg.norm(matrix, 2))
