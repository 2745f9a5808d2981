"""A rank's part of a data set, of a loader's batches, or of a list of batches."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from hessops.comm import Communicator, require_communicator, share
from hessops.row_collectives import jointly
from hessops.some_of import SAME_DATA, checksum_of_some, places
from hessops.together import require_same
from hessops_torch.data.batch import fingerprint
from hessops_torch.data.random_state import preserved_global_rng
from hessops_torch.ranks.distributed_sampler import DEALS_OUT, sampler_that_deals_out
from hessops_torch.ranks.loader_like import loader_like, read_some

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
        On all ranks, if their data differs in length or order, or in what is looked at; or if a loader
        shuffles.
    TypeError
        On all ranks, if the data is one batch, or can be read only once.

    Notes
    -----
    Of a Dataset and of a loader's, at most 16 samples are read and compared: the first, the last and
    some between, the same on every rank. Of a list, as many batches. A difference that none of them
    shows is not seen, nor one within objects that are no tensors, arrays, strings or numbers.

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> data = torch.utils.data.TensorDataset(torch.eye(4), torch.zeros(4, 1))
    >>> len(hessops_torch.shard(data, hessops.SerialComm()))  # of one rank, all
    4
    """
    require_communicator(comm)
    # What one rank cannot deal out is refused on all, before they wait for each other.
    facts, part = jointly(comm, lambda: _facts_and_part(data, comm, batch_size))
    require_same(comm, facts, SAME_DATA)
    return part()


class _Part:
    """Some of the batches of what can only be read from its beginning."""

    def __init__(self, source: Iterable[Any], mine: range) -> None:
        self.source, self.mine = source, mine

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.source), self.mine.start, self.mine.stop)


_Facts = dict[str, object]


def _facts_and_part(
    data: Any, comm: Communicator, batch_size: int
) -> tuple[_Facts, Callable[[], Any]]:
    """Return what has to be the same on all ranks, and what makes this rank's part; no collective."""
    if isinstance(data, DataLoader):
        return _of_loader(data, comm)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        total = len(data)  # type: ignore[arg-type]
        facts: _Facts = {"the number of samples": total, "batch_size": batch_size}
        if comm.size > 1:
            with preserved_global_rng():
                facts |= _looks("samples", total, data.__getitem__)
        return facts, lambda: Subset(data, share(comm, total, batch_size))
    if isinstance(data, tuple) and data and isinstance(data[0], Tensor):
        raise TypeError(
            "a tuple of tensors is one batch, which is not dealt out: pass a TensorDataset of them, or "
            "a list of batches"
        )
    if isinstance(data, list | tuple):
        facts = {"the number of batches": len(data)}
        if comm.size > 1:
            facts |= _looks("batches", len(data), data.__getitem__)
        mine = share(comm, len(data))
        return facts, lambda: data[mine.start : mine.stop]
    if isinstance(data, Iterable) and not isinstance(data, Iterator) and not hasattr(data, "keys"):
        return _of_iterable(data, comm)
    raise TypeError(
        f"cannot deal out {type(data).__name__}; pass a DataLoader, a Dataset or a list of batches"
    )


def _of_loader(loader: DataLoader[Any], comm: Communicator) -> tuple[_Facts, Callable[[], Any]]:
    if sampler_that_deals_out(loader) is not None:
        raise TypeError(DEALS_OUT)
    if isinstance(loader.dataset, IterableDataset):
        return _of_iterable(loader, comm)
    batched = loader.batch_sampler is not None
    order = list(loader.batch_sampler if batched else loader.sampler)  # type: ignore[arg-type]
    if order != list(loader.batch_sampler if batched else loader.sampler):  # type: ignore[arg-type]
        raise ValueError(
            "the loader shuffles, so that ranks would deal out different batches: use shuffle=False"
        )
    facts: _Facts = {
        "the number of batches": len(order),
        # A checksum, as the order of a million samples need not travel.
        "the order of the data": zlib.crc32(str(order).encode()),
    }
    if comm.size > 1:
        samples = [sample for batch in order for sample in batch] if batched else order
        found = read_some(loader, [samples[place] for place in places(len(samples))])
        facts |= _looks("samples", len(found), found.__getitem__)
    mine = share(comm, len(order))
    part = order[mine.start : mine.stop]
    how: dict[str, Any] = (
        {"batch_sampler": part} if batched else {"batch_size": None, "sampler": part}
    )
    return facts, lambda: loader_like(loader, collate_fn=loader.collate_fn, **how)


def _of_iterable(data: Iterable[Any], comm: Communicator) -> tuple[_Facts, Callable[[], Any]]:
    # There is no other way to its length, and none to its middle.
    total, code = 0, 0
    for batch in data:
        total += 1
        if comm.size > 1:
            code = zlib.crc32(str(fingerprint(batch)).encode(), code)
    facts: _Facts = {"the number of batches": total, "the checksum of all batches": code}
    return facts, lambda: _Part(data, share(comm, total))


def _looks(unit: str, total: int, item: Callable[[int], Any]) -> _Facts:
    """Return a checksum of some of the data."""
    return {f"the checksum of some {unit}": checksum_of_some(total, item, fingerprint)}
