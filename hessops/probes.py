"""Who draws a block of probes: the host, or the device that the block lies on."""

from __future__ import annotations

import numpy as np

from hessops.arrays import Array, device, is_complex, is_on_host, namespace
from hessops.backends import backends_for
from hessops.random import ProbeKind, Stream, draw

__all__ = ["fill_probes"]


def fill_probes(
    block: Array, stream: Stream, indices: range, kind: ProbeKind, *, first_row: int = 0
) -> None:
    """Fill a block with random vectors, on its own device where the library's backend knows how to.

    Otherwise the host draws, and what it has drawn is copied there.

    Parameters
    ----------
    block : array, shape (n, k)
        What to fill.
    stream : Stream
        Where the randomness comes from.
    indices : range
        The k probes wanted.
    kind : {'rademacher', 'steinhaus', 'normal', 'sphere'}
        As for `hessops.random.draw`; 'sphere' is left for the space to scale.
    first_row : int
        Global index of the first row.

    Raises
    ------
    ValueError
        If `kind` is unknown, or 'steinhaus' is asked of a real block.
    """
    if not is_on_host(block):
        for backend in backends_for(type(block).__module__.partition(".")[0]):
            if hasattr(backend, "fill_probes"):
                backend.fill_probes(block, stream, indices, kind, first_row=first_row)
                return
    _draw_on_host(block, stream, indices, kind, first_row)


def _draw_on_host(
    block: Array, stream: Stream, indices: range, kind: ProbeKind, first_row: int
) -> None:
    xp, stop = namespace(block), first_row + block.shape[0]
    complex_valued = is_complex(xp, block.dtype)
    for column, probe in enumerate(indices):
        entries = draw(stream, probe, first_row, stop, kind, complex_valued=complex_valued)
        moved = xp.asarray(np.ascontiguousarray(entries), device=device(block))
        block[:, column] = xp.astype(moved, block.dtype, copy=False)
