"""The one loop that drives an engine: it stops, records and calls back.

Engines are generators of states and know no stopping; verbs say when to stop and what to report.

On several ranks, rank 0 says after every step whether to go on, in one broadcast. What callbacks of the
others have met it hears when it asks for it: every few seconds, and at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from hessops.arrays import HostArray
from hessops.comm import Communicator
from hessops.errors import NonFiniteError
from hessops.space import Space
from hessops.together import any_together, raise_together, tried

__all__ = ["Callback", "History", "Outcome", "State", "require_finite", "run"]


class State(Protocol):
    """What every engine yields.

    One that knows how orthogonal its basis is says so in an attribute `orthogonality`.
    """

    @property
    def step(self) -> int:
        """Return the number of this step, from 1."""

    @property
    def num_products(self) -> int:
        """Return the columns multiplied so far."""


# Seconds after which rank 0 asks what the callbacks of the others have met.
_HEARD_EVERY = 3.0

# Columns that every file has; results saved before `orthogonality` was recorded end there.
_REQUIRED = 5

S = TypeVar("S", bound=State)
Callback = Callable[[Any], bool | None]
"""Called with every state; returning True ends the run."""


class History:
    """One record per step: the same columns for every algorithm.

    The columns are `step`, `num_products`, `estimate` (the leading number), `error` (its residual
    norm or standard error, NaN where unknown), `seconds` since the start, and `orthogonality`: the
    largest inner product of two vectors of the basis, as it is estimated; NaN where there is no
    basis, or nothing is known of it.

    Parameters
    ----------
    rows : iterable of tuple of float
        The records, each with one entry per column; those left out at the end are NaN.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> history = hessops.lanczos(np.diag([1.0, 2.0, 3.0]), num_steps=2, rng=0).history
    >>> history["step"].tolist()
    [1, 2]
    """

    columns = ("step", "num_products", "estimate", "error", "seconds", "orthogonality")

    def __init__(self, rows: Iterable[tuple[float, ...]] = ()) -> None:
        count = len(self.columns)
        self._rows = tuple((*row, *(math.nan,) * (count - len(row))) for row in rows)

    def __getitem__(self, column: str) -> HostArray:
        if column not in self.columns:
            raise KeyError(f"no column {column!r}; there are {', '.join(self.columns)}")
        index = self.columns.index(column)
        return np.array([row[index] for row in self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return (dict(zip(self.columns, row, strict=True)) for row in self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, History):
            return NotImplemented
        return all(np.array_equal(self[c], other[c], equal_nan=True) for c in self.columns)

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, HostArray]:
        """Return the columns as arrays."""
        return {column: self[column] for column in self.columns}

    @classmethod
    def from_dict(cls, columns: dict[str, HostArray]) -> History:
        """Return the history of the given columns; later ones, which old files lack, are NaN."""
        known = (columns[name].tolist() for name in cls.columns if name in columns)
        required = set(cls.columns[:_REQUIRED]) - set(columns)
        if required:
            raise KeyError(f"a history needs the columns {', '.join(sorted(required))}")
        return cls(zip(*known, strict=True))

    @classmethod
    def joined(cls, parts: Iterable[History]) -> History:
        """Return runs made one after the other as one history."""
        rows: list[tuple[float, ...]] = []
        before: dict[str, float] = dict.fromkeys(cls.columns, 0)
        for part in parts:
            for record in part:
                rows.append(tuple(record[column] + before[column] for column in cls.columns))
            for column in ("step", "num_products", "seconds"):
                before[column] = dict(zip(cls.columns, rows[-1], strict=True))[column]
        return cls(rows)

    def __str__(self) -> str:
        header = f"{'step':>6} {'products':>9} {'estimate':>15} {'error':>10} {'seconds':>9}"
        rows = [f"{s:6d} {p:9d} {v:15.8g} {e:10.2e} {t:9.3f}" for s, p, v, e, t, _ in self._rows]
        if not np.all(np.isnan(self["orthogonality"])):
            header += f" {'orthogonality':>14}"
            rows = [f"{row} {loss:14.1e}" for row, (*_, loss) in zip(rows, self._rows, strict=True)]
        return "\n".join([header, *rows])

    def __repr__(self) -> str:
        return f"History({len(self)} steps)"


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """How a run ended: the last state, the reason to stop (None: out of steps), the records."""

    state: S
    reason: str | None
    history: History
    seconds: float


def run(
    states: Iterator[S],
    *,
    space: Space,
    stop: Callable[[S], str | None],
    row: Callable[[S], tuple[float, float]],
    max_steps: int | None = None,
    callback: Callback | None = None,
) -> Outcome[S]:
    """Drive an engine until it is done.

    Parameters
    ----------
    states : iterator
        The engine; it must yield at least once.
    space : Space
        Whose ranks have to agree on when to stop.
    stop : callable
        From a state to the reason to stop, or None to go on.
    row : callable
        From a state to (estimate, error) for the history.
    max_steps : int, optional
        Most states to take.
    callback : callable, optional
        Called with every state; returning True ends the run. Ranks may have other ones, or none. On
        other ranks than 0 it ends the run, or raises on all ranks, within a few seconds.

    Returns
    -------
    Outcome
        The last state and how it ended.

    Raises
    ------
    Exception
        On all ranks, what a callback raised on one of them.
    """
    watch = _Watch(space.comm, callback)
    start = time.perf_counter()
    rows: list[tuple[float, ...]] = []
    reason: str | None = None
    for state in states:
        estimate, error = map(float, row(state))
        seconds = time.perf_counter() - start
        # Engines without a basis have states without a level.
        loss = float(getattr(state, "orthogonality", math.nan))
        rows.append((state.step, state.num_products, estimate, error, seconds, loss))
        reason = stop(state)
        watch.call(state)
        out_of_steps = max_steps is not None and state.step >= max_steps
        if watch.ends(reason is not None or out_of_steps):
            reason = watch.reason(reason)
            break
    watch.end()
    return Outcome(state, reason, History(rows), time.perf_counter() - start)


class _Watch:
    """Callbacks of all ranks: who has had enough, and who has failed."""

    def __init__(self, comm: Communicator, callback: Callback | None) -> None:
        self._comm, self._callback = comm, callback
        self._enough = False
        self._error: Exception | None = None
        self._heard = time.monotonic()
        if callback is not None and not callable(callback):
            self._error = TypeError(f"callback={callback!r} must be callable, or None")
            if comm.size == 1:
                raise self._error

    def call(self, state: Any) -> None:
        """Call this rank's, unless it has failed: the others have to be told first."""
        callback = self._callback
        if callback is None or self._error is not None:
            return
        enough, self._error = tried(lambda: bool(callback(state)))
        self._enough = self._enough or bool(enough)

    def ends(self, done: bool) -> bool:
        """Return whether to end, as rank 0 says; clocks, callbacks and rounding may differ."""
        now = time.monotonic()
        word = "go on"
        if done or self._enough or self._error is not None:
            word = "end"
        elif self._comm.size > 1 and now - self._heard > _HEARD_EVERY:
            word = "tell"
        word = self._comm.broadcast(word)
        if word == "tell":
            self._heard = now
            self._enough = any_together(self._comm, self._enough, self._error)
            return self._enough
        return word == "end"

    def reason(self, reason: str | None) -> str | None:
        """Return rank 0's reason to end."""
        return self._comm.broadcast(reason or ("stopped by the callback" if self._enough else None))

    def end(self) -> None:
        """Raise on all ranks if a callback has failed on any."""
        raise_together(self._comm, self._error)


def require_finite(scalars: HostArray, product: int, operator: object) -> None:
    """Raise if numbers computed from a product are NaN or infinite.

    Parameters
    ----------
    scalars : numpy.ndarray
        Inner products or norms that involve the product.
    product : int
        Its number, for the message.
    operator : object
        Who made it, for the message.

    Raises
    ------
    NonFiniteError
        If any of `scalars` is not finite.
    """
    if not np.all(np.isfinite(scalars)):
        raise NonFiniteError(
            f"product {product} with {operator} holds NaN or infinity (or overflows when squared); "
            "look for them in its data, e.g. with hessops.check_operator"
        )
