"""Curvature over the steps of a training, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hessops.arrays import HostArray
from hessops.density.plot import new_figure
from hessops_torch.training.record import CurvatureRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_records"]

_EDGE = "black"


def plot_records(
    records: Sequence[CurvatureRecord], axes: tuple[Axes, Axes] | None = None
) -> tuple[Axes, Axes]:
    """Draw eigenvalues with their error bounds and 2 over the learning rate, and the trace.

    Parameters
    ----------
    records : sequence of CurvatureRecord
        At least one. Steps that could not be measured are marked at the lower edge.
    axes : tuple of matplotlib.axes.Axes, optional
        For eigenvalues and trace; a new figure where not given.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        What was drawn on.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If there is no record.
    """
    if not records:
        raise ValueError("there is no record to draw: train for more steps, or call measure()")
    if axes is None:
        axes = tuple(new_figure(2, 1, figsize=(7, 5.5), sharex=True)[1])
    upper, lower = axes
    steps = np.array([record.step for record in records], dtype=np.float64)
    _draw_eigenvalues(upper, steps, records)
    _draw_limits(upper, steps, records)
    _draw_trace(lower, steps, records)
    failed = steps[[not np.isfinite(r.eigenvalues).all() for r in records]]
    if len(failed):
        upper.plot(
            failed, np.full(len(failed), 0.02), "x", color="tab:red", clip_on=False,
            transform=upper.get_xaxis_transform(), label="could not be measured",
        )  # fmt: skip
    upper.set_ylabel("eigenvalue")
    lower.set_ylabel("trace")
    lower.set_xlabel("step")
    # Lines of limits cross any corner: names stand on a ground of their own.
    upper.legend(loc="best", edgecolor="none", framealpha=0.85, fontsize="small")
    lower.legend(loc="best", edgecolor="none", framealpha=0.85, fontsize="small")
    return upper, lower


def _draw_eigenvalues(ax: Axes, steps: HostArray, records: Sequence[CurvatureRecord]) -> None:
    values = np.array([record.eigenvalues for record in records])
    bounds = np.array([record.error_bounds for record in records])
    for index in range(values.shape[1]):
        ax.errorbar(
            steps, values[:, index], yerr=bounds[:, index], marker="o", markersize=3,
            linewidth=1.2, capsize=2, color=f"C{index % 10}",
            label=f"eigenvalue {index + 1}, error bound" if values.shape[1] > 1 else "eigenvalue",
        )  # fmt: skip


def _draw_limits(ax: Axes, steps: HostArray, records: Sequence[CurvatureRecord]) -> None:
    """Draw what the optimizer allows, the limit with momentum only where it is another."""
    plain = np.array([record.two_over_learning_rate for record in records])
    own = np.array([record.stability_limit for record in records])
    # A line far above would press all eigenvalues to the bottom.
    low, high = ax.get_ylim()
    room = high + 3 * (high - min(low, 0.0))
    for values, style, name in (
        (plain, "--", "2 / learning rate"),
        (own, ":", "limit with momentum"),
    ):
        known = np.isfinite(values)
        if not known.any() or (values is own and np.allclose(own[known], plain[known])):
            continue
        label = name
        if np.min(values[known]) > room:
            label = f"{name} ≥ {np.min(values[known]):.4g}, above"
        ax.step(steps, values, style, color=_EDGE, linewidth=1.2, where="post", label=label)
    finite = np.concatenate([plain[np.isfinite(plain)], own[np.isfinite(own)]])
    shown = finite[finite <= room]
    ax.set_ylim(low, max(high, 1.08 * float(shown.max())) if len(shown) else high)


def _draw_trace(ax: Axes, steps: HostArray, records: Sequence[CurvatureRecord]) -> None:
    value, low, high = (
        np.array([getattr(record, name) for record in records])
        for name in ("trace", "trace_low", "trace_high")
    )
    if not np.isfinite(value).any():
        ax.set_yticks([])
        ax.plot([], [], " ", label="not measured")
        return
    line = ax.plot(steps, value, marker="o", markersize=3, linewidth=1.2, label="trace")[0]
    # A band has no width at a record whose neighbours are missing; its bar is seen.
    known = np.isfinite(value)
    beside = np.concatenate([[False], known, [False]])
    alone = known & ~beside[:-2] & ~beside[2:]
    style: dict[str, Any] = {"alpha": 0.3, "color": line.get_color()}
    ax.fill_between(steps, low, high, linewidth=0, label="95% interval", **style)
    ax.vlines(steps[alone], low[alone], high[alone], linewidth=4, **style)
