"""Numbers of probes that double, and products of many vectors in blocks."""

from __future__ import annotations

from collections.abc import Iterator

from hessops.arrays import Array
from hessops.operator import LinearOperator

__all__ = ["doubled", "multiplied"]


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
