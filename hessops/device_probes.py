"""Probes drawn on the device that they are for, equal to those which the host draws.

Signs are the same bits. The other kinds go through the device's own inverse normal distribution,
cosine and sine, and differ from the host's by what those round: a few units in the last place of
double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hessops.arrays import Array, device, is_complex, namespace
from hessops.philox import words
from hessops.random import ProbeKind, Stream, require_kind

__all__ = ["fill_on_device"]

# Entries that are drawn at once: many, as a device has to start some four hundred operations for
# them, but within some hundreds of megabytes.
_CHUNK = 2**22


def fill_on_device(
    block: Array,
    stream: Stream,
    indices: range,
    kind: ProbeKind,
    *,
    first_row: int,
    inverse_normal: Callable[[Any], Any],
) -> None:
    """Fill a block with probes, as `hessops.random.draw` draws them on the host.

    Parameters
    ----------
    block : array, shape (n, k)
        On the device that draws.
    stream : Stream
        Where the randomness comes from.
    indices : range
        The k probes wanted.
    kind : {'rademacher', 'steinhaus', 'normal', 'sphere'}
        As for `draw`; 'sphere' is left for the space to scale.
    first_row : int
        Global index of the first row.
    inverse_normal : callable
        The inverse of the normal distribution function, in the block's library and double precision.

    Raises
    ------
    ValueError
        If `kind` is unknown, or 'steinhaus' is asked of a real block.
    """
    xp = namespace(block)
    complex_valued = is_complex(xp, block.dtype)
    require_kind(kind, complex_valued=complex_valued)
    step = max(1, _CHUNK // max(1, len(indices)))
    for start in range(0, block.shape[0], step):
        stop = min(start + step, block.shape[0])
        rows = first_row + start, first_row + stop
        if kind == "rademacher":
            entries = _signs(block, stream, indices, *rows)
        elif kind == "steinhaus":
            phase = 2 * math.pi * _uniform(block, stream, indices, *rows, part=0)
            entries = xp.cos(phase) + 1j * xp.sin(phase)
        else:
            entries = inverse_normal(_uniform(block, stream, indices, *rows, part=0))
            if complex_valued:
                imaginary = inverse_normal(_uniform(block, stream, indices, *rows, part=1))
                entries = (entries + 1j * imaginary) / math.sqrt(2)
        block[start:stop, :] = xp.astype(entries, block.dtype, copy=False)


def _signs(like: Array, stream: Stream, indices: range, start: int, stop: int) -> Array:
    xp = namespace(like)
    first, last = start // 64, -(-stop // 64)
    packed = words(like, stream, indices, first, last)
    places = xp.arange(64, dtype=xp.int64, device=device(like))[None, :, None]
    bits = (packed[:, None, :] >> places) & 1
    flat = xp.reshape(bits, (64 * (last - first), len(indices)))
    signs: Array = 1 - 2 * flat[start - 64 * first : stop - 64 * first, :]
    return signs


def _uniform(
    like: Array, stream: Stream, indices: range, start: int, stop: int, part: int
) -> Array:
    xp = namespace(like)
    upper = (words(like, stream, indices, start, stop, part) >> 12) & (2**52 - 1)
    uniform: Array = (xp.astype(upper, xp.float64) + 0.5) * 2.0**-52
    return uniform
