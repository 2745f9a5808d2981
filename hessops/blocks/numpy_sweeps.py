"""Blocks of NumPy vectors swept once through the cache: update, scale and reduce a stretch of rows at a time.

NumPy by itself passes over whole blocks once per operation, so that long vectors travel from memory again
and again, and it works row by row where it broadcasts, which is slow for the few columns of a block. Here
every stretch stays in the cache until all is done with it, and several rows are seen as one long one.

Results depend on the shape of a block alone: stretches are summed in fixed pieces, whatever the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from hessops.arrays import HostArray

__all__ = ["in_pieces", "inner_products", "possible", "scale", "subtract"]

# Entries of a stretch, 256 KiB in double precision, of which a few fit a processor's own cache.
_STRETCH = 2**15
# Entries that several rows make up together, enough to hide what NumPy spends on a row.
_WIDTH = 256
# Of a block, each summed by one thread; as many, at most, work on it.
_PIECES = 32


def possible(*blocks: Any) -> bool:
    """Tell whether these are NumPy blocks of one shape and dtype, stored row by row."""
    first = blocks[0]
    return all(
        isinstance(block, np.ndarray)
        and block.ndim == 2
        and block.flags.c_contiguous
        and block.size > 0
        and (block.shape, block.dtype) == (first.shape, first.dtype)
        for block in blocks
    )


def inner_products(pairs: Sequence[tuple[HostArray, HostArray]], num_threads: int = 1) -> HostArray:
    """Return the inner products of the columns of some pairs of blocks, in double precision.

    Parameters
    ----------
    pairs : sequence of tuple of numpy.ndarray, shape (n, k)
        `possible` together.
    num_threads : int
        Threads to share the rows.

    Returns
    -------
    numpy.ndarray, shape (len(pairs), k)
        The sums of ``conj(x) * y``.
    """
    X = pairs[0][0]

    def piece(start: int, stop: int) -> HostArray:
        sums = _Sums(len(pairs), X)
        for rows, width in _stretches(start, stop, X):
            for row, (left, right) in enumerate(pairs):
                sums.add(row, _wide(left[rows], width), _wide(right[rows], width))
        return sums.total()

    return _summed(piece, X, num_threads)


def subtract(
    W: HostArray,
    X: HostArray,
    coefficients: HostArray,
    against: Sequence[HostArray],
    out: HostArray,
    num_threads: int = 1,
) -> HostArray:
    """Write ``W - X * coefficients`` into `out`, and return its inner products with other blocks.

    Parameters
    ----------
    W, X, out : numpy.ndarray, shape (n, k)
        `possible` together; `out` may be `W`.
    coefficients : numpy.ndarray, shape (k,)
        Of the same dtype.
    against : sequence of numpy.ndarray, shape (n, k)
        Blocks Y, `possible` with the others; `out` itself where there are none.
    num_threads : int
        Threads to share the rows.

    Returns
    -------
    numpy.ndarray, shape (max(len(against), 1), k)
        The sums of ``conj(y) * out``, in double precision.
    """
    partners = tuple(against) or (out,)

    def piece(start: int, stop: int) -> HostArray:
        sums, multiple = _Sums(len(partners), W), _Buffer(W.dtype)
        for rows, width in _stretches(start, stop, W):
            target = _wide(out[rows], width)
            product = multiple.like(target)
            np.multiply(_wide(X[rows], width), np.tile(coefficients, width), out=product)
            np.subtract(_wide(W[rows], width), product, out=target)
            for row, Y in enumerate(partners):
                sums.add(row, _wide(Y[rows], width), target)
        return sums.total()

    return _summed(piece, W, num_threads)


def scale(X: HostArray, coefficients: HostArray, out: HostArray, num_threads: int = 1) -> None:
    """Write ``X * coefficients`` into `out`, which may be `X`.

    Parameters
    ----------
    X, out : numpy.ndarray, shape (n, k)
        `possible` together.
    coefficients : numpy.ndarray, shape (k,)
        Of the same dtype.
    num_threads : int
        Threads to share the rows.
    """

    def piece(start: int, stop: int) -> None:
        for rows, width in _stretches(start, stop, X):
            factor = np.tile(coefficients, width)
            np.multiply(_wide(X[rows], width), factor, out=_wide(out[rows], width))

    in_pieces(piece, _ends(X), num_threads)


def in_pieces(work: Callable[[int, int], Any], ends: Sequence[int], num_threads: int) -> list[Any]:
    """Return ``work(start, stop)`` for all neighbours among `ends`, in their order.

    Parameters
    ----------
    work : callable
        Safe to be called by several threads at once, for ranges that do not overlap.
    ends : sequence of int
        Ascending.
    num_threads : int
        Threads to share the calls.

    Returns
    -------
    list
        What the calls returned.
    """
    ranges = list(pairwise(ends))
    if num_threads == 1 or len(ranges) == 1:
        return [work(*ends) for ends in ranges]
    return list(_pool(num_threads).map(lambda ends: work(*ends), ranges))


class _Buffer:
    """Memory for a stretch, used again and again."""

    def __init__(self, dtype: Any) -> None:
        self._memory = np.empty(0, dtype=dtype)

    def like(self, block: HostArray) -> HostArray:
        if self._memory.size < block.size:
            self._memory = np.empty(block.size, dtype=self._memory.dtype)
        return self._memory[: block.size].reshape(block.shape)


class _Sums:
    """Column sums of products, multiplied and summed in double precision."""

    def __init__(self, count: int, block: HostArray) -> None:
        self._columns = block.shape[1]
        wide = np.result_type(block.dtype, np.float64)
        self._conjugate, self._convert = block.dtype.kind == "c", wide != block.dtype
        self._sums = np.zeros((count, self._columns), dtype=wide)
        self._left, self._right = _Buffer(wide), _Buffer(wide)

    def add(self, row: int, left: HostArray, right: HostArray) -> None:
        if self._convert or self._conjugate:
            copy = self._left.like(left)
            np.conjugate(left, out=copy)
            left = copy
        if self._convert:
            copy = self._right.like(right)
            np.copyto(copy, right)
            right = copy
        sums = np.einsum("ij,ij->j", left, right)
        self._sums[row] += sums.reshape(-1, self._columns).sum(axis=0)

    def total(self) -> HostArray:
        return self._sums


def _summed(piece: Callable[[int, int], HostArray], block: HostArray, threads: int) -> HostArray:
    parts = in_pieces(piece, _ends(block), threads)
    total: HostArray = sum(parts[1:], start=parts[0])
    return total


def _ends(block: HostArray) -> list[int]:
    """Return where pieces of a block end: as many as there are stretches, but no more than 32."""
    count = min(_PIECES, -(-block.size // _STRETCH))
    return [len(block) * piece // count for piece in range(count + 1)]


def _stretches(start: int, stop: int, block: HostArray) -> list[tuple[slice, int]]:
    """Return ranges of rows that fit the cache, and how many rows of each make up a long one."""
    width = max(1, _WIDTH // block.shape[1])
    step = max(1, _STRETCH // (width * block.shape[1])) * width
    whole = stop - (stop - start) % width
    ranges = [
        (slice(first, min(first + step, whole)), width) for first in range(start, whole, step)
    ]
    return [*ranges, (slice(whole, stop), 1)] if whole < stop else ranges


def _wide(rows: HostArray, width: int) -> HostArray:
    return rows.reshape(-1, width * rows.shape[1])


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="hessops")
