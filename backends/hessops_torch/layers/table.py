"""A table of blocks: as text, as comma-separated values, and as bars."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hessops.atomic_file import atomic_file
from hessops.density.plot import new_axes
from hessops.result import Estimate, Interval
from hessops.results.numbers import (
    errors_in_column,
    estimate_cells,
    estimates_in_column,
    interval_text,
    values_in_column,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Row", "plotted", "table_text", "write_csv"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of one block.

    Parameters
    ----------
    block : str
        Its name.
    size : int
        Its number of parameters.
    trace, mean : Estimate
        Its trace, and the mean of its diagonal.
    share, rms : tuple of float and Interval
        Its trace over the whole's, and the root mean square of its diagonal.
    top : tuple of three float or None
        Its outermost eigenvalue, residual norm and a bound on the error.
    """

    block: str
    size: int
    trace: Estimate
    mean: Estimate
    share: tuple[float, Interval]
    rms: tuple[float, Interval]
    top: tuple[float, float, float] | None

    def bar(self, by: str) -> tuple[float, float, float]:
        """Return the number to rank by, and the ends of its interval."""
        if by == "top eigenvalue":
            assert self.top is not None
            value, _residual, bound = self.top
            return value, value - bound, value + bound
        estimate = self.trace if by == "trace" else self.mean
        low, high = estimate.interval
        return float(estimate), float(low), float(high)


def table_text(rows: Sequence[Row]) -> str:
    """Return rows as a table whose numbers have no more digits than their errors support.

    Parameters
    ----------
    rows : sequence of Row
        In their order.

    Returns
    -------
    str
        A line of headings, and one per row.
    """
    columns = [
        ("", [f"{index}" for index in range(1, len(rows) + 1)], ">"),
        ("block", [row.block for row in rows], "<"),
        ("parameters", [f"{row.size}" for row in rows], ">"),
        ("trace per parameter", [f"{row.mean}" for row in rows], "<"),
        ("trace", _with_errors([row.trace for row in rows]), "<"),
        ("share", [_with_interval(*row.share) for row in rows], "<"),
        ("rms of the diagonal", [_with_interval(*row.rms) for row in rows], "<"),
    ]
    found = [row.top for row in rows if row.top is not None]
    if found:
        values, residuals, bounds = zip(*found, strict=True)
        columns += [
            ("eigenvalue", values_in_column(values, bounds), "<"),
            ("error bound", errors_in_column(bounds), "<"),
            ("residual", errors_in_column(residuals), "<"),
        ]
    return _laid_out(columns)


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows with all digits.

    Parameters
    ----------
    path : Path
        Where to; a file of that name is replaced when the new one is complete.
    rows : sequence of Row
        In their order.

    Returns
    -------
    Path
        The same.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_record(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_record(row) for row in rows)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())
    return path


def plotted(rows: Sequence[Row], by: str, ax: Axes | None = None) -> Axes:
    """Draw a bar for every row, with its interval.

    Parameters
    ----------
    rows : sequence of Row
        In their order, the first on top.
    by : str
        What is drawn.
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
        ax = new_axes(1 + 0.25 * len(rows))
    values, low, high = zip(*(row.bar(by) for row in rows), strict=True)
    places = range(len(rows))
    ax.barh(places, values, height=0.7, alpha=0.5)
    known = [place for place in places if math.isfinite(high[place] - low[place])]
    ax.errorbar(
        [values[place] for place in known],
        known,
        xerr=[
            [values[place] - low[place] for place in known],
            [high[place] - values[place] for place in known],
        ],
        fmt="none",
        ecolor="black",
        elinewidth=1,
        capsize=2,
    )
    ax.set_yticks(places, [row.block for row in rows], fontsize="small")
    ax.invert_yaxis()
    ax.axvline(0.0, color="black", linewidth=0.5)
    ax.set_xlabel(by)
    return ax


def _with_errors(estimates: Sequence[Estimate]) -> list[str]:
    values = [float(estimate) for estimate in estimates]
    errors = [float(estimate.standard_error) for estimate in estimates]
    pairs = zip(*estimates_in_column(values, errors), strict=True)
    return [f"{value} ± {error}" for value, error in pairs]


def _with_interval(value: float, interval: Interval) -> str:
    low, high = interval
    # With the digits that a standard error would leave.
    return f"{estimate_cells(value, (high - low) / 4)[0]} {interval_text(low, high)}"


def _laid_out(columns: Sequence[tuple[str, Sequence[str], str]]) -> str:
    widths = [max(map(len, (head, *cells))) for head, cells, _ in columns]
    lines = zip(*([head, *cells] for head, cells, _ in columns), strict=True)
    sides = [side for _, _, side in columns]
    return "\n".join(
        "  ".join(f"{c:{side}{w}}" for c, side, w in zip(line, sides, widths, strict=True)).rstrip()
        for line in lines
    )


def _record(row: Row) -> dict[str, object]:
    record: dict[str, object] = {"block": row.block, "parameters": row.size}
    estimates = {
        "trace": row.trace,
        "trace_per_parameter": row.mean,
    }
    for name, estimate in estimates.items():
        low, high = estimate.interval
        record[name] = float(estimate)
        record[f"{name}_standard_error"] = float(estimate.standard_error)
        record[f"{name}_low"], record[f"{name}_high"] = float(low), float(high)
    for name, (value, interval) in {"share": row.share, "rms_diagonal": row.rms}.items():
        record[name] = value
        record[f"{name}_low"], record[f"{name}_high"] = interval
    if row.top is not None:
        record["eigenvalue"], record["residual_norm"], record["error_bound"] = row.top
    return record
