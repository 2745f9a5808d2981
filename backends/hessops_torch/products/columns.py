"""How many vectors function transforms take along at a time."""

from __future__ import annotations

import torch

__all__ = ["columns_at_a_time"]

_MOST = 16
# glibc maps new pages for every tensor of as many bytes, which can cost as much as the arithmetic on
# it: products of a ResNet20 took half as long again with tensors just above as with those just below.
_CPU_BYTES = 32 * 2**20
# Enough to keep a device busy; many times as much is live at a time.
_DEVICE_BYTES = 256 * 2**20


def columns_at_a_time(largest: int, device: torch.device) -> int:
    """Return how many vectors go through a model together.

    What the vectors of a chunk share is one forward pass, beside two for each: more than sixteen make
    little difference, and one alone takes a half more.

    Parameters
    ----------
    largest : int
        Bytes of the largest tensor that one vector's pass through the model makes.
    device : torch.device
        Where it goes on.

    Returns
    -------
    int
        From 2 to 16.
    """
    too_many_bytes = _CPU_BYTES if device.type == "cpu" else _DEVICE_BYTES
    return max(2, min(_MOST, (too_many_bytes - 1) // max(largest, 1)))
