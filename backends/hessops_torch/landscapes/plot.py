"""A slice of a loss as a picture, with the quadratic that the curvature at its centre predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hessops.arrays import HostArray
from hessops.density.plot import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hessops_torch.landscapes.landscape import Landscape

__all__ = ["plot_landscape"]

_LEVELS = 12
_DASHES: dict[str, Any] = {"color": "white", "linewidth": 1.0, "linestyle": "dashed"}
# Where among the colours of the losses the legend's is.
_OF_SWATCH = 0.3


def plot_landscape(found: Landscape, ax: Axes | None = None, *, surface: bool = False) -> Axes:
    """Draw a line, contours or a surface.

    Parameters
    ----------
    found : Landscape
        What to draw.
    ax : matplotlib.axes.Axes, optional
        Where; a new figure where not given. For a surface one of three dimensions.
    surface : bool
        Draw a plane as a surface.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If a surface is asked for of a line, or on axes of two dimensions.
    """
    flat = len(found.coordinates) == 1
    if surface and flat:
        raise ValueError("a line has no surface: leave surface out")
    if ax is None:
        options: dict[str, Any] = {"figsize": (7, 4.5)} if flat else {"figsize": (6.5, 5.5)}
        if surface:
            options["subplot_kw"] = {"projection": "3d"}
        ax = new_figure(**options)[1]
    if surface and not hasattr(ax, "plot_surface"):
        raise ValueError("a surface needs axes made with projection='3d'")
    if flat:
        _draw_line(found, ax)
    elif surface:
        _draw_surface(found, ax)
    else:
        _draw_contours(found, ax)
    return ax


def _draw_line(found: Landscape, ax: Axes) -> None:
    (t,) = found.coordinates
    ax.plot(t, found.losses, color="C0", label="loss")
    low, high = _range(found.losses)
    fine = np.linspace(t[0], t[-1], 400)
    ax.plot(
        fine, found.quadratic(fine), "--", color="C1",
        label=f"slope {found.slopes[0]:.3g}, curvature {found.curvatures[0, 0]:.3g}",
    )  # fmt: skip
    ax.plot([0], [found.center], "o", color="black", markersize=4)
    # The parabola may leave the picture, and must not press the loss to its edge.
    margin = 0.15 * (high - low)
    ax.set_ylim(low - margin, high + margin)
    ax.set_xlim(t[0], t[-1])
    ax.set_xlabel(_axis_name(found, 0))
    ax.set_ylabel("loss")
    ax.legend(frameon=False)


def _draw_contours(found: Landscape, ax: Axes) -> None:
    x, y = found.coordinates
    values = np.ma.masked_invalid(found.losses.T)
    levels = _levels(found.losses)
    filled = ax.contourf(x, y, values, levels=levels, cmap="viridis")
    fine = [np.linspace(axis[0], axis[-1], 101) for axis in (x, y)]
    quadratic = found.quadratic(*np.meshgrid(*fine))
    ax.contour(
        *fine, quadratic, levels=levels, colors=_DASHES["color"],
        linewidths=_DASHES["linewidth"], linestyles=_DASHES["linestyle"],
    )  # fmt: skip
    ax.plot([0], [0], "o", color="white", markeredgecolor="black", markersize=6)
    ax.figure.colorbar(filled, ax=ax, label="loss")
    ax.set_xlabel(_axis_name(found, 0))
    ax.set_ylabel(_axis_name(found, 1))
    _add_legend(ax, filled.get_cmap())


def _add_legend(ax: Axes, colors: Any) -> None:
    """Say what white dashes are, as they are drawn: on a colour of the losses."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    swatch = Patch(facecolor=colors(_OF_SWATCH)), Line2D([], [], **_DASHES)
    ax.legend(
        [swatch], ["quadratic at the centre, same levels"],
        loc="upper center", bbox_to_anchor=(0.5, 1.1), frameon=False, fontsize="small",
        handlelength=2.5, handleheight=1.0,
    )  # fmt: skip


def _draw_surface(found: Landscape, ax: Any) -> None:
    x, y = np.meshgrid(*found.coordinates, indexing="ij")
    low, high = _range(found.losses)
    ax.plot_surface(x, y, found.losses, cmap="viridis", alpha=0.8, linewidth=0)
    quadratic = found.quadratic()
    margin = 0.1 * (high - low)
    inside = (quadratic >= low - margin) & (quadratic <= high + margin)
    shown = np.where(inside, quadratic, np.nan)
    ax.plot_wireframe(x, y, shown, color="C1", linewidth=0.7, label="quadratic at the centre")
    ax.set_zlim(low - margin, high + margin)
    ax.locator_params(nbins=5)
    ax.set_box_aspect(None, zoom=0.85)
    # The names of tilted axes would lie on the numbers.
    ax.set_xlabel(_axis_name(found, 0), labelpad=8)
    ax.set_ylabel(_axis_name(found, 1), labelpad=8)
    ax.set_zlabel("loss", labelpad=6)
    ax.legend(frameon=False)


def _levels(losses: HostArray) -> HostArray:
    """Return levels of contours, closer where the loss is low."""
    low, high = _range(losses)
    return np.asarray(low + (high - low) * np.linspace(0, 1, _LEVELS + 1) ** 2)


def _range(losses: HostArray) -> tuple[float, float]:
    finite = losses[np.isfinite(losses)]
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _axis_name(found: Landscape, index: int) -> str:
    norm = found.norms[index]
    unit = "" if abs(norm - 1) < 1e-3 else f" (norm {norm:.3g})"
    return f"{found.labels[index]}{unit}"
