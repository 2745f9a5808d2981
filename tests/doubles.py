"""Test doubles: ranks that are threads, and a matrix whose rows are split over them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from hessops import ArraySpace, LinearOperator
from hessops.arrays import to_numpy
from hessops.structure import GENERAL, Structure

T = TypeVar("T")
Rows = tuple[int, int]

_TIMEOUT = 30.0


class ThreadComm:
    """A communicator of threads; a rank that waits in vain, or alone, breaks all of them.

    With `noise`, sums come out a little different on every rank: by up to so much, relative.
    """

    def __init__(self, rank: int, group: _Group) -> None:
        self.rank = rank
        self.size = group.size
        self._group = group
        self._rounding = np.random.default_rng(rank)

    def all_reduce(self, array: Any) -> Any:
        parts = self._exchange("all_reduce", array, (tuple(array.shape), array.dtype))
        # In the order of the ranks, so that every rank gets the same bits.
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        if self._group.noise:
            share = self._group.noise * self._rounding.uniform(-1, 1, total.shape)
            total = total * (1 + share).astype(total.dtype)
        return total

    def broadcast(self, value: T) -> T:
        value_of_root: T = self._exchange("broadcast", value, None)[0]
        return value_of_root

    def _exchange(self, call: str, value: Any, signature: Any) -> list[Any]:
        group = self._group
        group.slots[self.rank] = (call, signature, value)
        group.barrier.wait()
        slots = list(group.slots)
        group.barrier.wait()
        calls = {(name, str(shape_and_dtype)) for name, shape_and_dtype, _ in slots}
        if len(calls) > 1:
            raise RuntimeError(f"the ranks met in different collectives: {sorted(calls)}")
        return [value for _, _, value in slots]


class _Group:
    def __init__(self, size: int, timeout: float, noise: float) -> None:
        self.size = size
        self.noise = noise
        self.barrier = threading.Barrier(size, timeout=timeout)
        self.slots: list[Any] = [None] * size


def run_on_ranks(
    function: Callable[[ThreadComm], T], size: int, timeout: float = _TIMEOUT, noise: float = 0.0
) -> list[T]:
    """Return what `function` returns on each of `size` ranks, or raise the first rank's error.

    A collective that not all ranks join within `timeout` seconds raises BrokenBarrierError. With
    `noise`, sums differ between ranks by so much, relatively: what ranks decide by numbers then has to
    come from one of them.
    """
    group = _Group(size, timeout, noise)
    results: list[Any] = [None] * size
    errors: list[BaseException | None] = [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = function(ThreadComm(rank, group))
        except BaseException as error:
            errors[rank] = error
            group.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * timeout)
    raised = [error for error in errors if error is not None]
    # The others only saw the barrier break.
    causes = [error for error in raised if not isinstance(error, threading.BrokenBarrierError)]
    for error in causes + raised:
        raise error
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError(f"a rank did not return within {2 * timeout:g} s")
    return results


class ShardedMatrix(LinearOperator):
    """A square matrix on vectors of which this rank holds the entries `rows`.

    It gathers its input and multiplies its rows.
    """

    def __init__(
        self,
        matrix: np.ndarray,
        comm: ThreadComm,
        rows: Rows,
        structure: Structure = GENERAL,
        sections: dict[str, Rows] | None = None,
    ) -> None:
        space = ArraySpace(len(matrix), matrix.dtype, comm=comm, rows=rows, sections=sections or {})
        super().__init__(space, structure=structure)
        self.matrix = matrix

    def _apply(self, X: Any) -> Any:
        return self.matrix[slice(*self.domain.rows)] @ self._gathered(X)

    def _apply_adjoint(self, X: Any) -> Any:
        return self.matrix.conj().T[slice(*self.domain.rows)] @ self._gathered(X)

    def _gathered(self, X: Any) -> Any:
        whole = np.zeros((self.domain.dim, X.shape[1]), dtype=X.dtype)
        whole[slice(*self.domain.rows)] = X
        return self.domain.comm.all_reduce(whole)


class ShardedRectangle(LinearOperator):
    """A matrix on vectors of which this rank holds the entries `columns`, and `rows` of products."""

    def __init__(self, matrix: np.ndarray, comm: ThreadComm, rows: Rows, columns: Rows) -> None:
        count, dim = matrix.shape
        domain = ArraySpace(dim, matrix.dtype, comm=comm, rows=columns)
        super().__init__(domain, ArraySpace(count, matrix.dtype, comm=comm, rows=rows))
        self.matrix = matrix

    def _apply(self, X: Any) -> Any:
        partial = self.matrix[:, slice(*self.domain.rows)] @ X
        return self.domain.comm.all_reduce(partial)[slice(*self.codomain.rows)]

    def _apply_adjoint(self, X: Any) -> Any:
        partial = self.matrix.conj().T[:, slice(*self.codomain.rows)] @ X
        return self.domain.comm.all_reduce(partial)[slice(*self.domain.rows)]


class DealtSum(LinearOperator):
    """A sum of matrices on whole vectors, each of which one rank multiplies with."""

    def __init__(
        self,
        matrices: Sequence[np.ndarray],
        comm: ThreadComm,
        holders: Sequence[int],
        structure: Structure = GENERAL,
        samples: Sequence[float] | None = None,
    ) -> None:
        first = matrices[0]
        super().__init__(ArraySpace(len(first), first.dtype, comm=comm), structure=structure)
        self.matrices, self.holders = matrices, holders
        self.samples = samples or [1.0] * len(matrices)

    def terms(self) -> Iterator[LinearOperator]:
        for matrix, holder, count in zip(self.matrices, self.holders, self.samples, strict=True):
            yield _Dealt(self, matrix, holder, count)

    def _apply(self, X: Any) -> Any:
        rank, total = self.domain.comm.rank, np.zeros_like(X)
        for matrix, holder in zip(self.matrices, self.holders, strict=True):
            if holder == rank:
                total = total + matrix @ X
        return self.domain.comm.all_reduce(total)


class _Dealt(LinearOperator):
    def __init__(self, whole: DealtSum, matrix: np.ndarray, holder: int, count: float) -> None:
        super().__init__(whole.domain, structure=whole.structure)
        self.matrix, self.held_by, self.num_samples = matrix, holder, count

    def _apply(self, X: Any) -> Any:
        assert self.held_by == self.domain.comm.rank, "no rank multiplies with another's term"
        return self.matrix @ X


def splits(n: int) -> list[list[Rows]]:
    """Return ways to split n rows over 1, 2, 3 and 4 ranks: uneven, and some ranks empty."""
    cuts: list[Sequence[int]] = [
        (0, n),
        (0, n // 3, n),
        (0, n // 2, n // 2, n),
        (0, n // 5, n // 2, n),
        (0, 0, 1, n - 1, n),
        (0, n // 4, n // 3, n, n),
    ]
    return [list(pairwise(cut)) for cut in cuts]


def gathered(parts: Sequence[Any]) -> np.ndarray:
    """Return the rows of all ranks below each other."""
    return np.concatenate([to_numpy(part) for part in parts], axis=0)
