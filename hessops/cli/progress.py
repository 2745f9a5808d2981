"""Progress on standard error: bars on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress as rich_progress
from rich.console import Console

__all__ = ["Progress"]

_INTERVAL = 10.0


class Progress:
    """What is being done, for how long, and how much of it is left.

    Parameters
    ----------
    interval : float
        Seconds between lines where standard error is no terminal.
    """

    def __init__(self, interval: float | None = None) -> None:
        self.console = Console(stderr=True)
        self.interval = _INTERVAL if interval is None else interval

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Show that something is going on while the body runs."""
        if self.console.is_terminal:
            with self.console.status(text):
                yield
        else:
            with _Lines(text, None, self.interval):
                yield

    @contextmanager
    def bar(self, text: str, total: float | None) -> Iterator[Callable[[Any], None]]:
        """Show progress while the body runs; the callback it yields takes the states of a verb."""
        if not self.console.is_terminal:
            with _Lines(text, total, self.interval) as lines:
                yield lines.advance
            return
        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
        )
        with rich_progress.Progress(*columns, console=self.console, transient=True) as shown:
            task = shown.add_task(text, total=total, note="")

            def advance(state: Any) -> None:
                note = f"{state.num_products} products"
                shown.update(task, completed=state.num_products, note=note)

            yield advance


class _Lines:
    """A thread that writes a line from time to time, also while a single product takes minutes."""

    def __init__(self, text: str, total: float | None, interval: float) -> None:
        self._text, self._total, self._interval = text, total, interval
        self._num_products = 0
        self._start = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> _Lines:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def advance(self, state: Any) -> None:
        self._num_products = state.num_products

    def _write(self) -> None:
        while not self._done.wait(self._interval):
            sys.stderr.write(f"hessops: {self._text}{self._note()}\n")
            sys.stderr.flush()

    def _note(self) -> str:
        seconds, count = time.monotonic() - self._start, self._num_products
        if not count:
            return f", {seconds:.0f} s so far"
        if not self._total:
            return f", {count} products, {seconds:.0f} s so far"
        left = max(self._total - count, 0) * seconds / count
        return f", {count} of {self._total:.0f} products, {seconds:.0f} s so far, {left:.0f} s left"
