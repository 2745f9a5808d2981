"""What was measured at one step of a training, and the file of such records, which survives kills."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hessops.counted import counted
from hessops.results.eigenpairs import EigenResult
from hessops.results.numbers import estimate_text, interval_text
from hessops.results.trace import TraceResult
from hessops_torch.traces.hessian_trace import HessianTraceResult

__all__ = [
    "PER_PAIR",
    "CurvatureRecord",
    "RecordFile",
    "add_record",
    "scalars",
    "trace_words",
    "with_pairs",
    "with_trace",
]

PER_PAIR = ("eigenvalues", "residual_norms", "error_bounds")
"""What a record has of every eigenpair."""

_INTEGERS = ("step", "num_products", "num_skipped")


@dataclass(frozen=True, kw_only=True)
class CurvatureRecord:
    """The curvature at one step; numbers that are not known are NaN.

    Parameters
    ----------
    step : int
        Of the training.
    seconds : float
        Since the tracker was made.
    learning_rate : float
        As the optimizer had it.
    two_over_learning_rate : float
        The edge of stability of gradient descent.
    stability_limit : float
        The same for the optimizer with its momentum; NaN for others than `torch.optim.SGD`.
    eigenvalues : tuple of float
        Extreme eigenvalues, in the order of `hessops.eigsh`.
    residual_norms : tuple of float
        Each value is that close to an eigenvalue.
    error_bounds : tuple of float
        Sharper bounds, as `hessops.eigsh` explains them.
    trace : float
        An estimate.
    trace_standard_error : float
        Of its probes.
    trace_low, trace_high : float
        Its 95 % interval.
    num_products : int
        Products with the Hessian that this record took, or other work worth as much: gradients by two.
    num_skipped : int
        Due measurements that were left out before this one, as they would have taken too much time.
    share : float
        What tracking took so far of the time since the tracker was made, this record included.
    status : str
        A sentence: how it ended, and how the trace was found.
    """

    step: int
    seconds: float = math.nan
    learning_rate: float = math.nan
    two_over_learning_rate: float = math.nan
    stability_limit: float = math.nan
    eigenvalues: tuple[float, ...] = ()
    residual_norms: tuple[float, ...] = ()
    error_bounds: tuple[float, ...] = ()
    trace: float = math.nan
    trace_standard_error: float = math.nan
    trace_low: float = math.nan
    trace_high: float = math.nan
    num_products: int = 0
    num_skipped: int = 0
    share: float = math.nan
    status: str = ""

    def __str__(self) -> str:
        parts = [f"step {self.step}:"]
        pairs = zip(self.eigenvalues, self.error_bounds, strict=True)
        known = [estimate_text(*pair) for pair in pairs if math.isfinite(pair[0])]
        if known:
            parts.append(f"eigenvalue{'s' if len(known) > 1 else ''} {', '.join(known)},")
        plain, own = self.two_over_learning_rate, self.stability_limit
        if math.isfinite(plain):
            parts.append(f"2/lr {plain:.4g},")
        if math.isfinite(own) and not math.isclose(own, plain):
            parts.append(f"limit with momentum {own:.4g},")
        if math.isfinite(self.trace):
            interval = interval_text(self.trace_low, self.trace_high)
            parts.append(f"trace {self.trace:.4g} (95% interval {interval}),")
        return " ".join([*parts, f"{self.num_products} products; {self.status}"])

    def numbers(self) -> dict[str, float]:
        """Return everything but the status as one flat mapping, pairs numbered from 1."""
        flat: dict[str, float] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in PER_PAIR:
                name = field.name.removesuffix("s")
                flat |= {f"{name}_{i}": number for i, number in enumerate(value, 1)}
            elif field.name != "status":
                flat[field.name] = value
        return flat


def with_pairs(record: CurvatureRecord, pairs: EigenResult, k: int) -> CurvatureRecord:
    """Return a record with some eigenpairs.

    Parameters
    ----------
    record : CurvatureRecord
        The record.
    pairs : EigenResult
        At least `k` of them.
    k : int
        How many to record.

    Returns
    -------
    CurvatureRecord
        The same, with these numbers and their products.
    """
    found: dict[str, Any] = {n: tuple(map(float, getattr(pairs, n)[:k])) for n in PER_PAIR}
    return replace(record, num_products=record.num_products + pairs.num_products, **found)


def with_trace(record: CurvatureRecord, trace: TraceResult) -> CurvatureRecord:
    """Return a record with a trace.

    Parameters
    ----------
    record : CurvatureRecord
        The record.
    trace : TraceResult
        The trace.

    Returns
    -------
    CurvatureRecord
        The same, with these numbers and what they cost.
    """
    cost = trace.num_products
    if isinstance(trace, HessianTraceResult):
        cost = math.ceil(trace.num_gradients / 2)
    return replace(
        record,
        trace=float(trace.value),
        trace_standard_error=float(trace.standard_error),
        trace_low=float(trace.interval.low),
        trace_high=float(trace.interval.high),
        num_products=record.num_products + cost,
    )


def trace_words(trace: TraceResult) -> str:
    """Return how a trace was found, as a part of a sentence.

    Parameters
    ----------
    trace : TraceResult
        The trace.

    Returns
    -------
    str
        The estimator, what it cost, and why it, unless it was asked for.
    """
    cost = counted(trace.num_products, "product")
    if isinstance(trace, HessianTraceResult):
        cost = f"{trace.num_gradients:.1f} gradients"
    words = f"trace by {trace.method}, {cost}"
    return words if trace.reason == "asked for" else f"{words} ({trace.reason})"


def scalars(record: CurvatureRecord) -> dict[str, float]:
    """Return the finite numbers of a record as loggers take them, without the step.

    Parameters
    ----------
    record : CurvatureRecord
        The record.

    Returns
    -------
    dict of str to float
        By names that begin with "curvature/".
    """
    numbers = record.numbers().items()
    return {f"curvature/{n}": x for n, x in numbers if n != "step" and math.isfinite(x)}


class RecordFile:
    """A CSV file of records, one line each, written whole and at once.

    A run that goes on appends. A last line that a kill cut off is taken away; the lines of steps that
    are done again, after a restart from an earlier state, stay in the file, and the later ones count.

    Parameters
    ----------
    path : str or Path
        The file; its folder is made if need be.
    num_pairs : int
        Eigenvalues of every record.

    Raises
    ------
    ValueError
        If there is a file with other columns.
    """

    def __init__(self, path: str | Path, num_pairs: int) -> None:
        self.path = Path(path)
        self.columns = _columns(num_pairs)
        self._num_pairs = num_pairs
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            self._drop_torn_line()
        if not self.path.is_file() or not self.path.stat().st_size:
            self._append(self.columns)
            return
        with self.path.open(encoding="utf-8", newline="") as file:
            header = tuple(next(csv.reader(file), ()))
        if header != self.columns:
            raise ValueError(
                f"{self.path} has other columns than this run would write ({len(header)} and "
                f"{len(self.columns)}; it begins {', '.join(header[:3])}): name another file, or track "
                "as many eigenvalues as before"
            )

    def append(self, record: CurvatureRecord) -> None:
        """Write one record; it is in the file when this returns."""
        numbers = record.numbers()
        status = " ".join(record.status.split())
        self._append([*(_text(numbers.get(c, math.nan)) for c in self.columns[:-1]), status])

    def read(self) -> list[CurvatureRecord]:
        """Return the records of the file; a step done again counts as it was done last.

        Returns
        -------
        list of CurvatureRecord
            With increasing steps.

        Raises
        ------
        ValueError
            If a line is no record.
        """
        records: list[CurvatureRecord] = []
        with self.path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    record = self._record(row)
                except (TypeError, ValueError, KeyError) as error:
                    raise ValueError(
                        f"line {number} of {self.path} is no record: {error}"
                    ) from error
                add_record(records, record)
        return records

    def _record(self, row: dict[str, str]) -> CurvatureRecord:
        values: dict[str, object] = {"status": row["status"]}
        for field in fields(CurvatureRecord):
            name = field.name
            if name in PER_PAIR:
                one = name.removesuffix("s")
                values[name] = tuple(
                    float(row[f"{one}_{i}"]) for i in range(1, self._num_pairs + 1)
                )
            elif name != "status":
                values[name] = int(row[name]) if name in _INTEGERS else float(row[name])
        return CurvatureRecord(**values)  # type: ignore[arg-type]

    def _append(self, row: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        # Opened each time: nothing is left in a buffer when a run is killed.
        with self.path.open("ab") as file:
            file.write(line.getvalue().encode())

    def _drop_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)


def add_record(records: list[CurvatureRecord], record: CurvatureRecord) -> None:
    """Append a record, and drop those of its step and later ones: a run that goes on replaces them."""
    while records and records[-1].step >= record.step:
        records.pop()
    records.append(record)


def _columns(num_pairs: int) -> tuple[str, ...]:
    nothing = (math.nan,) * num_pairs
    blank = CurvatureRecord(
        step=0, eigenvalues=nothing, residual_norms=nothing, error_bounds=nothing
    )
    return (*blank.numbers(), "status")


def _text(number: float) -> str:
    return repr(number)
