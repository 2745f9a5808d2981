"""Errors and coverage of all estimators of a trace on the spectra of Epperly, Tropp & Webber (2024).

Each spectrum is turned into a dense-looking operator by a random rotation; every seed draws another
rotation and other probes. One line per spectrum and number of products: the mean relative error of each
method, the share of 95 % intervals that hold the truth, and how `method="auto"` compares with the best.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import hessops
from hessops import LinearOperator, aslinearoperator
from hessops.gallery import xtrace_matrix

SPECTRA = ("flat", "poly", "slowexp", "fastexp", "smallstep", "bigstep")
METHODS = ("hutchinson", "hutchpp", "xtrace", "xnystrace", "auto")


def main(
    seeds: Annotated[int, typer.Option(help="Rotations and probes per cell.")] = 200,
    products: Annotated[list[int] | None, typer.Option(help="Products to spend.")] = None,
    declared: Annotated[
        bool, typer.Option(help="Declare that the operators are semidefinite.")
    ] = True,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Print the table, and write every figure where asked."""
    table = Table("spectrum", "products", *(f"{name}\nerror (coverage)" for name in METHODS))
    table.add_column("auto / best")
    table.add_column("chosen")
    cells = []
    for name in SPECTRA:
        for budget in products or [30, 60, 120, 240]:
            cell = measured(name, budget, seeds, declared)
            cells.append(cell)
            table.add_row(name, str(budget), *shown(cell))
    Console().print(table)
    if output is not None:
        output.write_text(json.dumps(cells, indent=1), encoding="utf-8")


def measured(name: str, budget: int, seeds: int, declared: bool) -> dict[str, object]:
    """Return errors, coverage and choices of one cell."""
    errors: dict[str, list[float]] = {}
    held: dict[str, list[bool]] = {}
    chosen: Counter[str] = Counter()
    for seed in range(seeds):
        operator, truth = problem(name, seed, declared)
        for method in METHODS:
            if method == "xnystrace" and not declared:
                continue
            result = hessops.trace(operator, method=method, max_products=budget, rng=seed)
            assert result.num_products <= budget
            errors.setdefault(method, []).append(abs(result.value / truth - 1))
            held.setdefault(method, []).append(
                bool(result.interval.low <= truth <= result.interval.high)
            )
            if method == "auto":
                chosen[result.method] += 1
    return {
        "spectrum": name,
        "products": budget,
        "errors": {method: float(np.mean(found)) for method, found in errors.items()},
        "coverage": {method: float(np.mean(found)) for method, found in held.items()},
        "chosen": dict(chosen),
    }


def problem(name: str, seed: int, declared: bool) -> tuple[LinearOperator, float]:
    """Return a freshly rotated operator and its trace."""
    found = xtrace_matrix(name, rng=seed)
    if declared:
        return found.operator, found.trace
    apply = found.operator.apply
    return aslinearoperator(apply, shape=1000, dtype=np.float64, self_adjoint=True), found.trace


def shown(cell: dict[str, object]) -> list[str]:
    """Return the row of a cell."""
    errors, coverage, chosen = cell["errors"], cell["coverage"], cell["chosen"]
    assert isinstance(errors, dict)
    assert isinstance(coverage, dict)
    assert isinstance(chosen, dict)
    best = min(value for method, value in errors.items() if method != "auto")
    columns = [
        f"{errors[method]:.1e} ({coverage[method]:.3f})" if method in errors else ""
        for method in METHODS
    ]
    ratio = errors["auto"] / max(best, 1e-15)
    return [
        *columns,
        f"{ratio:.2f}",
        ", ".join(f"{name} {count}" for name, count in chosen.items()),
    ]


if __name__ == "__main__":
    typer.run(main)
