"""A growing orthonormal basis for each column of a block, and projections off it."""

from __future__ import annotations

import copy

from hessops.arrays import Array
from hessops.space import Space

__all__ = ["Basis"]


class Basis:
    """The basis vectors of m lock-step recurrences, stored one after another.

    Parameters
    ----------
    space : Space
        Where the vectors live.
    count : int
        Number m of recurrences.
    capacity : int
        Vectors per recurrence to make room for at first; the room doubles when it is used up.
    """

    def __init__(self, space: Space, count: int, capacity: int = 16) -> None:
        self.space = space
        self.size = 0
        # Each vector is contiguous: appending writes one stripe, projecting is a matrix product.
        self._buffer = self._room(count, capacity)

    def append(self, X: Array) -> None:
        """Add column j of the block `X` to basis j."""
        count, capacity, _ = self._buffer.shape
        if self.size == capacity:
            grown = self._room(count, 2 * capacity)
            grown[:, :capacity, :] = self._buffer
            self._buffer = grown
        self._buffer[:, self.size, :] = self.space.xp.matrix_transpose(X)
        self.size += 1

    def vectors(self, column: int = 0) -> Array:
        """Return the basis of one recurrence, shape (local_dim, size), as a view."""
        view: Array = self.space.xp.matrix_transpose(self._buffer[column, : self.size, :])
        return view

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
        stack = xp.matrix_transpose(self._buffer[:, : self.size, :])  # (m, local_dim, size)
        columns = xp.matrix_transpose(X)[:, :, None]
        coefficients = self.space.gram(stack, columns)
        rest = columns - stack @ coefficients
        return xp.matrix_transpose(rest[:, :, 0]), coefficients[:, :, 0]

    def _room(self, count: int, capacity: int) -> Array:
        xp, space = self.space.xp, self.space
        room: Array = xp.empty(
            (count, capacity, space.local_dim), dtype=space.dtype, device=space.device
        )
        return room
