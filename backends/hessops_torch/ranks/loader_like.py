"""Loaders of the same data set with the same settings, for other samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from hessops_torch.data.random_state import preserved_global_rng

__all__ = ["loader_like", "read_some"]


def loader_like(loader: DataLoader[Any], **options: Any) -> DataLoader[Any]:
    """Return a loader of the same data set, with the same settings but for those that are given.

    Parameters
    ----------
    loader : DataLoader
        Of a map-style data set.
    **options : object
        Of `DataLoader`: which samples to put together, how, and what else should be otherwise.

    Returns
    -------
    DataLoader
        A new one.
    """
    settings: dict[str, Any] = {
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "generator": loader.generator,
        "prefetch_factor": loader.prefetch_factor,
        "persistent_workers": loader.persistent_workers,
    }
    return DataLoader(loader.dataset, **(settings | options))


def read_some(loader: DataLoader[Any], samples: Sequence[Any]) -> list[Any]:
    """Return some samples of a loader's data set, as the data set gives them.

    Parameters
    ----------
    loader : DataLoader
        Of a map-style data set. Read by a worker, where it has some: what a data set opens in this
        process they might not be able to share.
    samples : sequence of object
        Which.

    Returns
    -------
    list
        In that order; the global random states are as they were.
    """
    few = loader_like(
        loader,
        batch_size=None,
        sampler=samples,
        collate_fn=_as_it_is,
        num_workers=min(loader.num_workers, 1),
        pin_memory=False,
        persistent_workers=False,
        generator=None,
    )
    with preserved_global_rng():
        return list(few)


def _as_it_is(sample: Any) -> Any:
    return sample
