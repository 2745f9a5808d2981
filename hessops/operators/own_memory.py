"""Calls of other people's functions, which may write into their input or reuse their output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from hessops.arrays import Array, is_array, namespace, plain

__all__ = ["call_apart"]


def call_apart(function: Callable[[Array], Any], block: Array) -> Any:
    """Return ``function(block)`` such that later calls change neither the block nor the product.

    Parameters
    ----------
    function : callable
        May write into what it is given, return it, and hand out one buffer again and again.
    block : array, shape (n, k) or (n,)
        Stays as it is.

    Returns
    -------
    object
        What the function returned; an array in memory that nothing else refers to.

    Raises
    ------
    TypeError
        If it returned a masked array.
    """
    product, references = _call(function, namespace(block).asarray(block, copy=True))
    # A function of trainable tensors would drag its graph through the whole run.
    product = plain(product.detach() if hasattr(product, "detach") else product)
    if not is_array(product):
        return product
    # A copy less for the usual function: an array that nobody else holds cannot be overwritten.
    alone = type(product) is np.ndarray and product.flags.owndata and references == _ALONE
    return product if alone else namespace(product).asarray(product, copy=True)


def _call(function: Callable[[Array], Any], block: Any) -> tuple[Any, int | None]:
    product = function(block)
    return product, _references(product)


def _references(obj: Any) -> int | None:
    """Count what refers to an object, where the interpreter counts."""
    return sys.getrefcount(obj) if sys.implementation.name == "cpython" else None


# Measured, as interpreters differ in what they count of a call; NaN equals nothing.
_ALONE: Any = _call(lambda _: np.empty(1), None)[1] or float("nan")
