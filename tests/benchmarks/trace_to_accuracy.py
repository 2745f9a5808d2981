"""What a trace to ±1 per cent at 95 per cent costs: ResNet-20 with trained weights on CIFAR-10.

Counts Hessian products with the whole data and gradient equivalents, not seconds: a gradient is 3
forward passes of floating point work, a Hessian product 6 through a kept graph and 9 from nothing.
Plain probes are too many to be run; how many they are follows from the standard deviation of some.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from trained import trained_resnet20

import hessops
import hessops_torch

_T = 1.96
_KEPT, _REBUILT = 2.0, 3.0


def main(
    images: Annotated[int, typer.Option(help="Training images.")] = 1024,
    batch: Annotated[int, typer.Option(help="Images to a batch.")] = 128,
    rtol: Annotated[float, typer.Option(help="Half-width wanted, relative.")] = 0.01,
    seeds: Annotated[int, typer.Option(help="Runs of hessian_trace.")] = 3,
    plain_probes: Annotated[int, typer.Option(help="To see the deviation of plain ones.")] = 12,
    untrained: Annotated[bool, typer.Option(help="Random weights instead.")] = False,
    memory: Annotated[float, typer.Option(help="Gigabytes of graphs to keep.")] = 3.0,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Print the table, and write every figure where asked."""
    model, loss, batches = trained_resnet20(images, batch, untrained=untrained)
    H = hessops_torch.hessian(model, loss, batches, memory_budget=int(memory * 1e9))
    runs = [hessops_torch.hessian_trace(H, rtol=rtol, rng=seed) for seed in range(seeds)]
    value = float(np.mean([run.value for run in runs]))
    rows = [
        {
            "what": f"hessian_trace, seed {seed}",
            "estimate": run.value,
            "error": run.standard_error,
            "products": run.num_products,
            "gradients": run.num_gradients,
            "note": run.reason,
        }
        for seed, run in enumerate(runs)
    ]
    for stratify in (True, False):
        options = {"method": "hutchinson", "num_probes": plain_probes, "stratify": stratify}
        found = hessops.trace(H, rng=100, **options)
        deviation = found.standard_error * plain_probes**0.5
        needed = (_T * deviation / (rtol * value)) ** 2
        name = "a fresh probe per batch" if stratify else "one probe for all batches"
        rows.append(
            {
                "what": f"plain probes, {name}",
                "estimate": found.value,
                "error": found.standard_error,
                "products": needed,
                "gradients": needed * _KEPT + 1,
                "note": f"predicted from the deviation {deviation:.3g} of {plain_probes} probes",
            }
        )
    rows.extend(_pyhessian(model, loss, batches, value, rtol))
    table = Table("", "estimate", "standard error", "products", "gradients", "")
    for row in rows:
        figures = (f"{row[key]:.4g}" for key in ("estimate", "error", "products", "gradients"))
        table.add_row(str(row["what"]), *figures, str(row["note"]))
    Console(width=160).print(table)
    if output is not None:
        output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _pyhessian(model, loss, batches, value: float, rtol: float) -> list[dict[str, object]]:
    """Return what PyHessian's own stopping rule gives, if it is installed."""
    try:
        from pyhessian import hessian
    except ImportError:
        return []
    torch.manual_seed(0)
    samples = np.array(hessian(model, loss, dataloader=batches, cuda=False).trace())
    model.zero_grad()
    deviation = samples.std(ddof=1)
    count = len(samples)
    needed = (_T * deviation / (rtol * value)) ** 2
    note = f"its rule (relative change 1e-3) stopped there; 1 % takes {needed:.0f} products"
    return [
        {
            "what": "PyHessian",
            "estimate": samples.mean(),
            "error": deviation / count**0.5,
            "products": count,
            "gradients": count * _REBUILT,
            "note": f"{note}, {needed * _REBUILT:.0f} gradients",
        }
    ]


if __name__ == "__main__":
    typer.run(main)
