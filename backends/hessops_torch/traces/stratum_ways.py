"""The ways to see a stratum, and what each takes: plain probes, or help from gradients of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hessops.arrays import HostArray
from hessops_torch.traces.allocation import Part, Way, allocate
from hessops_torch.traces.stratum_moments import NUM_FOLDS, StratumMoments

__all__ = ["BACKWARD", "FORWARD", "LEAST_PROBES", "Prices", "choose", "chosen_way"]

FORWARD, BACKWARD = 1.0, 2.0
LEAST_PROBES = 2


@dataclass(frozen=True)
class Prices:
    """What things cost, in forward passes.

    Parameters
    ----------
    probe : float
        A probe of both H and G.
    num_columns : int
        Of a square root of M; none is known if 0.
    separate : bool
        Whether samples have gradients of their own, so that all columns give the trace exactly.
    """

    probe: float
    num_columns: int
    separate: bool

    def fixed(self, seen: StratumMoments, way: str) -> float:
        """Return what a way costs besides probes and signs."""
        samples = seen.stratum.num_samples
        if way == "exact" and seen.exact is None:
            return (FORWARD + BACKWARD * self.num_columns) * samples
        return FORWARD * samples if way == "sampled" else 0.0


def choose(
    strata: Sequence[StratumMoments],
    weights: HostArray,
    prices: Prices,
    *,
    variances: Sequence[float | None],
    budget: float,
) -> None:
    """Let each fold of the probes say how the others are seen.

    Parameters
    ----------
    strata : sequence of StratumMoments
        Whose ways are set.
    weights : numpy.ndarray
        By how much the variance of every column counts.
    prices : Prices
        What things cost.
    variances : sequence of float or None
        What is wanted in all, as each fold tells it; as little as the budget pays for if None.
    budget : float
        What may be spent.
    """
    said = []
    for fold in range(NUM_FOLDS):
        ways = [_ways(seen, weights, prices, fold) for seen in strata]
        found = allocate(ways, variance=variances[fold], budget=budget)
        said.append([way.name for way in found.ways])
    for seen, names in zip(strata, zip(*said, strict=True), strict=True):
        seen.see(names[-1:] + names[:-1])
    if sum(chosen_way(seen, weights, prices).fixed for seen in strata) > budget:
        # Each fold kept to the budget, but not all together.
        for seen, name in zip(strata, said[0], strict=True):
            seen.see([name] * NUM_FOLDS)


def _ways(seen: StratumMoments, weights: HostArray, prices: Prices, fold: int) -> list[Way]:
    """Return how a stratum can be seen, with what a fold of the probes tells of variances."""
    cost, done = prices.probe * seen.stratum.num_samples, seen.num_probes
    residual, of_control, whole = seen.deviations(weights, fold)
    ways = [Way("plain", (Part(whole, cost, done=done),))]
    if seen.can_choose and prices.num_columns:
        probes = Part(residual, cost, done=done)
        if prices.separate:
            ways.append(Way("exact", (probes,), prices.fixed(seen, "exact")))
        if seen.exact is None:
            signs = _signs(seen, weights, of_control)
            ways.append(Way("sampled", (probes, signs), prices.fixed(seen, "sampled")))
    return ways


def chosen_way(seen: StratumMoments, weights: HostArray, prices: Prices) -> Way:
    """Return how a stratum is to be seen, with what all probes tell of variances.

    Parameters
    ----------
    seen : StratumMoments
        The stratum.
    weights : numpy.ndarray
        By how much the variance of every column counts.
    prices : Prices
        What things cost.

    Returns
    -------
    Way
        Its folds may be seen in several ways; probes come first, then signs if there are any.
    """
    cost = prices.probe * seen.stratum.num_samples
    parts: tuple[Part, ...] = (Part(seen.deviation(weights), cost, done=seen.num_probes),)
    if share := seen.share("sampled"):
        _, of_control, _ = seen.deviations(weights, fold=None)
        parts += (_signs(seen, weights, of_control, share),)
    return Way(seen.way, parts, max(prices.fixed(seen, way) for way in seen.ways))


def _signs(seen: StratumMoments, weights: HostArray, spread: float, share: float = 1.0) -> Part:
    """Return random signs, which some share of the probes goes with."""
    done = 0
    if seen.sampled is not None:
        done, spread = seen.sampled.count, seen.sampled_deviation(weights)
    cost = BACKWARD * seen.stratum.num_samples
    return Part(share * spread, cost, least=LEAST_PROBES, done=done)
