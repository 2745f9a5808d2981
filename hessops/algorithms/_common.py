"""Checks and defaults that verbs share."""

from __future__ import annotations

import difflib
import math
import sys
import warnings
from collections.abc import Mapping
from types import FrameType
from typing import Any

import numpy as np

from hessops.agreement import to_host
from hessops.arrays import Array, HostArray, is_array, numpy_dtype, to_numpy
from hessops.errors import ConvergenceWarning, NonFiniteError, NotSelfAdjointError
from hessops.operator import LinearOperator
from hessops.random import Stream
from hessops.space import Space
from hessops.wrap import aslinearoperator

__all__ = [
    "default_block_size",
    "require_count",
    "require_in_range",
    "require_options",
    "require_positive",
    "require_real",
    "self_adjoint_operator",
    "square_operator",
    "start_block",
    "start_norms",
    "start_vector",
    "warn_if_failed",
]

_BLOCK_BYTES = 2**28
_MAX_BLOCK = 32
# Squares of residuals sixteen digits below an operator of this size are still normal numbers.
_SMALLEST, _LARGEST = 1e-140, 1e140


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
    """Raise if a count that was given is not a positive integer."""
    require_count(**{name: value for name, value in values.items() if value is not None})


def require_count(**values: Any) -> None:
    """Raise if a count is not a positive integer; None is none."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}={value!r} must be a positive integer")


def require_real(**values: Any) -> None:
    """Raise if an option is no real number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise TypeError(f"{name}={value!r} must be a real number, not {type(value).__name__}")


def require_options(verb: str, given: Mapping[str, Any], known: type) -> None:
    """Raise if an option is none of those that a typed dictionary knows, by the name of the verb."""
    for name in given:
        names = sorted(known.__annotations__)
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
            raise TypeError(f"{verb} has no option {name!r}: {hint}")


def require_in_range(operator: LinearOperator, scale: float, product: Array) -> None:
    """Raise if squares of numbers of the operator's size leave the range of double precision.

    Parameters
    ----------
    operator : LinearOperator
        Whose products they are.
    scale : float
        Its size as seen so far; 0 where all that was seen is 0, or has squares of 0.
    product : array, shape (n, k)
        The latest product.

    Raises
    ------
    NonFiniteError
        If they overflow.
    ValueError
        If they underflow, which would pass for an exact result.
    """
    if _SMALLEST <= scale <= _LARGEST:
        return
    if scale == 0:
        # Sums of moduli, which do not underflow as squares do, tell small from zero.
        moduli = operator.xp.abs(product)
        sums = to_numpy(operator.codomain.column_inner(moduli, moduli * 0 + 1))
        scale = float(np.max(sums, initial=0.0))
        if scale == 0 or scale >= _SMALLEST:
            return
    exponent = -round(math.log10(scale)) if math.isfinite(scale) else -200
    sentence = (
        f"the products of {operator} are of size {scale:.2g}, and squares of that leave the range of "
        f"double precision; work with 1e{exponent} * A, and divide what comes out by 1e{exponent}"
    )
    raise NonFiniteError(sentence) if not scale <= _LARGEST else ValueError(sentence)


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
    norms = np.sqrt(to_host(space, space.column_norms_squared(start)))
    if not (np.all(np.isfinite(norms)) and np.all(norms > 0)):
        raise ValueError(f"a start vector has norm {norms.min():g}; it must be finite and not zero")
    return norms


def default_block_size(space: Space, wanted: int) -> int:
    """Return how many vectors to multiply at once: many, but within a quarter of a gigabyte."""
    fitting = _BLOCK_BYTES // (max(space.local_dim, 1) * numpy_dtype(space.dtype).itemsize)
    return max(1, min(wanted, _MAX_BLOCK, fitting))


def warn_if_failed(converged: bool, status: str) -> None:
    """Warn of a result that missed its target, at the first caller outside of hessops."""
    if not converged:
        warnings.warn(status, ConvergenceWarning, stacklevel=_level_outside())


def _level_outside() -> int:
    """Return the `stacklevel` of that caller; how deep it is depends, as verbs call one another."""
    # The caller of this function, from where `warn` counts.
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "hessops"


def _describe(start: object) -> str:
    return f"shape {start.shape}" if hasattr(start, "shape") else type(start).__name__
