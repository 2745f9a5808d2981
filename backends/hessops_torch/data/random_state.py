"""What draws random numbers leaves none of them missing: of the process, and of data loaders.

Reading data and applying models may draw. The random states of a process belong to all its threads, as
does the choice of kernels, so that one thread at a time may change these and put them back.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

__all__ = ["exclusive", "generators_preserved", "preserved_global_rng", "random_state"]

exclusive = threading.RLock()
"""Held by who changes a model, the choice of kernels or random states; one lock for all models."""


@contextmanager
def preserved_global_rng(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Leave the global random states of torch (also on `devices`), NumPy and Python as they were."""
    with exclusive, torch.random.fork_rng(devices=devices):
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


@contextmanager
def generators_preserved(data: Any) -> Iterator[None]:
    """Put the generators that a loader and its samplers have of their own back to where they were.

    Parameters
    ----------
    data : object
        Anything; a `DataLoader` may have some, which a training may draw from, too.

    Yields
    ------
    None
        While it is read.
    """
    owners: list[Any] = []
    if isinstance(data, DataLoader):
        batch_sampler = data.batch_sampler
        owners = [data, data.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
    found = (getattr(owner, "generator", None) for owner in owners)
    states = [(g, g.get_state()) for g in found if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def random_state(device: torch.device) -> Tensor:
    """Return the state of torch's random generators of the host and of a device, as bytes."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)
