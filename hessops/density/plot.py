"""Pictures of results; the only place in the core that meets matplotlib, and only when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hessops.arrays import HostArray
from hessops.result import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["mark_eigenvalues", "new_axes", "new_figure", "plot_density", "plot_distribution"]


def plot_density(
    grid: HostArray, estimate: Estimate, lowest: float, ax: Axes | None = None
) -> Axes:
    """Draw a density on a logarithmic scale, with two standard errors as a band.

    Parameters
    ----------
    grid : numpy.ndarray, shape (g,)
        Where it is known.
    estimate : Estimate
        The density there, each entry with its standard error.
    lowest : float
        Where the scale begins; positive.
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
    if ax is None:
        ax = new_axes()
    mean, error = np.asarray(estimate.value), np.asarray(estimate.standard_error)
    line = ax.semilogy(grid, np.maximum(mean, lowest), linewidth=1.2)[0]
    if np.all(np.isfinite(error)):
        low, high = np.maximum(mean - 2 * error, lowest), np.maximum(mean + 2 * error, lowest)
        ax.fill_between(grid, low, high, alpha=0.3, color=line.get_color(), linewidth=0)
    ax.set_ylim(lowest, 3 * float(mean.max()))
    ax.set_xlim(grid[0], grid[-1])
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("density (integrates to 1)")
    return ax


def plot_distribution(
    x: HostArray,
    value: HostArray,
    low: HostArray,
    high: HostArray,
    label: str,
    ax: Axes | None = None,
) -> Axes:
    """Draw a distribution function as steps, with a band around it.

    Parameters
    ----------
    x : numpy.ndarray, shape (g,)
        Where it is known, ascending.
    value, low, high : numpy.ndarray, shape (g,)
        The function, and the band.
    label : str
        What the legend calls the band.
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
    if ax is None:
        ax = new_axes()
    line = ax.step(x, value, where="post", linewidth=1.2)[0]
    color = line.get_color()
    ax.fill_between(x, low, high, step="post", alpha=0.3, color=color, linewidth=0, label=label)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("share of eigenvalues up to it")
    ax.legend(loc="upper left", frameon=False)
    return ax


def mark_eigenvalues(ax: Axes, values: HostArray, errors: HostArray) -> Axes:
    """Mark some eigenvalues above the axis, with their residual norms as bars.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where a density is drawn.
    values, errors : numpy.ndarray, shape (k,)
        Eigenvalues and how far off they may be.

    Returns
    -------
    matplotlib.axes.Axes
        The same.
    """
    height = np.full(len(values), 0.04)
    ax.errorbar(
        values,
        height,
        xerr=errors,
        fmt="v",
        markersize=5,
        elinewidth=1,
        color="black",
        clip_on=False,
        transform=ax.get_xaxis_transform(),
        label="outermost eigenvalues",
    )
    ax.legend(loc="best", frameon=False, fontsize="small")
    return ax


def new_axes(height: float = 3.5) -> Axes:
    """Return the axes of a new figure.

    Parameters
    ----------
    height : float
        Of the figure, in inches.

    Returns
    -------
    matplotlib.axes.Axes
        To draw on.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    _figure, axes = new_figure(figsize=(7, height))
    ax: Axes = axes
    return ax


def new_figure(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a new figure and its axes, as `matplotlib.pyplot.subplots` does.

    Parameters
    ----------
    rows, columns : int
        Axes below and beside each other.
    **options : object
        For `matplotlib.pyplot.subplots`.

    Returns
    -------
    (matplotlib.figure.Figure, matplotlib.axes.Axes or numpy.ndarray)
        The figure and its axes.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib, the extra 'plot': pip install '.[plot]' in a clone, "
            "pip install 'hessops[plot]' elsewhere"
        ) from error
    return plt.subplots(rows, columns, layout="constrained", **options)
