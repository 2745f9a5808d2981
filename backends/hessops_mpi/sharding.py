"""A rank's part of some data."""

from __future__ import annotations

import sys
from typing import Any

from hessops.arrays import is_array
from hessops.comm import Communicator, require_communicator, share
from hessops.row_collectives import jointly
from hessops.some_of import SAME_DATA, checksum_of_some
from hessops.together import require_same

__all__ = ["shard"]


def shard(data: Any, comm: Communicator, *, batch_size: int = 128) -> Any:
    """Return this rank's part of the data; all parts together are all of it, each item once.

    Neighbours stay together, in the order of the ranks, and batches stay whole: so a network's operator
    has the same `terms()`, in the same order, for any number of ranks.

    Parameters
    ----------
    data : DataLoader, Dataset, list, array
        The same on every rank: what `hessops_torch.shard` takes of PyTorch's, a list of anything, or an
        array, of which each rank gets rows.
    comm : Communicator
        The ranks, such as ``hessops_mpi.world()``.
    batch_size : int
        Samples of a Dataset to deal out at a time: give hessops the same `micro_batch_size`.

    Returns
    -------
    DataLoader, Dataset, list or array
        As `data`; empty where there is less than one item for each rank.

    Raises
    ------
    ValueError
        On all ranks, if their data differs in length, or in any of at most 16 items (of arrays, rows)
        that are looked at: the first, the last and some between; or if a loader shuffles.
    TypeError
        On all ranks, if the data cannot be dealt out: one batch, or what can be read only once.

    Examples
    --------
    >>> import hessops_mpi
    >>> hessops_mpi.shard(["first", "second"], hessops_mpi.world())  # of one rank, all
    ['first', 'second']
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(
        data, torch.utils.data.DataLoader | torch.utils.data.Dataset
    ):
        from hessops_torch import shard as shard_for_torch

        return shard_for_torch(data, comm, batch_size=batch_size)
    require_communicator(comm)
    require_same(comm, jointly(comm, lambda: _facts(data)), SAME_DATA)
    mine = share(comm, len(data))
    return data[mine.start : mine.stop]


def _facts(data: Any) -> dict[str, object]:
    """Return what has to be the same on all ranks."""
    if isinstance(data, tuple) and data and is_array(data[0]):
        raise TypeError(
            "a tuple of arrays is one batch, which is not dealt out: pass a list of batches, or a "
            "torch.utils.data.TensorDataset"
        )
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or hasattr(data, "keys"):
        raise TypeError(
            f"cannot deal out {type(data).__name__}; pass a list, an array, a Dataset or a DataLoader"
        )
    return {
        "the length of the data": len(data),
        "the kind of data": type(data).__qualname__,
        "the checksum of some items": checksum_of_some(len(data), data.__getitem__),
    }
