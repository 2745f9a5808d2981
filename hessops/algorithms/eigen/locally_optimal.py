"""Locally optimal block preconditioned conjugate gradients (Knyazev 2001) on an orthonormal basis.

A step is a Rayleigh-Ritz step on the span of the block X, of its residuals R = A X - X Θ multiplied by
a preconditioner, W = M R, and of the directions P of the step before. Of three blocks that grow
dependent as the iteration converges, a Gram matrix is soon singular, which is how LOBPCG breaks down.
Here [X P] stays orthonormal by small rotations alone (Hetmaniuk & Lehoucq 2006), and W is taken off it
and orthonormalised by singular-value QR until nothing but rounding is left, dropping what is dependent
(Duersch, Shao, Yang & Gu 2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hessops.agreement import to_host
from hessops.algorithms._asymmetry import not_self_adjoint
from hessops.algorithms._common import require_product_in_range, start_width
from hessops.algorithms._one_line import one_line
from hessops.algorithms._precision import half_the_digits
from hessops.algorithms.eigen._block_orthonormal import orthonormal_rest
from hessops.algorithms.solvers._lock_step import preconditioned, require_definite
from hessops.arrays import Array, HostArray, eps, is_complex
from hessops.blocks.basis import Basis
from hessops.blocks.orthogonalize import complete_orthonormal, orthonormalize
from hessops.blocks.rounding import ROUNDINGS
from hessops.operator import LinearOperator
from hessops.random import Stream
from hessops.record import require_finite

__all__ = ["LobpcgState", "lobpcg_steps"]

# Rotations of orthonormal blocks add a few roundings each.
_STRAIGHTEN = 20
# What is left of a unit vector that was orthogonal but for rounding is more than that.
_STILL_THERE = 0.5


@dataclass(frozen=True)
class LobpcgState:
    """The Ritz pairs of a block, ``A X = product``, ``X^H A X = diag(values)``, ``X^H X = I``.

    Parameters
    ----------
    step : int
        Blocks multiplied so far.
    num_products : int
        Their columns.
    num_preconditioned : int
        Columns multiplied by the preconditioner so far.
    values : numpy.ndarray, shape (b,)
        Ritz values, the most wanted first.
    residual_norms : numpy.ndarray, shape (b,)
        ‖A x - θ x‖ of each.
    X, product : array, shape (n, b)
        Ritz vectors and their products. These are combined from earlier ones: a true product differs by
        the rounding of the steps.
    size : float
        Largest norm of a product with a unit vector so far: at most the norm of the operator.
    """

    step: int
    num_products: int
    num_preconditioned: int
    values: HostArray
    residual_norms: HostArray
    X: Array
    product: Array
    size: float

    __repr__ = one_line


def lobpcg_steps(
    A: LinearOperator,
    start: Array,
    *,
    stream: Stream,
    preconditioner: LinearOperator | None = None,
    largest: bool = False,
    tol: float = 0.0,
) -> Iterator[LobpcgState]:
    """Yield the Ritz pairs of a block at one end of the spectrum, until nothing is left to add to it.

    A step multiplies one block by A and one by the preconditioner, each of as many columns as have not
    converged; a handful of reductions and copies to the host make and solve the small problem. Storage
    is 12 blocks.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    start : array, shape (n, b)
        Start vectors; random ones take the place of those that depend on others.
    stream : Stream
        Where random vectors come from.
    preconditioner : LinearOperator, optional
        Self-adjoint and positive definite; none is the identity.
    largest : bool
        Whether the largest eigenvalues are wanted, not the smallest.
    tol : float
        A pair with a residual norm below that, relative to the size, adds no further directions, but
        goes on to take part (soft locking).

    Yields
    ------
    LobpcgState
        One step further.

    Raises
    ------
    ValueError
        If r^H M r is not positive for a residual r and the preconditioner M.
    NonFiniteError
        If a product holds NaN or infinity.
    NotSelfAdjointError
        If products show that the operator is not self-adjoint.
    """
    space, count = A.domain, start_width(A.domain, start)
    # Blocks are let go as soon as they have served.
    blocks = [complete_orthonormal(space, orthonormalize(space, start), count, stream)]
    del start
    engine = _LocallyOptimal(A, preconditioner, count, largest, tol)
    while blocks[0].shape[1] > 0:
        engine.expand(blocks.pop())
        yield engine.solve()
        blocks.append(engine.directions(stream))


class _LocallyOptimal:
    """The orthonormal basis [X P W], its products, and the small matrix of A on it."""

    def __init__(
        self,
        A: LinearOperator,
        preconditioner: LinearOperator | None,
        count: int,
        largest: bool,
        tol: float,
    ) -> None:
        space = A.domain
        self.operator, self.preconditioner = A, preconditioner
        self.count, self.largest, self.tol = count, largest, tol
        room = min(3 * count, space.dim)
        self.basis, self.products = (Basis(space, 1, room, limit=room) for _ in range(2))
        self.small: HostArray = np.zeros((0, 0))
        self.step = self.num_products = self.num_preconditioned = 0
        self.size = 0.0
        self._residual, self._norms = space.zeros(0), np.zeros(0)
        self._eps = eps(A.xp, A.dtype)
        self._drawn = count

    def expand(self, block: Array) -> None:
        """Multiply an orthonormal block, and add it to the basis."""
        space, width = self.operator.domain, block.shape[1]
        product = self.operator.apply(block)
        self.step += 1
        self.num_products += width
        if self.size == 0:
            require_product_in_range(self.operator, product, self.num_products)
        self.basis.extend(block)
        self.products.extend(product)
        inner = to_host(space, space.gram(self.basis.vectors(), product)).astype(
            np.complex128 if is_complex(space.xp, space.dtype) else np.float64
        )
        require_finite(inner, self.num_products, self.operator)
        self.size = max(self.size, float(np.max(np.linalg.norm(inner, axis=0))))
        above, own = inner[:-width], inner[-width:]
        self._require_self_adjoint(own)
        self.small = np.block([[self.small, above], [above.conj().T, (own + own.conj().T) / 2]])

    def solve(self) -> LobpcgState:
        """Take the best block of the span, and the directions that led to it."""
        space = self.operator.domain
        values, vectors = space.comm.broadcast(np.linalg.eigh(self.small))
        if self.largest:
            values, vectors = values[::-1], vectors[:, ::-1]
        chosen = vectors[:, : self.count]
        coefficients = space.from_host(chosen)
        X, product = (basis.combined(coefficients) for basis in (self.basis, self.products))
        ritz = values[: self.count]
        self._residual = product - X * space.from_host(ritz)
        norms = self._norms = np.sqrt(to_host(space, space.column_norms_squared(self._residual)))
        require_finite(norms, self.num_products, self.operator)
        norms_of_products = np.hypot(ritz, norms)
        self.size = max(self.size, float(np.max(np.abs(values))), float(norms_of_products.max()))
        kept = np.concatenate([chosen, self._step_directions(chosen, self._active(norms))], axis=1)
        self._rotate(kept)
        if self.step % _STRAIGHTEN == 0:
            self._straighten()
        return LobpcgState(
            self.step,
            self.num_products,
            self.num_preconditioned,
            ritz,
            norms,
            X,
            product,
            self.size,
        )

    def directions(self, stream: Stream) -> Array:
        """Return what the preconditioned residuals add to the basis; random vectors if nothing."""
        space = self.operator.domain
        active = self._active(self._norms)
        room = space.dim - self.basis.size
        if room == 0 or len(active) == 0:
            return space.zeros(0)
        columns = space.xp.asarray(active, device=space.device)
        # Of norm 1, as what is left of them is small, and squares of it smaller.
        scales = space.from_host(1.0 / self._norms[active])
        blocks = [space.xp.take(self._residual, columns, axis=1) * scales]
        self._residual = space.zeros(0)
        W = self._preconditioned(blocks.pop())
        rest = orthonormal_rest(self.basis, W, self._negligible).block
        while rest.shape[1] == 0:
            W = space.probes(
                stream, range(self._drawn, self._drawn + min(room, len(active))), "normal"
            )
            self._drawn += W.shape[1]
            rest = orthonormal_rest(self.basis, W, self._negligible).block
        return rest

    def _active(self, norms: HostArray) -> HostArray:
        """Return which columns have not converged."""
        return np.flatnonzero(norms > self.tol * self.size)

    def _preconditioned(self, R: Array) -> Array:
        """Return M R with columns of norm 1, or say that M is not positive definite."""
        if self.preconditioner is None:
            return R
        space = self.operator.domain
        W = preconditioned(self.preconditioner, R)
        self.num_preconditioned += W.shape[1]
        forms, squares = np.real(to_host(space, space.column_inners((R, W), (W, W))))
        require_finite(squares, self.num_preconditioned, self.preconditioner)
        require_definite(forms, np.ones_like(forms))
        return W * space.from_host(1 / np.sqrt(squares))

    def _negligible(self, inner: HostArray, gram: HostArray) -> float:
        """Return what of unit vectors is rounding."""
        size = math.hypot(float(np.linalg.norm(inner)), math.sqrt(np.abs(np.trace(gram))))
        return ROUNDINGS * self._eps * size

    def _step_directions(self, chosen: HostArray, active: HostArray) -> HostArray:
        """Return coefficients of what led to the active columns, orthonormal and off the block."""
        directions = np.array(chosen[:, active])
        directions[: self.count] = 0
        norms = np.linalg.norm(directions, axis=0)
        directions = directions[:, norms > ROUNDINGS * self._eps]
        directions = directions / np.linalg.norm(directions, axis=0)
        # The second time takes off what the division by small sizes has magnified.
        for least in (ROUNDINGS * self._eps, _STILL_THERE):
            directions = directions - chosen @ (np.conjugate(chosen.T) @ directions)
            left, sizes, _ = np.linalg.svd(directions, full_matrices=False)
            directions = left[:, sizes > least]
        return self.operator.domain.comm.broadcast(directions)

    def _rotate(self, kept: HostArray) -> None:
        """Replace the basis by orthonormal combinations of its vectors, and their products likewise."""
        coefficients = self.operator.domain.from_host(kept)
        self.basis.replace(coefficients)
        self.products.replace(coefficients)
        small = np.conjugate(kept.T) @ self.small @ kept
        self.small = (small + small.conj().T) / 2

    def _straighten(self) -> None:
        """Take out of the basis what rounding has added up to."""
        space = self.operator.domain
        vectors = self.basis.vectors()
        gram = to_host(space, space.gram(vectors, vectors))
        sizes, turn = space.comm.broadcast(np.linalg.eigh((gram + gram.conj().T) / 2))
        self._rotate((turn / np.sqrt(sizes)) @ turn.conj().T)

    def _require_self_adjoint(self, own: HostArray) -> None:
        asymmetry = float(np.max(np.abs(own - own.conj().T)))
        if asymmetry > half_the_digits(self.operator) * self.size:
            raise not_self_adjoint(self.operator, asymmetry, self.size)
