"""One product with a block of vectors, as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hessops.archive import BROKEN, read_archive, write_archive
from hessops.arrays import Array, HostArray, to_numpy
from hessops.errors import CheckpointError
from hessops.space import Space

__all__ = ["Entry", "Order", "as_stored"]

Order = Literal["rows", "columns"]
"""Which axis of a block is contiguous in memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A product, and what it is known again by.

    Parameters
    ----------
    call : str
        What was multiplied, and how.
    sketch : numpy.ndarray, shape (3, k)
        Of the block that was multiplied, by `Sketcher.sketch`.
    product : numpy.ndarray, shape (m, k)
        The product, on the host.
    order : {'rows', 'columns'}
        How it lay in memory: sums over rows and columns round otherwise.
    fingerprint : numpy.ndarray, shape (3, 1), or None
        Sketch of the operator's product with a fixed vector, of the first entry of each call.
    """

    call: str
    sketch: HostArray
    product: HostArray
    order: Order
    fingerprint: HostArray | None

    def write(self, path: Path) -> None:
        """Write the entry to a file: whole, or not at all."""
        # A block by columns is the transpose of one by rows.
        stored = self.product if self.order == "rows" else self.product.T
        arrays = {"product": stored, "sketch": self.sketch}
        if self.fingerprint is not None:
            arrays["fingerprint"] = self.fingerprint
        write_archive(path, {"call": self.call, "order": self.order}, arrays)

    @classmethod
    def read(cls, path: Path) -> Entry:
        """Return the entry that a file holds, or say that it holds none."""
        try:
            with path.open("rb") as file:
                document, arrays = read_archive(file)
            product, order = arrays["product"], document["order"]
            return cls(
                call=document["call"],
                sketch=arrays["sketch"],
                product=product if order == "rows" else product.T,
                order=order,
                fingerprint=arrays.get("fingerprint"),
            )
        except BROKEN as error:
            raise CheckpointError(
                f"{path} is damaged or cannot be read ({error}), and so the record ends before it: "
                "delete it and the files of higher numbers to go on from there"
            ) from error

    def restored(self, space: Space) -> Array:
        """Return the product in the library and on the device of a space, as it lay in memory."""
        xp = space.xp
        by_columns = self.order == "columns"
        contiguous = np.ascontiguousarray(self.product.T if by_columns else self.product)
        # A copy, in memory of the library's own, aligned as it likes it.
        moved: Array = xp.asarray(contiguous, device=space.device, copy=True)
        return xp.matrix_transpose(moved) if by_columns else moved


def as_stored(product: Array) -> tuple[HostArray, Order | None]:
    """Return a product on the host, and how it lies in memory; None where neither axis is contiguous.

    Parameters
    ----------
    product : array, shape (m, k)
        Of any library.

    Returns
    -------
    host : numpy.ndarray, shape (m, k)
        The same entries.
    order : {'rows', 'columns'} or None
        The axis that is contiguous, without gaps.
    """
    host = to_numpy(product)
    strides = getattr(product, "strides", host.strides)
    rows, columns = host.shape
    size = host.dtype.itemsize
    if strides == (columns * size, size):
        return host, "rows"
    if strides == (size, rows * size):
        return host, "columns"
    return host, None
