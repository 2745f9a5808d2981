"""Scalars of any library as Python numbers, which raise no precision and wait for no device."""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np

from hessops.arrays import is_array, is_complex, namespace

__all__ = ["as_number", "is_scalar", "require_real", "require_tolerance"]


def is_scalar(obj: Any) -> bool:
    """Tell whether `obj` is a number, of Python or NumPy, or an array of no dimension."""
    if is_array(obj):
        return bool(obj.ndim == 0)
    # Not numbers.Number, which leaves out those that only know how to become one.
    return hasattr(obj, "__float__") or hasattr(obj, "__complex__")


def as_number(obj: Any, action: str) -> complex:
    """Return a float, or a complex number where `obj` is of a complex type.

    Parameters
    ----------
    obj : object
        A number, or an array of no dimension.
    action : str
        What is to be done with an operator, for the message.

    Returns
    -------
    float or complex
        The number.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is NaN or infinite.
    """
    if is_array(obj) and obj.ndim > 0:
        raise TypeError(
            f"cannot {action} an operator by an array of shape {tuple(obj.shape)}: give a number; "
            "A @ x multiplies a vector, Diagonal(x) makes an operator of one"
        )
    if not is_scalar(obj):
        raise TypeError(f"cannot {action} an operator by {obj!r}: give a number")
    number = complex(obj) if _is_complex(obj) else float(obj)
    if not cmath.isfinite(number):
        raise ValueError(f"cannot {action} an operator by {number}: give a finite number")
    return number


def require_real(**values: Any) -> None:
    """Raise if an option is no real number: an array of one is none, and neither is True."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise TypeError(f"{name}={value!r} must be a real number, not {type(value).__name__}")


def require_tolerance(**values: Any) -> None:
    """Raise if a tolerance is not a positive, finite real number."""
    require_real(**values)
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be positive and finite")


def _is_complex(obj: Any) -> bool:
    if is_array(obj):
        return is_complex(namespace(obj), obj.dtype)
    return not hasattr(obj, "__float__")
