"""Intervals for means of probes: Student's t, its degrees of freedom, and Stein's two stages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from hessops.arrays import HostArray
from hessops.scalars import require_real

__all__ = ["MeanVariance", "length", "probes_needed", "t_quantile", "welch_satterthwaite"]


@dataclass(frozen=True)
class MeanVariance:
    """Means and spreads of many quantities over the same probes.

    Spreads are kept as lengths and not as squares, which would leave the range of double precision
    where the quantities are as large as 1e155 or as small as 1e-160.

    Parameters
    ----------
    count : int
        Probes seen.
    mean : numpy.ndarray
        Mean of each quantity.
    spread : numpy.ndarray
        Root of the sum of squared deviations from the mean.
    """

    count: int
    mean: HostArray
    spread: HostArray

    @classmethod
    def of(cls, samples: HostArray) -> MeanVariance:
        """Return the moments of samples along the last axis."""
        mean = samples.mean(axis=-1)
        return cls(samples.shape[-1], mean, length(samples - mean[..., None], axis=-1))

    def merged(self, other: MeanVariance) -> MeanVariance:
        """Return the moments of both sets of samples (Chan, Golub & LeVeque 1983)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = np.abs(delta) * math.sqrt(self.count * other.count / count)
        return MeanVariance(count, mean, np.hypot(np.hypot(self.spread, other.spread), between))

    @property
    def deviation(self) -> HostArray:
        """Return the sample standard deviation, NaN where one probe leaves it unknown."""
        if self.count < 2:
            return np.full_like(self.spread, math.nan)
        return self.spread / math.sqrt(self.count - 1)


def length(entries: HostArray, axis: int = 0) -> HostArray:
    """Return the root of the sum of squares, without overflow or underflow of the squares.

    Parameters
    ----------
    entries : numpy.ndarray
        Real.
    axis : int
        To sum along.

    Returns
    -------
    numpy.ndarray
        The 2-norm along the axis.
    """
    # NaN is left out here, but not of the entries.
    scale = np.fmax.reduce(np.abs(entries), axis=axis, keepdims=True)
    scale = np.where(scale > 0, scale, 1.0)
    roots = np.sqrt(np.sum((entries / scale) ** 2, axis=axis))
    return np.asarray(roots * np.squeeze(scale, axis=axis))


def welch_satterthwaite(deviations: HostArray, freedom: int) -> HostArray:
    """Return the degrees of freedom of the estimated standard deviation of a sum.

    With few degrees per part the textbook formula counts far too few; this is Welch's (1947)
    form, which is nearly unbiased.

    Parameters
    ----------
    deviations : numpy.ndarray, shape (num_terms, ...)
        Estimated standard deviations of independent parts.
    freedom : int
        Degrees of freedom of each.

    Returns
    -------
    numpy.ndarray
        At least `freedom` and at most ``num_terms * freedom``.
    """
    # Only their ratios count, and fourth powers of the numbers themselves would overflow at 1e80.
    largest = np.max(deviations, axis=0)
    shares = (deviations / np.where(largest > 0, largest, 1.0)) ** 2
    total, squares = shares.sum(axis=0), (shares**2).sum(axis=0)
    ratio = np.divide(total**2, squares, out=np.ones_like(total), where=squares > 0)
    freedom_of_sum: HostArray = np.clip(
        ratio * (freedom + 2) - 2, freedom, len(deviations) * freedom
    )
    return freedom_of_sum


def t_quantile(confidence: float, freedom: float | HostArray) -> HostArray:
    """Return the two-sided quantile of Student's t.

    Parameters
    ----------
    confidence : float
        Such as 0.95.
    freedom : float or numpy.ndarray
        Degrees of freedom; infinite where there are none.

    Returns
    -------
    numpy.ndarray
        The half-width of the interval in standard errors.

    Raises
    ------
    ValueError
        If `confidence` is not between 0 and 1.
    TypeError
        If it is no real number.
    """
    require_real(confidence=confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, e.g. 0.95")
    known = np.maximum(np.asarray(freedom, dtype=np.float64), 1e-300)
    quantile = stdtrit(known, 0.5 + confidence / 2)
    return np.where(np.asarray(freedom) > 0, quantile, np.inf)


def probes_needed(deviation: float, half_width: float, quantile: float) -> float:
    """Return how many probes Stein's two-stage procedure (1945) takes in all.

    The variance of a first stage fixes the number of probes; the interval then keeps that variance
    and its quantile. Looking again after every probe would stop on lucky draws and lose coverage.

    Parameters
    ----------
    deviation : float
        Standard deviation of one probe, from the first stage.
    half_width : float
        Half-width wanted of the interval.
    quantile : float
        Of Student's t with the first stage's degrees of freedom.

    Returns
    -------
    float
        The number of probes; infinite if no number is enough.
    """
    if deviation == 0:
        return 1.0
    if half_width == 0:
        return math.inf
    # The ratio first: the squares of the two may leave the range of double precision. And in it: a
    # tolerance of NumPy's single precision would take the ratio to that.
    ratio = float(quantile) * (float(deviation) / float(half_width))
    return float(math.ceil(ratio**2)) if ratio < 1e150 else math.inf
