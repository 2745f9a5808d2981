"""Products and seconds of `eigsh` beside ARPACK's, to the same true residual.

Every problem is solved by both, one after the other, in every round. ARPACK's tolerance is given; its
true residual norm, the largest of the pairs that it returns, is the target of the others. Seconds are
those of the processor, so that other programs disturb them less. How many of the wanted eigenvalues
were found, with multiplicity, is a column of its own: a Krylov method need not find all copies.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import scipy.io
import scipy.sparse
import scipy.sparse.linalg
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import hessops
from hessops.gallery import kneser

Matrix = scipy.sparse.csr_matrix
Vectors = NDArray[np.float64]
_TRIES = 8


@dataclass(frozen=True)
class Run:
    """What one solver took and found."""

    seconds: float
    products: int
    residual: float
    values: Vectors


@dataclass(frozen=True)
class Problem:
    """A matrix, which eigenvalues are wanted, and what they are."""

    name: str
    matrix: Matrix
    which: str
    wanted: Vectors


def main(
    k: Annotated[int, typer.Option(help="Eigenpairs.")] = 10,
    side: Annotated[int, typer.Option(help="Points along an edge of the Laplacian's grid.")] = 400,
    tol: Annotated[float, typer.Option(help="ARPACK's tolerance.")] = 1e-6,
    rounds: Annotated[int, typer.Option(help="Rounds; figures are medians.")] = 3,
    blocks: Annotated[
        bool, typer.Option(help="Also blocks of two, which find double eigenvalues twice.")
    ] = False,
    only: Annotated[str, typer.Option(help="Problems whose name holds this.")] = "",
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Print the table, and write every figure where asked."""
    table = Table(
        *("problem", "solver", "products", "seconds", "of ARPACK's", "residual", "found"),
        title=f"{k} eigenpairs, ARPACK at tol={tol:g}, median of {rounds} rounds",
    )
    figures = []
    for problem in problems(side, k):
        if only not in problem.name:
            continue
        for line in compared(problem, tol, rounds, blocks):
            figures.append(line)
            table.add_row(*(str(entry) for entry in line.values()))
    Console().print(table)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def problems(side: int, k: int) -> list[Problem]:
    """Return the problems; those whose file is missing are left out."""
    line = 2 - 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))
    grid = np.sort(np.add.outer(line, line).ravel())
    chain = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side))
    laplacian = Matrix(scipy.sparse.kronsum(chain, chain))
    graph_problem = kneser(11, 4)
    graph = Matrix(graph_problem.operator.apply(np.eye(330)))
    levels = np.sort(graph_problem.eigenvalues)
    found = [
        Problem(f"Laplacian {side} x {side}", laplacian, which, wanted(grid, k, which))
        for which in ("LA", "BE")
    ]
    found += [
        Problem("Kneser K(11, 4)", graph, which, wanted(levels, k, which)) for which in ("LA", "BE")
    ]
    folder = os.environ.get("HESSOPS_DATA") or Path(__file__).parents[3] / "shared" / "data"
    path = Path(folder) / "matrices" / "1138_bus.mtx"
    if path.is_file():
        bus = Matrix(scipy.io.mmread(path))
        exact = np.linalg.eigvalsh(bus.toarray())
        found.append(Problem("1138_bus", bus, "LA", wanted(exact, k, "LA")))
    return found


def wanted(ascending: Vectors, k: int, which: str) -> Vectors:
    """Return the eigenvalues asked for, ascending."""
    low = k // 2 if which == "BE" else 0
    return np.concatenate([ascending[:low], ascending[len(ascending) - (k - low) :]])


def compared(problem: Problem, tol: float, rounds: int, blocks: bool) -> list[dict[str, object]]:
    """Return one line per solver."""
    start = np.random.default_rng(0).standard_normal(problem.matrix.shape[0])
    target = arpack(problem, start, tol).residual
    solvers: dict[str, Callable[[], Run]] = {"ARPACK": lambda: arpack(problem, start, tol)}
    for label, block_size in [("hessops", 1), ("hessops, block_size=2", 2)][: 1 + blocks]:
        reached = tolerance(problem, start, block_size, target)
        solvers[label] = lambda b=block_size, t=reached: ours(problem, start, t, b)  # type: ignore[misc]
    runs: dict[str, list[Run]] = {label: [] for label in solvers}
    for _ in range(rounds):
        for label, solve in solvers.items():
            runs[label].append(solve())
    unit = statistics.median(run.seconds for run in runs["ARPACK"])
    return [shown(problem, label, found, unit) for label, found in runs.items()]


def tolerance(problem: Problem, start: Vectors, block_size: int, target: float) -> float:
    """Return a tolerance at which the true residual is at most the target."""
    size = float(np.max(np.abs(problem.wanted)))
    tol = target / size
    for _ in range(_TRIES):
        tol = max(tol, 1e-15)
        if ours(problem, start, tol, block_size).residual <= target:
            break
        tol *= 0.7
    return tol


def arpack(problem: Problem, start: Vectors, tol: float) -> Run:
    """Run SciPy's `eigsh` as it comes."""
    products = 0

    def multiply(x: Vectors) -> Vectors:
        nonlocal products
        products += 1
        return np.asarray(problem.matrix @ x)

    operator = scipy.sparse.linalg.LinearOperator(
        problem.matrix.shape, matvec=multiply, dtype=np.float64
    )
    clock = time.process_time()
    values, vectors = scipy.sparse.linalg.eigsh(
        operator, len(problem.wanted), which=problem.which, tol=tol, v0=start, maxiter=10**5
    )
    seconds = time.process_time() - clock
    return Run(seconds, products, residual(problem, values, vectors), np.sort(values))


def ours(problem: Problem, start: Vectors, tol: float, block_size: int) -> Run:
    """Run hessops; residuals are verified here, for both, and not within."""
    clock = time.process_time()
    result = hessops.eigsh(
        problem.matrix,
        len(problem.wanted),
        which=problem.which,  # type: ignore[arg-type]
        tol=tol,
        block_size=block_size,
        start=start,
        verify=False,
        rng=0,
    )
    seconds = time.process_time() - clock
    true = residual(problem, result.eigenvalues, np.asarray(result.eigenvectors))
    return Run(seconds, result.num_products, true, np.sort(result.eigenvalues))


def residual(problem: Problem, values: Vectors, vectors: Vectors) -> float:
    """Return the largest true residual norm."""
    return float(np.max(np.linalg.norm(problem.matrix @ vectors - vectors * values, axis=0)))


def shown(problem: Problem, label: str, runs: list[Run], unit: float) -> dict[str, object]:
    """Return the line of one solver."""
    seconds = statistics.median(run.seconds for run in runs)
    near = 1e-6 * float(np.max(np.abs(problem.wanted)))
    left = list(problem.wanted)
    for value in runs[0].values:
        nearest = left[int(np.argmin(np.abs(np.array(left) - value)))]
        if abs(nearest - value) <= near:
            left.remove(nearest)
    return {
        "problem": f"{problem.name}, {problem.which}",
        "solver": label,
        "products": runs[0].products,
        "seconds": f"{seconds:.4g}",
        "ratio": f"{seconds / unit:.2f}",
        "residual": f"{runs[0].residual:.1e}",
        "found": f"{len(problem.wanted) - len(left)} of {len(problem.wanted)}",
    }


if __name__ == "__main__":
    typer.run(main)
