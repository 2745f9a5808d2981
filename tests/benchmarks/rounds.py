"""How the product benchmark measures: interleaved rounds, each with its own unit."""

import importlib.util
import math
import statistics
import time
from dataclasses import dataclass, field
from importlib import metadata

import torch
from contestants import Contestant
from problem import Problem, Product, as_block
from torch import Tensor

__all__ = ["TOLERANCE", "Entry", "Runner", "measure", "prepare"]

# Products of one Hessian in float32 differ by rounding only, at most 1e-5; more is another matrix.
TOLERANCE = 1e-3

# Seconds that one timing lasts at least: on a GPU a single product is too short for the clock.
_SHORTEST = 0.2


@dataclass(kw_only=True)
class Entry:
    """What the run learns about one contestant.

    Parameters
    ----------
    label, version : str
        The contestant.
    columns : int
        Number k of columns of one call.
    problem : str
        Why there are no figures; empty where all went well.
    failed : bool
        Whether the library is there and its product raised an exception.
    difference : float, optional
        Of the product from that of the first library that works, relative, in the Frobenius norm;
        None where it is not finite.
    seconds : list of float
        Time of one product with one vector, round by round.
    ratios : list of float
        The same in gradients of the same round.
    """

    label: str
    version: str
    columns: int
    problem: str = ""
    failed: bool = False
    difference: float | None = None
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether it multiplied the same matrix as the first library."""
        return self.difference is not None and self.difference < TOLERANCE


# What is measured, and the call to measure; None where the contestant cannot run.
Runner = tuple[Entry, Product | None]


def prepare(contestants: list[Contestant], problem: Problem, vectors: Tensor) -> list[Runner]:
    """Build every contestant, and compare its product with the first library's of the same matrix.

    Parameters
    ----------
    contestants : list of Contestant
        In the order of the table.
    problem : Problem
        Each contestant gets its own copy of the model.
    vectors : torch.Tensor
        The widest block, (n, k); narrower ones are its first columns.

    Returns
    -------
    list of tuple
        For each contestant its entry and its product, which is None where the entry says why.
    """
    runners: list[Runner] = []
    results: list[tuple[Contestant, Entry, Tensor]] = []
    for contestant in contestants:
        distribution, module, how_to_install = contestant.library
        entry = Entry(
            label=contestant.label, version=_version(distribution), columns=contestant.columns
        )
        runners.append((entry, None))
        if importlib.util.find_spec(module) is None:
            entry.problem = f"not installed: {how_to_install}"
            continue
        try:
            own_vectors = vectors[:, : contestant.columns]
            product = contestant.product(problem.with_own_model(), own_vectors)
            results.append((contestant, entry, as_block(product())))
        except Exception as error:  # one library's failure must not cost the others' figures
            entry.failed = True
            entry.problem = f"failed: {type(error).__name__}: {error}"
            continue
        runners[-1] = (entry, product)
    for matrix in dict.fromkeys(contestant.matrix for contestant in contestants):
        _compare([result for result in results if result[0].matrix == matrix])
    return runners


def measure(runners: list[Runner], unit: Product, device: torch.device, rounds: int) -> list[float]:
    """Time all products that there are, round by round, and fill in their entries.

    A round times every contestant once, between two gradients whose mean is the unit of the round:
    a processor that slows down as it warms changes both and cancels to first order.

    Parameters
    ----------
    runners : list of tuple
        What `prepare` returned.
    unit : callable
        One gradient.
    device : torch.device
        Where the work is done.
    rounds : int
        Number of rounds, after one that is thrown away.

    Returns
    -------
    list of float
        Seconds of the ``rounds + 1`` gradients.
    """
    running = [(entry, product) for entry, product in runners if product is not None]
    # The warm-up round also tells how often each call is repeated within one timing.
    unit_repeats = _repeats(unit, device)
    repeats = [_repeats(product, device) for _, product in running]
    gradients = [_seconds(unit, device, unit_repeats)]
    for _ in range(rounds):
        for (entry, product), count in zip(running, repeats, strict=True):
            entry.seconds.append(_seconds(product, device, count) / entry.columns)
        gradients.append(_seconds(unit, device, unit_repeats))
        for entry, _ in running:
            entry.ratios.append(entry.seconds[-1] / statistics.fmean(gradients[-2:]))
    return gradients


def _compare(results: list[tuple[Contestant, Entry, Tensor]]) -> None:
    """Fill in the differences, over the columns that a result and the reference share."""
    if not results:
        return
    # hessops comes first in the list; its block product checks every column of the others.
    library = results[0][0].library
    candidates = (result for contestant, _, result in results if contestant.library == library)
    reference = max(candidates, key=lambda result: result.shape[1])
    for _, entry, result in results:
        expected = reference[:, : result.shape[1]]
        gap = torch.linalg.norm(result[:, : expected.shape[1]] - expected)
        difference = float(gap / torch.linalg.norm(expected))
        entry.difference = difference if math.isfinite(difference) else None


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "-"


def _repeats(product: Product, device: torch.device) -> int:
    """Return how many calls make a timing long enough, judged by the second call."""
    product()  # the first one loads and chooses kernels
    return max(1, math.ceil(_SHORTEST / _seconds(product, device, 1)))


def _seconds(product: Product, device: torch.device, repeats: int) -> float:
    """Return the mean time of one call; a GPU is idle before and has finished after."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        product()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
