"""The 2-D Laplacian by row blocks: spectral density and eigenvalues on any number of ranks.

    mpirun -n 1 python tests/benchmarks/mpi_laplacian.py
    mpirun -n 2 python tests/benchmarks/mpi_laplacian.py --output two.json
    python tests/benchmarks/mpi_laplacian.py --side 300 --rounds 1     # does it run?

The default side of 2,000 points gives n = 4,000,000. Prints the median, the smallest and the largest time
of some rounds; SLQ's and eigsh's numbers, which must be the same for any number of ranks; and what was
sent. One thread a rank: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hessops
import hessops_mpi


def timed(comm: Any, action: Callable[[], Any], rounds: int) -> tuple[list[float], Any]:
    """Return the times of the slowest rank, after one round that is thrown away, and the last result."""
    seconds = []
    result = None
    for turn in range(rounds + 1):
        comm.broadcast(None)
        start = time.perf_counter()
        result = action()
        slowest = float(hessops_mpi.transfers.table(comm, [time.perf_counter() - start]).max())
        if turn:
            seconds.append(slowest)
    return seconds, result


def row(name: str, seconds: list[float], unit: int, counting: Any, rounds: int) -> dict[str, Any]:
    """Return one line of the table; `unit` is the number of products in a run."""
    return {
        "what": name,
        "median": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "per_product": statistics.median(seconds) / unit,
        "calls": {call: count // (rounds + 1) for call, count in counting.calls.items()},
        "sent_bytes": {call: size // (rounds + 1) for call, size in counting.sent_bytes.items()},
    }


def pylops_rows(comm: Any, given: Any) -> list[dict[str, Any]]:
    """Time what PyLops-MPI has of this: a product, a dot product, power iteration, on one vector each.

    Its Laplacian is the same but for the edges, where it is zero.
    """
    from pylops_mpi import DistributedArray, MPILaplacian
    from pylops_mpi.optimization.eigs import power_iteration

    dims = (given.side, given.side)
    operator = MPILaplacian(dims, axes=(0, 1), weights=(-1.0, -1.0), dtype=np.float64)
    x, y = (DistributedArray(given.side**2) for _ in range(2))
    for array, index in ((x, 0), (y, 1)):
        array[:] = np.random.default_rng([comm.rank, index]).standard_normal(array.local_shape)
    rows = []
    for name, action, unit in (
        (f"PyLops-MPI, power, {given.steps}", lambda: power_iteration(
            operator, x, niter=given.steps, tol=0.0, dtype="float64"), given.steps),
        ("PyLops-MPI, product", lambda: operator.matvec(x), 1),
        ("PyLops-MPI, dot product", lambda: x.dot(y), 1),
    ):  # fmt: skip
        comm.reset()
        seconds, _ = timed(comm.inner, action, given.rounds)
        rows.append({**row(name, seconds, unit, comm, given.rounds), "calls": "not counted"})
    return rows


def main() -> None:
    """Run and print."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--side", type=int, default=2000, help="points along either side")
    options.add_argument("--probes", type=int, default=4)
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--eigenvalues", type=int, default=2)
    options.add_argument("--eigsh-steps", type=int, default=60, help="products of eigsh")
    options.add_argument("--pylops", action="store_true", help="PyLops-MPI beside it")
    options.add_argument("--output", type=Path)
    given = options.parse_args()
    comm = hessops_mpi.CountingComm(hessops_mpi.world())
    A = hessops_mpi.sharded_laplacian((given.side, given.side), comm)
    table = []

    def density() -> Any:
        return hessops.spectral_density(A, num_probes=given.probes, num_steps=given.steps, rng=0)

    def product() -> Any:
        return A.apply(X)

    def pairs() -> Any:
        return hessops.eigsh(
            A, given.eigenvalues, which="LA", rng=0, max_steps=given.eigsh_steps, verify=False
        )

    def power() -> Any:
        return hessops.power_iteration(A, max_steps=given.steps, tol=1e-15, rng=0)

    X = A.domain.probes(hessops.random.Stream(0), range(given.probes), "rademacher")
    numbers = {}
    for name, action, unit in (
        (f"product, {given.probes} columns", product, given.probes),
        (f"SLQ, {given.probes} probes, {given.steps} steps", density, given.probes * given.steps),
        (f"eigsh, {given.eigsh_steps} steps", pairs, given.eigsh_steps),
        (f"power, {given.steps} steps", power, given.steps),
        ("product, 1 column", lambda: A.apply(X[:, :1]), 1),
        ("dot product", lambda: A.domain.gram(X[:, :1], X[:, 1:2]), 1),
    ):
        comm.reset()
        seconds, result = timed(comm.inner, action, given.rounds)
        table.append(row(name, seconds, unit, comm, given.rounds))
        if hasattr(result, "nodes"):
            numbers["nodes"] = result.nodes.ravel().tolist()
        elif name.startswith("eigsh"):
            numbers["eigenvalues"] = result.eigenvalues.tolist()
    if given.pylops:
        table += pylops_rows(comm, given)
    if comm.rank:
        return
    print(
        f"n = {given.side**2:,} on {comm.size} ranks, {given.rounds} rounds; NumPy {np.__version__}"
    )
    for line in table:
        print(
            f"  {line['what']:28} {line['median']:9.4f} s  [{line['least']:.4f}, {line['most']:.4f}]"
            f"  {1e3 * line['per_product']:8.2f} ms a column  {line['calls']}"
        )
    print("  largest eigenvalues", [f"{value:.12f}" for value in numbers["eigenvalues"]])
    checksum = float(np.sum(np.square(numbers["nodes"])))
    print(f"  sum of squared nodes {checksum:.15g}")
    if given.output:
        report = {"side": given.side, "ranks": comm.size, "rows": table, **numbers}
        given.output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    sys.exit(main())
