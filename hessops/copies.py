"""Whether ranks hold the same copies of a block: one number of each rank, which travels with a sum.

Where vectors are whole on every rank and an operator adds up what each makes of them, ranks with other
copies would get a sum that belongs to none of them, and nobody would notice.
"""

from __future__ import annotations

import numpy as np

from hessops.arrays import Array, HostArray, device, is_complex, namespace

__all__ = ["number_of", "require_alike"]

_PERIOD = 997


def number_of(X: Array) -> Array:
    """Return a number that tells a block from others, on its device.

    Parameters
    ----------
    X : array, shape (n, k)
        The block.

    Returns
    -------
    array, shape ()
        Real: by a fixed functional of the direction, and the logarithm of the size. 0 for a block that
        is zero or not finite. It reads the block once.
    """
    xp, place = namespace(X), device(X)
    n, k = X.shape
    period = min(n, _PERIOD)
    whole = n - n % period
    of_columns = xp.arange(1, k + 1, dtype=xp.float64, device=place)
    # As good as random, without a table to send to a device.
    of_rows = xp.cos(xp.arange(period, dtype=xp.float64, device=place) ** 2)
    with np.errstate(all="ignore"):
        line = X @ xp.astype(of_columns / k, X.dtype)
        folded = xp.sum(xp.reshape(line[:whole], (-1, period)), axis=0)
        total = xp.sum(_real(folded) * of_rows) + xp.sum(_real(line[whole:]) * of_rows[: n - whole])
        moduli = _real(xp.abs(line))
        size = xp.sqrt(xp.sum(moduli * moduli))
        number = total / size + xp.log(size)
    found: Array = xp.where(xp.isfinite(number), number, xp.zeros_like(number))
    return found


def require_alike(numbers: HostArray, tolerance: float, sentence: str) -> None:
    """Raise, on all ranks, if the numbers of their blocks are not all the same.

    Parameters
    ----------
    numbers : numpy.ndarray, shape (size,)
        Of every rank, the same on all ranks.
    tolerance : float
        What copies may differ by, relative to their size.
    sentence : str
        What to say after which rank differs.

    Raises
    ------
    ValueError
        Naming the first rank that differs from rank 0.
    """
    numbers = np.asarray(numbers, dtype=np.float64)
    apart = np.abs(numbers - numbers[0]) > tolerance * max(1.0, abs(float(numbers[0])))
    if np.any(apart):
        raise ValueError(f"rank {int(np.argmax(apart))} of {len(numbers)} {sentence}")


def _real(array: Array) -> Array:
    """Return real numbers in double precision: of complex ones a sum that tells them apart."""
    xp = namespace(array)
    parts = xp.real(array) + xp.imag(array) / 2 if is_complex(xp, array.dtype) else array
    wide: Array = xp.astype(parts, xp.float64)
    return wide
