"""Block Lanczos from random probes, which stay known in the basis that they make.

After k steps from probes X, the orthonormal basis V, the next block Q and small T, B, C satisfy

    A V = V T + Q B,   X = V C,   Q orthogonal to V.

Eigenpairs of T are Ritz pairs, of all probes together; and as every probe lies in the basis,
x^H f(A) x is close to c^H f(T) c. So one basis serves eigenvalues and quadrature. When it is invariant,
fresh probes go on from what is new in them: the identity stays the same, with more columns in X.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hessops.algorithms._one_line import one_line
from hessops.algorithms.eigen._block_tridiagonal import SmallPairs
from hessops.algorithms.eigen.thick_restart import ThickRestart
from hessops.algorithms.functions.quadrature import checkpoint
from hessops.arrays import Array, HostArray
from hessops.blocks.basis import Basis
from hessops.blocks.rounding import rounding
from hessops.density.compression import Compression
from hessops.operator import LinearOperator
from hessops.random import Stream

__all__ = ["BlockKrylovState", "block_krylov_steps"]


@dataclass(frozen=True)
class BlockKrylovState:
    """A basis V with ``A V = V T + Q B`` and ``X = V C``.

    Parameters
    ----------
    step : int
        Blocks multiplied so far.
    num_products : int
        Their columns.
    matrix : numpy.ndarray, shape (m, m)
        T, Hermitian.
    coupling : numpy.ndarray, shape (w, m)
        B; zero but for its last columns.
    coefficients : numpy.ndarray, shape (m, N)
        C: the probes X in the basis. Probes that were begun after others were exhausted count once
        they are exhausted, too: before, they have taken fewer steps.
    following : array, shape (n, w)
        Q, the next block; of no column once the basis is invariant.
    basis : Basis
        V.
    steps : numpy.ndarray, shape (N,)
        Powers of A up to twice this, less one, for which ``x^H A^i x = c^H T^i c``; m where the Krylov
        space of a probe is exhausted.
    breadth : int
        Eigenvalues of fewer copies than this, if converged, have them all in the basis.
    scale : float
        Size of the operator.
    pairs : SmallPairs
        Eigenpairs of T, with the residual norms ‖B s‖ and what was left out of the identity.
    """

    step: int
    num_products: int
    matrix: HostArray
    coupling: HostArray
    coefficients: HostArray
    following: Array
    basis: Basis
    steps: HostArray
    breadth: int
    scale: float
    pairs: SmallPairs

    __repr__ = one_line

    @property
    def filled(self) -> bool:
        """Tell whether the basis spans the whole space."""
        return self.basis.size >= self.basis.space.dim

    @property
    def exhausted(self) -> bool:
        """Tell whether the basis is invariant."""
        return len(self.coupling) == 0

    @cached_property
    def compression(self) -> Compression:
        """Return the identity in the basis of Ritz vectors: all that quadrature needs."""
        vectors = self.pairs.vectors
        return Compression(
            nodes=self.pairs.values,
            probes=np.conjugate(vectors.T) @ self.coefficients,
            couplings=self.coupling @ vectors,
            residual_norms=self.pairs.residual_norms,
            steps=self.steps,
            breadth=self.basis.space.dim + 1 if self.filled else self.breadth,
            rounding=rounding(self.basis.space, self.scale),
        )

    def vectors(self, indices: HostArray) -> Array:
        """Return some Ritz vectors, shape (n, len(indices))."""
        space = self.basis.space
        return self.basis.combined(space.from_host(self.pairs.vectors[:, indices]))


def block_krylov_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    num_probes: int,
    max_products: int,
    first_probe: int = 0,
) -> Iterator[BlockKrylovState]:
    """Yield the identity until no further block fits or the space is filled.

    It is yielded at steps 1 to 8, then every eighth to fourth of the steps done, when the basis is
    invariant, and at the end.

    All vectors are kept and orthogonalised against, twice: memory is n times the products.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    stream : Stream
        Where the probes come from, uniform on the sphere of radius sqrt(n).
    num_probes : int
        Probes of a block, at most n.
    max_products : int
        Most columns to multiply, at least `num_probes`.
    first_probe : int
        Index of the first probe in the stream.

    Yields
    ------
    BlockKrylovState
        One or more blocks further.

    Raises
    ------
    NonFiniteError
        If a product holds NaN or infinity.
    NotSelfAdjointError
        If products show that the operator is not self-adjoint.
    """
    space = A.domain
    limit = min(max_products, space.dim)
    start = space.probes(stream, range(first_probe, first_probe + num_probes), "sphere")
    engine = ThickRestart(A, start, None, 0.0, limit)
    del start
    probes = _Probes()
    probes.begun(engine)
    # Every product makes a basis vector, so that the basis is as large as the cost.
    while (left := limit - engine.basis.size) > 0:
        width = engine.following.shape[1]
        if width == 0:
            fresh = range(
                first_probe + probes.count, first_probe + probes.count + min(num_probes, left)
            )
            engine.begin(space.probes(stream, fresh, "sphere"))
            probes.begun(engine)
            continue
        if width > left:
            return
        engine.multiply()
        probes.multiplied(engine)
        follows = engine.following.shape[1]
        if not 0 < follows <= left - width or checkpoint(engine.step):
            yield _state(engine, probes)


class _Probes:
    """The probes in the basis, block after block, and how long each has been multiplied."""

    def __init__(self) -> None:
        self.parts: list[HostArray] = []
        self.steps: HostArray = np.zeros(0)
        self.breadth = 0
        self._newest = 0

    @property
    def count(self) -> int:
        """Return the number of probes."""
        return len(self.steps)

    def begun(self, engine: ThickRestart) -> None:
        """Note where a block of probes lies."""
        self.parts.append(engine.started)
        self._newest = engine.started.shape[1]
        self.steps = np.concatenate([self.steps, np.zeros(self._newest)])
        self.breadth = self.breadth or self.count
        self._note_exhausted(engine)

    def multiplied(self, engine: ThickRestart) -> None:
        """Count a step of the newest ones."""
        self.steps[self.count - self._newest :] += 1
        self._note_exhausted(engine)

    def coefficients(self, size: int) -> HostArray:
        """Return C for a basis of this size, of the probes that count."""
        parts = [np.pad(part, ((0, size - len(part)), (0, 0))) for part in self.parts]
        return np.concatenate(parts, axis=1)[:, : len(self.counting)]

    @property
    def counting(self) -> HostArray:
        """Return the steps of the probes that count: once some are done, not those under way."""
        done = self.steps[np.isinf(self.steps)]
        return done if len(done) else self.steps

    def _note_exhausted(self, engine: ThickRestart) -> None:
        if engine.following.shape[1] == 0:
            self.steps[:] = np.inf
            self.breadth = self.count


def _state(engine: ThickRestart, probes: _Probes) -> BlockKrylovState:
    small, size = engine.small, engine.basis.size
    before = small.coupling.shape[1]
    coupling = np.pad(small.coupling, ((0, 0), (size - before, 0)))
    pairs = small.pairs()
    # Solved once: ranks that rounded differently would turn their parts of a vector apart.
    pairs = SmallPairs(
        *engine.operator.domain.comm.broadcast((pairs.values, pairs.residual_norms, pairs.vectors))
    )
    return BlockKrylovState(
        step=engine.step,
        num_products=engine.num_products,
        matrix=np.array(small.matrix),
        coupling=coupling,
        coefficients=probes.coefficients(size),
        following=engine.following,
        basis=engine.basis.snapshot(),
        steps=np.minimum(probes.counting, size).astype(np.int64),
        breadth=probes.breadth,
        scale=engine.scale,
        pairs=pairs,
    )
