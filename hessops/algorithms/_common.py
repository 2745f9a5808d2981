"""Checks and defaults that verbs share."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from hessops.arrays import Array, HostArray, is_array, numpy_dtype, to_numpy
from hessops.errors import ConvergenceWarning, NotSelfAdjointError
from hessops.operator import LinearOperator
from hessops.random import Stream
from hessops.space import Space
from hessops.wrap import aslinearoperator

__all__ = [
    "default_block_size",
    "require_positive",
    "self_adjoint_operator",
    "square_operator",
    "start_block",
    "start_norms",
    "start_vector",
    "warn_if_failed",
]

_BLOCK_BYTES = 2**28
_MAX_BLOCK = 32


def square_operator(A: Any, verb: str) -> LinearOperator:
    """Return `A` as an operator, or say why `verb` cannot use it."""
    operator = aslinearoperator(A)
    if operator.shape[0] != operator.shape[1]:
        raise ValueError(f"{verb} needs a square operator, got shape {operator.shape}")
    return operator


def self_adjoint_operator(A: Any, verb: str) -> LinearOperator:
    """Return `A` as an operator that is declared self-adjoint, or say what is missing."""
    operator = square_operator(A, verb)
    if not operator.structure.self_adjoint:
        raise NotSelfAdjointError(
            f"{verb} needs a self-adjoint operator and {operator} is not known to be: if it is, say "
            "aslinearoperator(..., self_adjoint=True); if it is not, work with (A + A.H) / 2 or "
            "A.H @ A"
        )
    return operator


def require_positive(**values: int | None) -> None:
    """Raise if a count is not a positive integer."""
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}={value!r} must be a positive integer")


def start_vector(space: Space, start: Array | None, stream: Stream) -> Array:
    """Return one start vector as a block of one column, random where not given."""
    if start is None:
        return space.probes(stream, range(1), "normal")
    if not is_array(start) or start.ndim != 1:
        raise ValueError(f"start must be one vector of shape (n,), got {_describe(start)}")
    return space.validate(start[:, None])


def start_block(space: Space, start: Array, most: int) -> Array:
    """Return given start vectors with norm 1, at most so many, or say what is wrong with them."""
    if not is_array(start) or start.ndim != 2 or start.shape[1] > most:
        raise ValueError(
            f"start must have shape (n, {most}) or fewer columns, got {_describe(start)}"
        )
    block = space.validate(start)
    return block * space.from_host(1.0 / start_norms(space, block))


def start_norms(space: Space, start: Array) -> HostArray:
    """Return the norms of start vectors, or say that one cannot be normalised."""
    norms = np.sqrt(to_numpy(space.column_norms_squared(start)))
    if not (np.all(np.isfinite(norms)) and np.all(norms > 0)):
        raise ValueError(f"a start vector has norm {norms.min():g}; it must be finite and not zero")
    return norms


def default_block_size(space: Space, wanted: int) -> int:
    """Return how many vectors to multiply at once: many, but within a quarter of a gigabyte."""
    fitting = _BLOCK_BYTES // (max(space.local_dim, 1) * numpy_dtype(space.dtype).itemsize)
    return max(1, min(wanted, _MAX_BLOCK, fitting))


def warn_if_failed(converged: bool, status: str) -> None:
    """Warn of a result that missed its target, at the caller of the verb."""
    if not converged:
        warnings.warn(status, ConvergenceWarning, stacklevel=3)


def _describe(start: object) -> str:
    return f"shape {start.shape}" if hasattr(start, "shape") else type(start).__name__
