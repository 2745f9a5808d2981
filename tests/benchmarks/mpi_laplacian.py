"""The 2-D Laplacian by row blocks: spectral density and eigenvalues on any number of ranks.

    export OMP_NUM_THREADS=1
    mpirun -n 1 python tests/benchmarks/mpi_laplacian.py
    mpirun -n 2 python tests/benchmarks/mpi_laplacian.py --output two.json
    python tests/benchmarks/mpi_laplacian.py --side 300 --rounds 1     # does it run?

The default side of 2,000 points gives n = 4,000,000. Prints the median, the smallest and the largest
time of some rounds; numbers of SLQ and eigsh, which must be the same for any number of ranks; and how
often ranks met. With --pylops, what PyLops-MPI has of it: it knows no quadrature and no eigensolver.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from allocator import keep_freed_memory
from rich.console import Console

import hessops
import hessops_mpi
from hessops.random import Stream
from hessops.row_collectives import table

Task = tuple[str, int, Callable[[], Any]]


def timed(comm: hessops_mpi.CountingComm, rounds: int, task: Task) -> tuple[dict[str, Any], Any]:
    """Return a row of the table, by the times of the slowest rank, and what the last round gave."""
    name, products, action = task
    result = action()
    comm.reset()
    seconds = []
    for _ in range(rounds):
        # Not through what is counted.
        comm.inner.broadcast(None)
        start = time.perf_counter()
        result = action()
        seconds.append(float(table(comm.inner, [time.perf_counter() - start]).max()))
    return {
        "what": name,
        "products": products,
        "median": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "calls": {call: count / rounds for call, count in comm.calls.items()},
        "sent_bytes": {call: size / rounds for call, size in comm.sent_bytes.items()},
    }, result


def tasks(A: Any, probes: int, steps: int, eigsh_steps: int) -> Iterator[Task]:
    """Yield what is timed, with the columns that it multiplies."""
    X = A.domain.probes(Stream(0), range(max(2, probes)), "rademacher")
    block, column, other = X[:, :probes], X[:, :1], X[:, 1:2]
    yield f"product, {probes} columns", probes, lambda: A.apply(block)
    yield "product, 1 column", 1, lambda: A.apply(column)
    yield "dot product", 1, lambda: A.domain.gram(column, other)
    yield (
        f"SLQ, {probes} probes, {steps} steps",
        probes * steps,
        lambda: hessops.spectral_density(A, num_probes=probes, num_steps=steps, rng=0),
    )
    yield (
        # One pair, and a guard beside it.
        f"power iteration, {steps} steps of 2 columns",
        2 * steps,
        lambda: hessops.power_iteration(A, max_steps=steps, tol=1e-15, rng=0),
    )
    yield (
        f"eigsh, {eigsh_steps} steps",
        eigsh_steps,
        lambda: hessops.eigsh(A, 2, which="LA", max_steps=eigsh_steps, verify=False, rng=0),
    )


def pylops_tasks(rank: int, side: int, steps: int) -> Iterator[Task]:
    """Yield what PyLops-MPI has of this. Its Laplacian is the same but for the edges, where it is 0."""
    try:
        from pylops_mpi import DistributedArray, MPILaplacian
        from pylops_mpi.optimization.eigs import power_iteration
    except ImportError as error:
        raise typer.BadParameter(
            f"--pylops needs PyLops-MPI ({error}): pip install pylops-mpi, or leave it out"
        ) from error

    A = MPILaplacian((side, side), axes=(0, 1), weights=(-1.0, -1.0), dtype=np.float64)
    x, y = (DistributedArray(side**2) for _ in range(2))
    for index, array in enumerate((x, y)):
        array[:] = np.random.default_rng([rank, index]).standard_normal(array.local_shape)
    yield "PyLops-MPI, product", 1, lambda: A.matvec(x)
    yield "PyLops-MPI, dot product", 1, lambda: x.dot(y)
    yield (
        f"PyLops-MPI, power iteration, {steps} steps",
        steps,
        lambda: power_iteration(A, x, niter=steps, tol=0.0, dtype="float64"),
    )


def main(
    side: Annotated[int, typer.Option(help="Points along either side.")] = 2000,
    probes: Annotated[int, typer.Option(help="Of SLQ.")] = 4,
    steps: Annotated[int, typer.Option(help="Of SLQ and of power iteration.")] = 30,
    eigsh_steps: Annotated[int, typer.Option(help="Of eigsh.")] = 60,
    rounds: Annotated[int, typer.Option(help="Timed, after one that is not.")] = 5,
    pylops: Annotated[bool, typer.Option(help="PyLops-MPI beside it.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where to write JSON.")] = None,
) -> None:
    """Time products, quadrature and eigensolvers on the ranks that mpirun has started."""
    keep_freed_memory()
    comm = hessops_mpi.CountingComm(hessops_mpi.world())
    # Before anything is timed, as PyLops-MPI may be missing.
    others = list(pylops_tasks(comm.rank, side, steps)) if pylops else []
    A = hessops_mpi.sharded_laplacian((side, side), comm)
    rows, numbers = [], {}
    for task in [*tasks(A, probes, steps, eigsh_steps), *others]:
        row, result = timed(comm, rounds, task)
        rows.append(row)
        if task[0].startswith("SLQ"):
            numbers["squares of nodes"] = float(np.sum(result.nodes**2))
        elif task[0].startswith("eigsh"):
            numbers["largest eigenvalue"] = float(result.eigenvalues[0])
    if comm.rank == 0:
        _show(rows, numbers, f"n = {side**2:,} on {comm.size} ranks, {rounds} rounds")
        if output is not None:
            report = {"side": side, "ranks": comm.size, "rows": rows, **numbers}
            output.write_text(json.dumps(report, indent=1))


def _show(rows: list[dict[str, Any]], numbers: dict[str, float], title: str) -> None:
    console = Console(width=150, highlight=False)
    console.print(title)
    for row in rows:
        spread = f"[{row['least']:.4f}, {row['most']:.4f}]"
        each = 1e3 * row["median"] / row["products"]
        calls = ", ".join(f"{count:g} {call}" for call, count in row["calls"].items())
        line = f"  {row['what']:38} {row['median']:9.4f} s {spread:20} {each:9.3f} ms a column  {calls}"
        console.print(line, markup=False)
    for name, value in numbers.items():
        console.print(f"  {name}: {value:.15g}")


if __name__ == "__main__":
    typer.run(main)
