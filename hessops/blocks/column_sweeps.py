"""What recurrences do to the columns of blocks, and their inner products, for any array library.

Inner products are multiplied and summed in double precision: in single precision 10^8 terms would leave
four digits, and products of 10^20 overflow. NumPy's blocks go through `numpy_sweeps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import cast

import numpy as np

from hessops.arrays import Array, DType, HostArray, is_complex
from hessops.blocks import numpy_sweeps

__all__ = ["inner_products", "minus", "scaled", "subtracted"]

# Entries that are widened at once, 2 MiB in double precision, which stay in a cache; but no more
# chunks than these, as a device has to start each of them.
_CHUNK, _MOST_CHUNKS = 2**18, 32


def inner_products(
    xp: ModuleType, pairs: Sequence[tuple[Array, Array]], num_threads: int = 1
) -> Array:
    """Return the inner products of corresponding columns of some pairs of blocks.

    Parameters
    ----------
    xp : namespace
        Their library.
    pairs : sequence of tuple of array, shape (n, k)
        The blocks X and Y.
    num_threads : int
        Threads to share the rows, on the host.

    Returns
    -------
    array, shape (len(pairs), k)
        The sums of ``conj(x) * y``, in double precision.
    """
    # Whoever reads what overflowed raises; a warning of the library's would only come before.
    with np.errstate(over="ignore", invalid="ignore"):
        if numpy_sweeps.possible(*(block for pair in pairs for block in pair)):
            hosted = [(_numpy(X), _numpy(Y)) for X, Y in pairs]
            return numpy_sweeps.inner_products(hosted, num_threads)
        stacked: Array = xp.stack([_chunked(xp, X, Y) for X, Y in pairs])
        return stacked


def subtracted(
    xp: ModuleType,
    W: Array,
    X: Array,
    factors: Array,
    against: Sequence[Array],
    *,
    overwrite: bool = False,
    num_threads: int = 1,
) -> tuple[Array, Array]:
    """Return ``V = W - X * factors``, and its inner products with other blocks.

    Parameters
    ----------
    xp : namespace
        Their library.
    W, X : array, shape (n, k)
        Blocks.
    factors : array, shape (k,)
        In their dtype.
    against : sequence of array, shape (n, k)
        Blocks Y; V itself where there are none.
    overwrite : bool
        Whether V may take the memory of W.
    num_threads : int
        Threads to share the rows, on the host.

    Returns
    -------
    tuple of array
        V, and the inner products of every Y with V, shape (max(len(against), 1), k).
    """
    if numpy_sweeps.possible(W, X, *against):
        given = _numpy(W)
        out = given if overwrite else np.empty_like(given)
        others = [_numpy(Y) for Y in against]
        with np.errstate(over="ignore", invalid="ignore"):
            sums = numpy_sweeps.subtract(
                given, _numpy(X), _numpy(factors), others, out, num_threads
            )
        return out, sums
    V = W - X * factors
    return V, inner_products(xp, [(Y, V) for Y in against or (V,)])


def minus(
    W: Array, X: Array, factors: Array, *, overwrite: bool = False, num_threads: int = 1
) -> Array:
    """Return ``W - X * factors``, and no more.

    Parameters
    ----------
    W, X : array, shape (n, k)
        Blocks.
    factors : array, shape (k,)
        In their dtype.
    overwrite : bool
        Whether the difference may take the memory of W.
    num_threads : int
        Threads to share the rows, on the host.

    Returns
    -------
    array, shape (n, k)
        The difference.
    """
    if not numpy_sweeps.possible(W, X):
        difference: Array = W - X * factors
        return difference
    given = _numpy(W)
    out = given if overwrite else np.empty_like(given)
    numpy_sweeps.minus(given, _numpy(X), _numpy(factors), out, num_threads)
    return out


def scaled(X: Array, factors: Array, *, overwrite: bool = False, num_threads: int = 1) -> Array:
    """Return ``X * factors``, column by column.

    Parameters
    ----------
    X : array, shape (n, k)
        A block.
    factors : array, shape (k,)
        In its dtype.
    overwrite : bool
        Whether the product may take the memory of X.
    num_threads : int
        Threads to share the rows, on the host.

    Returns
    -------
    array, shape (n, k)
        The product.
    """
    if numpy_sweeps.possible(X):
        given = _numpy(X)
        product = given if overwrite else np.empty_like(given)
        numpy_sweeps.scale(given, _numpy(factors), product, num_threads)
        return product
    return X * factors


def _numpy(block: Array) -> HostArray:
    """Return a block of which `possible` has said that it is NumPy's."""
    return cast("HostArray", block)


def _chunked(xp: ModuleType, X: Array, Y: Array) -> Array:
    complex_valued = is_complex(xp, xp.result_type(X.dtype, Y.dtype))
    wide = xp.complex128 if complex_valued else xp.float64
    # Chunk by chunk, so that no block is copied whole; an empty one still has a sum.
    count = X.shape[0]
    step = max(1, _CHUNK // max(1, X.shape[1]), -(-count // _MOST_CHUNKS))
    chunks = [slice(first, min(first + step, count)) for first in range(0, max(1, count), step)]
    total, *others = (_chunk_inner(xp, X[rows, ...], Y[rows, ...], wide) for rows in chunks)
    for other in others:
        total = total + other
    return total


def _chunk_inner(xp: ModuleType, X: Array, Y: Array, wide: DType) -> Array:
    left = xp.astype(X, wide, copy=False)
    left = xp.conj(left) if is_complex(xp, wide) else left
    total: Array = xp.sum(left * Y, axis=0)
    return total
