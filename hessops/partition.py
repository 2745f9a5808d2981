"""Who holds which rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from hessops.arrays import HostArray

__all__ = ["Partition", "even_counts"]


def even_counts(dim: int, size: int) -> tuple[int, ...]:
    """Return how many of `dim` rows each of `size` ranks gets: as even as they can be.

    Parameters
    ----------
    dim : int
        Rows in all.
    size : int
        Ranks.

    Returns
    -------
    tuple of int
        No two differ by more than one; some get none if there are more ranks than rows.

    Examples
    --------
    >>> from hessops.partition import even_counts
    >>> even_counts(10, 4)
    (2, 3, 2, 3)
    """
    ends = [dim * rank // size for rank in range(size + 1)]
    return tuple(stop - start for start, stop in pairwise(ends))


@dataclass(frozen=True)
class Partition:
    """Contiguous rows for every rank, in the order of the ranks.

    Parameters
    ----------
    counts : tuple of int
        Rows of every rank; some may be 0.
    """

    counts: tuple[int, ...]

    @classmethod
    def of(cls, dim: int, size: int, counts: Sequence[int] | None, name: str) -> Partition:
        """Return the partition that a caller asks for, or an even one.

        Parameters
        ----------
        dim : int
            Rows in all.
        size : int
            Ranks.
        counts : sequence of int or None
            Rows of every rank; even where None.
        name : str
            What the caller calls `counts`, for the message.

        Returns
        -------
        Partition
            Of `dim` rows over `size` ranks.

        Raises
        ------
        ValueError
            If the counts are not as many as there are ranks, or do not add up to `dim`.
        """
        if counts is None:
            return cls(even_counts(dim, size))
        given = tuple(int(count) for count in counts)
        if len(given) != size or min(given) < 0 or sum(given) != dim:
            raise ValueError(
                f"{name}={given} must be {size} numbers, one for each rank, none negative, that add "
                f"up to {dim}; leave it out for an even split"
            )
        return cls(given)

    @property
    def dim(self) -> int:
        """Return the number of rows of all ranks."""
        return sum(self.counts)

    def rows(self, rank: int) -> tuple[int, int]:
        """Return the first and one past the last row of a rank."""
        ends = self.ends
        return int(ends[rank]), int(ends[rank + 1])

    @property
    def ends(self) -> HostArray:
        """Return where the rows of the ranks begin, and the number of all rows."""
        return np.array([0, *accumulate(self.counts)], dtype=np.int64)

    def owners(self, rows: HostArray) -> HostArray:
        """Return which rank holds each of some rows."""
        return np.searchsorted(self.ends, rows, side="right") - 1
