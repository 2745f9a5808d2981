"""Coverage of the confidence intervals that hessops prints, over many seeds, at a nominal 95 %.

One line per estimator and problem: the share of intervals that hold the truth (of entrywise intervals,
the mean over entries), its standard error, and how long the run took. Shares outside of 93 to 97.5 %
are marked; the docstrings of their verbs say what those intervals are instead.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

import hessops
from hessops import FiniteSum, LinearOperator, aslinearoperator
from hessops.result import Interval

LOW, HIGH = 0.93, 0.975
N = 150
SPECTRA = {
    "flat": np.linspace(1, 3, N),
    "poly": 1 / np.arange(1.0, N + 1) ** 2,
    "slow": 0.9 ** np.arange(N),
    "fast": 0.7 ** np.arange(N),
    "step": np.r_[np.ones(12), np.full(N - 12, 1e-3)],
}
Case = tuple[str, str, Callable[[int], Any], Any]


def main(
    seeds: Annotated[int, typer.Option(help="Runs per line.")] = 500,
    only: Annotated[str, typer.Option(help="Lines whose name contains this.")] = "",
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Print the table line by line, and write every figure where asked."""
    lines, console = [], Console()
    for name, problem, interval_of, truth in cases():
        if only not in f"{name} {problem}":
            continue
        start = time.perf_counter()
        shares = [held(interval_of(seed), truth) for seed in range(seeds)]
        share, error = float(np.mean(shares)), float(np.std(shares)) / math.sqrt(seeds)
        mark = "" if LOW <= share <= HIGH else "<" if share < LOW else ">"
        seconds = time.perf_counter() - start
        console.print(
            f"{name:28} {problem:6} {share:.3f} ± {error:.3f} {mark:1} {seconds:5.0f} s",
            highlight=False,
        )
        lines.append({"estimator": name, "problem": problem, "coverage": share, "error": error})
    if output is not None:
        output.write_text(json.dumps(lines, indent=1), encoding="utf-8")


def held(interval: Interval, truth: Any) -> float:
    """Return the share of entries that an interval holds, to rounding where it has no width."""
    slack = 1e-12 * np.abs(truth)
    return float(np.mean((interval.low <= truth + slack) & (truth - slack <= interval.high)))


def cases() -> Iterator[Case]:
    """Yield a name, a problem, an interval by seed, and the truth."""
    for problem, spectrum in SPECTRA.items():
        yield from _of_matrix(problem, _semidefinite(spectrum), spectrum)
    yield from _of_sums()
    yield from _with_controls()


def _of_matrix(problem: str, A: LinearOperator, spectrum: Any) -> Iterator[Case]:
    trace, diagonal = float(np.sum(spectrum)), np.diag(A.to_dense()).copy()
    for method in ("hutchinson", "hutchpp", "na-hutchpp", "xtrace", "xnystrace", "auto"):
        yield _case(f"trace {method}", problem, hessops.trace, A, trace, method, max_products=40)
    for method in ("hutchinson", "hutchpp", "xtrace", "xnystrace", "auto"):
        options = {"rtol": 0.05, "max_products": 2000}
        yield _case(f"trace {method} to 5 %", problem, hessops.trace, A, trace, method, **options)
    for method in ("hutchinson", "xdiag", "auto"):
        yield _case(
            f"diagonal {method}", problem, hessops.diagonal, A, diagonal, method, max_products=40
        )
    yield _case("diagonal to 20 %", problem, hessops.diagonal, A, diagonal, "hutchinson", rtol=0.2)
    norm = float(np.linalg.norm(spectrum))
    yield _case("frobenius_norm", problem, hessops.frobenius_norm, A, norm, num_probes=40)
    yield _case("frobenius_norm to 5 %", problem, hessops.frobenius_norm, A, norm, rtol=0.05)
    cubes = float(np.sum(spectrum**3)) ** (1 / 3)
    yield _case("schatten_norm 3", problem, hessops.schatten_norm, A, cubes, p=3, num_probes=20)
    exp = float(np.sum(np.exp(spectrum)))
    options = {"num_probes": 20, "num_steps": 20}
    yield _case("trace_function exp", problem, hessops.trace_function, A, exp, f=np.exp, **options)
    yield from _of_functions(problem, spectrum)
    count = int(np.sum(spectrum > 0.5))
    bounds = {"interval": (0.5, math.inf)}
    yield _case("eigenvalue_count", problem, hessops.eigenvalue_count, A, count, **bounds)
    yield _case("numerical_rank", problem, hessops.numerical_rank, A, count, tol=0.5)
    square = float(np.mean(spectrum**2))
    yield "spectral_density moment 2", problem, lambda seed: _moment(A, seed), square
    for q in (0.5, 0.9):
        quantile = float(np.quantile(spectrum, q, method="inverted_cdf"))
        yield f"quantile {q}", problem, lambda seed, q=q: _quantile(A, seed, q), quantile
    yield "spectrum trace", problem, lambda seed: _spectrum(A, seed).trace.interval, trace


def _of_functions(problem: str, spectrum: Any) -> Iterator[Case]:
    """Yield functions of a definite matrix, whose bracket is narrow."""
    A, options = _semidefinite(spectrum + 0.1), {"num_probes": 20, "num_steps": 40}
    logs, inverses = float(np.sum(np.log(spectrum + 0.1))), float(np.sum(1 / (spectrum + 0.1)))
    yield _case("logdet", problem, hessops.logdet, A, logs, **options)
    yield _case("trace_inverse", problem, hessops.trace_inverse, A, inverses, **options)
    yield (
        "spectrum log_determinant",
        problem,
        lambda seed: _spectrum(A, seed).log_determinant.interval,
        logs,
    )
    dimension = float(np.sum(spectrum / (spectrum + 0.1)))
    yield _case(
        "effective_dimension",
        problem,
        hessops.effective_dimension,
        _semidefinite(spectrum),
        dimension,
        shift=0.1,
        **options,
    )


def _spectrum(A: LinearOperator, seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hessops.ConvergenceWarning)
        return hessops.spectrum(A, budget=60, rng=seed)


def _quantile(A: LinearOperator, seed: int, q: float) -> Interval:
    return hessops.spectral_density(A, num_probes=8, num_steps=40, rng=seed).quantile_interval(q)


def _moment(A: LinearOperator, seed: int) -> Interval:
    found = hessops.spectral_density(A, num_probes=20, num_steps=20, rng=seed).moment(2)
    return found.interval


def _of_sums() -> Iterator[Case]:
    """Yield finite sums, with a fresh probe for every term."""
    rng = np.random.default_rng(0)
    outliers = _matrix(np.r_[np.full(3, 20.0), np.zeros(57)], 9)
    parts = [outliers + _matrix(rng.random(60), seed) for seed in range(5)]
    total = FiniteSum([aslinearoperator(part) for part in parts])
    trace, diagonal = sum(float(np.trace(part)) for part in parts), np.diag(sum(parts))
    for method in ("hutchinson", "hutchpp", "auto"):
        yield _case(f"trace {method}", "sum", hessops.trace, total, trace, method, max_products=36)
    pairs = hessops.eigsh(total, 3, rng=0)
    yield _case("trace deflate", "sum", hessops.trace, total, trace, deflate=pairs, num_probes=16)
    yield _case("diagonal", "sum", hessops.diagonal, total, diagonal, num_probes=16)


def _with_controls() -> Iterator[Case]:
    like = _matrix(np.linspace(0.1, 4, 100) ** 2, 1)
    near = like + 0.05 * _matrix(np.linspace(-2, 3, 100), 2)
    for name, of_trace, of_diagonal in (
        ("known", np.trace(like), np.diag(like).copy()),
        ("probed", None, None),
    ):
        options: dict[str, Any] = {"max_products": 32}
        control = {"control": (like, of_trace)}
        yield _case(
            f"trace control {name}",
            "near",
            hessops.trace,
            near,
            np.trace(near),
            **control,
            **options,
        )
        control = {"control": (like, of_diagonal)}
        yield _case(
            f"diagonal control {name}",
            "near",
            hessops.diagonal,
            near,
            np.diag(near),
            **control,
            **options,
        )


def _case(
    name: str,
    problem: str,
    verb: Any,
    A: Any,
    truth: Any,
    method: str | None = None,
    **options: Any,
) -> Case:
    if method is not None:
        options["method"] = method

    def interval_of(seed: int) -> Interval:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hessops.ConvergenceWarning)
            found: Interval = verb(A, rng=seed, **options).interval
        return found

    return name, problem, interval_of, truth


def _semidefinite(spectrum: Any) -> LinearOperator:
    return aslinearoperator(_matrix(spectrum, 5), positive_semidefinite=True)


def _matrix(spectrum: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((len(spectrum), len(spectrum))))[0]
    return (Q * spectrum) @ Q.T


if __name__ == "__main__":
    typer.run(main)
