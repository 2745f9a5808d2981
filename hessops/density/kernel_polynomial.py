"""The kernel polynomial method on a Lanczos run that is there already."""

from __future__ import annotations

import math

import numpy as np

from hessops.arrays import HostArray
from hessops.density.probe_mean import over_probes
from hessops.density.spectral_density import SpectralDensity
from hessops.result import Estimate

__all__ = ["chebyshev_moments", "jackson_factors", "kernel_polynomial"]

# Beyond the outermost nodes, relative to their distance: there Chebyshev polynomials explode.
_MARGIN = 0.01


def kernel_polynomial(
    density: SpectralDensity,
    grid: HostArray,
    *,
    num_moments: int | None = None,
    support: tuple[float, float] | None = None,
) -> Estimate:
    """Return the density as a damped Chebyshev series, from the quadrature rules of a Lanczos run.

    k Lanczos steps know the first 2k moments exactly, so the kernel polynomial method needs no product
    of its own. Jackson's factors keep the series non-negative and smooth it by about
    π / num_moments of half the support, narrower towards its ends.

    Parameters
    ----------
    density : SpectralDensity
        What `spectral_density` returned.
    grid : numpy.ndarray, shape (g,)
        Where.
    num_moments : int, optional
        Terms of the series, twice the steps taken where not given and at most that.
    support : tuple of float, optional
        An interval that holds all nodes; one hundredth wider than they are where not given.

    Returns
    -------
    Estimate
        Mean and standard error over probes, each (g,); zero outside of the support.

    Raises
    ------
    ValueError
        If `num_moments` is out of range, or a node lies outside of `support`.

    References
    ----------
    Weiße, Wellein, Alvermann & Fehske (2006), Rev. Mod. Phys. 78; Lin, Saad & Yang (2016), SIAM Rev.
    58(1).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> density = hessops.spectral_density(np.diag(np.linspace(0, 1, 200)), num_steps=30, rng=0)
    >>> middle = hessops.kernel_polynomial(density, np.linspace(0.2, 0.8, 5))
    >>> bool(np.all(np.abs(middle.value - 1) < 0.2))
    True
    """
    low, high = _support(density, support)
    count = _count(density, num_moments)
    center, half = (high + low) / 2, (high - low) / 2
    points = (np.asarray(grid, dtype=np.float64) - center) / half
    inside = np.abs(points) < 1
    angles = np.arccos(np.where(inside, points, 0.0))
    moments = chebyshev_moments(density, count, (low, high)) * jackson_factors(count)
    moments[:, 1:] *= 2
    waves = np.cos(np.arange(count)[:, None] * angles)
    samples = np.where(inside, moments @ waves / (math.pi * np.sin(angles) * half), 0.0)
    return over_probes(samples)


def chebyshev_moments(
    density: SpectralDensity, count: int, support: tuple[float, float]
) -> HostArray:
    """Return the mean of the Chebyshev polynomials T_0, T_1, ... over the spectrum, for each probe.

    Parameters
    ----------
    density : SpectralDensity
        What `spectral_density` returned.
    count : int
        How many; exact up to twice the number of steps.
    support : tuple of float
        What is mapped to [-1, 1].

    Returns
    -------
    numpy.ndarray, shape (num_probes, count)
        The moments.
    """
    low, high = support
    angles = np.arccos(np.clip((2 * density.nodes - low - high) / (high - low), -1, 1))
    waves = np.cos(np.arange(count)[:, None] * angles[:, None, :])
    moments: HostArray = np.sum(waves * density.weights[:, None, :], axis=-1)
    return moments


def jackson_factors(count: int) -> HostArray:
    """Return Jackson's damping factors for a series of `count` terms; the first is 1.

    Parameters
    ----------
    count : int
        Terms of the series.

    Returns
    -------
    numpy.ndarray, shape (count,)
        Falling from 1 to nearly 0.
    """
    j, step = np.arange(count), math.pi / (count + 1)
    factors: HostArray = (
        (count - j + 1) * np.cos(j * step) + np.sin(j * step) / math.tan(step)
    ) / (count + 1)
    return factors


def _support(density: SpectralDensity, given: tuple[float, float] | None) -> tuple[float, float]:
    low, high = density.support
    if given is None:
        margin = _MARGIN * (high - low) or _MARGIN * abs(low) or 1.0
        return low - margin, high + margin
    if not (given[0] <= low and high <= given[1] and given[0] < given[1]):
        raise ValueError(f"support={given} does not hold the nodes, which lie in [{low}, {high}]")
    return given


def _count(density: SpectralDensity, given: int | None) -> int:
    # A run that ended early has fewer nodes, and is exact for all polynomials.
    most = 2 * int(density.nodes.shape[1])
    if given is None:
        return most
    if not 1 <= given <= most:
        raise ValueError(
            f"num_moments={given} must lie between 1 and {most}, twice the steps taken"
        )
    return given
