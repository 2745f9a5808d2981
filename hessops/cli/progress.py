"""Progress bars on a terminal's standard error; nothing in pipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["ProgressBars"]


class ProgressBars:
    """Bars and spinners that vanish when their work is done."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Show a spinner while the body runs."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(text):
            yield

    @contextmanager
    def bar(self, text: str, total: float | None) -> Iterator[Callable[[Any], None]]:
        """Show a bar while the body runs; the callback it yields takes the states of a verb."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        disabled = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=disabled) as progress:
            task = progress.add_task(text, total=total, note="")

            def advance(state: Any) -> None:
                note = f"{state.num_products} products"
                progress.update(task, completed=state.num_products, note=note)

            yield advance
