"""What a rank waits for, so that a wait that never ends can be ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["waiting"]


@contextmanager
def waiting(call: str) -> Iterator[None]:
    """Say that this rank waits for the others in a collective while the body runs.

    Parameters
    ----------
    call : str
        The collective, for the message.

    Yields
    ------
    None
        While it waits.
    """
    del call
    yield
