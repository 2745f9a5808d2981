"""What the runs of time_to_accuracy.py found, and what each library needs, beside the reference."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

__all__ = ["RESIDUAL", "TRACE", "show"]

RESIDUAL, TRACE = 0.01, 0.01
_T = 1.96
Record = dict[str, Any]


def show(folder: Path) -> None:
    """Print the table from the files that the runs left in a folder."""
    console = Console(width=150, highlight=False)
    truth = Truth(json.loads((folder / "reference.json").read_text()))
    console.print(truth.describe(), markup=False)
    table = Table("", "task", "products", "seconds", "gradients", "reached", "off", "asked", "")
    for name in ("hessops", "pyhessian", "eigenthings"):
        path = folder / f"{name}.json"
        if not path.exists():
            console.print(f"no {path}: run --only {name}")
            continue
        for row in rows_of(json.loads(path.read_text()), truth):
            table.add_row(*row)
    console.print(table)


class Truth:
    """The reference."""

    def __init__(self, note: Record) -> None:
        self.eigenvalues = np.array(note["eigenvalues"])
        self.residuals = np.array(note["residuals"])
        self.trace, self.trace_error = note["trace"]
        self.forms = np.array(note["forms"])

    def describe(self) -> str:
        """Return lines about the reference, and what it is itself off by."""
        return (
            f"eigenvalues {', '.join(f'{value:.5g}' for value in self.eigenvalues)} "
            f"(residual norms up to {self.residuals.max():.1g}); trace {self.trace:.5g} +- "
            f"{self.trace_error:.2g}; standard deviation of a plain probe "
            f"{np.std(self.forms, ddof=1):.3g} (by {len(self.forms)})"
        )


def rows_of(note: Record, truth: Truth) -> list[list[str]]:
    """Return the table's rows of a library."""
    unit = float(np.mean(note["gradient"]))
    rows = []

    def add(task: str, products: float, seconds: float, *rest: str) -> None:
        cells = f"{products:.0f}", f"{seconds:.0f}", f"{seconds / unit:.0f}"
        rows.append([note["library"], task, *cells, *rest])

    for row in note["rows"]:
        if row["task"] == "trace":
            _add_trace(add, row, truth)
        else:
            values = np.array(row["eigenvalues"])
            worst = float(np.max(np.array(row["residuals"]) / np.abs(values)))
            off = float(np.max(np.abs(np.sort(values)[::-1] / truth.eigenvalues - 1)))
            cells = f"{worst:.2%}", f"{off:.2%}", f"{RESIDUAL:.0%}"
            add("eigenpairs", row["products"], row["seconds"], *cells, "")
    return rows


def _add_trace(add: Any, row: Record, truth: Truth) -> None:
    if "reason" in row:
        found = (
            f"{_T * row['error'] / truth.trace:.2%}",
            f"{abs(row['value'] / truth.trace - 1):.2%}",
        )
        add("trace", row["products"], row["seconds"], *found, f"{TRACE:.0%}", row["reason"])
        return
    samples = np.array(row["samples"])
    each = row["seconds"] / row["products"]
    own = _T * samples.std(ddof=1) / math.sqrt(len(samples)) / truth.trace
    off = abs(row.get("value", samples.mean()) / truth.trace - 1)
    add("trace, as it stops", row["products"], row["seconds"], f"{own:.1%}", f"{off:.1%}", "", "")
    # The deviation of few samples is known badly, so that of all plain probes there are.
    probes = samples if len(samples) > 30 and "value" not in row else truth.forms
    goal = TRACE * truth.trace
    needs = {"plain probes": (_T * float(np.std(probes, ddof=1)) / goal) ** 2}
    if "value" in row:
        # A third of the products are probes of what the sketch has left.
        needs["Hutch++"] = 3 * (_T * samples.std(ddof=1) / goal) ** 2
    way, count = min(needs.items(), key=lambda item: item[1])
    add("trace", count, count * each, f"{TRACE:.0%}", "", f"{TRACE:.0%}", f"worked out: {way}")
