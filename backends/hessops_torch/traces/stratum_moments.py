"""What probes, and gradients of samples, have said of one stratum of the data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hessops.arrays import HostArray
from hessops.statistics import MeanVariance
from hessops_torch.traces.strata import Stratum

__all__ = ["StratumMoments"]


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
        self.forms: MeanVariance | None = None
        self.exact: HostArray | None = None
        self.sampled: MeanVariance | None = None
        self.way = "plain"
        # Sums of z ∘ Hz over the probes of each of g groups, shape (g, n), and their probes.
        self.groups: Tensor | None = None
        self.counts: HostArray = np.zeros(0, dtype=np.int64)

    @property
    def num_probes(self) -> int:
        """Return the probes of every micro-batch."""
        return 0 if self.forms is None else self.forms.count

    def deviations(self, weights: HostArray) -> HostArray:
        """Return the standard deviations of one probe of H - G, G and H, all columns weighed."""
        assert self.forms is not None
        found: HostArray = np.sqrt(np.sum(self.forms.deviation**2 @ weights, axis=1))
        return found

    def sampled_deviation(self, weights: HostArray) -> float:
        """Return the standard deviation of one seed of random signs, all columns weighed."""
        assert self.sampled is not None
        return float(np.sqrt(np.sum(self.sampled.deviation**2 @ weights)))

    def values(self, way: str | None = None) -> HostArray:
        """Return what is known of the trace and of those of sections."""
        assert self.forms is not None
        residual, _, whole = self.forms.mean.sum(axis=1)
        if (way or self.way) == "plain":
            return np.asarray(whole)
        if self.exact is not None:
            return np.asarray(residual + self.exact)
        assert self.sampled is not None
        return np.asarray(residual + self.sampled.mean.sum(axis=0))

    def errors(self) -> list[tuple[HostArray, int]]:
        """Return variances of means, by micro-batch and section, and their degrees of freedom."""
        assert self.forms is not None
        which = 2 if self.way == "plain" else 0
        alone = self.way == "plain" or self.exact is not None
        found = [self.forms] if alone else [self.forms, self.sampled]
        parts = []
        for moments in found:
            assert moments is not None
            deviation = moments.deviation[which] if moments is self.forms else moments.deviation
            parts.append((deviation**2 / moments.count, moments.count - 1))
        return parts

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
