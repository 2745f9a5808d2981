"""Checks and defaults that verbs share."""

from __future__ import annotations

import warnings
from typing import Any

from hessops.arrays import numpy_dtype
from hessops.errors import ConvergenceWarning, NotSelfAdjointError
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.wrap import aslinearoperator

__all__ = [
    "default_block_size",
    "require_positive",
    "self_adjoint_operator",
    "square_operator",
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
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a positive integer")


def default_block_size(space: Space, wanted: int) -> int:
    """Return how many vectors to multiply at once: many, but within a quarter of a gigabyte."""
    fitting = _BLOCK_BYTES // (max(space.local_dim, 1) * numpy_dtype(space.dtype).itemsize)
    return max(1, min(wanted, _MAX_BLOCK, fitting))


def warn_if_failed(converged: bool, status: str) -> None:
    """Warn of a result that missed its target, at the caller of the verb."""
    if not converged:
        warnings.warn(status, ConvergenceWarning, stacklevel=3)
