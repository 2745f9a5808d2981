"""Where vectors live: the only place that knows how they are stored and reduced.

Algorithms touch the long axis by elementwise arithmetic, by ``X @ small`` and by the reductions of a
`Space`, and by nothing else. That is why they run unchanged on one laptop, on a GPU, and on vectors
that are split over many machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from hessops.arrays import (
    Array,
    DType,
    HostArray,
)
from hessops.comm import Communicator
from hessops.random import ProbeKind, Stream

__all__ = ["Space", "require_space", "rows_here"]


class Space(Protocol):
    """A vector space of dimension `dim` of which this process holds `local_dim` rows.

    A block of k vectors is an array of shape (local_dim, k). Everything that `gram`, `joint_gram`,
    `column_inner`, `column_inners`, `subtract` and `section_inner` reduce is the same on every rank,
    but for rounding; what steers a run goes through `hessops.agreement.to_host`.
    """

    @property
    def dim(self) -> int:
        """Return the global dimension n."""

    @property
    def local_dim(self) -> int:
        """Return the number of rows held here."""

    @property
    def dtype(self) -> DType:
        """Return the data type of a vector."""

    @property
    def xp(self) -> ModuleType:
        """Return the array API namespace of a vector."""

    @property
    def device(self) -> Any:
        """Return the device that holds the vectors, None for the library's default."""

    @property
    def comm(self) -> Communicator:
        """Return the communicator of the ranks that share the vectors."""

    @property
    def is_split(self) -> bool:
        """Return whether every rank holds rows of its own, and not a copy of all of them."""

    @property
    def sections(self) -> Mapping[str, tuple[int, int]]:
        """Return the named row ranges that the rows fall into (layers, say); may be empty."""

    def zeros(self, count: int) -> Array:
        """Return a block of `count` zero vectors, laid out as this space likes it."""

    def unit_vectors(self, start: int, stop: int) -> Array:
        """Return columns `start` to `stop` of the identity."""

    def probes(self, stream: Stream, indices: range, kind: ProbeKind) -> Array:
        """Return the random vectors `indices` of a stream: the same for any number of ranks."""

    def gram(self, X: Array, Y: Array) -> Array:
        """Return X^H Y, shape (..., k, l), by one reduction; leading axes are batches."""

    def joint_gram(self, parts: Sequence[Array], Y: Array) -> Array:
        """Return [X_1 X_2 ...]^H Y of parts stored apart, by one reduction; batched like `gram`."""

    def column_inner(self, X: Array, Y: Array) -> Array:
        """Return the k inner products of corresponding columns by one reduction."""

    def column_inners(self, *pairs: tuple[Array, Array]) -> Array:
        """Return `column_inner` of every pair of blocks, shape (len(pairs), k), by one reduction."""

    def column_norms_squared(self, X: Array) -> Array:
        """Return the k squared norms of the columns, real, by one reduction."""

    def subtract(
        self, W: Array, X: Array, coefficients: Array, *against: Array, overwrite: bool = False
    ) -> tuple[Array, Array]:
        """Return ``V = W - X * coefficients`` and what its columns are, by one reduction.

        That is `column_inners` of (Y, V) for all Y of `against`; of (V, V) where there is none. V is in
        memory of its own, or, if `overwrite`, in that of W.
        """

    def minus(self, W: Array, X: Array, coefficients: Array, *, overwrite: bool = False) -> Array:
        """Return ``W - X * coefficients``, by no reduction; if `overwrite`, in the memory of W."""

    def scale(self, X: Array, coefficients: Array, *, overwrite: bool = False) -> Array:
        """Return ``X * coefficients``, column by column; if `overwrite`, in the memory of X."""

    def section_inner(self, X: Array, Y: Array) -> Array:
        """Return `column_inner` within each section, shape (max(num_sections, 1), k)."""

    def from_host(self, array: HostArray) -> Array:
        """Return a small host array on this space's device, in its dtype."""

    def coefficients(self, small: Array) -> Array:
        """Return a small array on the device in this space's dtype.

        Reductions come in double precision; without this, they would lift a float32 block to it.
        """

    def validate(self, X: Array) -> Array:
        """Return the block `X` in this space's dtype, or raise a sentence that says what is off."""

    def agree(self, flag: bool) -> bool:
        """Return rank 0's `flag` on every rank."""

    def compatible_with(self, other: Space) -> bool:
        """Tell whether blocks of `other` have the same rows, library, device and ranks."""

    def with_dtype(self, dtype: DType) -> Space:
        """Return the same space with vectors of another dtype."""


def rows_here(space: Space) -> tuple[int, int] | None:
    """Return how many rows of vectors are on this rank, of how many.

    Parameters
    ----------
    space : Space
        Where the vectors live.

    Returns
    -------
    tuple of int, or None
        None where all are here.
    """
    return (space.local_dim, space.dim) if space.is_split else None


def require_space(space: Any) -> None:
    """Raise if something is no space, such as the operator that has it.

    Parameters
    ----------
    space : object
        To look at.

    Raises
    ------
    TypeError
        If it lacks what a `Space` has.
    """
    if all(hasattr(space, name) for name in ("dim", "dtype", "gram")):
        return
    raise TypeError(
        f"space={space!r} is no space: pass operator.space, or operator.domain if it is not square"
    )
