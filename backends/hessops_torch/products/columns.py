"""How many vectors function transforms take along at a time."""

from __future__ import annotations

import torch

__all__ = ["columns_at_a_time"]

_MOST = 8
# Where a tensor is larger, glibc maps new pages for it every time, which costs as much as the
# arithmetic on it: a ResNet20's J v took half as long again in one piece as in three.
_CPU_BYTES = 32 * 2**20
# Enough to keep a device busy; many times as much is live at a time.
_DEVICE_BYTES = 256 * 2**20


def columns_at_a_time(largest: int, device: torch.device) -> int:
    """Return how many vectors go through a model together.

    What they share is one forward pass for each chunk, which eight in place of two make an eighth
    cheaper; so no more than eight, and two at least.

    Parameters
    ----------
    largest : int
        Bytes of the largest tensor that one vector's pass through the model makes.
    device : torch.device
        Where it goes on.

    Returns
    -------
    int
        From 2 to 8.
    """
    most_bytes = _CPU_BYTES if device.type == "cpu" else _DEVICE_BYTES
    return max(2, min(_MOST, most_bytes // max(largest, 1)))
