"""A ResNet20 on data dealt out to ranks: is the work shared, and the answer the same?

    export OMP_NUM_THREADS=1
    mpirun -n 1 python tests/benchmarks/mpi_resnet.py
    mpirun -n 2 python tests/benchmarks/mpi_resnet.py                      # strong scaling
    mpirun -n 2 python tests/benchmarks/mpi_resnet.py --images 2048        # weak scaling
    python tests/benchmarks/mpi_resnet.py --images 64 --batch 16 --rounds 1       # does it run?

Times products of the Hessian with one vector and with a block; with --answers finds the five largest
eigenvalues and the trace, which must be the same for any number of ranks. Beside it, where it is
installed, the operator of hessian-eigenthings for DistributedDataParallel, on the same batches by gloo.
Every rank has one thread. The network is trained on CIFAR-10 if HESSOPS_DATA names a folder with both,
or else random.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from allocator import keep_freed_memory
from problem import resnet20_problem
from rich.console import Console
from trained import trained_resnet20

import hessops
import hessops_mpi
import hessops_torch
from hessops.row_collectives import table

console = Console(width=120, highlight=False)


def network(images: int, batch: int) -> tuple[Any, Any, list[Any]]:
    """Return model, loss and batches."""
    if "HESSOPS_DATA" in os.environ:
        return trained_resnet20(images, batch)
    torch.manual_seed(0)
    task = resnet20_problem(torch.device("cpu"), images)
    parts = zip(task.images.split(batch), task.labels.split(batch), strict=True)
    return task.model, task.criterion, list(parts)


def timed(comm: Any, rounds: int, action: Callable[[], Any]) -> tuple[float, float, float]:
    """Return median, least and most seconds of the slowest rank, after a round that is not timed."""
    action()
    seconds = []
    for _ in range(rounds):
        comm.broadcast(None)
        start = time.perf_counter()
        action()
        seconds.append(float(table(comm, [time.perf_counter() - start]).max()))
    return statistics.median(seconds), min(seconds), max(seconds)


def ddp_product(comm: Any, model: Any, loss: Any, own: list[Any], vector: Any) -> Callable[[], Any]:
    """Return the product of hessian-eigenthings' operator, whose ranks meet by torch.distributed."""
    import hessian_eigenthings as things

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29511")
    torch.distributed.init_process_group("gloo", rank=comm.rank, world_size=comm.size)
    operator = things.DDPHessianOperator(model, own, things.supervised_loss(loss))
    return lambda: operator @ vector


def main(
    images: Annotated[int, typer.Option(min=1, help="In all.")] = 1024,
    batch: Annotated[int, typer.Option(min=1, help="Images to a batch.")] = 128,
    block: Annotated[int, typer.Option(min=1, help="Columns of the block.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Timed.")] = 5,
    memory: Annotated[float, typer.Option(help="Gigabytes of graphs that a rank keeps.")] = 0.0,
    answers: Annotated[bool, typer.Option(help="Also eigenvalues and trace (minutes).")] = False,
) -> None:
    """Time products on the ranks that mpirun has started."""
    keep_freed_memory()
    torch.set_num_threads(1)
    comm = hessops_mpi.world()
    model, loss, batches = network(images, batch)
    own = batches[
        comm.rank * len(batches) // comm.size : (comm.rank + 1) * len(batches) // comm.size
    ]
    H = hessops_torch.hessian(
        model, loss, own, mode="eval", comm=comm, memory_budget=int(memory * 1e9)
    )
    torch.manual_seed(0)
    X = H.domain.zeros(block)
    X.copy_(torch.randn(X.shape))
    wanted = {
        "product, 1 column": lambda: H.apply(X[:, :1]),
        f"product, {block} columns": lambda: H.apply(X),
    }
    if importlib.util.find_spec("hessian_eigenthings") is not None:
        vector = X[:, 0].contiguous()
        wanted["hessian-eigenthings, 1 column"] = ddp_product(comm, model, loss, own, vector)
    lines = [f"{images} images on {comm.size} ranks of one thread, {rounds} rounds"]
    for name, action in wanted.items():
        median, least, most = timed(comm, rounds, action)
        lines.append(f"  {name:32} {median:8.3f} s [{least:.3f}, {most:.3f}]")
    if answers:
        pairs = hessops.eigsh(H, 5, which="LA", tol=1e-3, rng=0)
        trace = hessops.trace(H, method="hutchinson", num_probes=16, rng=0)
        values = ", ".join(f"{value:.9g}" for value in pairs.eigenvalues)
        lines += [
            f"  eigenvalues {values}",
            f"  trace {trace.value:.9g} +- {trace.standard_error:.2g}",
        ]
    if comm.rank == 0:
        console.print("\n".join(lines), markup=False)


if __name__ == "__main__":
    typer.run(main)
