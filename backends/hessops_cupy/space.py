"""Blocks stored column by column, as cuSPARSE takes them."""

from __future__ import annotations

from hessops.arrays import Array
from hessops.space import ArraySpace

__all__ = ["ColumnMajorSpace"]


class ColumnMajorSpace(ArraySpace):
    """Vectors whose blocks store one vector after the other.

    CuPy's products of sparse matrices copy a block that is stored row by row, and return one that is
    stored column by column; elementwise arithmetic keeps the order. So what starts in columns stays
    in columns.

    Parameters
    ----------
    dim, dtype, xp, device, comm, rows, sections
        As of `hessops.ArraySpace`.
    """

    def zeros(self, count: int) -> Array:
        """Return a block of `count` zero vectors, shape (local_dim, count), each contiguous."""
        shape = self.local_dim, count
        block: Array = self.xp.zeros(shape, dtype=self.dtype, device=self.device, order="F")
        return block
