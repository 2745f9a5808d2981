"""What probes, and gradients of samples, have said of one stratum of the data.

Forms z' G z have a large mean where they have a large deviation. If one set of probes chose between
H and H - G and was then averaged, the strata that happened to come out low would stay as they are and
the others be mended: a bias of a quarter of the standard error. So the probes are two folds, and each
is seen as the other one says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from hessops.arrays import HostArray
from hessops.statistics import MeanVariance
from hessops_torch.traces.strata import Stratum

__all__ = ["NUM_FOLDS", "StratumMoments"]

NUM_FOLDS = 2


class StratumMoments:
    """What is known of one stratum.

    Parameters
    ----------
    stratum : Stratum
        Its samples.
    """

    def __init__(self, stratum: Stratum) -> None:
        self.stratum = stratum
        # Of H - G, of G, and of both, by micro-batch: shape (3, T, 1 + C).
        self.folds: dict[int, MeanVariance] = {}
        self.ways = ["plain"] * NUM_FOLDS
        self.exact: HostArray | None = None
        self.sampled: MeanVariance | None = None
        # Sums of z ∘ Hz over the probes of each of g groups, shape (g, n), and their probes.
        self.groups: Tensor | None = None
        self.counts: HostArray = np.zeros(0, dtype=np.int64)

    @property
    def num_probes(self) -> int:
        """Return the probes of every micro-batch."""
        return self._count(list(self.folds))

    @property
    def way(self) -> str:
        """Return how the stratum is seen: 'mixed' if its folds do not agree."""
        return self.ways[0] if len(set(self.ways)) == 1 else "mixed"

    def see(self, ways: Sequence[str]) -> None:
        """Set how each fold is seen; what is exact for one is so for all that need the trace of G."""
        with_exact = ["exact" if way == "sampled" else way for way in ways]
        self.ways = with_exact if "exact" in ways or self.exact is not None else list(ways)

    @property
    def can_choose(self) -> bool:
        """Tell whether every fold has a standard deviation to judge by."""
        return self.num_probes >= 2 * NUM_FOLDS

    def add_forms(self, forms: HostArray, indices: range) -> None:
        """Add the forms of some probes, shape (3, T, 1 + C, k), to the folds that these belong to."""
        of_probe = np.arange(indices.start, indices.stop) % NUM_FOLDS
        for fold in np.unique(of_probe):
            found, old = MeanVariance.of(forms[..., of_probe == fold]), self.folds.get(int(fold))
            self.folds[int(fold)] = found if old is None else old.merged(found)

    def deviations(self, weights: HostArray, fold: int | None) -> HostArray:
        """Return the deviations of one probe of H - G, G and H that a fold tells, weighed."""
        moments = self._moments(self._judges(fold))
        found: HostArray = np.sqrt(np.sum(moments.deviation**2 @ weights, axis=1))
        return found

    def deviation(self, weights: HostArray) -> float:
        """Return the deviation of one probe as folds are seen, all weighed."""
        found = sum(float(np.sum(v @ weights)) for v, _ in self._probe_errors(list(self.folds)))
        return math.sqrt(found * self.num_probes)

    def sampled_deviation(self, weights: HostArray) -> float:
        """Return the standard deviation of one seed of random signs, all weighed."""
        assert self.sampled is not None
        return float(np.sqrt(np.sum(self.sampled.deviation**2 @ weights)))

    def share(self, way: str, fold: int | None = None) -> float:
        """Return the share of the probes, or of those of a fold, that are seen in some way."""
        folds = self._judges(fold)
        seen = [each for each in folds if self.ways[each] == way]
        return self._count(seen) / self._count(folds)

    def values(self, fold: int | None = None) -> HostArray:
        """Return what is known of the trace and of those of sections, by all probes or a fold."""
        folds = self._judges(fold)
        total: HostArray | float = 0.0
        for each in folds:
            moments = self.folds[each]
            residual, _, whole = moments.mean.sum(axis=1)
            value = whole if self.ways[each] == "plain" else residual + self._of_control()
            total = total + value * (moments.count / self._count(folds))
        return np.asarray(total)

    def errors(self, fold: int | None = None) -> list[tuple[HostArray, int]]:
        """Return variances of means, by micro-batch and section, and their degrees of freedom."""
        parts = self._probe_errors(self._judges(fold))
        if self.exact is None and (share := self.share("sampled", fold)):
            assert self.sampled is not None
            variance = (share * self.sampled.deviation) ** 2 / self.sampled.count
            parts.append((variance, self.sampled.count - 1))
        return parts

    def _probe_errors(self, folds: Sequence[int]) -> list[tuple[HostArray, int]]:
        """Return those of the means of probes: of H, and of H - G."""
        parts = []
        for which, plain in ((2, True), (0, False)):
            seen = [fold for fold in folds if (self.ways[fold] == "plain") == plain]
            if seen:
                moments, total = self._moments(seen), self._count(folds)
                variance = moments.deviation[which] ** 2 * (moments.count / total) / total
                parts.append((variance, moments.count - 1))
        return parts

    def _of_control(self) -> HostArray:
        """Return the trace of G."""
        if self.exact is not None:
            return self.exact
        assert self.sampled is not None
        return np.asarray(self.sampled.mean.sum(axis=0))

    def _judges(self, fold: int | None) -> list[int]:
        """Return the folds that stand for one: all of them where it cannot judge alone."""
        return list(self.folds) if fold is None or not self.can_choose else [fold]

    def _count(self, folds: Sequence[int]) -> int:
        return sum(self.folds[fold].count for fold in folds)

    def _moments(self, folds: Sequence[int]) -> MeanVariance:
        return reduce(MeanVariance.merged, [self.folds[fold] for fold in folds])

    def add_diagonals(self, rows: Tensor, indices: range, num_groups: int) -> None:
        """Add z ∘ Hz of some probes, one a row, to the groups that these belong to."""
        owners = np.arange(indices.start, indices.stop) % num_groups
        if self.groups is None:
            self.groups = rows.new_zeros((num_groups, rows.shape[1]))
            self.counts = np.zeros(num_groups, dtype=np.int64)
        self.groups.index_add_(0, torch.as_tensor(owners, device=rows.device), rows)
        self.counts = self.counts + np.bincount(owners, minlength=num_groups)

    def diagonals(self, num_groups: int) -> Tensor:
        """Return the means of z ∘ Hz over the probes of so many groups, each of some of those kept."""
        assert self.groups is not None
        owners = np.arange(len(self.groups)) % num_groups
        sums = self.groups.new_zeros((num_groups, self.groups.shape[1]))
        sums.index_add_(0, torch.as_tensor(owners, device=sums.device), self.groups)
        counts = np.bincount(owners, weights=self.counts, minlength=num_groups)
        return sums / torch.as_tensor(counts, dtype=sums.dtype, device=sums.device)[:, None]
