"""Seconds by the clock, with the work that a device still does after a call returns."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["seconds_of", "wait_for"]


def wait_for(device: torch.device) -> None:
    """Wait until a device has done its work, so that its time counts where it belongs."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Return how long a function takes on a device."""
    wait_for(device)
    clock = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - clock
