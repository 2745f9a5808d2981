"""What one Hessian-vector product costs, in gradients on the same data, beside other libraries.

Run it with ``tox -e bench`` on a machine that does nothing else; README.md says how to read it.
"""

import json
import platform
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from allocator import keep_freed_memory
from contestants import all_contestants
from problem import PROBLEMS, gradient
from rich import box
from rich.console import Console
from rich.table import Table
from rounds import TOLERANCE, Entry, measure, prepare

console = Console(width=120)


def main(
    *,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 and so on")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="rounds after the warm-up")] = 7,
    batch: Annotated[int, typer.Option(min=1, help="images in the batch")] = 128,
    block: Annotated[
        list[int] | None, typer.Option(min=1, help="columns of a block product, 8 if not given")
    ] = None,
    problem_name: Annotated[
        str, typer.Option("--problem", help="resnet20, mlp or transformer")
    ] = "resnet20",
    matrix: Annotated[str | None, typer.Option(help="Hessian or GGN, else both")] = None,
    compiled: Annotated[
        bool, typer.Option(help="also hessops' compiled product (minutes)")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads, else torch's own")
    ] = None,
    tf32: Annotated[bool, typer.Option(help="let a GPU round factors to TF32")] = False,
    keep_memory: Annotated[bool, typer.Option(help="keep freed memory in the process")] = True,
    seed: Annotated[int, typer.Option(help="of weights, images and vectors")] = 0,
    output: Annotated[Path | None, typer.Option(help="file for all figures, as JSON")] = None,
) -> None:
    """Time Hessian products of a network, in gradients on the same batch."""
    kept = keep_memory and keep_freed_memory()
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("this torch sees no CUDA device", param_hint="--device")
    if threads is not None:
        torch.set_num_threads(threads)
    # A GPU convolves in TF32 unless told otherwise; its rounding could hide a wrong product.
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.manual_seed(seed)

    if problem_name not in PROBLEMS:
        raise typer.BadParameter(f"choose one of {', '.join(PROBLEMS)}", param_hint="--problem")
    problem = PROBLEMS[problem_name](place, batch)
    widths = sorted({1, *(block or [8])})
    vectors = torch.randn(problem.size, widths[-1]).to(place)
    contestants = [
        one
        for one in all_contestants(widths, compiled=compiled)
        if matrix is None or one.matrix == matrix
    ]
    if not contestants:
        raise typer.BadParameter("choose Hessian or GGN", param_hint="--matrix")
    with console.status("building the contestants"):
        runners = prepare(contestants, problem, vectors)
    with console.status(f"measuring {rounds} rounds"):
        gradients = measure(runners, gradient(problem), place, rounds)

    entries = [entry for entry, _ in runners]
    setting: dict[str, str | int] = {
        "problem": problem.title,
        "batch": batch,
        "device": _device_name(place),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "precision": "TF32" if tf32 and place.type == "cuda" else "float32",
        "allocator": "freed memory kept" if kept else "system default",
        "rounds": rounds,
    }
    _show(setting, entries, gradients)
    if output is not None:
        record = {
            **setting,
            "gradient_seconds": gradients,
            "contestants": [asdict(entry) for entry in entries],
        }
        output.write_text(json.dumps(record, indent=2) + "\n")
    if any(entry.failed or (entry.ratios and not entry.agrees) for entry in entries):
        raise typer.Exit(code=1)


def _show(setting: dict[str, str | int], entries: list[Entry], gradients: list[float]) -> None:
    console.print(
        f"{setting['problem']}, batch {setting['batch']}\n"
        f"{setting['device']}, {setting['threads']} CPU threads, {setting['precision']}, "
        f"torch {setting['torch']}, Python {setting['python']}, "
        f"allocator: {setting['allocator']}\n"
        f"one gradient: {_milliseconds(gradients)} ms ({_milliseconds([min(gradients)])} - "
        f"{_milliseconds([max(gradients)])}); medians of {setting['rounds']} rounds, per vector",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("contestant", "version"):
        table.add_column(heading, no_wrap=True)
    for heading in ("k", "gradients", "min - max", "ms", "differs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(entry.label, entry.version, str(entry.columns), *_figures(entry))
    console.print(table)
    for entry in entries:
        if entry.problem:
            console.print(
                f"{entry.label}, k = {entry.columns}: {entry.problem}", markup=False, soft_wrap=True
            )
        elif not entry.agrees:
            console.print(
                f"{entry.label}, k = {entry.columns}: differs by more than {TOLERANCE:g} from "
                "the first library: not the same matrix",
                style="bold red",
            )


def _figures(entry: Entry) -> list[str]:
    if not entry.ratios:
        return []
    difference = "not finite" if entry.difference is None else f"{entry.difference:.0e}"
    return [
        f"{statistics.median(entry.ratios):.2f}",
        f"{min(entry.ratios):.2f} - {max(entry.ratios):.2f}",
        _milliseconds(entry.seconds),
        difference if entry.agrees else f"[bold red]{difference}[/]",
    ]


def _milliseconds(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.1f}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # Python knows the architecture only; Linux knows the model.
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


if __name__ == "__main__":
    typer.run(main)
