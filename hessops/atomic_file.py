"""Files that are whole or not there: a process may be killed, and the power fail, at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

__all__ = ["atomic_file"]


@contextmanager
def atomic_file(target: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its place when it is complete, and none if it is not.

    Until then it lies beside it, under the same name with eight more digits and ``.partial``. That is
    what a killed process may leave behind.

    Parameters
    ----------
    target : Path
        The place; a file that is there is replaced.

    Yields
    ------
    file
        To write to. After the block it is on the disk, not only on its way there.
    """
    # A name of its own: ranks may write the same file at the same time.
    partial = target.with_name(f"{target.name}.{token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _settle(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    # Windows opens no folders.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
