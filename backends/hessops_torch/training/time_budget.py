"""A share of the time of a run that something beside it may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["TimeBudget"]

_REMEMBERED = 3
# A measurement may take somewhat longer than those before it.
_SAFETY = 1.2


class TimeBudget:
    """Tell whether work may begin, so that all work together keeps to a share of the time.

    Parameters
    ----------
    max_share : float or None
        Largest share of the time since the beginning, above 0 and at most 1; no limit if None.
    clock : callable, optional
        Seconds.
    """

    def __init__(
        self, max_share: float | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.max_share = max_share
        self.spent = 0.0
        self._clock = clock
        self._begin = clock()
        self._costs: dict[str, list[float]] = {}

    @property
    def elapsed(self) -> float:
        """Return the seconds since the beginning, work included."""
        return self._clock() - self._begin

    @property
    def share(self) -> float:
        """Return the share of the time that work took so far."""
        elapsed = self.elapsed
        return self.spent / elapsed if elapsed > 0 else 0.0

    def affords(self, kind: str, unknown: float) -> bool:
        """Tell whether the share holds after one more work of a kind.

        Parameters
        ----------
        kind : str
            Expected to take as long as the longest of the last of its kind, and a fifth more.
        unknown : float
            What the first of a kind is expected to take.

        Returns
        -------
        bool
            Whether to begin.
        """
        if self.max_share is None:
            return True
        cost = _SAFETY * max(self._costs.get(kind, [unknown]))
        return self.spent + cost <= self.max_share * (self.elapsed + cost)

    @contextmanager
    def working(self, kind: str) -> Iterator[None]:
        """Count the time inside as work of a kind, also if it fails.

        Parameters
        ----------
        kind : str
            Any name.

        Yields
        ------
        None
            While the work is done.
        """
        begin = self._clock()
        try:
            yield
        finally:
            cost = self._clock() - begin
            self.spent += cost
            costs = [*self._costs.get(kind, []), cost]
            self._costs[kind] = costs[-_REMEMBERED:]
