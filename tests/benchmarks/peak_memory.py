"""Peak memory of stochastic Lanczos quadrature and of `eigsh` for long vectors, beside what is stated.

Every measurement runs in a process of its own, whose peak resident set the operating system tells, less
that of a process that only makes the operator. The operator is diagonal, so that it stores one vector.

    python tests/benchmarks/peak_memory.py --n 10000000 --only slq
"""

from __future__ import annotations

import resource
import subprocess
import sys
import warnings
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import hessops

_STATED = {"slq": "3 blocks", "density": "3 blocks", "eigsh": "9/8 of the basis (40) + 2 blocks"}
_KIB_PER_MIB = 1024


def main(
    n: Annotated[int, typer.Option(help="Length of a vector, float32.")] = 10_000_000,
    count: Annotated[int, typer.Option(help="Probes, or eigenpairs.")] = 10,
    only: Annotated[list[str] | None, typer.Option(help="slq, density or eigsh.")] = None,
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print a line for each algorithm, one measurement after another."""
    if child:
        measure(child, n, count)
        return
    base = peak("nothing", n, count)
    table = Table("algorithm", "peak MiB", "of it vectors of n", "stated")
    for name in only or _STATED:
        extra = peak(name, n, count) - base
        vectors = extra * 2**20 / (4 * n)
        table.add_row(name, f"{extra + base:.0f}", f"{vectors:.1f}", _STATED[name])
    Console().print(f"n = {n}, {count} probes or pairs; the operator alone: {base:.0f} MiB")
    Console().print(table)


def peak(name: str, n: int, count: int) -> float:
    """Return the peak resident set of a process of its own, in MiB."""
    command = [sys.executable, __file__, "--n", str(n), "--count", str(count), "--child", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure(name: str, n: int, count: int) -> None:
    """Run one algorithm, and print the peak of this process in MiB."""
    A = hessops.Diagonal(np.linspace(1.0, 2.0, n, dtype=np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hessops.ConvergenceWarning)
        if name == "slq":
            hessops.logdet(A, num_probes=count, num_steps=10, block_size=count, rng=0)
        elif name == "density":
            hessops.spectral_density(A, num_probes=count, num_steps=10, rng=0)
        elif name == "eigsh":
            hessops.eigsh(A, count, max_steps=60, rng=0)
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_MIB}\n")


if __name__ == "__main__":
    typer.run(main)
