"""Rows of blocks from all ranks and to all, with whatever communicator there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from hessops.array_space import ArraySpace
from hessops.arrays import Array, HostArray, device, is_array, namespace, numpy_namespace, to_numpy
from hessops.comm import Communicator
from hessops.space import Space
from hessops.together import raise_together, require_same, tried

__all__ = ["all_gather_rows", "gathered", "jointly", "reduce_scatter_rows", "table"]

T = TypeVar("T")


def all_gather_rows(comm: Communicator, X: Array, counts: Sequence[int]) -> Array:
    """Return the rows of all ranks below each other.

    Parameters
    ----------
    comm : Communicator
        Of the ranks. One that cannot gather sums blocks of zeros but for these rows, which takes about
        twice the bytes.
    X : array, shape (counts[comm.rank], k)
        The rows of this rank, of any library.
    counts : sequence of int
        Rows of every rank.

    Returns
    -------
    array, shape (sum(counts), k)
        In the library and on the device of `X`.
    """
    if comm.size == 1:
        return X
    if not hasattr(comm, "all_gather_rows"):
        first = sum(counts[: comm.rank])
        whole = ArraySpace(sum(counts), X.dtype, *_home(X)).zeros(X.shape[1])
        whole[first : first + X.shape[0], ...] = X
        return comm.all_reduce(whole)
    if getattr(comm, "sends_tensors", False):
        return cast("Array", comm.all_gather_rows(X, counts))
    gathered: HostArray = comm.all_gather_rows(np.ascontiguousarray(to_numpy(X)), counts)
    return _moved_like(X, gathered)


def gathered(space: Space, X: Array) -> Array:
    """Return whole vectors of a space, of which every rank has some rows, on all ranks.

    Collective: all ranks call it. Each then has all of the vectors in its memory.

    Parameters
    ----------
    space : Space
        Where the vectors live, such as ``A.domain``.
    X : array, shape (local_dim,) or (local_dim, k)
        The rows of this rank.

    Returns
    -------
    array, shape (n,) or (n, k)
        In the library and on the device of `X`; `X` itself, where all rows are here.

    Raises
    ------
    ValueError
        On all ranks, if `X` has not the rows of one of them, or not as many columns everywhere.
    TypeError
        If it is no array of the space's library.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = hessops.sharded(np.diag([1.0, 2.0, 3.0]), hessops.SerialComm())  # or hessops_mpi.world()
    >>> pairs = hessops.eigsh(A, 1, rng=0)
    >>> hessops.gathered(A.domain, pairs.eigenvectors).shape
    (3, 1)
    """
    comm = space.comm

    def block() -> Array:
        if is_array(X) and X.ndim not in {1, 2}:
            raise ValueError(f"expected vectors of shape (n,) or (n, k), got {X.shape}")
        return space.validate(X[:, None] if is_array(X) and X.ndim == 1 else X)

    if not space.is_split:
        block()
        return X
    rows = jointly(comm, block)
    require_same(comm, {"the shape of the vectors": X.shape[1:]}, "gather the same on every rank")
    counts = table(comm, [rows.shape[0]])[:, 0].astype(int).tolist()
    whole = all_gather_rows(comm, rows, counts)
    return whole[:, 0] if X.ndim == 1 else whole


def reduce_scatter_rows(comm: Communicator, X: Array, counts: Sequence[int]) -> Array:
    """Return this rank's rows of the sum of all ranks' blocks.

    Parameters
    ----------
    comm : Communicator
        Of the ranks. One that cannot scatter a sum gives all of it to everybody, which takes about
        twice the bytes.
    X : array, shape (sum(counts), k)
        A whole block, of any library.
    counts : sequence of int
        Rows of every rank.

    Returns
    -------
    array, shape (counts[comm.rank], k)
        In the library and on the device of `X`.
    """
    if comm.size == 1:
        return X
    if not hasattr(comm, "reduce_scatter_rows"):
        first = sum(counts[: comm.rank])
        return comm.all_reduce(X)[first : first + counts[comm.rank], ...]
    if getattr(comm, "sends_tensors", False):
        return cast("Array", comm.reduce_scatter_rows(X, counts))
    scattered: HostArray = comm.reduce_scatter_rows(np.ascontiguousarray(to_numpy(X)), counts)
    return _moved_like(X, scattered)


def table(comm: Communicator, numbers: Sequence[float]) -> HostArray:
    """Return some numbers of every rank, one row for each, on every rank.

    Parameters
    ----------
    comm : Communicator
        Of the ranks.
    numbers : sequence of float
        As many on every rank; whole numbers are exact up to 2⁵³.

    Returns
    -------
    numpy.ndarray, shape (comm.size, len(numbers))
        In float64.
    """
    rows = np.zeros((comm.size, len(numbers)))
    rows[comm.rank] = numbers
    return to_numpy(comm.all_reduce(rows))


def jointly(comm: Communicator, action: Callable[[], T]) -> T:
    """Return what an action returns; if it fails on one rank, raise on all.

    Parameters
    ----------
    comm : Communicator
        Of the ranks, all of which call this.
    action : callable
        It must not communicate.

    Returns
    -------
    object
        What it returns here.

    Raises
    ------
    Exception
        As `hessops.together.raise_together`.
    """
    value, error = tried(action)
    raise_together(comm, error)
    return cast("T", value)


def _home(X: Array) -> tuple[Any, Any]:
    xp = namespace(X)
    return xp, None if xp is numpy_namespace else device(X)


def _moved_like(X: Array, host: HostArray) -> Array:
    xp, place = _home(X)
    return host if xp is numpy_namespace else xp.asarray(host, device=place)
