"""Blocks of NumPy vectors, swept once through the cache: one stretch of rows after another.

NumPy by itself passes over whole blocks once per operation, so that long vectors travel from memory
again and again; and it works row by row where it broadcasts, which is slow for the few columns of a
block. Here a stretch stays in the cache until all is done with it, and many rows are seen as one.

Results depend on the blocks alone: stretches are summed in their order, whatever the threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from hessops.arrays import HostArray

__all__ = ["in_threads", "inner_products", "minus", "possible", "scale", "subtract"]

# Entries of a stretch: 512 KiB in double precision, so that a few fit the cache.
_STRETCH = 2**16
# Entries that many rows make up together, enough to hide what NumPy spends on a row.
_WIDTH = 256

_Work: TypeAlias = Callable[..., Any]


def possible(*blocks: Any) -> bool:
    """Tell whether these are NumPy blocks of one shape and dtype, stored row by row."""
    first = blocks[0]
    return all(
        type(block) is np.ndarray
        and block.ndim == 2
        and block.flags.c_contiguous
        and block.size > 0
        and block.shape == first.shape
        and block.dtype == first.dtype
        for block in blocks
    )


def inner_products(pairs: Sequence[tuple[HostArray, HostArray]], num_threads: int = 1) -> HostArray:
    """Return the inner products of the columns of some pairs of blocks, in double precision.

    Parameters
    ----------
    pairs : sequence of tuple of numpy.ndarray, shape (n, k)
        Blocks X and Y for which a sweep is `possible`.
    num_threads : int
        Threads to share the rows.

    Returns
    -------
    numpy.ndarray, shape (len(pairs), k)
        The sums of ``conj(x) * y``.
    """
    blocks = [block for pair in pairs for block in pair]

    def prepare() -> _Work:
        sums = _InnerProducts(blocks[0])
        return lambda *views: sums.of(list(zip(views[::2], views[1::2], strict=True)))

    return _total(_sweep(prepare, blocks, num_threads), blocks[0].shape[1])


def subtract(
    W: HostArray,
    X: HostArray,
    factors: HostArray,
    against: Sequence[HostArray],
    out: HostArray,
    num_threads: int = 1,
) -> HostArray:
    """Write ``W - X * factors`` into `out`, and return its inner products with other blocks.

    Parameters
    ----------
    W, X : numpy.ndarray, shape (n, k)
        Blocks for which a sweep is `possible`, with those that follow.
    factors : numpy.ndarray, shape (k,)
        In their dtype.
    against : sequence of numpy.ndarray, shape (n, k)
        Blocks Y; `out` itself where there are none.
    out : numpy.ndarray, shape (n, k)
        May be `W`.
    num_threads : int
        Threads to share the rows.

    Returns
    -------
    numpy.ndarray, shape (max(len(against), 1), k)
        The sums of ``conj(y) * out``, in double precision.
    """
    difference = _difference(W, factors, out)

    def prepare() -> _Work:
        sums, subtract_stretch = _InnerProducts(W), difference()

        def work(w: HostArray, x: HostArray, target: HostArray, *others: HostArray) -> HostArray:
            subtract_stretch(w, x, target)
            return sums.of([(other, target) for other in others or (target,)])

        return work

    return _total(_sweep(prepare, [W, X, out, *against], num_threads), W.shape[1])


def minus(
    W: HostArray, X: HostArray, factors: HostArray, out: HostArray, num_threads: int = 1
) -> None:
    """Write ``W - X * factors`` into `out`, and no more.

    Parameters
    ----------
    W, X : numpy.ndarray, shape (n, k)
        Blocks for which a sweep is `possible`, with `out`.
    factors : numpy.ndarray, shape (k,)
        In their dtype.
    out : numpy.ndarray, shape (n, k)
        May be `W`.
    num_threads : int
        Threads to share the rows.
    """
    _sweep(_difference(W, factors, out), [W, X, out], num_threads)


def scale(X: HostArray, factors: HostArray, out: HostArray, num_threads: int = 1) -> None:
    """Write ``X * factors`` into `out`.

    Parameters
    ----------
    X : numpy.ndarray, shape (n, k)
        A block for which a sweep is `possible`, with `out`.
    factors : numpy.ndarray, shape (k,)
        In its dtype.
    out : numpy.ndarray, shape (n, k)
        May be `X`.
    num_threads : int
        Threads to share the rows.
    """
    repeated = _repeated(factors)

    def work(x: HostArray, target: HostArray) -> None:
        np.multiply(x, repeated[: x.shape[1]], out=target)

    _sweep(lambda: work, [X, out], num_threads)


def in_threads(
    share: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any], num_threads: int
) -> list[Any]:
    """Return what `share` returns of all items, in their order, each thread taking a run of them.

    Parameters
    ----------
    share : callable
        From some items to as many results; safe to be called by several threads at once.
    items : sequence
        What to share out.
    num_threads : int
        How many threads.

    Returns
    -------
    list
        One result per item.
    """
    count = min(num_threads, len(items))
    if count <= 1:
        return share(items)
    ends = [len(items) * thread // count for thread in range(count + 1)]
    runs = [items[start:stop] for start, stop in pairwise(ends)]
    # The pool of a process that forked has no threads in its children.
    return [result for run in _pool(num_threads, os.getpid()).map(share, runs) for result in run]


class _Buffer:
    """Memory for a stretch, used again and again."""

    def __init__(self, dtype: Any) -> None:
        self._memory = np.empty(0, dtype=dtype)

    def like(self, block: HostArray) -> HostArray:
        if self._memory.size < block.size:
            self._memory = np.empty(block.size, dtype=self._memory.dtype)
        return self._memory[: block.size].reshape(block.shape)


class _InnerProducts:
    """Inner products of columns, multiplied and summed in double precision."""

    def __init__(self, block: HostArray) -> None:
        wide = np.result_type(block.dtype, np.float64)
        self._wide = wide
        self._conjugate, self._widen = block.dtype.kind == "c", wide != block.dtype
        self._left, self._right = _Buffer(wide), _Buffer(wide)

    def of(self, pairs: Sequence[tuple[HostArray, HostArray]]) -> HostArray:
        sums = np.empty((len(pairs), pairs[0][0].shape[1]), dtype=self._wide)
        for row, (x, y) in enumerate(pairs):
            apart = self._conjugate or self._widen
            left = np.conjugate(x, out=self._left.like(x)) if apart else x
            right = np.positive(y, out=self._right.like(y)) if self._widen else y
            np.einsum("ij,ij->j", left, right, out=sums[row])
        return sums


def _difference(W: HostArray, factors: HostArray, out: HostArray) -> Callable[[], _Work]:
    """Return what prepares the work of a thread: ``w - x * factors`` of a stretch, written to `out`."""
    repeated = _repeated(factors)

    def prepare() -> _Work:
        multiple = _Buffer(W.dtype)

        def work(w: HostArray, x: HostArray, target: HostArray) -> None:
            apart = multiple.like(x) if out is W else target
            product = np.multiply(x, repeated[: x.shape[1]], out=apart)
            np.subtract(w, product, out=target)

        return work

    return prepare


def _sweep(
    prepare: Callable[[], _Work], blocks: Sequence[HostArray], num_threads: int
) -> list[Any]:
    """Return what the work that every thread prepares makes of each stretch of some blocks."""

    def share(stretches: Sequence[list[HostArray]]) -> list[Any]:
        work = prepare()
        with np.errstate(over="ignore", invalid="ignore"):
            return [work(*views) for views in stretches]

    stretches = list(_stretches(blocks))
    # Handing work to a thread takes longer than a stretch that is not full.
    return in_threads(share, stretches, min(num_threads, blocks[0].size // _STRETCH))


def _stretches(blocks: Sequence[HostArray]) -> Iterator[list[HostArray]]:
    """Yield the same rows of all blocks, many seen as one, and at the end what does not fill one."""
    n, k = blocks[0].shape
    width = _rows_in_one(k)
    whole = n - n % width
    wide = [block[:whole].reshape(-1, width * k) for block in blocks]
    step = max(1, _STRETCH // (width * k))
    for first in range(0, whole // width, step):
        yield [view[first : first + step] for view in wide]
    if whole < n:
        yield [block[whole:] for block in blocks]


def _total(parts: list[HostArray], columns: int) -> HostArray:
    """Add up the sums of all stretches, the last of which may have shorter rows."""
    *alike, last = parts
    groups = [np.sum(alike, axis=0), last] if alike else [last]
    sums = [group.reshape(len(last), -1, columns).sum(axis=1) for group in groups]
    return np.asarray(sums[0] + sums[1] if alike else sums[0])


def _repeated(factors: HostArray) -> HostArray:
    return np.tile(factors, _rows_in_one(len(factors)))


def _rows_in_one(columns: int) -> int:
    return max(1, _WIDTH // columns)


@cache
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - part of the key
    return ThreadPoolExecutor(num_threads, thread_name_prefix="hessops")
