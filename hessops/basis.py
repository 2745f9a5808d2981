"""A growing orthonormal basis for each column of a block, and projections off it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from functools import reduce

from hessops.arrays import Array
from hessops.space import Space

__all__ = ["Basis"]


class Basis:
    """The basis vectors of m lock-step recurrences, stored one after another.

    They lie in stripes of memory that stay where they are when the basis grows.

    Parameters
    ----------
    space : Space
        Where the vectors live.
    count : int
        Number m of recurrences.
    capacity : int
        Vectors per recurrence to make room for at first. When the room is used up, a stripe is added
        for an eighth of what is there, at least for as many as at first.
    """

    def __init__(self, space: Space, count: int, capacity: int = 16) -> None:
        self.space = space
        self.size = 0
        self._count = count
        self._capacity = capacity
        # Each vector is contiguous: appending writes one row, projecting is a matrix product.
        self._stripes: tuple[Array, ...] = (self._room(capacity),)

    def append(self, X: Array) -> None:
        """Add column j of the block `X` to basis j."""
        free = sum(stripe.shape[1] for stripe in self._stripes) - self.size
        if free == 0:
            free = max(self._capacity, self.size // 8)
            self._stripes = (*self._stripes, self._room(free))
        last = self._stripes[-1]
        last[:, last.shape[1] - free, :] = self.space.xp.matrix_transpose(X)
        self.size += 1

    def vectors(self, column: int = 0) -> Array:
        """Return the basis of one recurrence, shape (local_dim, size).

        A view while the room made at first suffices, a copy of the whole basis afterwards.
        """
        xp = self.space.xp
        parts = [part[column, :, :] for _, part in self._parts()]
        vectors: Array = xp.matrix_transpose(parts[0] if len(parts) == 1 else xp.concat(parts))
        return vectors

    def combined(self, coefficients: Array, column: int = 0) -> Array:
        """Return linear combinations of the basis vectors of one recurrence, without a copy of them.

        Parameters
        ----------
        coefficients : array, shape (size, k)
            Column i holds the coefficients of combination i.
        column : int
            Which recurrence.

        Returns
        -------
        array, shape (local_dim, k)
            The product of `vectors` with the coefficients.
        """
        transpose = self.space.xp.matrix_transpose
        shares = (
            transpose(part[column, :, :]) @ coefficients[rows, :] for rows, part in self._parts()
        )
        total: Array = reduce(operator.add, shares)
        return total

    def snapshot(self) -> Basis:
        """Return the basis as it is now; what is appended later does not show in it."""
        return copy.copy(self)

    def project(self, X: Array) -> tuple[Array, Array]:
        """Take every column of a block off its basis, in one pass of classical Gram-Schmidt.

        Parameters
        ----------
        X : array, shape (local_dim, m)
            Column j belongs to basis j.

        Returns
        -------
        block : array, shape (local_dim, m)
            What is left.
        coefficients : array, shape (m, size)
            Inner products of the basis vectors with the columns, by one reduction.
        """
        xp = self.space.xp
        # Each of shape (m, local_dim, vectors).
        stacks = [(rows, xp.matrix_transpose(part)) for rows, part in self._parts()]
        rest = xp.matrix_transpose(X)[:, :, None]
        coefficients = self.space.joint_gram([stack for _, stack in stacks], rest)
        for rows, stack in stacks:
            rest = rest - stack @ coefficients[:, rows, :]
        return xp.matrix_transpose(rest[:, :, 0]), coefficients[:, :, 0]

    def _parts(self) -> Iterator[tuple[slice, Array]]:
        """Yield which vectors each stripe holds, and them, shape (m, vectors, local_dim)."""
        first = 0
        for stripe in self._stripes:
            last = min(first + stripe.shape[1], self.size)
            yield slice(first, last), stripe[:, : last - first, :]
            if last == self.size:
                return
            first = last

    def _room(self, capacity: int) -> Array:
        xp, space = self.space.xp, self.space
        room: Array = xp.empty(
            (self._count, capacity, space.local_dim), dtype=space.dtype, device=space.device
        )
        return room
