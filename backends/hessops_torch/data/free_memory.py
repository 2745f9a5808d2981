"""How much memory a device can still give, which bounds the data and the graphs that stay on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

__all__ = ["free_memory"]

_MEMINFO = Path("/proc/meminfo")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_UNKNOWN_MEMORY = 2 * 2**30

# Of control groups as they are, and as older systems have them: limit, use, and the part of the use
# that is given back before anything is killed.
_UNIFIED = "memory.max", "memory.current", "inactive_file"
_LEGACY = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


def free_memory(device: torch.device) -> int:
    """Return the bytes of memory that are free on a device.

    Parameters
    ----------
    device : torch.device
        A CPU, or a CUDA device.

    Returns
    -------
    int
        Free bytes; of a CPU, what the system can give without swapping and what a container or a
        batch job may still take, or two gigabytes where the system does not say.
    """
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return int(free)
    try:
        fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        available = _UNKNOWN_MEMORY
    return min([available, *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """Yield what each control group of this process may still take, if it has a limit."""
    try:
        memberships = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for membership in memberships:
        _number, controllers, name = membership.split(":", 2)
        if not controllers:
            root, files = _CGROUPS, _UNIFIED
        elif "memory" in controllers.split(","):
            root, files = _CGROUPS / "memory", _LEGACY
        else:
            continue
        # A limit of a group holds for those within it. A container may see its own as the root.
        own = PurePosixPath(name.lstrip("/"))
        for group in (own, *own.parents):
            left = _left_in(root / group, *files)
            if left is not None:
                yield left


def _left_in(group: Path, limit: str, use: str, reclaimable: str) -> int | None:
    try:
        most, used = (int((group / file).read_text()) for file in (limit, use))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(statistics[reclaimable]))
    except (OSError, KeyError, ValueError):
        # Another user's, or "max": none.
        return None
