"""What ranks have to agree on before they go on: numbers that steer, and the seed.

A number that decides how many steps to take, which columns to keep or what matrix to multiply by must
be the same on every rank, to the last bit, or the ranks part ways and wait for each other for ever.
Sums over ranks may differ in their last digits, and so may what different processors make of the same
small matrix. So whatever steers is taken from rank 0; a single process pays nothing for that.
"""

from __future__ import annotations

import math
import sys
from types import FrameType
from typing import Any

import numpy as np

from hessops.arrays import Array, HostArray, eps, is_complex, numpy_dtype, to_numpy
from hessops.copies import number_of, require_alike
from hessops.random import RandomState, seed_from
from hessops.space import Space
from hessops.spectral_function import SpectralFunction
from hessops.together import require_same

__all__ = [
    "agreed_seed",
    "require_same_call",
    "require_same_function",
    "require_same_vectors",
    "to_host",
    "together_to_host",
]

# Of the seed more is said; and one rank may show progress.
_MAY_DIFFER = {"rng", "callback"}
# Where functions are held against each other: on both sides of 0, and no special points of usual ones.
_POINTS = (0.6180339887, 1.7320508, 23.14069, -0.5772156649, -3.3)


def to_host(space: Space, small: Array) -> HostArray:
    """Return a small array of the device on the host: rank 0's, on every rank.

    Parameters
    ----------
    space : Space
        Whose ranks have to agree.
    small : array
        What a reduction of the space gave.

    Returns
    -------
    numpy.ndarray
        The same bits on every rank.
    """
    host = to_numpy(small)
    return host if space.comm.size == 1 else space.comm.broadcast(host)


def together_to_host(space: Space, *small: Array) -> list[HostArray]:
    """Return some small arrays of the device on the host, by one copy: rank 0's, on every rank.

    Parameters
    ----------
    space : Space
        Whose ranks have to agree.
    *small : array
        Of any shapes and floating types of the space's library; each comes back in its own.

    Returns
    -------
    list of numpy.ndarray
        The same bits as of copies one by one: nothing is lost in the widest type, or on the way back.
    """
    xp = space.xp
    wide = xp.complex128 if any(is_complex(xp, part.dtype) for part in small) else xp.float64
    flat = [xp.reshape(xp.astype(part, wide), (-1,)) for part in small]
    host = to_host(space, xp.concat(flat))
    parts, start = [], 0
    for part in small:
        stop = start + math.prod(part.shape)
        own = host[start:stop] if is_complex(xp, part.dtype) else np.real(host[start:stop])
        parts.append(np.ascontiguousarray(own, numpy_dtype(part.dtype)).reshape(part.shape))
        start = stop
    return parts


def agreed_seed(space: Space, rng: RandomState) -> int:
    """Return the one seed that `rng` stands for on all ranks of a space.

    Parameters
    ----------
    space : Space
        Whose ranks draw parts of the same vectors.
    rng : int, numpy.random.Generator or None
        As `seed_from` takes it. Of fresh entropy and of generators, which may have advanced
        differently, rank 0's counts (each generator advances once).

    Returns
    -------
    int
        The same on every rank.

    Raises
    ------
    ValueError
        On every rank, if any was given another integer than rank 0, or if the function that asks was
        called with other numbers or words; as for `seed_from`.
    TypeError
        As for `seed_from`.
    """
    own = seed_from(rng)
    if space.comm.size == 1:
        return own
    _require_same_call(space, sys._getframe(1))
    seed = space.comm.broadcast(own)
    differs = isinstance(rng, int | np.integer) and own != seed
    # Summed, so that the ranks that were right do not wait for those that raise.
    flags = space.comm.all_reduce(space.from_host(np.array([float(differs)])))
    others = int(np.real(to_numpy(flags)[0]))
    if others:
        raise ValueError(
            f"rank 0 has the seed {seed}, and {others} of {space.comm.size} ranks were given another "
            f"one (rank {space.comm.rank}: rng={rng!r}); pass the same rng on every rank, or None"
        )
    return seed


def require_same_call(space: Space) -> None:
    """Raise on all ranks unless the function that asks was called alike on each of them.

    Parameters
    ----------
    space : Space
        Whose ranks they are.

    Raises
    ------
    ValueError
        Naming the first of its numbers and words that differs, or its own name.
    """
    if space.comm.size > 1:
        _require_same_call(space, sys._getframe(1))


def require_same_vectors(space: Space, X: Array, name: str, hint: str | None = None) -> None:
    """Raise on all ranks if vectors that all of them have been given are not the same.

    Parameters
    ----------
    space : Space
        Whose ranks they are. Where vectors are split, only their number is looked at.
    X : array, shape (local_dim, k)
        What this rank was given.
    name : str
        What the caller calls it.
    hint : str, optional
        What to do about it.

    Raises
    ------
    ValueError
        If the numbers of columns differ, or copies do by more than rounding: each rank would multiply
        its own part of the data with vectors of its own, and the sum belong to none.
    """
    comm = space.comm
    if comm.size == 1:
        return
    hint = hint or f"pass the same on every rank, such as rank 0's: comm.broadcast({name})"
    require_same(comm, {f"the number of columns of {name}": X.shape[1]}, hint)
    if space.is_split:
        return
    numbers = np.zeros(comm.size)
    numbers[comm.rank] = to_numpy(number_of(X))
    numbers = to_numpy(comm.all_reduce(numbers))
    tolerance = math.sqrt(eps(space.xp, space.dtype))
    require_alike(numbers, tolerance, f"has another {name} than rank 0: {hint}")


def require_same_function(space: Space, function: SpectralFunction) -> None:
    """Raise on all ranks if they have been given different functions of a matrix.

    Parameters
    ----------
    space : Space
        Whose ranks they are.
    function : SpectralFunction
        This rank's. It is evaluated at a few points, in and out of where it is defined.

    Raises
    ------
    ValueError
        Naming a point at which the values differ.
    """
    if space.comm.size == 1:
        return
    known = (function.even, function.odd, function.first_order, function.low, function.closed)
    facts = {f"f({x:.7g})": _value_text(function, x) for x in _POINTS}
    facts["what is known of the derivatives of f"] = str(known)
    require_same(space.comm, facts, "pass the same function f on every rank")


def _value_text(function: SpectralFunction, x: float) -> str:
    """Return a value to the digits that processors agree on, or what kept the function from one."""
    try:
        with np.errstate(all="ignore"):
            value = complex(np.asarray(function.function(np.array([x]))).reshape(-1)[0])
    except Exception as error:
        return type(error).__name__
    return f"{value.real:.8g}" if value.imag == 0 else f"{value:.8g}"


def _require_same_call(space: Space, frame: FrameType) -> None:
    """Raise on all ranks unless the function of a frame has the same name and options on each.

    Ranks that take other numbers of steps or probes would wait for each other for ever.
    """
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = {name: frame.f_locals[name] for name in names if name in frame.f_locals}
    # Vectors may be split, and operators are made on each rank.
    facts = {name: str(v) for name, v in given.items() if name not in _MAY_DIFFER and _is_plain(v)}
    # Of spaces that know what their vectors are of: it may have changed since the operator was made.
    state = getattr(space, "state", None)
    known = state() if state is not None else {}
    hint = "all ranks have to make the same calls, with the same options and weights"
    require_same(space.comm, {"the call": _public_name(frame), **facts, **known}, hint)


def _public_name(frame: FrameType) -> str:
    """Return the name of the innermost call that a user can have made."""
    inner = frame.f_code.co_name
    name, caller = inner, frame.f_back
    while name.startswith(("_", "<")) and caller is not None:
        name, caller = caller.f_code.co_name, caller.f_back
    return inner if name.startswith("<") else name


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str | np.integer | np.floating)
