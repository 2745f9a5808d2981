"""A rank's part of a data set, of a loader's batches, or of a list of batches."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torch.utils.data.distributed import DistributedSampler

from hessops.comm import Communicator, share
from hessops.together import require_same

__all__ = ["shard"]


def shard(data: Any, comm: Communicator, *, batch_size: int = 128) -> Any:
    """Return this rank's part of the data; all parts together are all of it, each sample once.

    Neighbours stay together, in the order of the ranks, and batches stay whole: so the operator has the
    same `terms()`, in the same order, for any number of ranks, and stratified estimates are the same.

    Parameters
    ----------
    data : DataLoader, Dataset, or list of batches
        The same on every rank, in the same order.
    comm : Communicator
        The ranks: `distributed_comm`, or ``hessops_mpi.world()``.
    batch_size : int
        Samples of a Dataset to deal out at a time, which has no batches of its own. The default is that
        of operators made of a Dataset; else give them the same `micro_batch_size`.

    Returns
    -------
    DataLoader, Dataset, or list of batches
        To pass to `hessian` with the same `comm`; empty where there are fewer batches than ranks.

    Raises
    ------
    ValueError
        On all ranks, if their data differs in length or order; or if a loader shuffles.
    TypeError
        If the data is one batch, or can be read only once.

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> data = torch.utils.data.TensorDataset(torch.eye(4), torch.zeros(4, 1))
    >>> len(hessops_torch.shard(data, hessops.SerialComm()))  # of one rank, all
    4
    """
    if isinstance(data, DataLoader):
        return _of_loader(data, comm)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        total = len(data)  # type: ignore[arg-type]
        _agree(comm, "samples", total)
        return Subset(data, share(comm, total, batch_size))
    if isinstance(data, tuple) and data and isinstance(data[0], Tensor):
        raise TypeError(
            "a tuple of tensors is one batch, which is not dealt out: pass a TensorDataset of them, or "
            "a list of batches"
        )
    if isinstance(data, list | tuple):
        _agree(comm, "batches", len(data))
        mine = share(comm, len(data))
        return data[mine.start : mine.stop]
    if isinstance(data, Iterable) and not isinstance(data, Iterator) and not hasattr(data, "keys"):
        return _of_iterable(data, comm)
    raise TypeError(
        f"cannot deal out {type(data).__name__}; pass a DataLoader, a Dataset or a list of batches"
    )


class _Part:
    """Some of the batches of what can only be read from its beginning."""

    def __init__(self, source: Iterable[Any], mine: range) -> None:
        self.source, self.mine = source, mine

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.source), self.mine.start, self.mine.stop)


def _of_loader(loader: DataLoader[Any], comm: Communicator) -> Any:
    if isinstance(loader.sampler, DistributedSampler):
        raise TypeError(
            "the loader's DistributedSampler deals out already, and repeats samples so that ranks get "
            "equally many, which would weigh them twice: pass a loader without it"
        )
    if isinstance(loader.dataset, IterableDataset):
        return _of_iterable(loader, comm)
    batched = loader.batch_sampler is not None
    order = list(loader.batch_sampler if batched else loader.sampler)  # type: ignore[arg-type]
    if order != list(loader.batch_sampler if batched else loader.sampler):  # type: ignore[arg-type]
        raise ValueError(
            "the loader shuffles, so that ranks would deal out different batches: use shuffle=False"
        )
    _agree(comm, "batches", len(order), order)
    mine = share(comm, len(order))
    part = order[mine.start : mine.stop]
    how: dict[str, Any] = (
        {"batch_sampler": part} if batched else {"batch_size": None, "sampler": part}
    )
    return DataLoader(
        loader.dataset,
        **how,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def _of_iterable(data: Iterable[Any], comm: Communicator) -> _Part:
    # There is no other way to its length, and none to its middle.
    total = sum(1 for _ in data)
    _agree(comm, "batches", total)
    return _Part(data, share(comm, total))


def _agree(comm: Communicator, unit: str, total: int, order: Any = None) -> None:
    # A checksum, as the order of a million samples need not travel.
    facts = {
        f"the number of {unit}": total,
        "the order of the data": zlib.crc32(str(order).encode()),
    }
    require_same(comm, facts, "shard deals out the same data on every rank, in the same order")
