"""Progress on standard error: bars on a terminal, elsewhere a plain line from time to time.

Where standard error is no terminal, there is a line after two seconds, then every ten, and one at the
end of whatever took longer than a second.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress as rich_progress
from rich.console import Console

from hessops.counted import counted

__all__ = ["Progress"]

_FIRST, _INTERVAL = 2.0, 10.0
# What is done sooner needs no line.
_SHORT = 1.0

Note = Callable[[Any], str]
"""From a state of a verb to how far it has come, beyond its products."""


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
    def bar(
        self, text: str, total: float | None, note: Note | None = None
    ) -> Iterator[Callable[[Any], None]]:
        """Show progress while the body runs; the callback it yields takes the states of a verb."""
        if not self.console.is_terminal:
            with _Lines(text, total, self.interval, note) as lines:
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
                parts = [counted(state.num_products, "product"), *([note(state)] if note else [])]
                shown.update(task, completed=state.num_products, note=", ".join(parts))

            yield advance


class _Lines:
    """A thread that writes a line from time to time, also while a single product takes minutes."""

    def __init__(
        self, text: str, total: float | None, interval: float, note: Note | None = None
    ) -> None:
        self._text, self._total, self._interval, self._note = text, total, interval, note
        self._num_products = 0
        self._latest: Any = None
        self._start = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> _Lines:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._thread.join()
        seconds = time.monotonic() - self._start
        if kind is None and seconds >= _SHORT:
            self._say(f"done{self._products()} in {seconds:.3g} s")

    def advance(self, state: Any) -> None:
        self._num_products, self._latest = state.num_products, state

    def _write(self) -> None:
        wait = min(_FIRST, self._interval)
        while not self._done.wait(wait):
            self._say(self._so_far())
            wait = self._interval

    def _say(self, what: str) -> None:
        sys.stderr.write(f"hessops: {self._text}, {what}\n")
        sys.stderr.flush()

    def _products(self) -> str:
        return f", {counted(self._num_products, 'product')}" if self._num_products else ""

    def _so_far(self) -> str:
        seconds, count = time.monotonic() - self._start, self._num_products
        so_far = f"{seconds:.0f} s so far"
        if not count:
            return so_far
        if self._total:
            left = max(self._total - count, 0) * seconds / count
            return f"{count} of {self._total:.0f} products, {so_far}, {left:.0f} s left"
        note = f", {self._note(self._latest)}" if self._note else ""
        return f"{counted(count, 'product')}{note}, {so_far}"
