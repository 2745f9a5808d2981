"""How long a step takes on P ranks: a model of latency, bandwidth and work, fitted, held against runs.

    export OMP_NUM_THREADS=1
    mpirun -n 2 python tests/benchmarks/mpi_model.py             # measure, fit, validate
    mpirun -n 2 python tests/benchmarks/mpi_model.py --quick     # does it run?
    python tests/benchmarks/mpi_model.py --predict               # 8 to 4,096 ranks

One step of stochastic Lanczos quadrature with m probes on the 2-D Laplacian of n points, on P ranks:

    T = gamma m n / P  +  X(16 m sqrt(n))  +  R(32 m)  +  2 B

with X(s) and R(s), the times of a neighbour exchange and of an all-reduce of s bytes, each fitted as
alpha + beta s; B a small broadcast; gamma measured by steps of one rank's share that all ranks take
side by side, without each other, so that they fight for the memory as they do together. It grows with
the share, which the caches hold for a while, and is interpolated between the sizes measured. What is
validated are other sizes, of whole runs. The exchange is counted in full, as if nothing of it were
hidden; between two ranks it is half as long. Freed memory stays in the process, or page faults, which
depend on sizes in leaps, would be most of what is timed. The machine must do nothing else meanwhile:
ranks that wait for each other take turns on processors that others want, and all takes many times as
long.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

import hessops
import hessops_mpi
from hessops.comm import SerialComm
from hessops.row_collectives import table
from hessops_mpi.transfers import row_communicator

_BYTES = 8
_STEPS = 12
console = Console(width=120, highlight=False)


@dataclass(frozen=True)
class Line:
    """Seconds as a straight line: ``alpha + beta * size``."""

    alpha: float
    beta: float

    @classmethod
    def fit(cls, sizes: Sequence[float], seconds: Sequence[float]) -> Line:
        """Return the line of least relative error, neither coefficient negative."""
        from scipy.optimize import nnls

        x, t = np.asarray(sizes, float), np.asarray(seconds, float)
        # Relative, as the sizes span orders of magnitude; scaled, as both coefficients are tiny.
        rows = np.stack([1 / t, x / x.max() / t], axis=1)
        (alpha, beta), _ = nnls(rows, np.ones(len(t)))
        return cls(float(alpha), float(beta / x.max()))

    def __call__(self, size: float) -> float:
        return self.alpha + self.beta * size


@dataclass(frozen=True)
class Work:
    """Seconds of a step by its points: so many a point, interpolated by the logarithm of the size."""

    sizes: Sequence[float]
    seconds: Sequence[float]

    def __call__(self, size: float) -> float:
        each = np.divide(self.seconds, self.sizes)
        return size * float(np.interp(np.log(size), np.log(self.sizes), each))


@dataclass(frozen=True)
class Model:
    """The fitted machine: what messages and the work of a step cost."""

    reduce: Line
    exchange: Line
    broadcast: float
    work: dict[int, Callable[[float], float]]
    """By number of probes: a step by this rank's points."""

    def step(self, n: int, probes: int, ranks: int) -> float:
        """Return the predicted seconds of one step."""
        halo = min(2, ranks - 1) * math.isqrt(n) * probes * _BYTES
        messages = 0.0
        if ranks > 1:
            messages = self.exchange(halo) + self.reduce(4 * probes * _BYTES)
            messages += 2 * self.broadcast
        return self.work[probes](n / ranks) + messages


def best(comm: Any, action: Callable[[], Any], rounds: int, repeats: int = 1) -> float:
    """Return the least time of the slowest rank: what disturbs a run only makes it longer."""
    action()
    seconds = []
    for _ in range(rounds):
        comm.broadcast(None)
        start = time.perf_counter()
        for _ in range(repeats):
            action()
        own = (time.perf_counter() - start) / repeats
        seconds.append(float(table(comm, [own]).max()))
    return min(seconds)


def step_seconds(A: Any, comm: Any, probes: int, rounds: int) -> float:
    """Return the time of one step, all of whose ranks take it; what a run begins with is left out."""

    def run(steps: int) -> float:
        def action() -> Any:
            return hessops.spectral_density(A, num_probes=probes, num_steps=steps, rng=0)

        return best(comm, action, rounds)

    return (run(2 * _STEPS) - run(_STEPS)) / _STEPS


def measured_model(comm: Any, sides: Sequence[int], counts: Sequence[int], rounds: int) -> Model:
    """Measure the parts and fit them."""
    rows = row_communicator(comm)
    sizes = [8, 64, 512, 4096, 32768, 262144]
    small = [np.zeros(size // _BYTES) for size in sizes]
    reduce_times = [best(comm, lambda x=x: comm.all_reduce(x), rounds, 50) for x in small]
    neighbours = [r for r in (comm.rank - 1, comm.rank + 1) if 0 <= r < comm.size]
    exchange_times = []
    for x in small:
        arrived = {rank: np.empty_like(x) for rank in neighbours}

        def exchange(x: Any = x, arrived: Any = arrived) -> None:
            rows.exchange(dict.fromkeys(neighbours, x), arrived).wait()

        exchange_times.append(best(comm, exchange, rounds, 50))
    numbers = np.zeros((4, 4))
    broadcast = best(comm, lambda: comm.broadcast(numbers), rounds, 50)
    work: dict[int, Callable[[float], float]] = {}
    for probes in counts:
        shares, seconds = [], []
        for side in sides:
            # As wide as the whole, and a share of it as high: what a rank holds, alone.
            share = (max(1, side // comm.size), side)
            alone = hessops_mpi.sharded_laplacian(share, SerialComm())
            shares.append(share[0] * share[1])
            seconds.append(step_seconds(alone, comm, probes, rounds))
        work[probes] = Work(shares, seconds)
    # What a rank in the middle sends, to both sides.
    sent = [min(2, max(1, comm.size - 1)) * size for size in sizes]
    return Model(Line.fit(sizes, reduce_times), Line.fit(sent, exchange_times), broadcast, work)


def validate(comm: Any, quick: bool) -> None:
    """Measure at some sizes, compare whole runs at others, and print both."""
    fitted, checked = (
        ((100, 200, 300), (150, 250))
        if quick
        else ((300, 500, 850, 1400, 2400), (400, 650, 1100, 2000))
    )
    counts, rounds = (1, 4), 3 if quick else 9
    model = measured_model(comm, fitted, counts, rounds)
    lines = [
        f"{comm.size} ranks; least of {rounds} rounds",
        f"  all-reduce  {1e6 * model.reduce.alpha:8.2f} us + s / {_rate(model.reduce)}",
        f"  exchange    {1e6 * model.exchange.alpha:8.2f} us + s / {_rate(model.exchange)}",
        f"  broadcast   {1e6 * model.broadcast:8.2f} us",
    ]
    lines += [
        f"  m = {probes}: "
        + ", ".join(
            f"{1e9 * work(n) / n / probes:.2f}" for n in (side**2 / comm.size for side in fitted)
        )
        + " ns a number"
        for probes, work in model.work.items()
    ]
    errors = []
    for side in checked:
        for probes in counts:
            A = hessops_mpi.sharded_laplacian((side, side), comm)
            seen = step_seconds(A, comm, probes, rounds)
            said = model.step(side**2, probes, comm.size)
            errors.append(said / seen - 1)
            lines.append(
                f"  n = {side**2:>9,}, m = {probes}: measured {1e3 * seen:9.3f} ms a step, predicted "
                f"{1e3 * said:9.3f} ms ({errors[-1]:+.0%})"
            )
    lines.append(f"  largest error {max(map(abs, errors)):.0%}")
    if comm.rank == 0:
        console.print("\n".join(lines), markup=False)


def _rate(line: Line) -> str:
    return f"{1e-9 / line.beta:.2f} GB/s" if line.beta > 0 else "unlimited"


@dataclass(frozen=True)
class Machine:
    """What is assumed of a cluster; a prediction is no better than this."""

    flops: float = 40e12
    """Sustained by a rank."""
    latency: float = 5e-6
    bandwidth: float = 25e9
    """Bytes a second into and out of every rank at once."""

    def gather(self, size: float, ranks: int) -> float:
        """Return the seconds of an all-gather, or of a reduce-scatter, of blocks of `size` bytes."""
        if ranks == 1:
            return 0.0
        return math.log2(ranks) * self.latency + size * (ranks - 1) / ranks / self.bandwidth


@dataclass(frozen=True)
class Task:
    """A network, its data and a run of quadrature."""

    name: str
    parameters: float
    forward: float
    """Operations of a forward pass over one item."""
    items: int
    """What is dealt out: a rank has whole ones."""
    probes: int
    split: bool
    """Whether vectors are split."""
    steps: int = 64

    def block(self, machine: Machine, ranks: int) -> tuple[float, float]:
        """Return the seconds of work and of messages of a product with a block of all probes."""
        own = math.ceil(self.items / ranks)
        # Graphs are rebuilt: forward and gradient once, then a backward pass of twice that a column.
        work = own * self.forward * (3 + 6 * self.probes) / machine.flops
        size = 4 * self.parameters * self.probes
        # An all-reduce is a reduce-scatter and an all-gather.
        return work, 2 * machine.gather(size, ranks) + 4 * math.log2(ranks) * machine.latency

    def memory(self, ranks: int) -> tuple[float, float]:
        """Return the bytes of vectors on a rank: what recurrences keep, and what a product needs."""
        vector = 4 * self.parameters
        basis = self.steps * vector * self.probes if self.split else 0.0
        held = 3 * vector * self.probes + basis
        return (held / ranks if self.split else held), (2 * vector * self.probes)


TASKS = (
    Task("ResNet-50, ImageNet, 8 probes, vectors whole", 25.6e6, 8.2e9, 1_281_167, 8, split=False),
    Task(
        "7e9 parameters, 1,024 sequences of 1,024 tokens, 1 probe, vectors split, basis kept",
        7e9,
        2 * 7e9 * 1024,
        1024,
        1,
        split=True,
    ),
)


def predict(machine: Machine) -> None:
    """Print what the model says of 8 to 4,096 ranks."""
    console.print(
        f"A PREDICTION, for ranks of {machine.flops / 1e12:g} Tflop/s sustained, "
        f"{1e6 * machine.latency:g} us and {machine.bandwidth / 1e9:g} GB/s between them"
    )
    for task in TASKS:
        console.print(f"\n{task.name}: {task.steps} steps")
        console.print("  ranks   hours or s     messages  efficiency  kept GB  for a product GB")
        first = sum(task.block(machine, 8)) * 8
        for power in range(3, 13):
            ranks = 2**power
            work, messages = task.block(machine, ranks)
            seconds = task.steps * (work + messages)
            total = f"{seconds / 3600:8.2f} h" if seconds > 3600 else f"{seconds:8.1f} s"
            kept, product = task.memory(ranks)
            console.print(
                f"  {ranks:5} {total:>12} {messages / (work + messages):10.1%} "
                f"{first / ranks / (work + messages):10.1%} {kept / 1e9:9.2f} {product / 1e9:9.2f}"
            )


def main(
    predict_only: Annotated[bool, typer.Option("--predict", help="Print the prediction.")] = False,
    quick: Annotated[bool, typer.Option(help="Small: its figures mean nothing.")] = False,
    tflops: Annotated[float, typer.Option(help="Assumed of a rank.")] = 40.0,
    latency: Annotated[float, typer.Option(help="Assumed, microseconds.")] = 5.0,
    bandwidth: Annotated[float, typer.Option(help="Assumed, GB/s.")] = 25.0,
) -> None:
    """Fit the model and hold it against runs, or predict by it."""
    if predict_only:
        predict(Machine(tflops * 1e12, latency * 1e-6, bandwidth * 1e9))
    else:
        # Beside the script, where the tests that import this do not look.
        from allocator import keep_freed_memory

        keep_freed_memory()
        validate(hessops_mpi.world(), quick)


if __name__ == "__main__":
    typer.run(main)
