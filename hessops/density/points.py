"""What a density is asked at: real points, and shares of all eigenvalues."""

from __future__ import annotations

from typing import Any

import numpy as np

from hessops.arrays import HostArray

__all__ = ["real_points", "shares_of"]


def real_points(name: str, value: Any, *, nan: bool = False) -> HostArray:
    """Return real numbers as an array, or say what else was given.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : float or array_like
        The numbers.
    nan : bool
        Whether NaN may pass.

    Returns
    -------
    numpy.ndarray
        Float64, of the shape of `value`.

    Raises
    ------
    TypeError
        If `value` is not real.
    ValueError
        If an entry is NaN.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}={value!r} must be a real number or an array of them")
    if not nan and np.any(np.isnan(array)):
        raise ValueError(f"{name}={value} must not be NaN")
    return array.astype(np.float64)


def shares_of(q: Any) -> HostArray:
    """Return shares of the eigenvalues, or say which is none.

    Parameters
    ----------
    q : float or array_like
        The shares.

    Returns
    -------
    numpy.ndarray
        Between 0 and 1, of the shape of `q`.

    Raises
    ------
    TypeError
        If `q` is not real.
    ValueError
        If an entry is not between 0 and 1.
    """
    shares = real_points("q", q, nan=True)
    inside = (shares >= 0) & (shares <= 1)
    if not np.all(inside):
        raise ValueError(f"q={shares[~inside].flat[0]} must lie between 0 and 1")
    return shares
