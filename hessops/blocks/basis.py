"""A growing orthonormal basis for each column of a block, and projections off it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Sequence
from functools import reduce

from hessops.arrays import Array
from hessops.space import Space

__all__ = ["Basis"]

# Entries that `replace` holds twice at a time, but in no more chunks than these, as a device has to
# start each of them.
_CHUNK, _MOST_CHUNKS = 2**16, 32


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
    limit : int, optional
        Most vectors per recurrence that there will ever be; no room is made for more.
    """

    def __init__(
        self, space: Space, count: int, capacity: int = 16, limit: int | None = None
    ) -> None:
        self.space = space
        self.size = 0
        self._count = count
        self._limit = limit
        self._capacity = capacity if limit is None else min(capacity, limit)
        # Shared with the snapshots, which end with a replacement of the vectors that they show.
        self._replacements = [0]
        self._replacements_seen = 0
        # Each vector is contiguous: appending writes one row, projecting is a matrix product.
        self._stripes: tuple[Array, ...] = (self._room(self._capacity),)

    def append(self, X: Array) -> None:
        """Add column j of the block `X` to basis j."""
        room = sum(stripe.shape[1] for stripe in self._stripes)
        if self.size == room:
            more = max(self._capacity, self.size // 8)
            if self._limit is not None:
                more = min(more, max(1, self._limit - room))
            self._stripes = (*self._stripes, self._room(more))
        row = self.size
        for stripe in self._stripes:
            if row < stripe.shape[1]:
                stripe[:, row, :] = self.space.xp.matrix_transpose(X)
                break
            row -= stripe.shape[1]
        self.size += 1

    def extend(self, X: Array) -> None:
        """Add all columns of a block to the basis of the one recurrence, one after the other."""
        for column in range(X.shape[1]):
            self.append(X[:, column : column + 1])

    def replace(self, coefficients: Array) -> None:
        """Put linear combinations of the vectors of the one recurrence in their place.

        Takes no second basis: a megabyte or two, or a thirty-second of the new one. Snapshots taken
        before raise when they are asked for vectors.

        Parameters
        ----------
        coefficients : array, shape (size, k)
            Column i holds the coefficients of the new vector i; k is at most `size`.
        """
        xp, count = self.space.xp, coefficients.shape[1]
        parts = [(rows, part[0, :, :]) for rows, part in self._parts()]
        length = self.space.local_dim
        step = max(1, _CHUNK // max(1, count), -(-length // _MOST_CHUNKS))
        for first in range(0, length, step):
            chunk = slice(first, min(first + step, length))
            shares = (
                xp.matrix_transpose(coefficients[rows, :]) @ part[:, chunk] for rows, part in parts
            )
            new = reduce(operator.add, shares)
            for rows, part in parts:
                kept = min(rows.stop, count) - rows.start
                if kept > 0:
                    part[:kept, chunk] = new[rows.start : rows.start + kept, :]
        self.size = count
        self._replacements[0] += 1
        self._replacements_seen = self._replacements[0]

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
        """Return the basis as it is now; what is appended later does not show in it.

        It serves until `replace` is called on the original, and raises after that.
        """
        return copy.copy(self)

    def project(self, X: Array, ranges: Sequence[slice] | None = None) -> tuple[Array, Array]:
        """Take every column of a block off its basis, in one pass of classical Gram-Schmidt.

        Parameters
        ----------
        X : array, shape (local_dim, m)
            Column j belongs to basis j.
        ranges : sequence of slice, optional
            Which vectors of every basis, ascending; all of them where not given.

        Returns
        -------
        block : array, shape (local_dim, m)
            What is left.
        coefficients : array, shape (m, size)
            Inner products of these basis vectors with the columns, by one reduction.
        """
        xp = self.space.xp
        # Each of shape (m, local_dim, vectors).
        stacks = [xp.matrix_transpose(part) for _, part in self._parts(ranges)]
        rest = xp.matrix_transpose(X)[:, :, None]
        coefficients = self.space.joint_gram(stacks, rest)
        first = 0
        for stack in stacks:
            last = first + stack.shape[2]
            rest = rest - stack @ coefficients[:, first:last, :]
            first = last
        return xp.matrix_transpose(rest[:, :, 0]), coefficients[:, :, 0]

    def inner(self, X: Array) -> Array:
        """Return the inner products of the vectors of the one recurrence with a block.

        Parameters
        ----------
        X : array, shape (local_dim, b)
            Any block.

        Returns
        -------
        array, shape (size, b)
            By one reduction.
        """
        transpose = self.space.xp.matrix_transpose
        return self.space.joint_gram([transpose(part[0, :, :]) for _, part in self._parts()], X)

    def project_block(self, X: Array, ranges: Sequence[slice] | None = None) -> tuple[Array, Array]:
        """Take all columns of a block off the basis of the one recurrence, in one pass.

        Parameters
        ----------
        X : array, shape (local_dim, b)
            Any block.
        ranges : sequence of slice, optional
            Which vectors, ascending; all of them where not given.

        Returns
        -------
        block : array, shape (local_dim, b)
            What is left.
        coefficients : array, shape (size, b)
            Inner products of these basis vectors with the columns, by one reduction.
        """
        transpose = self.space.xp.matrix_transpose
        parts = [transpose(part[0, :, :]) for _, part in self._parts(ranges)]
        coefficients = self.space.coefficients(self.space.joint_gram(parts, X))
        first = 0
        for part in parts:
            last = first + part.shape[1]
            X = X - part @ coefficients[first:last, :]
            first = last
        return X, coefficients

    def _parts(self, ranges: Sequence[slice] | None = None) -> Iterator[tuple[slice, Array]]:
        """Yield which vectors each stripe holds, and them, shape (m, vectors, local_dim)."""
        if ranges is not None:
            for rows, part in self._parts():
                for chosen in ranges:
                    first, last = max(rows.start, chosen.start), min(rows.stop, chosen.stop)
                    if first < last:
                        yield slice(first, last), part[:, first - rows.start : last - rows.start, :]
            return
        if self._replacements_seen != self._replacements[0]:
            raise RuntimeError(
                "the vectors of this state were replaced by a restart; use a state before the next "
                "one is asked for, or raise max_basis"
            )
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
