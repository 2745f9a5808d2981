"""Which probes come next: block by block, or twice as many; and products of many vectors in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hessops.arrays import Array
from hessops.operator import LinearOperator

__all__ = ["doubled", "multiplied", "probe_blocks"]


def probe_blocks(
    block_size: int, num_probes: int | Callable[[], int] | None = None, *, start: int = 0
) -> Iterator[range]:
    """Yield the indices of the next block of probes.

    Parameters
    ----------
    block_size : int
        Most probes in a block.
    num_probes : int or callable, optional
        Where to end, or a function that is asked for that before every block; never, if not given.
    start : int
        Where to begin.

    Yields
    ------
    range
        At most `block_size` indices that follow on those before.
    """
    while (end := num_probes() if callable(num_probes) else num_probes) is None or start < end:
        stop = start + (block_size if end is None else min(block_size, end - start))
        yield range(start, stop)
        start = stop


def doubled(first: int, total: int) -> Iterator[range]:
    """Yield the indices of fresh probes so that their number doubles, up to `total`."""
    start, stop = 0, min(first, total)
    while start < total:
        yield range(start, stop)
        start, stop = stop, min(2 * stop, total)


def multiplied(A: LinearOperator, X: Array, block_size: int) -> Array:
    """Return A X, so many columns at a time."""
    count = X.shape[1]
    if count <= block_size:
        return A.apply(X)
    blocks = [A.apply(X[:, i : min(i + block_size, count)]) for i in range(0, count, block_size)]
    product: Array = A.xp.concat(blocks, axis=1)
    return product
