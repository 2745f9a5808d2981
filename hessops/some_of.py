"""Whether ranks were given the same data: a few items of it, read once, as one number."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from hessops.arrays import is_array, to_numpy

__all__ = ["SAME_DATA", "checksum_of", "checksum_of_some", "places"]

SAME_DATA = (
    "the data is not the same on all ranks, in the same order. shard deals out one data set: make or "
    "load the same on every rank, and seed what draws in it"
)
"""What to do about it."""

_MOST = 16


def places(total: int) -> list[int]:
    """Return which items of so many to look at: the first, the last and some between, always the same.

    Parameters
    ----------
    total : int
        How many there are.

    Returns
    -------
    list of int
        In order, 16 at most; all, where there are no more.
    """
    if total <= _MOST:
        return list(range(total))
    between = random.Random(total).sample(range(1, total - 1), _MOST - 2)
    return [0, *sorted(between), total - 1]


def checksum_of_some(
    total: int, item: Callable[[int], Any], checksum: Callable[[Any], int] | None = None
) -> str:
    """Return a checksum of some of so many items.

    Parameters
    ----------
    total : int
        How many there are.
    item : callable
        Returns the item at a place.
    checksum : callable, optional
        Of an item; `checksum_of` where not given.

    Returns
    -------
    str
        What differs, nearly always, if the items do.
    """
    numbers = [(checksum or checksum_of)(item(place)) for place in places(total)]
    return f"{zlib.crc32(repr(numbers).encode()):08x}"


def checksum_of(item: Any) -> int:
    """Return a checksum of the arrays, numbers and strings in an item; of other things, of their kind.

    Parameters
    ----------
    item : object
        Arrays may be nested in tuples, lists and mappings.

    Returns
    -------
    int
        Of shapes, dtypes and entries.
    """
    if isinstance(item, Mapping):
        return checksum_of([*item.keys(), *item.values()])
    if isinstance(item, tuple | list):
        return zlib.crc32(repr([checksum_of(part) for part in item]).encode())
    if isinstance(item, str | bytes | int | float | complex | None):
        return zlib.crc32(repr(item).encode())
    kind = type(item).__qualname__
    if not is_array(item):
        return zlib.crc32(kind.encode())
    try:
        host = to_numpy(item.detach() if hasattr(item, "detach") else item)
        content = b"" if host.dtype.hasobject else host.tobytes()
    except (TypeError, RuntimeError):  # NumPy has no such dtype, or layout.
        content = b""
    return zlib.crc32(content, zlib.crc32(f"{kind}{tuple(item.shape)}{item.dtype}".encode()))
