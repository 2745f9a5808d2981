"""Checks of what a bound is given, and the shape of what it returns."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from hessops.arrays import HostArray

__all__ = ["Curve", "count", "counts", "curve", "inside", "reals", "sech", "spectrum"]

Curve: TypeAlias = float | HostArray
"""One bound, or one for each entry of the array that was asked about."""


def counts(values: ArrayLike, name: str, least: int = 1) -> HostArray:
    """Return whole numbers as int64, or say which one is none."""
    array = np.asarray(values)
    whole = np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
    if not whole or not np.all(np.isfinite(array)) or np.any(array != np.floor(array)):
        raise ValueError(f"{name} is {values!r}; give whole numbers of at least {least}")
    if array.size and array.min() < least:
        raise ValueError(f"{name} holds {array.min()}; it has to be at least {least}")
    return array.astype(np.int64)


def count(value: int, name: str, least: int = 1) -> int:
    """Return one whole number, or say that it is none."""
    array = counts(value, name, least)
    if array.ndim:
        raise ValueError(f"{name} has the shape {array.shape}; give one whole number")
    return int(array)


def reals(values: ArrayLike, name: str, low: float, high: float = np.inf) -> HostArray:
    """Return finite numbers in [low, high] as float64, or name the one that is not there."""
    array = _floats(values, name)
    wrong = ~(np.isfinite(array) & (array >= low) & (array <= high))
    if wrong.any():
        raise ValueError(
            f"{name} holds {array[wrong].flat[0]}; it has to be finite, from {low:g} to {high:g}"
        )
    return array


def inside(values: ArrayLike, name: str, low: float, high: float = np.inf) -> HostArray:
    """Return numbers strictly between low and high as float64, or name the one that is not there."""
    array = _floats(values, name)
    wrong = ~((array > low) & (array < high))
    if wrong.any():
        raise ValueError(
            f"{name} holds {array[wrong].flat[0]}; it has to be above {low:g} and below {high:g}"
        )
    return array


def spectrum(values: ArrayLike, name: str, low: float = -np.inf) -> HostArray:
    """Return a list of numbers in descending order, or say what is wrong with it."""
    array = _floats(values, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has the shape {array.shape}; give a list of at least one number")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds NaN or infinity; give finite numbers")
    if array.min() < low:
        raise ValueError(f"{name} holds {array.min():g}; this bound needs them at least {low:g}")
    return np.sort(array)[::-1]


def curve(values: ArrayLike) -> Curve:
    """Return a float for a question about one number, an array for one about many."""
    array = np.asarray(values, dtype=np.float64)
    return array if array.ndim else float(array)


def sech(values: HostArray) -> HostArray:
    """Return 1 / cosh of non-negative numbers, 0 and not an overflow where they are large."""
    small = np.exp(-values)
    return 2.0 * small / (1.0 + small**2)


def _floats(values: ArrayLike, name: str) -> HostArray:
    array = np.asarray(values)
    if np.iscomplexobj(array) or not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"{name} has the type {array.dtype}; give real numbers")
    return array.astype(np.float64)
