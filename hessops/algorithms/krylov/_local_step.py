"""One step of Lanczos against the last two vectors only, and what it tells the host.

Two reductions give alpha and then the norm of what is left. Where every reduction is a wait for other
ranks, one gives both.
"""

from __future__ import annotations

import numpy as np

from hessops.agreement import to_host
from hessops.arrays import Array, HostArray, is_complex
from hessops.operator import LinearOperator
from hessops.space import Space

__all__ = ["off_last_two", "on_host"]

# How small a squared norm, found as a difference of two, may be relative to the larger one: at 1/16 it
# has lost four bits. A spectrum that fills [0, b] evenly leads to 1/5.
_CANCELLED = 1 / 16


def off_last_two(
    A: LinearOperator, W: Array, Q: Array, previous: Array | None, beta: Array | None
) -> tuple[Array, HostArray]:
    """Take a product off the last two basis vectors.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    W : array, shape (n, m)
        ``A @ Q``; overwritten, if it is the operator's to give away.
    Q, previous : array, shape (n, m)
        The last basis vectors and those before; None in the first step.
    beta : array, shape (m,)
        What they are coupled by; None in the first step.

    Returns
    -------
    tuple of arrays
        What is left of W, and what `Recurrence.advance` takes.
    """
    space = A.domain
    if beta is None or previous is None:
        previous, beta = Q, space.from_host(np.zeros(Q.shape[1]))
    step = _by_one_sum if space.is_split else _by_two_sums
    return step(A, W, Q, previous, beta)


def on_host(space: Space, alpha: Array, norms: Array, stray: Array) -> HostArray:
    """Copy the coefficients of one step to the host together: the step's one synchronisation."""
    xp, real = space.xp, _real(space, alpha)
    rows = [real, norms, xp.abs(alpha - real), xp.abs(stray)]
    return to_host(space, xp.stack([xp.astype(row, xp.float64) for row in rows]))


def _by_two_sums(
    A: LinearOperator, W: Array, Q: Array, previous: Array, beta: Array
) -> tuple[Array, HostArray]:
    space = A.domain
    W, inner = space.subtract(W, previous, beta, Q, previous, overwrite=A.returns_own_memory)
    alpha, stray = inner[0, :], inner[1, :] * beta
    W, inner = space.subtract(W, Q, _real(space, alpha), overwrite=True)
    return W, on_host(space, alpha, space.xp.sqrt(_real(space, inner[0, :])), stray)


def _by_one_sum(
    A: LinearOperator, W: Array, Q: Array, previous: Array, beta: Array
) -> tuple[Array, HostArray]:
    """Find the norm of ``W - alpha Q`` before it is formed, as ``|W|^2 - |<Q, W>|^2 / |Q|^2``.

    |Q|^2 is measured and not taken for 1: alpha would not make Q and what is left orthogonal, and what
    the norm is off by would grow by (alpha / beta)^2 in every step.
    """
    space, xp = A.domain, A.xp
    W = space.minus(W, previous, beta, overwrite=A.returns_own_memory)
    sums = space.column_inners((Q, W), (previous, W), (W, W), (Q, Q))
    sums = to_host(space, xp.stack([sums[0, :], sums[1, :] * beta, sums[2, :], sums[3, :]]))
    overlap, stray = sums[:2]
    whole, own = np.real(sums[2:])
    # A recurrence that has ended goes on with vectors of zeros.
    alpha = np.divide(np.real(overlap), own, out=np.zeros_like(own), where=own != 0)
    squares = whole - alpha * np.real(overlap)
    W = space.minus(W, Q, space.from_host(alpha), overwrite=True)
    if np.any(squares < _CANCELLED * whole):
        squares = np.real(to_host(space, space.column_norms_squared(W)))
    rows = [alpha, np.sqrt(squares), np.abs(np.imag(overlap)), np.abs(stray)]
    return W, np.stack(rows)


def _real(space: Space, small: Array) -> Array:
    real: Array = space.xp.real(small) if is_complex(space.xp, small.dtype) else small
    return real
