"""Seconds to a given accuracy: eigenpairs and trace of a trained ResNet20's Hessian.

    python tests/benchmarks/time_to_accuracy.py run --only hessops --folder results
    python tests/benchmarks/time_to_accuracy.py run --only pyhessian --folder results
    python tests/benchmarks/time_to_accuracy.py run --only eigenthings --folder results
    python tests/benchmarks/time_to_accuracy.py reference --folder results     # may share the machine
    python tests/benchmarks/time_to_accuracy.py table --folder results

Every run reads the first training images of CIFAR-10 through a loader and notes what it found, its
products, and their seconds; the machine must do nothing else. What the answers are off by is found
afterwards, from a reference. Asked for are the five largest eigenpairs to residual norms of 1 % of
each, and the trace to ±1 % at 95 %. Where a library would take hours, its products are timed and
how many it needs is worked out; README.md says how. density_to_accuracy.py is about the density.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accuracy_table import RESIDUAL, TRACE, show
from allocator import keep_freed_memory
from torch.utils.data import DataLoader, TensorDataset
from trained import trained_resnet20

import hessops
import hessops_torch
from hessops.random import Stream

PAIRS = 5
app = typer.Typer(add_completion=False)
Record = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """The network, its loss and a loader of its data."""

    model: torch.nn.Module
    loss: torch.nn.Module
    loader: DataLoader[Any]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters, in the order in which all libraries flatten them."""
        return list(self.model.parameters())

    def gradient_seconds(self, rounds: int = 3) -> float:
        """Return the median time of a gradient of the loss over all data."""
        seconds = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            for images, labels in self.loader:
                torch.autograd.grad(self.loss(self.model(images), labels), self.parameters)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[1:]))


def load(images: int, batch: int) -> Task:
    """Return the trained network and a loader of its data."""
    model, loss, batches = trained_resnet20(images, batch)
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    return Task(model, loss, DataLoader(data, batch_size=batch))


def timed(name: str, action: Callable[[], Record]) -> Record:
    """Return what an action notes, with its seconds."""
    start = time.perf_counter()
    noted = action()
    return {"task": name, "seconds": time.perf_counter() - start, **noted}


def run_hessops(task: Task) -> list[Record]:
    """Take eigenpairs and the trace."""
    H = hessops_torch.hessian(task.model, task.loss, task.loader, mode="eval")

    def eigenpairs() -> Record:
        # Relative to the largest one; the fifth is an eighth of it.
        found = hessops.eigsh(H, PAIRS, which="LA", tol=RESIDUAL / 8, rng=0)
        return {
            "products": found.num_products,
            "eigenvalues": found.eigenvalues.tolist(),
            "residuals": found.residual_norms.tolist(),
        }

    def trace() -> Record:
        found = hessops_torch.hessian_trace(H, rtol=TRACE, rng=0)
        return {
            "products": found.num_products,
            "gradients": found.num_gradients,
            "value": found.value,
            "error": found.standard_error,
            "reason": found.reason,
        }

    return [timed("trace", trace), timed("eigenpairs", eigenpairs)]


def run_pyhessian(task: Task, *, tol: float) -> list[Record]:
    """Take PyHessian's eigenvalues with its tolerance, and its trace as it stops by itself."""
    from pyhessian import hessian

    warnings.filterwarnings("ignore", message=r"Using backward\(\) with create_graph=True")
    torch.manual_seed(0)
    operator = hessian(task.model, task.loss, dataloader=task.loader, cuda=False)
    plain, count = operator.dataloader_hv_product, 0

    def counting(v: Any) -> Any:
        nonlocal count
        count += 1
        return plain(v)

    operator.dataloader_hv_product = counting

    def eigenpairs() -> Record:
        values, vectors = operator.eigenvalues(top_n=PAIRS, tol=tol)
        return {"products": count, "eigenvalues": values, "vectors": vectors}

    def trace() -> Record:
        samples = operator.trace()
        return {"products": len(samples), "samples": samples}

    pairs = timed("eigenpairs", eigenpairs)
    vectors = pairs.pop("vectors")
    products = [plain(v)[1] for v in vectors]
    pairs["residuals"] = [
        float(torch.cat([(h - value * x).flatten() for h, x in zip(Hv, v, strict=True)]).norm())
        for Hv, v, value in zip(products, vectors, pairs["eigenvalues"], strict=True)
    ]
    return [pairs, timed("trace", trace)]


def run_eigenthings(task: Task, *, steps: int, products: int) -> list[Record]:
    """Take hessian-eigenthings' Lanczos, its Hutch++ and some of its plain probes."""
    import hessian_eigenthings as things

    loss = things.supervised_loss(task.loss)
    operator = things.HessianOperator(task.model.eval(), task.loader, loss)

    def eigenpairs() -> Record:
        found = things.lanczos(operator, k=PAIRS, max_iter=steps, which="LA", seed=0)
        return {
            "products": found.iterations,
            "eigenvalues": found.eigenvalues.tolist(),
            "residuals": found.residuals.tolist(),
        }

    def trace() -> Record:
        found = things.trace(operator, num_matvecs=products, method="hutch++", seed=0)
        return {
            "products": products,
            "value": float(found.estimate),
            "error": float(found.stderr),
            "samples": found.samples.tolist(),
        }

    return [timed("eigenpairs", eigenpairs), timed("trace", trace)]


@app.command()
def run(
    only: Annotated[str, typer.Option(help="hessops, pyhessian or eigenthings")],
    folder: Annotated[Path, typer.Option(help="Where results go.")],
    images: Annotated[int, typer.Option(min=1)] = 2048,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    tol: Annotated[float, typer.Option(help="PyHessian: of its eigenvalues.")] = 1e-3,
    steps: Annotated[int, typer.Option(help="hessian-eigenthings: of Lanczos.")] = 20,
    products: Annotated[int, typer.Option(help="hessian-eigenthings: of Hutch++.")] = 60,
) -> None:
    """Time one library."""
    keep_freed_memory()
    task = load(images, batch)
    libraries = {
        "hessops": lambda: run_hessops(task),
        "pyhessian": lambda: run_pyhessian(task, tol=tol),
        "eigenthings": lambda: run_eigenthings(task, steps=steps, products=products),
    }
    if only not in libraries:
        raise typer.BadParameter(f"choose one of {', '.join(libraries)}", param_hint="--only")
    before = task.gradient_seconds()
    rows = libraries[only]()
    note: Record = {
        "library": only,
        "images": images,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gradient": [before, task.gradient_seconds()],
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{only}.json").write_text(json.dumps(note, indent=1))
    for row in rows:
        kept = {k: v for k, v in row.items() if k != "samples"}
        typer.echo(json.dumps(kept))


@app.command()
def reference(
    folder: Annotated[Path, typer.Option(help="Where it goes.")],
    images: Annotated[int, typer.Option(min=1)] = 2048,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    probes: Annotated[int, typer.Option(help="Plain ones, for their standard deviation.")] = 24,
    rtol: Annotated[float, typer.Option(help="Of the trace.")] = 0.004,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 1000,
) -> None:
    """Compute what all are held against, once and with other seeds; each part is written at once."""
    task = load(images, batch)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "reference.json"
    note: Record = {}
    H = hessops_torch.hessian(task.model, task.loss, task.loader, mode="eval")

    def write(**parts: Any) -> None:
        note.update(parts)
        path.write_text(json.dumps(note))

    trace = hessops_torch.hessian_trace(H, rtol=rtol, max_products=4000, rng=seed)
    write(trace=[trace.value, trace.standard_error])
    top = hessops.eigsh(H, PAIRS, which="LA", tol=1e-4, rng=seed)
    write(eigenvalues=top.eigenvalues.tolist(), residuals=top.residual_norms.tolist())
    Z = H.domain.probes(Stream(seed), range(probes), "rademacher")
    write(forms=H.domain.column_inner(Z, H.apply(Z)).tolist())


@app.command()
def table(folder: Annotated[Path, typer.Option(help="Where results are.")]) -> None:
    """Show what was measured, what it is off by, and what the rest would take."""
    show(folder)


if __name__ == "__main__":
    app()
