"""Orthonormal bases of blocks by Gram matrices alone, so that vectors may be split over ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from hessops.agreement import to_host
from hessops.arrays import Array, HostArray, eps, is_complex, namespace
from hessops.blocks.own_gram import own_gram
from hessops.random import Stream
from hessops.space import Space

__all__ = ["LITTLE_TAKEN_OFF", "complete_orthonormal", "extend_orthonormal", "orthonormalize"]

LITTLE_TAKEN_OFF = 0.5
"""Share of the norm that a projection has to leave for what is left to be orthogonal to rounding.

Errors of size eps stay, and count for eps over that share: at a half, one bit is lost, and a second
pass is for those that lose more (Daniel, Gragg, Kaufman & Stewart 1976)."""


# After a pass over columns no closer to dependent than that, a second would find a few roundings.
_NEARLY_ORTHOGONAL = 0.25


def orthonormalize(space: Space, X: Array, gram: HostArray | None = None) -> Array:
    """Return an orthonormal basis of the span of a block.

    Singular-value QR (SVQB; Stathopoulos & Wu 2002): scale, diagonalise the Gram matrix on the host,
    drop what is dependent to rounding. In two passes, unless the first found columns that were nearly
    orthogonal.

    Parameters
    ----------
    space : Space
        Where the vectors live.
    X : array, shape (n, k)
        Any block; dependent and zero columns are allowed.
    gram : numpy.ndarray, shape (k, k), optional
        Its Gram matrix, where it has come to the host with other numbers: the same on every rank.

    Returns
    -------
    array, shape (n, r)
        Orthonormal columns, r at most k.
    """
    for known in (gram, None):
        gram = to_host(space, own_gram(space, X)) if known is None else known
        gram = gram.astype(_wide(X))
        lengths = np.sqrt(np.real(np.diag(gram)))
        inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        correlation = inverse[:, None] * gram * inverse[None, :]
        values, vectors = space.comm.broadcast(np.linalg.eigh(correlation))
        floor = 10 * len(values) * eps(space.xp, space.dtype) * np.max(values, initial=0.0)
        kept = values > floor
        transform = inverse[:, None] * vectors[:, kept] / np.sqrt(values[kept])
        X = X @ space.from_host(transform)
        if _nearly_orthogonal(space, lengths, values):
            break
    return X


def complete_orthonormal(space: Space, Q: Array, count: int, stream: Stream) -> Array:
    """Return `Q` with random orthonormal columns added until there are `count`.

    Parameters
    ----------
    space : Space
        Where the vectors live; of dimension at least `count`.
    Q : array, shape (n, r)
        Orthonormal columns.
    count : int
        Columns wanted.
    stream : Stream
        Where the random columns come from.

    Returns
    -------
    array, shape (n, count)
        Orthonormal columns, the first r those of `Q`.
    """
    drawn = 0
    # Again, as random columns may be dependent to rounding where the complement is small.
    while (missing := count - Q.shape[1]) > 0:
        fresh = space.probes(stream, range(drawn, drawn + missing), "normal")
        drawn += missing
        for _ in range(2):
            fresh = fresh - Q @ space.gram(Q, fresh)
            fresh = orthonormalize(space, fresh)
        Q = space.xp.concat([Q, fresh], axis=1)
    return Q


def extend_orthonormal(space: Space, Q: Array, X: Array) -> Array:
    """Return `Q` with the columns of `X` added, made orthogonal to it and normalised.

    Parameters
    ----------
    space : Space
        Where the vectors live.
    Q : array, shape (n, r)
        Orthonormal columns.
    X : array, shape (n, k)
        Orthonormal columns, nearly orthogonal to `Q`.

    Returns
    -------
    array, shape (n, r + k)
        Orthonormal columns.
    """
    for _ in range(2):
        X = X - Q @ space.gram(Q, X)
        norms = np.sqrt(to_host(space, space.column_norms_squared(X)))
        X = X * space.from_host(1 / norms)
    extended: Array = space.xp.concat([Q, X], axis=1)
    return extended


def _nearly_orthogonal(space: Space, lengths: HostArray, values: HostArray) -> bool:
    """Tell whether a Gram matrix that holds all of its digits is that of nearly orthogonal columns."""
    info = space.xp.finfo(space.dtype)
    all_digits = np.all(lengths**2 * info.eps > info.smallest_normal)
    return bool(
        all_digits
        and np.min(values, initial=1.0) > _NEARLY_ORTHOGONAL * np.max(values, initial=0.0)
    )


def _wide(X: Array) -> Any:
    return np.complex128 if is_complex(namespace(X), X.dtype) else np.float64
