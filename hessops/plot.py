"""Pictures of results; the only place in the core that meets matplotlib, and only when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hessops.density import SpectralDensity

__all__ = ["plot_density"]

_LOWEST_SHARE_OF_ONE_EIGENVALUE = 0.1


def plot_density(
    result: SpectralDensity, ax: Axes | None = None, *, width: float | None = None
) -> Axes:
    """Draw a spectral density on a logarithmic scale, with two standard errors as a band.

    Parameters
    ----------
    result : SpectralDensity
        What to draw.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where not given.
    width : float, optional
        As for `SpectralDensity.density`.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    if ax is None:
        ax = _new_axes()
    grid = result.grid(4096)
    estimate = result.density(grid, width)
    mean, error = np.asarray(estimate.value), np.asarray(estimate.standard_error)
    # Below a fraction of one eigenvalue spread over the picture there is nothing to see.
    floor = _LOWEST_SHARE_OF_ONE_EIGENVALUE / (result.dim * (grid[-1] - grid[0]))
    line = ax.semilogy(grid, np.maximum(mean, floor), linewidth=1.2)[0]
    if np.all(np.isfinite(error)):
        low, high = np.maximum(mean - 2 * error, floor), np.maximum(mean + 2 * error, floor)
        ax.fill_between(grid, low, high, alpha=0.3, color=line.get_color(), linewidth=0)
    ax.set_ylim(floor, 3 * float(mean.max()))
    ax.set_xlim(grid[0], grid[-1])
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("density")
    return ax


def _new_axes() -> Axes:
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'hessops[plot]'") from error
    _, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    return ax
