"""Quadratic forms v'Hv by forward mode alone, beside Hessian products: seconds and memory.

README.md says what came of it.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from problem import PROBLEMS, Problem, gradient
from rich.console import Console
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from hessops_torch import hessian

console = Console()


def main(
    *,
    problem_name: Annotated[
        str, typer.Option("--problem", help="resnet20, mlp or transformer")
    ] = "resnet20",
    batch: Annotated[int, typer.Option(min=1, help="samples in the batch")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="rounds after the warm-up")] = 5,
) -> None:
    """Compare the ways to one quadratic form on one batch."""
    torch.manual_seed(0)
    problem = PROBLEMS[problem_name](torch.device("cpu"), batch)
    vector = torch.randn(problem.size)
    unit = gradient(problem)
    ways: dict[str, Callable[[], Tensor]] = {
        "product, kept": _by_product(problem, vector, None),
        "product, rebuilt": _by_product(problem, vector, 0),
        "product, rebuilt by halves": _by_product(problem, vector, 0, (batch + 1) // 2),
        "forward over forward": _forward_over_forward(problem, vector),
    }
    # Forward mode knows no fused attention; the products see to that themselves.
    torch.backends.mha.set_fastpath_enabled(False)
    values = {name: float(way()) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        before = _seconds(unit)
        for name, way in ways.items():
            seconds[name].append(_seconds(way) / before)
    console.print(f"{problem.title}, batch {batch}; gradient: {_peak(unit) / 2**20:.1f} MiB")
    for name, way in ways.items():
        ratios = seconds[name]
        console.print(
            f"{name:26} {statistics.median(ratios):6.2f} gradients "
            f"({min(ratios):.2f} - {max(ratios):.2f}), peak {_peak(way) / 2**20:8.1f} MiB above "
            f"what is kept, value {values[name]:.6g}",
            highlight=False,
            soft_wrap=True,
        )


def _by_product(
    problem: Problem, vector: Tensor, memory_budget: int | None, size: int | None = None
) -> Callable[[], Tensor]:
    operator = hessian(
        problem.model,
        problem.criterion,
        [(problem.images, problem.labels)],
        memory_budget=memory_budget,
        micro_batch_size=size,
    )
    return lambda: vector @ (operator @ vector)


def _forward_over_forward(problem: Problem, vector: Tensor) -> Callable[[], Tensor]:
    parameters = {name: p.detach() for name, p in problem.model.named_parameters()}
    pieces = torch.split(vector, [p.numel() for p in parameters.values()])
    along = {
        name: piece.view_as(p) for piece, (name, p) in zip(pieces, parameters.items(), strict=True)
    }

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        outputs = functional_call(problem.model, tensors, (problem.images,))
        value: Tensor = problem.criterion(outputs, problem.labels)
        return value

    def slope(tensors: dict[str, Tensor]) -> Tensor:
        return jvp(loss, (tensors,), (along,))[1]

    def form() -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            value: Tensor = jvp(slope, (parameters,), (along,))[1]
        return value

    return form


def _seconds(function: Callable[[], object]) -> float:
    """Return processor seconds, which a busy machine spoils least."""
    start = time.process_time()
    function()
    return time.process_time() - start


def _peak(function: Callable[[], object]) -> int:
    """Return the most bytes that torch's allocator has out at a time, above those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    kineto = profiler.profiler.kineto_results
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in kineto.events()
        if event.name() == "[memory]"
    )
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


if __name__ == "__main__":
    typer.run(main)
