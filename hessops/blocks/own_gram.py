"""The Gram matrix of a block with itself, whose squares single precision may not hold."""

from __future__ import annotations

from hessops.arrays import Array, eps, is_complex
from hessops.space import Space

__all__ = ["own_gram"]


def own_gram(space: Space, X: Array) -> Array:
    """Return X^H X in double precision, for columns of any length that the precision holds.

    In single precision the columns are brought to norm 1 first, which takes one reduction more: squares
    of 1e20 overflow there and those of 1e-25 vanish, where norms are summed in double precision.

    Parameters
    ----------
    space : Space
        Where the vectors live.
    X : array, shape (n, k)
        Any block; columns may be zero.

    Returns
    -------
    array, shape (k, k)
        On the device. Not finite where a column is not.
    """
    xp = space.xp
    wide = xp.complex128 if is_complex(xp, space.dtype) else xp.float64
    if eps(xp, space.dtype) <= 2.0**-52:
        return xp.astype(space.gram(X, X), wide, copy=False)  # type: ignore[no-any-return]
    lengths = xp.sqrt(space.column_norms_squared(X))
    # Shorter ones have no inverse in single precision. They are nothing beside what else there is.
    long = lengths > 1 / float(xp.finfo(space.dtype).max)
    inverse = xp.where(long, 1 / xp.where(long, lengths, xp.ones_like(lengths)), 0 * lengths)
    unit = X * space.coefficients(inverse)
    gram: Array = xp.astype(space.gram(unit, unit), wide) * lengths[:, None] * lengths[None, :]
    return gram
