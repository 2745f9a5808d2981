"""All ranks go on, or none: an error of one is told to all, and so is a call that differs.

A rank that raises alone leaves the others waiting for it in their next collective. Where all ranks are
about to meet anyway, they say first whether they are well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from hessops.arrays import Array, HostArray, device, eps, namespace, to_numpy
from hessops.comm import Communicator
from hessops.copies import number_of, require_alike
from hessops.errors import NonFiniteError, NotSelfAdjointError

__all__ = [
    "any_together",
    "hear",
    "number_to_tell",
    "raise_together",
    "require_same",
    "summed_together",
    "tried",
]

T = TypeVar("T")

# Kinds that callers may want to tell apart; the words of others come as a RuntimeError.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (ValueError, TypeError, KeyError, OSError, NonFiniteError, NotSelfAdjointError)
}
_LONGEST = 2000
_OTHER_BLOCK = (
    "multiplies another block than rank 0, and their products would be added: make the same calls on "
    "every rank, with the same vectors. If they are the same, the copies that ranks hold have drifted "
    "apart by rounding: use processors of one kind and as many threads on each rank, or split the "
    "vectors (hessops.sharded)"
)


def tried(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return what an action returns and what it raises: the others wait to hear it, whatever it is."""
    try:
        return action(), None
    except Exception as error:
        return None, error


def raise_together(comm: Communicator, error: Exception | None) -> None:
    """Raise on all ranks if there was an error on any; collective, by one small reduction.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    error : Exception or None
        This rank's.

    Raises
    ------
    Exception
        This rank's own, with its rank in a note; on the others what the first of the failed says, as
        the same kind of error.
    """
    if comm.size == 1:
        if error is not None:
            raise error
        return
    failed = np.zeros(comm.size)
    failed[comm.rank] = error is not None
    _tell(comm, _summed(comm, failed), error)


def any_together(comm: Communicator, flag: bool, error: Exception | None) -> bool:
    """Return whether a flag is set on any rank, or raise on all if there was an error on any.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    flag : bool
        This rank's.
    error : Exception or None
        This rank's.

    Returns
    -------
    bool
        The same on all ranks, by one small reduction.

    Raises
    ------
    Exception
        As `raise_together`.
    """
    if comm.size == 1:
        if error is not None:
            raise error
        return flag
    told = np.zeros(comm.size + 1)
    told[comm.rank], told[-1] = error is not None, flag
    told = _summed(comm, told)
    _tell(comm, told[:-1], error)
    return bool(told[-1] > 0)


def summed_together(
    comm: Communicator, block: Array, error: Exception | None, of: Array | None = None
) -> Array:
    """Return the sum of a block over ranks, or raise on all of them what kept one from making its own.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    block : array
        Of one shape and floating dtype on all ranks; not looked at where there is an error.
    error : Exception or None
        This rank's.
    of : array, shape (n, k), optional
        Of what the block is a product: all ranks have to have the same copy of it.

    Returns
    -------
    array
        The sum, by one reduction: a number of every rank travels with it.

    Raises
    ------
    Exception
        As `raise_together`.
    ValueError
        On all ranks, if they have multiplied other blocks.
    """
    if comm.size == 1:
        if error is not None:
            raise error
        return block
    xp = namespace(block)
    numbers = xp.zeros(comm.size, dtype=block.dtype, device=device(block))
    numbers[comm.rank] = number_to_tell(error, of)
    flat = xp.reshape(block, (-1,))
    if error is not None:  # It may be half made, and NaN.
        flat = xp.zeros_like(flat)
    size = math.prod(block.shape)
    total = comm.all_reduce(xp.concat([flat, numbers]))
    hear(comm, np.real(to_numpy(total[size:])), error, eps(xp, block.dtype))
    summed: Array = xp.reshape(total[:size], block.shape)
    return summed


def number_to_tell(error: Exception | None, of: Array | None) -> Any:
    """Return the number by which a rank tells the others how it is and what it has multiplied."""
    if error is not None:
        return math.nan
    return 0.0 if of is None else number_of(of)


def hear(comm: Communicator, numbers: HostArray, error: Exception | None, precision: float) -> None:
    """Raise on all ranks if one of them has an error, or has multiplied another block.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    numbers : numpy.ndarray, shape (size,)
        What each has told by `number_to_tell`, the same on every rank.
    error : Exception or None
        This rank's.
    precision : float
        Machine epsilon of the block.

    Raises
    ------
    Exception
        As `raise_together`.
    ValueError
        If the blocks differ.
    """
    _tell(comm, np.isnan(numbers), error)
    # Copies that are rounded differently drift apart slowly at first; blocks that differ do so at once.
    require_alike(numbers, precision**0.25, _OTHER_BLOCK)


def require_same(comm: Communicator, facts: Mapping[str, Any], hint: str) -> None:
    """Raise on all ranks if what they say is not the same; collective.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    facts : mapping of str to object
        Small things that can be compared and pickled, by what messages call them.
    hint : str
        What to do about it.

    Raises
    ------
    ValueError
        Naming the first difference.
    """
    if comm.size == 1:
        return
    told: Any = comm.broadcast(dict(facts))
    if not isinstance(told, dict):
        # Nothing that they say to each other from here on would be understood.
        raise RuntimeError(  # noqa: TRY004 - no argument is wrong.
            f"rank {comm.rank} begins a call while rank 0 is inside another one: an error that one of "
            "them has caught, and of which the others were not told; leave such errors uncaught, and "
            "make the same calls on every rank"
        )
    names = [name for name in {**told, **facts} if _missing(told, name) != _missing(facts, name)]
    error = None
    if names:
        here, there = _missing(facts, names[0]), _missing(told, names[0])
        error = ValueError(
            f"{names[0]} is {here} on rank {comm.rank} and {there} on rank 0: {hint}"
        )
    raise_together(comm, error)


def _tell(comm: Communicator, failed: HostArray, error: Exception | None) -> None:
    """Raise on all ranks if `failed` is not zero for any; for who has reduced it with other things.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    failed : numpy.ndarray, shape (size,)
        The same on every rank: not zero for those that have an error.
    error : Exception or None
        This rank's.

    Raises
    ------
    Exception
        As `raise_together`.
    """
    ranks = np.flatnonzero(failed)
    if not ranks.size:
        return
    letters = np.zeros(_LONGEST)
    if comm.rank == ranks[0]:
        text = f"{type(error).__name__}\n{error}".encode()[:_LONGEST]
        letters[: len(text)] = list(text)
    # As numbers: a sum is what every communicator has, and only the first of the failed adds to it.
    text_of_first = bytes(_summed(comm, letters).astype(np.uint8).tolist()).rstrip(b"\0")
    if error is not None:
        error.add_note(f"on rank {comm.rank} of {comm.size}")
        raise error
    name, _, sentence = text_of_first.decode(errors="replace").partition("\n")
    kind = _KINDS.get(name, RuntimeError)
    named = sentence if name in _KINDS or name == "RuntimeError" else f"{name}: {sentence}"
    told = kind(f"rank {ranks[0]} of {comm.size}: {named}")
    # For who shows errors: that rank knows more.
    told.told_by = int(ranks[0])  # type: ignore[attr-defined]
    raise told


def _missing(facts: Mapping[str, Any], name: str) -> Any:
    return facts.get(name, "not given")


def _summed(comm: Communicator, numbers: HostArray) -> HostArray:
    return to_numpy(comm.all_reduce(numbers))
