"""The Gram matrix of a block brought to size 1 on the device, without a norm that comes back first."""

from __future__ import annotations

from dataclasses import dataclass

from hessops.arrays import Array
from hessops.space import Space

__all__ = ["ScaledGram", "scaled_gram"]


@dataclass(frozen=True)
class ScaledGram:
    """What there is to read of a block, all of it on the device.

    Parameters
    ----------
    block : array, shape (n, k)
        The block over the norm of its longest column; as it was, where all are zero.
    squares : array, shape (k,)
        Squared norms of the columns before, in double precision.
    gram : array, shape (k, k)
        The Gram matrix of `block`, whose entries are at most 1 but for rounding.
    """

    block: Array
    squares: Array
    gram: Array


def scaled_gram(space: Space, X: Array) -> ScaledGram:
    """Return a block over its longest column, and its Gram matrix.

    Squares of huge or tiny entries leave the range of single precision, so that a Gram matrix is of a
    block of about unit size. Two reductions, and one copy to the host by whoever reads both.

    Parameters
    ----------
    space : Space
        Where the vectors live.
    X : array, shape (n, k)
        Any block of at least one column.

    Returns
    -------
    ScaledGram
        On the device.
    """
    xp = space.xp
    squares = space.column_norms_squared(X)
    longest = xp.sqrt(xp.max(squares))
    divisor = xp.where(longest > 0, longest, xp.ones_like(longest))
    # In two factors: the inverse of a length near the end of the range is beyond it.
    root = space.coefficients(1 / xp.sqrt(divisor))
    block = X * root * root
    return ScaledGram(block, squares, space.gram(block, block))
