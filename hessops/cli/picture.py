"""The picture of an analysis: the whole spectrum and, beside it, where most eigenvalues lie."""

from __future__ import annotations

import io
import math
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from hessops.arrays import HostArray
from hessops.counted import counted
from hessops.density.spectral_density import SpectralDensity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["caption", "density_picture"]

# The bulk is the shortest range that holds this share of the eigenvalues, the first that is small.
_SHARES = (0.998, 0.99, 0.95, 0.9)
# Where it takes up more of the range than this, it needs no panel of its own.
_LARGE = 1 / 3
# Where it takes up less, it is one multiple eigenvalue, and rounding.
_SPIKE = 1e-6
_POINTS = 1024
_TITLE_WIDTH = 90
_DECADES = 6


def density_picture(density: SpectralDensity, eigenvalues: HostArray, title: str) -> bytes:
    """Draw a density on a logarithmic scale, eigenvalues as triangles, and the bulk enlarged.

    Parameters
    ----------
    density : SpectralDensity
        What to draw.
    eigenvalues : numpy.ndarray, shape (k,)
        To be marked.
    title : str
        What it is the spectrum of; the size of the problem and of the quadrature are added.

    Returns
    -------
    bytes
        A PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.2), dpi=150, layout="constrained")
    bulk = _bulk(density)
    panels = figure.subplots(1, 2, width_ratios=[4, 3]) if bulk else [figure.subplots()]
    density.plot(panels[0])
    if len(eigenvalues):
        _mark(panels[0], eigenvalues)
    if bulk:
        _draw_bulk(panels[1], density, bulk)
        panels[0].set_title("the whole spectrum", fontsize="medium")
        panels[0].axvspan(*bulk, color="tab:orange", alpha=0.2, linewidth=0, zorder=0)
    figure.suptitle(f"{fill(title, _TITLE_WIDTH)}\n{caption(density)}", fontsize="medium")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def caption(density: SpectralDensity) -> str:
    """Return the size of the problem and of the quadrature.

    Parameters
    ----------
    density : SpectralDensity
        The result.

    Returns
    -------
    str
        One line.
    """
    probes, steps = density.nodes.shape
    return (
        f"n = {density.dim:,} eigenvalues, {counted(probes, 'probe')} x "
        f"{counted(steps, 'Lanczos step')}"
    )


def _bulk(density: SpectralDensity) -> tuple[float, float] | None:
    """Return where nearly all eigenvalues lie, if that is a small part of the range."""
    first, last = density.support
    if not last > first:
        return None
    nodes, weights = density.nodes.ravel(), density.weights.ravel() / len(density.nodes)
    order = np.argsort(nodes, kind="stable")
    nodes, upto = nodes[order], np.cumsum(weights[order])
    before = upto - weights[order]
    for share in _SHARES:
        # From every node to the first at which the share is reached.
        ends = np.searchsorted(upto, before + share)
        starts = np.flatnonzero(ends < len(nodes))
        lengths = nodes[ends[starts]] - nodes[starts]
        if not len(starts):
            continue
        start = starts[np.argmin(lengths)]
        low, high = float(nodes[start]), float(nodes[ends[start]])
        margin = 0.25 * (high - low)
        if _SPIKE < (high - low + 2 * margin) / (last - first) < _LARGE:
            return low - margin, high + margin
    return None


def _draw_bulk(ax: Axes, density: SpectralDensity, bulk: tuple[float, float]) -> None:
    width = _spacing(density, bulk)
    grid = np.linspace(*bulk, _POINTS)
    estimate = density.density(grid, width)
    mean, error = np.asarray(estimate.value), np.asarray(estimate.standard_error)
    top = 3 * float(mean.max())
    lowest = max(top / 10**_DECADES, float(mean.min()) / 3)
    line = ax.semilogy(grid, np.maximum(mean, lowest))[0]
    if np.all(np.isfinite(error)):
        low, high = np.maximum(mean - 2 * error, lowest), np.maximum(mean + 2 * error, lowest)
        ax.fill_between(grid, low, high, alpha=0.3, color=line.get_color(), linewidth=0)
    label = f"eigenvalue (each node drawn {float(f'{width:.1g}'):g} wide)"
    ax.set(xlim=bulk, ylim=(lowest, top), xlabel=label)
    ax.locator_params(axis="x", nbins=5)
    ax.set_title(f"the shaded range: all but {_outside(density, bulk)}", fontsize="medium")


def _outside(density: SpectralDensity, bulk: tuple[float, float]) -> str:
    """Return how many eigenvalues lie outside of the bulk, with the standard error."""
    share = density.mean_of(lambda x: ((x < bulk[0]) | (x > bulk[1])).astype(np.float64))
    count, error = density.dim * float(share), density.dim * float(share.standard_error)
    certain = math.isnan(error) or round(error) == 0
    number = f"{count:,.0f}" if certain else f"{count:,.0f} ± {error:,.0f}"
    return f"{number} {'eigenvalue' if number == '1' else 'eigenvalues'}"


def _spacing(density: SpectralDensity, bulk: tuple[float, float]) -> float:
    """Return half the mean distance of a probe's nodes.

    Finer structure is not resolved. Equally spaced nodes of equal weight, so widened, give a density
    that ripples by 2 exp(-π²/2), 1.4 %; a third of the distance would leave 22 %.
    """
    used = density.nodes[density.weights > 0]
    inside = np.sum((used >= bulk[0]) & (used <= bulk[1])) / len(density.nodes)
    return float((bulk[1] - bulk[0]) / max(inside, 1) / 2)


def _mark(ax: Axes, eigenvalues: HostArray) -> None:
    bottom = ax.get_ylim()[0]
    low, high = ax.get_xlim()
    shown = eigenvalues[(eigenvalues >= low) & (eigenvalues <= high)]
    ax.plot(
        shown,
        np.full(len(shown), bottom),
        "^",
        color="tab:red",
        # Whole, and above the line of the axis.
        clip_on=False,
        zorder=3,
        label="eigenvalues computed",
    )
    ax.legend(frameon=False)
