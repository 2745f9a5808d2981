"""A band that holds the distribution of eigenvalues, everywhere at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hessops.arrays import HostArray
from hessops.density.plot import plot_distribution
from hessops.density.spectral_density import SpectralDensity
from hessops.scalars import require_real

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CdfBand", "cdf_band"]

_GRID_POINTS = 512


@dataclass(frozen=True, kw_only=True)
class CdfBand:
    """Bounds on the share of eigenvalues up to `x`, that hold for all `x` together.

    Parameters
    ----------
    x : numpy.ndarray, shape (g,)
        Where, ascending if drawn.
    value : numpy.ndarray, shape (g,)
        The mean over probes of the distribution function there, between the bounds.
    low, high : numpy.ndarray, shape (g,)
        The bounds, between 0 and 1.
    confidence : float
        With which probability the whole band holds.
    """

    x: HostArray
    value: HostArray
    low: HostArray
    high: HostArray
    confidence: float

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the distribution function with the band around it.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure where not given.

        Returns
        -------
        matplotlib.axes.Axes
            What was drawn on.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        label = f"{self.confidence:.0%} band"
        return plot_distribution(self.x, self.value, self.low, self.high, label, ax)


def cdf_band(
    density: SpectralDensity,
    x: float | HostArray | None = None,
    *,
    confidence: float = 0.95,
) -> CdfBand:
    """Return bounds on the share of eigenvalues up to `x` that hold for all `x` together.

    Both errors are in it: what finer quadrature of the same probes could change (the staircases of
    Chebyshev, Markov and Stieltjes, see `SpectralDensity.cdf_bracket`), and by how much the mean of m
    probes may miss the spectrum, sqrt(log(2n / (1 - confidence)) / ((n + 2) m)).

    Parameters
    ----------
    density : SpectralDensity
        What `spectral_density` returned. The theorem is for probes that are uniform on the sphere,
        ``probe='normal'`` or ``'sphere'``; for signs it is a rule of thumb.
    x : float or numpy.ndarray, shape (g,), optional
        Where; points that cover all nodes where not given.
    confidence : float
        With which probability the whole band holds.

    Returns
    -------
    CdfBand
        The bounds, and what is between them; ``.plot()`` draws it.

    Raises
    ------
    ValueError
        If `confidence` is not between 0 and 1, or `x` is NaN or no vector.

    References
    ----------
    Chen, Trogdon & Ubaru (2021), ICML.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> density = hessops.spectral_density(
    ...     np.diag(np.linspace(0, 1, 2000)), probe="sphere", num_probes=20, rng=0
    ... )
    >>> band = hessops.cdf_band(density, 0.5)
    >>> bool(band.low[0] < 0.5 < band.high[0]), bool(band.high[0] - band.low[0] < 0.15)
    (True, True)
    """
    require_real(confidence=confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, e.g. 0.95")
    points = np.atleast_1d(density.grid(_GRID_POINTS) if x is None else np.asarray(x, np.float64))
    if points.ndim != 1:
        raise ValueError(f"x must be a number or a vector, got shape {points.shape}")
    brackets = np.array([density.cdf_bracket(float(point)) for point in points]).reshape(-1, 2)
    scatter = math.sqrt(
        math.log(2 * density.dim / (1 - confidence)) / ((density.dim + 2) * len(density.nodes))
    )
    return CdfBand(
        x=points,
        value=np.asarray(density.cdf(points).value),
        low=np.clip(brackets[:, 0] - scatter, 0, 1),
        high=np.clip(brackets[:, 1] + scatter, 0, 1),
        confidence=confidence,
    )
