"""Vectors as arrays of one library, whole or split by rows over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from hessops.arrays import (
    Array,
    DType,
    HostArray,
    adjoint,
    device,
    dtype_name,
    is_array,
    is_complex,
    is_floating,
    namespace,
    numpy_namespace,
    plain,
)
from hessops.blocks.column_sweeps import inner_products, minus, scaled, subtracted
from hessops.comm import Communicator, SerialComm, require_communicator
from hessops.probes import fill_probes
from hessops.random import ProbeKind, Stream
from hessops.space import Space

__all__ = ["ArraySpace"]

_PRECISIONS = frozenset({"float32", "float64", "complex64", "complex128"})


@dataclass(frozen=True, eq=False)
class ArraySpace:
    """Vectors stored as arrays of one library, whole or split by rows over ranks.

    Parameters
    ----------
    dim : int
        Global dimension n.
    dtype : data type, optional
        Real or complex floating type of the namespace; float64 where not given.
    xp : namespace, optional
        Array API namespace (of ``array_api_compat``); NumPy's where not given.
    device : object, optional
        Device of the library; its default where not given.
    comm : Communicator, optional
        The ranks that share the vectors; a single process where not given.
    rows : tuple of int, optional
        First and one past the last row held here. Where not given, every rank holds a copy of all
        rows, as where only an operator's data are split, and nothing is summed over ranks.
    sections : mapping of str to tuple of int, optional
        Named, disjoint row ranges that cover all rows, such as the layers of a network.
    num_threads : int
        Threads that share the rows of NumPy blocks; no result depends on it.

    Raises
    ------
    ValueError
        If `dim` or `num_threads` is not positive, or `rows` or `sections` do not fit it.
    TypeError
        If `dtype` is no floating type of single or double precision.

    Examples
    --------
    >>> from hessops import ArraySpace
    >>> space = ArraySpace(3)
    >>> space.zeros(2).shape
    (3, 2)
    """

    dim: int
    dtype: DType = None
    xp: ModuleType = numpy_namespace
    device: Any = None
    comm: Communicator = field(default_factory=SerialComm)
    rows: tuple[int, int] | None = None
    sections: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    num_threads: int = 1

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(
                f"a space of dimension {self.dim} holds no vectors; it must be positive"
            )
        require_communicator(self.comm)
        if self.num_threads < 1:
            raise ValueError(f"num_threads={self.num_threads} must be positive")
        # NumPy's float64 is no dtype but a class, and "cuda" is not the device of an array: ask one.
        dtype = self.xp.float64 if self.dtype is None else self.dtype
        example = self.xp.empty(0, dtype=dtype, device=self.device)
        object.__setattr__(self, "dtype", example.dtype)
        place = None if self.xp is numpy_namespace else device(example)
        object.__setattr__(self, "device", place)
        if not is_floating(self.xp, self.dtype):
            raise TypeError(
                f"dtype {dtype_name(self.dtype)} is not a floating type; convert to float64 (or "
                "float32, complex64, complex128) first"
            )
        if dtype_name(self.dtype) not in _PRECISIONS:
            # Of half precision too few digits are left; of more than double, small matrices and
            # sums, which are made in double precision, would lose what the claimed errors count on.
            raise TypeError(
                f"dtype {dtype_name(self.dtype)} is neither single nor double precision; convert to "
                "float32, float64, complex64 or complex128 first"
            )
        self._require_ranges()

    @property
    def first_row(self) -> int:
        """Return the global index of the first row held here."""
        return self.rows[0] if self.rows else 0

    @property
    def local_dim(self) -> int:
        """Return the number of rows held here."""
        return self.rows[1] - self.rows[0] if self.rows else self.dim

    @property
    def is_split(self) -> bool:
        """Return whether every rank holds rows of its own, and not a copy of all of them."""
        return self.rows is not None and self.comm.size > 1

    def zeros(self, count: int) -> Array:
        """Return a block of `count` zero vectors, shape (local_dim, count)."""
        block: Array = self.xp.zeros((self.local_dim, count), dtype=self.dtype, device=self.device)
        return block

    def unit_vectors(self, start: int, stop: int) -> Array:
        """Return columns `start` to `stop` of the identity, shape (local_dim, stop - start)."""
        last = self.first_row + self.local_dim
        rows = self.xp.arange(self.first_row, last, device=self.device)
        columns = self.xp.arange(start, stop, device=self.device)
        return self.coefficients(rows[:, None] == columns[None, :])

    def probes(self, stream: Stream, indices: range, kind: ProbeKind) -> Array:
        """Return the random vectors `indices` of a stream, shape (local_dim, len(indices))."""
        block = self.zeros(len(indices))
        fill_probes(block, stream, indices, kind, first_row=self.first_row)
        if kind == "sphere":
            norms = self.xp.sqrt(self.column_norms_squared(block))
            block = block * self.coefficients(float(np.sqrt(self.dim)) / norms)
        return block

    def column_norms_squared(self, X: Array) -> Array:
        """Return the (k,) squared norms of the columns, real, in double precision."""
        squares = self.column_inner(X, X)
        if is_complex(self.xp, squares.dtype):
            squares = self.xp.real(squares)
        return squares

    def coefficients(self, small: Array) -> Array:
        """Return a small array on the device in this space's dtype."""
        converted: Array = self.xp.astype(small, self.dtype, copy=False)
        return converted

    def gram(self, X: Array, Y: Array) -> Array:
        """Return X^H Y, shape (..., k, l)."""
        return self.joint_gram([X], Y)

    def joint_gram(self, parts: Sequence[Array], Y: Array) -> Array:
        """Return [X_1 X_2 ...]^H Y of parts stored apart, shape (..., k_1 + k_2 + ..., l)."""
        # Whoever reads what overflowed raises; a warning of the library's would only come before.
        with np.errstate(over="ignore", invalid="ignore"):
            products = [adjoint(X) @ Y for X in parts]
        joined = products[0] if len(products) == 1 else self.xp.concat(products, axis=-2)
        return self._summed(joined)

    def column_inner(self, X: Array, Y: Array) -> Array:
        """Return the (k,) inner products of corresponding columns, in double precision."""
        return self.column_inners((X, Y))[0, ...]

    def column_inners(self, *pairs: tuple[Array, Array]) -> Array:
        """Return `column_inner` of every pair of blocks, shape (len(pairs), k)."""
        return self._summed(inner_products(self.xp, pairs, self.num_threads))

    def subtract(
        self, W: Array, X: Array, coefficients: Array, *against: Array, overwrite: bool = False
    ) -> tuple[Array, Array]:
        """Return ``V = W - X * coefficients``, and `column_inners` of (Y, V) for Y of `against`."""
        factors, threads = self.coefficients(coefficients), self.num_threads
        V, sums = subtracted(
            self.xp, W, X, factors, against, overwrite=overwrite, num_threads=threads
        )
        return V, self._summed(sums)

    def minus(self, W: Array, X: Array, coefficients: Array, *, overwrite: bool = False) -> Array:
        """Return ``W - X * coefficients``, column by column, shape (local_dim, k)."""
        factors = self.coefficients(coefficients)
        return minus(W, X, factors, overwrite=overwrite, num_threads=self.num_threads)

    def scale(self, X: Array, coefficients: Array, *, overwrite: bool = False) -> Array:
        """Return ``X * coefficients``, column by column, shape (local_dim, k)."""
        factors = self.coefficients(coefficients)
        return scaled(X, factors, overwrite=overwrite, num_threads=self.num_threads)

    def section_inner(self, X: Array, Y: Array) -> Array:
        """Return the inner products within each section, shape (max(num_sections, 1), k)."""
        ranges = self.sections.values() if self.sections else [(0, self.dim)]
        parts = [self._local(start, stop) for start, stop in ranges]
        sums = [inner_products(self.xp, [(X[rows, ...], Y[rows, ...])]) for rows in parts]
        return self._summed(self.xp.concat(sums))

    def from_host(self, array: HostArray) -> Array:
        """Return a host array in this space's library, device and dtype."""
        moved: Array = self.xp.asarray(np.ascontiguousarray(array), device=self.device)
        return self.coefficients(moved)

    def validate(self, X: Array) -> Array:
        """Return the block `X` in this space's dtype.

        Parameters
        ----------
        X : array, shape (local_dim, k)
            A block of vectors.

        Returns
        -------
        array, shape (local_dim, k)
            The block, converted without loss where its precision is lower.

        Raises
        ------
        TypeError
            If `X` is no array, belongs to another library, or its dtype would lose digits.
        ValueError
            If the number of rows or the device is not this space's.
        """
        if not is_array(X):
            raise TypeError(
                f"expected an array, got {type(X).__name__}; wrap it, e.g. np.asarray(x)"
            )
        X = plain(X)
        if namespace(X) is not self.xp:
            raise TypeError(
                f"the operator works on arrays of {_library(self.xp)}, got one of "
                f"{_library(namespace(X))}; convert the block first"
            )
        if X.shape[0] != self.local_dim:
            raise ValueError(f"expected {self.local_dim} rows, got a block of shape {X.shape}")
        if self.device is not None and device(X) != self.device:
            raise ValueError(f"the operator lives on {self.device}, the block on {device(X)}")
        return self._converted(X)

    def agree(self, flag: bool) -> bool:
        """Return rank 0's `flag` on every rank."""
        return self.comm.broadcast(flag)

    def compatible_with(self, other: Space) -> bool:
        """Tell whether blocks of `other` have the same rows, library, device and ranks."""
        same_rows = (self.dim, self.local_dim) == (other.dim, other.local_dim)
        same_place = self.xp is other.xp and self.device == other.device
        # A rank may hold all rows alone, or copies of what the others hold.
        copies = isinstance(other, ArraySpace) and (self.rows is None) == (other.rows is None)
        same_ranks = self.comm == other.comm and (copies or self.comm.size == 1)
        return same_rows and same_place and same_ranks

    def with_dtype(self, dtype: DType) -> ArraySpace:
        """Return the same space with vectors of another dtype."""
        return replace(self, dtype=dtype)

    def with_comm(self, comm: Communicator) -> ArraySpace:
        """Return the same space, whose vectors every rank of `comm` has, too."""
        shared = copy(self)
        object.__setattr__(shared, "comm", comm)
        return shared

    def __getstate__(self) -> dict[str, Any]:
        """Return what to pickle: a module, such as the namespace, goes by its name."""
        return {**self.__dict__, "xp": self.xp.__name__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled; written past the frozen dataclass."""
        self.__dict__.update(state, xp=import_module(state["xp"]))

    def __repr__(self) -> str:
        place = "" if self.device is None else f" on {self.device}"
        if self.comm.size > 1:
            kept = "whole" if self.rows is None else f"rows {self.rows[0]} to {self.rows[1]}"
            place += f", {kept} on rank {self.comm.rank} of {self.comm.size}"
        name, dtype = type(self).__name__, dtype_name(self.dtype)
        return f"{name}({self.dim}, {dtype}, {_library(self.xp)}{place})"

    def _require_ranges(self) -> None:
        first, last = self.rows or (0, self.dim)
        if not 0 <= first <= last <= self.dim:
            raise ValueError(f"({first}, {last}) are no rows of a space of dimension {self.dim}")
        ranges = sorted(self.sections.values())
        ends = [0, *(stop for _, stop in ranges)]
        adjoin = all(end == start <= stop for end, (start, stop) in zip(ends, ranges, strict=False))
        if ranges and not (adjoin and ends[-1] == self.dim):
            raise ValueError(f"the sections must cover the rows 0 to {self.dim} once")

    def _summed(self, local: Array) -> Array:
        return local if self.rows is None else self.comm.all_reduce(local)

    def _local(self, start: int, stop: int) -> slice:
        first, count = self.first_row, self.local_dim
        return slice(min(max(start - first, 0), count), min(max(stop - first, 0), count))

    def _converted(self, X: Array) -> Array:
        if X.dtype == self.dtype:
            return X
        if not is_floating(self.xp, X.dtype):
            raise TypeError(
                f"the block has the integer or boolean dtype {dtype_name(X.dtype)}; convert it to "
                f"{dtype_name(self.dtype)}"
            )
        if self.xp.result_type(X.dtype, self.dtype) != self.dtype:
            raise TypeError(
                f"the block is {dtype_name(X.dtype)} and the operator {dtype_name(self.dtype)}: "
                "digits would be lost; convert the block, or build the operator in that precision"
            )
        converted: Array = self.xp.astype(X, self.dtype)
        return converted


def _library(xp: ModuleType) -> str:
    return xp.__name__.removeprefix("array_api_compat.").removesuffix("._namespace")
