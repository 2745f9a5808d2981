"""Log-determinants by stochastic Lanczos quadrature beside imate's C++: seconds and true errors.

Every round runs all contestants once, one after another, each with its own random probes. One line per
contestant: seconds (wall and processor, medians), wall seconds as multiples of imate's in the same
round, the root mean square over the rounds of the true error, and the seconds that imate's error would
take, as a statistical error falls with the root of the work.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import scipy.io
import scipy.sparse
import scipy.sparse.linalg
import typer
from rich.console import Console
from rich.table import Table

import hessops
from hessops.gallery import laplacian_2d

try:
    import imate
except ImportError:
    imate = None


@dataclass
class Case:
    """A positive definite matrix with its exact log-determinant and bounds of its spectrum."""

    name: str
    matrix: Any
    exact: float
    interval: tuple[float, float]


@dataclass
class Entry:
    """What the rounds say of one contestant on one matrix."""

    case: str
    label: str
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def error(self) -> float:
        """Return the root mean square of the true errors."""
        return math.sqrt(sum(error**2 for error in self.errors) / len(self.errors))


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to count; one more warms up.")] = 9,
    probes: Annotated[int, typer.Option(help="Probes at the same work.")] = 32,
    steps: Annotated[int, typer.Option(help="Lanczos steps at the same work.")] = 60,
    threads: Annotated[int, typer.Option(help="Threads of each library.")] = 2,
    side: Annotated[int, typer.Option(help="Points along an edge of the Laplacian.")] = 400,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Print a table for every matrix, and write every figure where asked."""
    console, entries = Console(), []
    versions = {name: version_of(name) for name in ("hessops", "imate", "numpy", "scipy")}
    console.print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}"
    )
    for case in cases(side):
        contestants = contestants_of(case, probes, steps, threads)
        found = [Entry(case.name, label) for label in contestants]
        for round_ in range(rounds + 1):
            for entry, contestant in zip(found, contestants.values(), strict=True):
                timed(entry, contestant, round_, case)
        console.print(table(case, found))
        entries += found
    if output is not None:
        figures = {"versions": versions, "entries": [asdict(entry) for entry in entries]}
        output.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def cases(side: int) -> list[Case]:
    """Return the shifted Laplacian, and two matrices of a power grid and of a material."""
    line = scipy.sparse.diags_array(
        [np.full(side, 2.0), *[np.full(side - 1, -1.0)] * 2], offsets=[0, 1, -1]
    )
    identity = scipy.sparse.eye_array(side)
    grid = scipy.sparse.kron(line, identity) + scipy.sparse.kron(identity, line)
    shifted = scipy.sparse.csr_array(grid + 0.1 * scipy.sparse.eye_array(side**2))
    exact = float(np.sum(np.log(laplacian_2d(side).eigenvalues + 0.1)))
    found = [Case(f"2-D Laplacian + 0.1 I, n = {side**2}", shifted, exact, (0.1, 8.1))]
    folder = Path(os.environ.get("HESSOPS_DATA", "../shared/data")) / "matrices"
    # The smallest eigenvalues of bloweybq are 0 to rounding, so that the shift is part of the problem.
    for name, shift, lowest in (("1138_bus", 0.0, 1e-3), ("bloweybq", 1.0, 1.0 - 1e-9)):
        if not (path := folder / f"{name}.mtx").exists():
            continue
        matrix = scipy.sparse.csc_array(scipy.io.mmread(path))
        matrix = matrix + shift * scipy.sparse.eye_array(matrix.shape[0], format="csc")
        pivots = scipy.sparse.linalg.splu(matrix).U.diagonal()
        rows = abs(matrix).sum(axis=1)
        label = f"{name} + {shift:g} I" if shift else name
        exact = float(np.sum(np.log(np.abs(pivots))))
        bounds = (lowest, float(np.max(rows)))
        found.append(Case(label, scipy.sparse.csr_array(matrix), exact, bounds))
    return found


def contestants_of(
    case: Case, probes: int, steps: int, threads: int
) -> dict[str, Callable[[int], float]]:
    """Return, by label, functions from a seed to an estimate."""
    with_threads = hessops.aslinearoperator(case.matrix, num_threads=threads)
    alone = hessops.aslinearoperator(case.matrix)
    same: dict[str, Any] = {"num_probes": probes, "num_steps": steps, "interval": case.interval}
    plain = hessops.logdet(alone, power_traces=(), rng=0, **same)
    half_width = (plain.interval.high - plain.interval.low) / 2

    def with_hessops(operator: Any, **options: Any) -> Callable[[int], float]:
        return lambda seed: hessops.logdet(operator, rng=seed, **options).value

    found = {} if imate is None else {"imate": with_imate(case, probes, steps, threads)}
    return {
        **found,
        "hessops, same work": with_hessops(with_threads, power_traces=(), **same),
        "hessops, same work, 1 thread": with_hessops(alone, power_traces=(), **same),
        "hessops, with controls": with_hessops(with_threads, **same),
        "hessops, atol, no controls": with_hessops(
            with_threads, power_traces=(), interval=case.interval, atol=half_width
        ),
        "hessops, atol": with_hessops(with_threads, interval=case.interval, atol=half_width),
    }


def with_imate(case: Case, probes: int, steps: int, threads: int) -> Callable[[int], float]:
    """Return imate's estimate; it draws its own random numbers."""
    matrix = scipy.sparse.csr_matrix(case.matrix)
    options: dict[str, Any] = {
        "method": "slq",
        "orthogonalize": 0,
        "lanczos_degree": steps,
        "min_num_samples": probes,
        "max_num_samples": probes,
        "num_threads": threads,
    }
    return lambda _: float(imate.logdet(matrix, **options))


def timed(entry: Entry, contestant: Callable[[int], float], round_: int, case: Case) -> None:
    """Run one contestant once; the first round only warms up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hessops.ConvergenceWarning)
        wall, processor = time.perf_counter(), time.process_time()
        value = contestant(round_)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    if round_ > 0:
        entry.wall.append(wall)
        entry.processor.append(processor)
        entry.errors.append(value - case.exact)


def table(case: Case, entries: list[Entry]) -> Table:
    """Return the table of one matrix."""
    columns = ("seconds", "processor s", "x imate (min - max)", "true error", "s to imate's error")
    shown = Table("contestant", *columns, title=f"{case.name}: log det = {case.exact:.6g}")
    first = entries[0]
    for entry in entries:
        ratios = [own / its for own, its in zip(entry.wall, first.wall, strict=True)]
        equal = median(entry.wall) * (entry.error() / first.error()) ** 2
        shown.add_row(
            entry.label,
            f"{median(entry.wall):.3g}",
            f"{median(entry.processor):.3g}",
            f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
            f"{entry.error():.3g}",
            f"{equal:.3g}",
        )
    return shown


def version_of(name: str) -> str:
    """Return a package's version, or that it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    typer.run(main)
