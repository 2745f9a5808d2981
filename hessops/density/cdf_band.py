"""A band that holds the distribution of eigenvalues, everywhere at once."""

from __future__ import annotations

import math

import numpy as np

from hessops.arrays import HostArray
from hessops.density.spectral_density import SpectralDensity
from hessops.result import Interval

__all__ = ["cdf_band"]


def cdf_band(
    density: SpectralDensity, x: float | HostArray, *, confidence: float = 0.95
) -> Interval:
    """Return bounds on the share of eigenvalues up to `x` that hold for all `x` together.

    Both errors are in it: what finer quadrature of the same probes could change (the staircases of
    Chebyshev, Markov and Stieltjes, see `SpectralDensity.cdf_bracket`), and by how much the mean of m
    probes may miss the spectrum, sqrt(log(2n / (1 - confidence)) / ((n + 2) m)).

    Parameters
    ----------
    density : SpectralDensity
        What `spectral_density` returned. The theorem is for probes that are uniform on the sphere,
        ``probe='normal'`` or ``'sphere'``; for signs it is a rule of thumb.
    x : float or numpy.ndarray
        Where.
    confidence : float
        With which probability the whole band holds.

    Returns
    -------
    Interval
        Lower and upper bounds of the shape of `x`, between 0 and 1.

    Raises
    ------
    ValueError
        If `confidence` is not between 0 and 1.

    References
    ----------
    Chen, Trogdon & Ubaru (2021), ICML.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> density = hessops.spectral_density(
    ...     np.diag(np.linspace(0, 1, 2000)), probe="sphere", num_probes=20, rng=0
    ... )
    >>> low, high = hessops.cdf_band(density, 0.5)
    >>> bool(low < 0.5 < high), bool(high - low < 0.15)
    (True, True)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, e.g. 0.95")
    points = np.asarray(x, dtype=np.float64)
    brackets = np.array([density.cdf_bracket(float(point)) for point in points.ravel()])
    low, high = brackets.reshape(*points.shape, 2).transpose(-1, *range(points.ndim))
    scatter = math.sqrt(
        math.log(2 * density.dim / (1 - confidence)) / ((density.dim + 2) * len(density.nodes))
    )
    bounds = np.clip(low - scatter, 0, 1), np.clip(high + scatter, 0, 1)
    return Interval(*(float(b) if points.ndim == 0 else b for b in bounds))
