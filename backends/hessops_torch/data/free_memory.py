"""How much memory a device can still give, which bounds the data and the graphs that stay on it."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["free_memory"]

_MEMINFO = Path("/proc/meminfo")
_UNKNOWN_MEMORY = 2 * 2**30


def free_memory(device: torch.device) -> int:
    """Return the bytes of memory that are free on a device.

    Parameters
    ----------
    device : torch.device
        A CPU, or a CUDA device.

    Returns
    -------
    int
        Free bytes; of a CPU, what the system can give without swapping, or two gigabytes where
        it does not say.
    """
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return int(free)
    try:
        fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _UNKNOWN_MEMORY
