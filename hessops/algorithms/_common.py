"""Checks and defaults that verbs share."""

from __future__ import annotations

import math
import sys
import warnings
from types import FrameType
from typing import Any

import numpy as np

from hessops.agreement import require_same_vectors, to_host
from hessops.arrays import Array, HostArray, eps, is_array, numpy_dtype, to_numpy
from hessops.comm import Communicator
from hessops.errors import ConvergenceWarning, NonFiniteError, NotSelfAdjointError
from hessops.operator import LinearOperator
from hessops.options import require_options
from hessops.random import Stream
from hessops.record import require_finite
from hessops.scalars import require_real, require_tolerance
from hessops.space import Space
from hessops.wrap import aslinearoperator

__all__ = [
    "default_block_size",
    "level_outside",
    "require_count",
    "require_in_range",
    "require_options",
    "require_positive",
    "require_product_in_range",
    "require_real",
    "require_tolerance",
    "self_adjoint_operator",
    "square_operator",
    "start_block",
    "start_norms",
    "start_vector",
    "start_width",
    "warn_if_failed",
]

_BLOCK_BYTES = 2**28
_PACKAGES = {"hessops", "hessops_cupy", "hessops_mpi", "hessops_torch"}
_MAX_BLOCK = 32
# Numbers sixteen digits below these are still normal in double precision.
_DOUBLE = -280.0, 280.0
# Squares are summed in double precision; but residuals are divided by their norms, and what is 32 eps
# below an operator of this size still has an inverse in single precision.
_SINGLE = -32.0, 37.0
_POWERS = {1: "numbers beside that", 2: "squares of that", 4: "fourth powers of that"}


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


def require_in_range(
    operator: LinearOperator, scale: float, product: Array, power: int = 2
) -> None:
    """Raise if what is computed from numbers of the operator's size leaves the range of its precision.

    Parameters
    ----------
    operator : LinearOperator
        Whose products they are.
    scale : float
        Its size as seen so far; 0 where all that was seen is 0, or has squares of 0.
    product : array, shape (n, k)
        The latest product.
    power : int
        Up to which power they are computed with: 1, 2 or 4.

    Raises
    ------
    NonFiniteError
        If they overflow.
    ValueError
        If they underflow, which would pass for an exact result.
    """
    smallest, largest = _range(operator, power)
    if smallest <= scale <= largest:
        return
    if scale == 0:
        # Sums of moduli, which do not underflow as squares do, tell small from zero.
        moduli = operator.xp.abs(product)
        sums = to_numpy(operator.codomain.column_inner(moduli, moduli * 0 + 1))
        scale = float(np.max(sums, initial=0.0))
        if scale == 0 or scale >= smallest:
            return
    raise _out_of_range(operator, scale, power)


def require_product_in_range(
    operator: LinearOperator, product: Array, number: int, power: int = 2
) -> float:
    """Raise if a first product is not finite, or of a size that nothing can be computed from.

    Parameters
    ----------
    operator : LinearOperator
        Whose product it is.
    product : array, shape (n, k)
        Of the codomain.
    number : int
        Of the product, for the message if it is not finite.
    power : int
        As of `require_in_range`.

    Returns
    -------
    float
        The largest norm of a column; 0 where its square is 0, or not in range.

    Raises
    ------
    NonFiniteError
        If it holds NaN or infinity, or is too large.
    ValueError
        If it is too small.
    """
    space = operator.codomain
    squares = to_host(space, space.column_norms_squared(product))
    require_finite(squares, number, operator)
    size = math.sqrt(float(np.max(squares, initial=0.0)))
    require_in_range(operator, size, product, power)
    return size


def _range(operator: LinearOperator, power: int) -> tuple[float, float]:
    """Return the sizes between which numbers may be, for their powers to stay in range."""
    double = _is_double(operator)
    # Squares are made in double precision anyhow.
    roots = power if double else max(power / 2, 1)
    low, high = _DOUBLE if double else _SINGLE
    return float(10.0 ** (low / roots)), float(10.0 ** (high / roots))


def _out_of_range(operator: LinearOperator, scale: float, power: int) -> Exception:
    # No more than 1e300, as 1e309 is no number any more.
    exponent = min(-round(math.log10(scale)), 300) if math.isfinite(scale) else -200
    double = _is_double(operator)
    what = _POWERS[power if double else max(power // 2, 1)]
    sentence = (
        f"the products of {operator} are of size {scale:.2g}, and {what} leave the range of "
        f"{'double' if double else 'single'} precision; work with 1e{exponent} * A, and divide what "
        f"comes out by 1e{exponent}"
    )
    return ValueError(sentence) if scale < 1 else NonFiniteError(sentence)


def _is_double(operator: LinearOperator) -> bool:
    return eps(operator.xp, operator.dtype) <= 2.0**-52


def start_vector(space: Space, start: Array | None, stream: Stream) -> Array:
    """Return one start vector as a block of one column, random where not given."""
    if start is None:
        return space.probes(stream, range(1), "normal")
    if not is_array(start) or start.ndim != 1:
        raise ValueError(f"start must be one vector of shape (n,), got {_describe(start)}")
    vector = space.validate(start[:, None])
    require_same_vectors(space, vector, "start")
    return vector


def start_block(space: Space, start: Array, most: int) -> Array:
    """Return given start vectors with norm 1, at most so many, or say what is wrong with them."""
    if not is_array(start) or start.ndim != 2 or start.shape[1] > most:
        raise ValueError(
            f"start must have shape (n, {most}) or fewer columns, got {_describe(start)}"
        )
    block = space.validate(start)
    require_same_vectors(space, block, "start")
    return block * space.from_host(1.0 / start_norms(space, block))


def start_width(space: Space, start: Array) -> int:
    """Return the columns of a block of start vectors, or say that it is none."""
    if is_array(start) and start.ndim == 2 and start.shape[0] == space.local_dim:
        return int(start.shape[1])
    raise ValueError(
        f"start must be a block of shape ({space.local_dim}, k), got {_describe(start)}: of one vector "
        "pass start[:, None]"
    )


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


def warn_if_failed(converged: bool, status: str, comm: Communicator) -> None:
    """Warn of a result that missed its target, once, at the first caller outside of hessops.

    Of ranks, which all have the same result, rank 0 warns. Where warnings are errors, all raise: who
    went on alone would wait for rank 0.
    """
    if not converged and (comm.rank == 0 or _is_error(status)):
        warnings.warn(status, ConvergenceWarning, stacklevel=level_outside())


def _is_error(status: str) -> bool:
    """Tell whether filters, but for those of single modules, make an error of the warning."""
    for action, message, category, module, _ in warnings.filters:
        fits = message is None or message.match(status)
        if module is None and fits and issubclass(ConvergenceWarning, category):
            return action == "error"
    return False


def level_outside() -> int:
    """Return the `stacklevel` of the first caller outside of hessops and its backends.

    How deep it is depends, as verbs call one another.
    """
    # The caller of this function, from where `warn` counts.
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(frame: FrameType) -> bool:
    root = str(frame.f_globals.get("__name__")).partition(".")[0]
    return root in _PACKAGES


def _describe(start: object) -> str:
    return f"shape {start.shape}" if hasattr(start, "shape") else type(start).__name__
