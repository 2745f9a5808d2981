"""Where to spend probes: by variance and cost, stratum by stratum (Neyman 1934).

An estimate is a sum over strata, and every stratum can be seen in several ways: by probes of one
thing, by probes of two, or by probes of one and the exact value of the other. With a price λ on
variance a part of standard deviation σ and cost κ a probe takes n = σ √(λ / κ) probes, and each
stratum the way that is cheapest at that price. The price is the least that reaches the variance
wanted, or the most that the budget pays for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Allocation", "Part", "Way", "allocate"]

_STEPS = 200


@dataclass(frozen=True)
class Part:
    """A mean over probes.

    Parameters
    ----------
    deviation : float
        Standard deviation of one probe.
    cost : float
        Of one probe.
    least : int
        Fewest probes.
    done : int
        Probes that are paid for already.
    """

    deviation: float
    cost: float
    least: int = 1
    done: int = 0

    def count(self, price: float) -> int:
        """Return how many probes to take at a price on variance."""
        wanted = self.deviation * math.sqrt(price / self.cost)
        return max(self.least, self.done, math.ceil(min(wanted, 1e12)))


@dataclass(frozen=True)
class Way:
    """One way to see a stratum.

    Parameters
    ----------
    name : str
        What it is called.
    parts : tuple of Part
        Means that are added up.
    fixed : float
        What it costs besides.
    """

    name: str
    parts: tuple[Part, ...]
    fixed: float = 0.0

    def spent(self, counts: Sequence[int]) -> float:
        """Return what some numbers of probes cost beyond what is paid for."""
        pairs = zip(self.parts, counts, strict=True)
        return self.fixed + sum(part.cost * (count - part.done) for part, count in pairs)

    def variance(self, counts: Sequence[int]) -> float:
        """Return the variance that some numbers of probes leave."""
        pairs = zip(self.parts, counts, strict=True)
        return sum(part.deviation**2 / count for part, count in pairs)


@dataclass(frozen=True)
class Allocation:
    """The ways chosen, and how many probes each part takes.

    Parameters
    ----------
    ways : tuple of Way
        One for each stratum.
    counts : tuple of tuple of int
        Probes of each way's parts, with those done.
    """

    ways: tuple[Way, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def cost(self) -> float:
        """Return what is still to be paid."""
        return sum(w.spent(c) for w, c in zip(self.ways, self.counts, strict=True))

    @property
    def variance(self) -> float:
        """Return the variance that is left."""
        return sum(w.variance(c) for w, c in zip(self.ways, self.counts, strict=True))


def allocate(
    strata: Sequence[Sequence[Way]], *, variance: float | None = None, budget: float = math.inf
) -> Allocation:
    """Return the cheapest allocation that reaches a variance, or the best that a budget pays for.

    Parameters
    ----------
    strata : sequence of sequence of Way
        The ways to see each stratum.
    variance : float, optional
        What is wanted in all; as little as the budget pays for where not given.
    budget : float
        What may be spent.

    Returns
    -------
    Allocation
        If the budget is too small even for the fewest probes, those of the cheapest ways.
    """
    if variance is not None:
        _, enough = _turn(strata, lambda found: found.variance <= variance)
        if enough.variance <= variance and enough.cost <= budget:
            return enough
    affordable, _ = _turn(strata, lambda found: found.cost > budget)
    return affordable


def _turn(
    strata: Sequence[Sequence[Way]], flag: Callable[[Allocation], bool]
) -> tuple[Allocation, Allocation]:
    """Return the allocations at the prices next to the one from which on a flag is set."""
    low, high = -700.0, 700.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if flag(_at(strata, math.exp(middle))):
            high = middle
        else:
            low = middle
    return _at(strata, math.exp(low)), _at(strata, math.exp(high))


def _at(strata: Sequence[Sequence[Way]], price: float) -> Allocation:
    ways, counts = [], []
    for choices in strata:
        best: Way | None = None
        best_counts: tuple[int, ...] = ()
        best_value = math.inf
        for way in choices:
            taken = tuple(part.count(price) for part in way.parts)
            value = way.spent(taken) + price * way.variance(taken)
            if best is None or value < best_value:
                best, best_counts, best_value = way, taken, value
        assert best is not None
        ways.append(best)
        counts.append(best_counts)
    return Allocation(tuple(ways), tuple(counts))
