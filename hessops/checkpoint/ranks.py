"""Who keeps what of a record, where an operator's vectors belong to several ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from hessops.arrays import HostArray, to_numpy
from hessops.errors import CheckpointError
from hessops.space import Space
from hessops.together import tried

__all__ = ["Ranks"]

T = TypeVar("T")


class Ranks:
    """The ranks that share the vectors of an operator; all of them call its methods together.

    Where vectors are split, every rank keeps its rows. Where every rank has them whole, rank 0 keeps
    them and tells the others. An error on one rank is an error on all, so that none waits for it.

    Parameters
    ----------
    domain, codomain : Space
        Of the operator.
    """

    def __init__(self, domain: Space, codomain: Space) -> None:
        space = domain if domain.comm.size > 1 else codomain
        self.comm = space.comm
        self.rank = space.comm.rank
        self._space = space
        # Reductions over vectors that every rank has whole change nothing.
        self._adds_up = self.comm.size > 1 and self._sum(np.ones(1))[0] > 1
        rows = self._gathered([domain.local_dim, codomain.local_dim])
        split = self._adds_up and bool(np.any(rows != [domain.dim, codomain.dim]))
        self.rows: list[list[int]] | None = rows.tolist() if split else None
        """Rows of domain and codomain on every rank; None where none is split."""

    def name(self, stem: str) -> str:
        """Return the name of this rank's file."""
        return stem if self.rows is None else f"{stem}.rank-{self.rank}"

    def by_root(self, action: Callable[[], T]) -> T:
        """Return on every rank what rank 0's action returns, or raise what it raises."""
        if self.comm.size == 1:
            return action()
        value, error = tried(action) if self.rank == 0 else (None, None)
        value, error = self.comm.broadcast((value, error))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def by_keepers(self, action: Callable[[], T]) -> T:
        """Return what the action of whoever keeps this rank's rows returns; all succeed or none."""
        if self.rows is None:
            return self.by_root(action)
        value, error = tried(action)
        failed = np.flatnonzero(self._gathered([error is not None]))
        if error is not None:
            raise error
        if failed.size:
            raise CheckpointError(f"rank {failed[0]} could not go on, and says why")
        return value  # type: ignore[return-value]

    def least(self, count: int) -> int:
        """Return the least of the counts of all ranks that keep something."""
        return count if self.rows is None else int(self._gathered([count]).min())

    def _gathered(self, numbers: list[int]) -> HostArray:
        """Return the numbers of all ranks, one row for each."""
        if not self._adds_up:
            return np.array([numbers])
        table = np.zeros((self.comm.size, len(numbers)))
        table[self.rank] = numbers
        return self._sum(table).astype(np.int64)

    def _sum(self, table: HostArray) -> HostArray:
        # In double precision, whatever the vectors have: rows are counted exactly.
        xp = self._space.xp
        moved = xp.asarray(table, dtype=xp.float64, device=self._space.device)
        return to_numpy(self.comm.all_reduce(moved))
