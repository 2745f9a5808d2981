"""Generators that a data loader has of its own, which a training may draw from, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

__all__ = ["generators_preserved"]


@contextmanager
def generators_preserved(data: Any) -> Iterator[None]:
    """Put the generators of a loader and its samplers back to where they were.

    Parameters
    ----------
    data : object
        Anything; a `DataLoader` may have some.

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
