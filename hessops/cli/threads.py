"""Threads of PyTorch for a network so small that they only wait for each other."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_torch_thread"]


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread while the body runs; what was set before is restored.

    For an operation on a few thousand numbers the threads take longer to meet than to compute. They
    wait by spinning, so on cores that others use too it becomes minutes: of the demo, 6 with PyTorch's
    own choice of two threads, and 40 s with one.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    ImportError
        If there is no PyTorch.
    """
    torch = importlib.import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
