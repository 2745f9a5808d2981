"""Copies of batches on the device: one ahead of the one in use, from pinned memory.

A copy from pinned memory is queued: the device makes it when its turn comes, and the host goes on
meanwhile to read what comes next. From pageable memory the host would wait until all that was queued
before is computed; so what lies there is copied into pinned memory first, which PyTorch keeps until the
device has read it, and uses again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hessops_torch.data.batch import map_tensors

__all__ = ["ahead", "to_device"]


def ahead(parts: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield copies on a device, each queued before the one in front of it is used.

    The device holds one micro-batch more than is in use.

    Parameters
    ----------
    parts : iterable
        Micro-batches.
    device : torch.device
        Where to put them; on the CPU they are yielded one by one, as nothing goes on beside.

    Yields
    ------
    object
        As the parts, on the device.
    """
    copied = partial(to_device, device=device)
    if device.type != "cuda":
        for part in parts:
            yield map_tensors(copied, part)
        return
    waiting: list[Any] = []
    for part in parts:
        waiting.append(map_tensors(copied, part))
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the host does not wait where it has to be copied.

    Parameters
    ----------
    tensor : torch.Tensor
        Anywhere.
    device : torch.device
        Where it is wanted.

    Returns
    -------
    torch.Tensor
        The same if it is there already. Fit for a backward pass, also if made in inference mode.
    """
    # What was made in inference mode cannot be saved for a backward pass; its copy can.
    with torch.inference_mode(mode=False):
        # From pageable memory the host waits for the device, whatever is asked for.
        if _pays_to_pin(tensor, device):
            tensor = tensor.pin_memory()
        moved = tensor.to(device, non_blocking=True)
        return moved.clone() if moved.is_inference() else moved


def _pays_to_pin(tensor: Tensor, device: torch.device) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_nested
    plain = strided and tensor.device.type == "cpu"
    return device.type == "cuda" and plain and tensor.numel() > 0 and not tensor.is_pinned()
