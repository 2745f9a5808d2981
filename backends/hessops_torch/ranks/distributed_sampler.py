"""Loaders whose sampler deals out the data itself: not to be dealt out again, nor with repeats."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from hessops.comm import Communicator
from hessops.some_of import checksum_of_some, places
from hessops_torch.data.batch import fingerprint
from hessops_torch.ranks.loader_like import read_some

__all__ = ["DEALS_OUT", "facts_of_sampler", "sampler_that_deals_out"]

DEALS_OUT = (
    "the loader's DistributedSampler deals out already, and repeats samples so that ranks get "
    "equally many, which would weigh them twice: pass shard a loader without it"
)


def sampler_that_deals_out(data: Any) -> DistributedSampler[Any] | None:
    """Return the `DistributedSampler` of a loader, if it has one.

    Parameters
    ----------
    data : object
        Anything.

    Returns
    -------
    DistributedSampler or None
        Of single samples, or of those that a batch sampler puts together.
    """
    if not isinstance(data, DataLoader):
        return None
    owners = (data.sampler, data.batch_sampler, getattr(data.batch_sampler, "sampler", None))
    return next((owner for owner in owners if isinstance(owner, DistributedSampler)), None)


def facts_of_sampler(data: Any, comm: Communicator) -> dict[str, object]:
    """Return what has to be the same on all ranks, where a loader's sampler has dealt out its data.

    Parameters
    ----------
    data : object
        What a rank was given; nothing is said of other things than such loaders.
    comm : Communicator
        The ranks.

    Returns
    -------
    dict of str to object
        To be compared by all.

    Raises
    ------
    TypeError
        If the sampler repeats samples.
    ValueError
        If it deals out to other ranks than these.
    """
    sampler = sampler_that_deals_out(data)
    if comm.size == 1 or sampler is None:
        return {}
    if sampler.total_size > len(sampler.dataset):  # type: ignore[arg-type]
        raise TypeError(DEALS_OUT)
    if (sampler.num_replicas, sampler.rank) != (comm.size, comm.rank):
        raise ValueError(
            f"the loader's DistributedSampler deals out part {sampler.rank} of {sampler.num_replicas}, "
            f"and this is rank {comm.rank} of {comm.size}: pass it num_replicas=comm.size and "
            "rank=comm.rank"
        )
    total = len(sampler.dataset)  # type: ignore[arg-type]
    found = read_some(data, places(total))
    checksum = checksum_of_some(len(found), found.__getitem__, fingerprint)
    return {
        "the number of samples that DistributedSampler deals out": total,
        "the checksum of some of these samples": checksum,
        **{
            f"DistributedSampler.{name}": getattr(sampler, name)
            for name in ("shuffle", "seed", "epoch", "drop_last")
        },
    }
