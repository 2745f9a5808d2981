"""What the runs of time_to_accuracy.py found, and what each library needs, beside the reference."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.linalg import eigh_tridiagonal
from scipy.stats import wasserstein_distance

__all__ = ["show"]

RESIDUAL, TRACE, DENSITY = 0.01, 0.01, 0.05
_T = 1.96
Record = dict[str, Any]
Rule = tuple[np.ndarray, np.ndarray]


def show(folder: Path) -> None:
    """Print the table from the files that the runs left in a folder."""
    console = Console(width=150, highlight=False)
    truth = Truth(json.loads((folder / "reference.json").read_text()))
    console.print(truth.describe(), markup=False)
    table = Table("", "task", "products", "seconds", "gradients", "reached", "asked", "")
    for name in ("hessops", "pyhessian", "eigenthings"):
        path = folder / f"{name}.json"
        if not path.exists():
            console.print(f"no {path}: run --only {name}")
            continue
        for row in rows_of(json.loads(path.read_text()), truth):
            table.add_row(*row)
    console.print(table)


class Truth:
    """The reference, and how far from it a density is."""

    def __init__(self, note: Record) -> None:
        self.eigenvalues = np.array(note["eigenvalues"])
        self.trace, self.trace_error = note["trace"]
        self.dim = note["dim"]
        self.rest, self.plain = note["rest"], note["plain"]
        full = len(self.rest["alphas"][0])
        self.measure = self.reference(range(len(self.rest["alphas"])), full)
        self.size = float(np.sum(self.measure[1] * np.abs(self.measure[0])))

    def reference(self, probes: Any, steps: int) -> Rule:
        """Return the largest eigenvalues with their own weights, and the rest by quadrature."""
        nodes, weights = mean_rule(self.rest, probes, steps)
        # Rules of the projected operator see zeros in place of the pairs that were taken out.
        share = len(self.eigenvalues) / self.dim
        return (
            np.concatenate([self.eigenvalues, nodes]),
            np.concatenate([np.full(len(self.eigenvalues), 1 / self.dim), weights * (1 - share)]),
        )

    def off(self, nodes: Any, weights: Any) -> float:
        """Return the Wasserstein distance in mean absolute eigenvalues."""
        values, masses = self.measure
        return float(wasserstein_distance(nodes, values, weights, masses) / self.size)

    def describe(self) -> str:
        """Return lines about the reference, and what it is itself off by."""
        count = len(self.rest["alphas"])
        full = len(self.rest["alphas"][0])
        halves = [self.reference(range(i, count, 2), full) for i in range(2)]
        apart = wasserstein_distance(halves[0][0], halves[1][0], halves[0][1], halves[1][1])
        short = self.off(*self.reference(range(count), 2 * full // 3))
        deviation = float(np.std(self.probe_traces(), ddof=1))
        return (
            f"eigenvalues {', '.join(f'{value:.4g}' for value in self.eigenvalues[:5])}; trace "
            f"{self.trace:.5g} +- {self.trace_error:.2g}; mean |eigenvalue| {self.size:.3g} "
            f"(sum {self.size * self.dim:.4g})\n"
            f"the halves of the probes are {apart / self.size:.1%} of that apart; with two thirds of "
            f"the steps it is {short:.1%}; a plain probe of the trace has standard deviation "
            f"{deviation:.3g}"
        )

    def probe_traces(self) -> np.ndarray:
        """Return z^T H z of the plain probes."""
        return np.array(self.plain["alphas"])[:, 0] * self.dim

    def plain_needs(self) -> tuple[int, int, float]:
        """Return probes and steps of the cheapest plain quadrature that will do, and its error."""
        count, full = len(self.plain["alphas"]), len(self.plain["alphas"][0])
        best: tuple[int, int, float] | None = None
        for probes, steps in itertools.product(range(1, count + 1), range(4, full + 1, 2)):
            sets = list(itertools.combinations(range(count), probes))
            errors = [self.off(*mean_rule(self.plain, some, steps)) for some in sets]
            error = float(np.mean(errors))
            if error <= DENSITY and (best is None or probes * steps < best[0] * best[1]):
                best = probes, steps, error
        if best is None:
            error = self.off(*mean_rule(self.plain, range(count), full))
            return math.ceil(count * (error / DENSITY) ** 2), full, DENSITY
        return best


def mean_rule(recurrences: Record, probes: Any, steps: int) -> Rule:
    """Return the Gauss rules of some probes after some steps, together."""
    rules = [
        gauss(np.array(recurrences["alphas"][i][:steps]), np.array(recurrences["betas"][i][:steps]))
        for i in probes
    ]
    nodes, weights = (np.concatenate(parts) for parts in zip(*rules, strict=True))
    return nodes, weights / len(rules)


def gauss(alphas: np.ndarray, betas: np.ndarray) -> Rule:
    """Return the Gauss rule of a recurrence."""
    nodes, vectors = eigh_tridiagonal(alphas, betas[:-1])
    return nodes, vectors[0] ** 2


def rows_of(note: Record, truth: Truth) -> list[list[str]]:
    """Return the table's rows of a library."""
    unit = float(np.mean(note["gradient"]))
    rows = []

    def add(task: str, products: float, seconds: float, reached: str, asked: str, how: str) -> None:
        rows.append(
            [note["library"], task, f"{products:.0f}", f"{seconds:.0f}", f"{seconds / unit:.0f}",
             reached, asked, how]
        )  # fmt: skip

    each = 0.0
    for row in note["rows"]:
        each = row["seconds"] / row["products"]
        if "eigenvalues" in row:
            worst = max(
                residual / abs(value)
                for residual, value in zip(row["residuals"], row["eigenvalues"], strict=True)
            )
            add(
                "eigenpairs", row["products"], row["seconds"], f"{worst:.2%}", f"{RESIDUAL:.0%}", ""
            )
        if "nodes" in row:
            nodes, weights = np.array(row["nodes"]), np.array(row["weights"])
            off = truth.off(nodes.ravel(), weights.ravel())
            add(
                "density",
                row["products"],
                row["seconds"],
                f"{off:.1%}",
                f"{DENSITY:.0%}",
                "the same run",
            )
        if row["task"] == "trace":
            _add_trace(add, row, truth)
    if note["library"] != "hessops":
        probes, steps, error = truth.plain_needs()
        count = probes * steps
        how = f"worked out: {probes} probes of {steps} steps"
        add("density", count, count * each, f"{error:.1%}", f"{DENSITY:.0%}", how)
    return rows


def _add_trace(add: Any, row: Record, truth: Truth) -> None:
    goal = TRACE * truth.trace
    if "reason" in row:
        found = (
            f"{_T * row['error'] / truth.trace:.2%} (off {abs(row['value'] / truth.trace - 1):.2%})"
        )
        add("trace", row["products"], row["seconds"], found, f"{TRACE:.0%}", row["reason"])
        return
    samples = np.array(row["samples"])
    each = row["seconds"] / row["products"]
    own = _T * samples.std(ddof=1) / math.sqrt(len(samples))
    add("trace, as it stops", row["products"], row["seconds"], f"{own / truth.trace:.1%}", "", "")
    # The deviation of few samples is known badly, so that of all plain probes there are.
    probes = samples if len(samples) > 30 and "value" not in row else truth.probe_traces()
    needs = {"plain probes": (_T * float(np.std(probes, ddof=1)) / goal) ** 2}
    if "value" in row:
        # A third of the products are probes of what the sketch has left.
        needs["Hutch++"] = 3 * (_T * samples.std(ddof=1) / goal) ** 2
    way, count = min(needs.items(), key=lambda item: item[1])
    add("trace", count, count * each, f"{TRACE:.0%}", f"{TRACE:.0%}", f"worked out: {way}")
