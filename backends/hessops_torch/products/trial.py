"""Ways to compute a product, looked at beside the plain one: which are right, and which is fastest."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from hessops_torch.products.clock import seconds_of

__all__ = ["Trial", "short"]

_SEED = 0xFA57
# On a machine that does something else, too, the shortest of a few times is the least disturbed.
_ROUNDS = 3
# Seconds: what takes longer is timed once, as a disturbance is then a small part of it.
_LONG_ENOUGH = 1.0
_logger = logging.getLogger("hessops")


class _Way(Protocol):
    chunk_size: int
    """Most vectors at a time."""


Way = TypeVar("Way", bound=_Way)
"""What computes products other than the plain way, which is None."""


class Trial(ABC, Generic[Way]):
    """One random block with which ways to compute products are tried.

    Parameters
    ----------
    what : str
        What is computed, for the log.
    width : int
        Columns of the block that counts for the time.
    device : torch.device
        Where it is computed.
    """

    def __init__(self, what: str, width: int, device: torch.device) -> None:
        self.what = what
        self.width = width
        self.device = device

    @abstractmethod
    def candidate(self, mode: str) -> Way:
        """Return what computes products in a mode."""

    @abstractmethod
    def difference(self, way: Way) -> str | None:
        """Return in what its products differ from the plain ones, None if in rounding alone."""

    @abstractmethod
    def product(self, way: Way | None) -> Callable[[], object]:
        """Return what computes the product of the block, as it would be if the way were taken."""

    def objection(self, way: Way) -> str | None:
        """Return why a way cannot be taken, None if it can.

        Parameters
        ----------
        way : Way
            Of which operations that cannot be transformed for several vectors take one at a time.

        Returns
        -------
        str or None
            What stands between the name of the mode and a full stop.
        """
        try:
            return self.difference(way)
        except Exception as error:
            if way.chunk_size == 1:
                return f"fails ({short(error)})"
            way.chunk_size = 1
            return self.objection(way)

    def fastest(self, modes: Sequence[str]) -> Way | None:
        """Return the fastest way of those that are right, and tell the log what each one takes.

        Parameters
        ----------
        modes : sequence of str
            To try beside the plain way, "backward".

        Returns
        -------
        Way or None
            None for the plain one.
        """
        best, shortest = None, self.seconds(None)
        found = [f"backward {shortest:.2g} s"]
        for mode in modes:
            way = self.candidate(mode)
            seconds, says = self._tried(way)
            found.append(f"{mode} {says}")
            if seconds < shortest:
                best, shortest = way, seconds
        columns = f"{self.width} column{'s' if self.width > 1 else ''}"
        _logger.info("%s of %s: %s", self.what, columns, "; ".join(found))
        return best

    def seconds(self, way: Way | None) -> float:
        """Return how long the product of the block takes: the shortest of up to three times."""
        product = self.product(way)
        shortest, total = math.inf, 0.0
        for _ in range(_ROUNDS):
            seconds = seconds_of(product, self.device)
            shortest, total = min(shortest, seconds), total + seconds
            if total > _LONG_ENOUGH:
                break
        return shortest

    def random(self, shape: tuple[int, ...], dtype: torch.dtype, *, other: int = 0) -> Tensor:
        """Return random numbers, the same in every trial; `other` ones beside each other."""
        generator = torch.Generator(device=self.device).manual_seed(_SEED + other)
        return torch.randn(shape, generator=generator, device=self.device, dtype=dtype)

    def _tried(self, way: Way) -> tuple[float, str]:
        """Return how long a way takes, for ever if it cannot be taken, and what to say of it."""
        reason = self.objection(way)
        if reason is not None:
            return math.inf, reason
        try:
            seconds = self.seconds(way)
        except Exception as error:
            # More columns at a time than were looked at may take more memory than there is.
            return math.inf, f"fails ({short(error)})"
        return seconds, f"{seconds:.2g} s"


def short(error: Exception) -> str:
    """Return an error in one line."""
    # What was raised in the model, without what is said around it of the batch.
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines() or ["it says no more"]
    return f"{type(cause).__name__}: {lines[0][:200]}"
