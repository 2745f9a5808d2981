"""Values on a sample of data, with what they may be off for the whole of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hessops.arrays import HostArray
from hessops.record import History
from hessops.result import Interval, Result
from hessops.results.numbers import estimate_text, interval_text
from hessops.statistics import t_quantile

__all__ = ["SamplesNeeded", "SamplingError"]


# With fewer, the scatter between micro-batches has a t-distribution with heavy tails.
_FEW = 10


class SamplesNeeded(NamedTuple):
    """How many samples bring a sampling error down to what is wanted, with its own interval."""

    number: Any
    low: Any
    high: Any

    def __str__(self) -> str:
        rows = zip(*(np.atleast_1d(n) for n in self), strict=True)
        return ", ".join(
            _needed(float(number), float(low), float(high)) for number, low, high in rows
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplingError(Result):
    """Values on a sample of data, and how far they may be from those on the whole of it.

    It has converged if the sampling error is known: the probes' noise hides nothing, and eigenvalues
    have converged. Its status says what to trust, and what to do.

    Parameters
    ----------
    value : numpy.ndarray
        On the sample.
    sampling_error : numpy.ndarray
        Standard error of the values for those of the whole, by the scatter between micro-batches;
        0 where the probes hide it.
    computing_error : numpy.ndarray
        Standard error, or bound, of the values for the sample: of probes, of an iteration.
    bias : numpy.ndarray
        What the values are too large by on average, estimated; 0 where they are linear in the data.
    freedom : numpy.ndarray
        Degrees of freedom of the two errors together.
    scatter_freedom : numpy.ndarray
        Degrees of freedom of the sampling error alone; 0 where it is not known.
    num_samples : float
        Samples at hand, n.
    num_batches : int
        Micro-batches, m.
    population : float
        Samples of the whole, N, or infinity.
    confidence : float
        Nominal coverage of the intervals.
    """

    value: HostArray
    sampling_error: HostArray
    computing_error: HostArray
    bias: HostArray
    freedom: HostArray
    scatter_freedom: HostArray
    num_samples: float
    num_batches: int
    population: float
    confidence: float
    converged: bool = True
    history: History = field(default_factory=History, repr=False)
    seed: int | None = None
    seconds: float = math.nan

    @property
    def standard_error(self) -> HostArray:
        """Return the standard error for the whole of the data: of sampling and of computing."""
        return np.hypot(self.sampling_error, self.computing_error)

    @property
    def interval(self) -> Interval:
        """Return the confidence interval for the value on the whole of the data."""
        half = t_quantile(self.confidence, self.freedom) * self.standard_error
        centre = self.value - self.bias
        return Interval(centre - half, centre + half)

    @property
    def relative_error(self) -> HostArray:
        """Return the sampling error by the modulus of the value."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.sampling_error / np.abs(self.value))

    def samples_needed(self, relative_error: float = 0.05) -> SamplesNeeded:
        """Return how many samples the sampling error takes to be a share of the value.

        Parameters
        ----------
        relative_error : float
            One standard error of sampling, by the value.

        Returns
        -------
        SamplesNeeded
            The number n' = σ² / (target² + σ² / N), σ² being the variance of one sample, and an
            approximate interval of the confidence of the result: from the scatter's own error and
            the value's.

        Raises
        ------
        ValueError
            If `relative_error` is not positive.
        """
        if not relative_error > 0:
            raise ValueError(f"relative_error={relative_error} must be positive, e.g. 0.05")
        with np.errstate(divide="ignore", invalid="ignore"):
            unknown = ~(self.scatter_freedom > 0)
            log_error = np.sqrt(
                2 / self.scatter_freedom + 4 * (self.standard_error / self.value) ** 2
            )
            factor = np.exp(
                np.where(unknown, np.inf, t_quantile(self.confidence, np.inf) * log_error)
            )
            one = self._variance_of_one()
            target = (relative_error * self.value) ** 2
            found = [
                np.ceil(share / (target + share / self.population))
                for share in (one, one / factor, one * factor)
            ]
        most = self.population
        low = np.where(unknown, 0.0, found[1])
        high = np.where(unknown, most, np.minimum(found[2], most))
        return SamplesNeeded(*(np.asarray(n)[()] for n in (found[0], low, high)))

    def _variance_of_one(self) -> HostArray:
        correction = 1 - self.num_samples / self.population
        if correction <= 0:
            return np.zeros_like(self.sampling_error)
        return np.asarray(self.sampling_error**2 * self.num_samples / correction)

    def __str__(self) -> str:
        whole = "the distribution" if math.isinf(self.population) else f"all {self.population:g}"
        few = " (few to tell a scatter by: take tens)" if self.num_batches < _FEW else ""
        head = (
            f"{self.num_samples:g} samples in {self.num_batches} micro-batches{few}; {self.status}"
        )
        centre, bounds = (
            self.value - self.bias,
            zip(*map(np.atleast_1d, self.interval), strict=True),
        )
        parts = (
            centre, self.standard_error, self.sampling_error, self.computing_error, self.bias,
            self.scatter_freedom > 0,
        )  # fmt: skip
        rows = zip(*(np.atleast_1d(part) for part in parts), bounds, strict=True)
        return "\n".join([head, *(self._row(whole, *row) for row in rows)])

    def _row(
        self,
        whole: str,
        centre: float,
        total: float,
        sampling: float,
        computing: float,
        bias: float,
        known: bool,
        bounds: tuple[float, float],
    ) -> str:
        """Return a value with the error that it has for the whole, and what that is made of."""
        said = [f"computing {computing:.2g}"]
        if known:
            interval = f"{self.confidence:.0%} interval {interval_text(*bounds)}"
            said = [interval, f"sampling {sampling:.2g}", *said]
        if bias:
            said.append(f"bias {bias:.2g} taken off")
        estimate = estimate_text(float(centre), float(total) if known else math.nan)
        return f"{estimate} for {whole} ({', '.join(said)})"


def _needed(number: float, low: float, high: float) -> str:
    if low == 0 < high:  # Scatter that does not show above the noise tells no number.
        return "unknown" if math.isinf(high) else f"unknown, at most {high:.0f}"
    return f"{number:.0f} ({low:.0f} to {high:.0f})"
