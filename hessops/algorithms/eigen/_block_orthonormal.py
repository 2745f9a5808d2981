"""What is left of a block off a basis, as an orthonormal block of its numerical rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hessops.agreement import to_host
from hessops.arrays import Array, HostArray, eps, is_complex
from hessops.blocks.basis import Basis
from hessops.blocks.orthogonalize import LITTLE_TAKEN_OFF
from hessops.blocks.own_gram import own_gram
from hessops.space import Space

__all__ = ["Negligible", "OrthonormalRest", "orthonormal_rest", "projected", "truncated"]

Negligible = Callable[[HostArray, HostArray], float]

_MOST_ROUNDS = 6
_TINY = 1e-150


@dataclass(frozen=True)
class OrthonormalRest:
    """A block W split as ``W = V coefficients + block factor + E`` with a basis V.

    Parameters
    ----------
    block : array, shape (n, r)
        Orthonormal columns, orthogonal to V.
    coefficients : numpy.ndarray, shape (size, w)
        Along V; float64 or complex128 on the host.
    factor : numpy.ndarray, shape (r, w)
        Along `block`.
    dropped : numpy.ndarray, shape (w,)
        Bounds on the norms of the columns of E, which was too small to be a direction.
    """

    block: Array
    coefficients: HostArray
    factor: HostArray
    dropped: HostArray


def orthonormal_rest(basis: Basis, W: Array, negligible: Negligible) -> OrthonormalRest:
    """Take a block off a basis and orthonormalise what is left, dropping what is negligible.

    A single vector is projected twice, then normalised: three reductions, one copy to the host and
    one to the device. Columns of a block may be nearly dependent, which magnifies what is left in
    them of the basis; so rounds of projection and singular-value QR (Stathopoulos & Wu 2002) are
    repeated, at least twice, until little is taken off.

    Parameters
    ----------
    basis : Basis
        Of one recurrence.
    W : array, shape (n, w)
        Any block.
    negligible : callable
        From the coefficients of the first round, and the Gram matrix of what it left, to the singular
        value up to which a direction is dropped. It may raise: neither need be finite.

    Returns
    -------
    OrthonormalRest
        The split; of rank w at most, and no more than the space has room for.
    """
    space, width = basis.space, W.shape[1]
    coefficients: HostArray = np.zeros((basis.size, width))
    factor: HostArray = np.eye(width)
    dropped: HostArray = np.zeros(width)
    limit = 0.0
    for turn in range(_MOST_ROUNDS):
        W, inner, gram = projected(basis, W, times=2 if width == 1 else 1)
        if turn == 0:
            limit = max(negligible(inner, gram), _TINY)
        coefficients = coefficients + inner @ factor
        sizes, vectors = _square_root(space, gram)
        rows = np.conjugate(vectors.T)
        factor = sizes[:, None] * (rows @ factor)
        transform = vectors / sizes
        # In the first round of a block, a value may be far above what it stands for.
        room = space.dim - basis.size if turn or width == 1 else width
        kept, factor, lost = truncated(space, factor, limit, room)
        dropped = np.hypot(dropped, lost)
        if factor.shape[0] == 0:
            return OrthonormalRest(space.zeros(0), coefficients, factor, dropped)
        W = W @ space.from_host(transform @ kept)
        if width == 1 or (turn > 0 and sizes.min() > LITTLE_TAKEN_OFF):
            break
    return OrthonormalRest(W, coefficients, factor, dropped)


def projected(
    basis: Basis, W: Array, ranges: Sequence[slice] | None = None, *, times: int = 1
) -> tuple[Array, HostArray, HostArray]:
    """Return what is left, and on the host the inner products and the Gram matrix of what is left."""
    space, xp = basis.space, basis.space.xp
    W, inner = basis.project_block(W, ranges)
    for _ in range(times - 1):
        W, more = basis.project_block(W, ranges)
        inner = inner + more
    gram = space.column_norms_squared(W)[None, :] if W.shape[1] == 1 else own_gram(space, W)
    wide = xp.complex128 if is_complex(xp, space.dtype) else xp.float64
    together = to_host(space, xp.concat([xp.astype(inner, wide), xp.astype(gram, wide)]))
    return W, together[: inner.shape[0]], together[inner.shape[0] :]


def _square_root(space: Space, gram: HostArray) -> tuple[HostArray, HostArray]:
    """Return the singular values and right singular vectors of a block of this Gram matrix.

    Values that drown in its rounding are lifted to there: another round finds them.
    """
    if len(gram) == 1:
        return np.maximum(np.sqrt(np.real(gram[0])), _TINY), np.ones((1, 1))
    values, vectors = space.comm.broadcast(np.linalg.eigh((gram + gram.conj().T) / 2))
    floor = 10 * len(values) * eps(space.xp, space.dtype) * values[-1]
    return np.maximum(np.sqrt(np.maximum(values, floor)), _TINY), vectors


def truncated(
    space: Space, factor: HostArray, limit: float, room: int
) -> tuple[HostArray, HostArray, HostArray]:
    """Return which directions to keep of a factor, shape (w, r), the rest of it, and what is lost."""
    width = factor.shape[1]
    nothing_lost = np.zeros(width)
    if len(factor) == 1:
        keep = room > 0 and np.linalg.norm(factor) > limit
        if keep:
            return np.eye(1), factor, nothing_lost
        return np.zeros((1, 0)), factor[:0], np.abs(np.linalg.norm(factor, axis=0))
    left, sizes, right = space.comm.broadcast(np.linalg.svd(factor, full_matrices=False))
    rank = min(int(np.sum(sizes > limit)), room)
    if rank == len(factor):
        return np.eye(rank), factor, nothing_lost
    parts = sizes[:, None] * right
    return left[:, :rank], parts[:rank], np.linalg.norm(parts[rank:], axis=0)
