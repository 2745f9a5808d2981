"""QR factorisation of tall blocks, also of blocks whose columns are dependent to rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hessops.agreement import to_host, together_to_host
from hessops.arrays import Array, HostArray, eps, is_complex, to_numpy
from hessops.random import Stream
from hessops.space import Space

__all__ = ["extended_qr"]

Judge = Callable[[HostArray], None]

_MOST_PASSES = 6
_SMALL = 0.5
_TINY = 1e-300


def extended_qr(
    space: Space, Q: Array | None, Y: Array, filler: Stream, *, judge: Judge | None = None
) -> tuple[Array, HostArray]:
    """Return an orthonormal basis of ``[Q, Y]`` that begins with `Q`, and Y in that basis.

    Unlike `orthonormalize` it drops nothing: a column that depends on those before it to rounding
    gets a random direction, and a tiny entry on the diagonal of R, so that column j of Y still
    belongs to column j of the basis.

    Parameters
    ----------
    space : Space
        Where the vectors live; of dimension at least the number of columns of both.
    Q : array, shape (n, r), or None
        Orthonormal columns, none to begin with.
    Y : array, shape (n, k)
        Columns to add.
    filler : Stream
        Where random directions come from.
    judge : callable, optional
        Called with the squared norms of the columns of Y, which come to the host anyway, before
        anything is made of them. It may raise: they need not be finite.

    Returns
    -------
    basis : array, shape (n, r + k)
        Orthonormal columns, the first r those of `Q`.
    coefficients : numpy.ndarray, shape (r + k, k)
        ``Y = basis @ coefficients`` to rounding, on the host.
    """
    k, old = Y.shape[1], 0 if Q is None else Q.shape[1]
    kind = np.complex128 if is_complex(space.xp, space.dtype) else np.float64
    above, below = np.zeros((old, k), dtype=kind), np.eye(k, dtype=kind)
    squares = space.column_norms_squared(Y)
    least = np.zeros(k)
    filled = np.zeros(k, dtype=bool)
    for turn in range(_MOST_PASSES):
        Y, on_device = _projected(space, Q, Y)
        Y, factor_on_device = _qr(space, Y)
        # One copy a pass: the norms come along with the first.
        overlap, factor, *norms = together_to_host(
            space, on_device, factor_on_device, *([] if turn else [squares])
        )
        if norms:
            if judge is not None:
                judge(norms[0])
            least = 10 * (old + k) * eps(space.xp, space.dtype) * np.sqrt(norms[0])
        above = above + overlap @ below
        below = factor @ below
        # Rank 0 decides: rounding may differ between ranks.
        dependent = space.comm.broadcast((np.abs(np.diag(below)) <= least) & ~filled)
        if dependent.any():
            # What is left of such a column is rounding, which may point along Q.
            fresh = space.probes(filler, range(k), "normal")
            Y = Y * space.from_host(1.0 - dependent) + fresh * space.from_host(1.0 * dependent)
            below[dependent] = 0
            filled |= dependent
        elif space.agree(_share_taken(overlap, factor) < _SMALL):
            # Little was taken off, so that what rounding left of Q in it is little, too.
            break
    basis = Y if Q is None else space.xp.concat([Q, Y], axis=1)
    return basis, np.concatenate([above, below])


def _share_taken(overlap: HostArray, factor: HostArray) -> float:
    """Return how much of the columns lay along the basis, beside what is left of them."""
    return float(np.linalg.norm(overlap / np.maximum(np.abs(np.diag(factor)), _TINY)))


def _projected(space: Space, Q: Array | None, Y: Array) -> tuple[Array, Array]:
    """Return what is left of a block off the basis, and its coefficients along it."""
    if Q is None:
        return Y, space.zeros(Y.shape[1])[:0, :]
    overlap = space.gram(Q, Y)
    # Whoever judges what overflowed raises; a warning of the library's would only come before.
    with np.errstate(over="ignore", invalid="ignore"):
        return Y - Q @ space.coefficients(overlap), overlap


def _qr(space: Space, Y: Array) -> tuple[Array, Array]:
    """Return QR factors of a block: by Householder if it is whole, from triangles if it is split.

    Where every rank has a copy of it, by columns: copies must not part by what processors make of them.
    """
    if space.comm.size == 1:
        Q, R = space.xp.linalg.qr(Y, mode="reduced")
        return Q, R
    return _triangles_qr(space, Y) if space.is_split else _columns_qr(space, Y)


def _triangles_qr(space: Space, Y: Array) -> tuple[Array, Array]:
    """Factor each rank's rows, then the triangles of all (Demmel, Grigori, Hoemmen & Langou 2012).

    As stable as Householder's, by one reduction of P k² numbers on P ranks, and one broadcast.
    """
    comm, xp, k = space.comm, space.xp, Y.shape[1]
    Q, R = xp.linalg.qr(Y, mode="reduced")
    # A rank of fewer rows than columns has less than a triangle.
    count = R.shape[0]
    triangles = xp.zeros((comm.size, k, k), dtype=R.dtype, device=space.device)
    triangles[comm.rank, :count, :] = R
    together = to_numpy(comm.all_reduce(triangles)).reshape(-1, k)
    wide = np.complex128 if is_complex(xp, space.dtype) else np.float64
    turns, factor = comm.broadcast(np.linalg.qr(together.astype(wide)))
    own = turns[comm.rank * k : comm.rank * k + count]
    return Q @ space.from_host(own), xp.asarray(factor, device=space.device)


def _columns_qr(space: Space, Y: Array) -> tuple[Array, Array]:
    """Factor a block column by column, two passes of Gram-Schmidt for each."""
    k = Y.shape[1]
    Q, factor = space.zeros(0), np.zeros((k, k), dtype=np.complex128)
    for j in range(k):
        column = Y[:, j : j + 1]
        for _ in range(2):
            overlap = space.gram(Q, column)
            column = column - Q @ space.coefficients(overlap)
            factor[:j, j] += to_host(space, overlap)[:, 0]
        length = _norms(space, column)
        factor[j, j] = length[0]
        inverse = np.divide(1.0, length, out=np.zeros(1), where=length > 0)
        Q = space.xp.concat([Q, column * space.from_host(inverse)], axis=1)
    # Not by `from_host`, which would round it to the vectors' precision.
    small = factor if is_complex(space.xp, space.dtype) else np.ascontiguousarray(factor.real)
    return Q, space.xp.asarray(small, device=space.device)


def _norms(space: Space, X: Array) -> HostArray:
    norms: HostArray = np.sqrt(to_host(space, space.column_norms_squared(X)))
    return norms
