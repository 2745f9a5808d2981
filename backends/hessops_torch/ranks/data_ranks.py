"""Data that is dealt out to ranks: how many micro-batches each has, and sums over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessops.arrays import to_numpy
from hessops.comm import Communicator
from hessops.together import hear, number_to_tell, require_same
from hessops_torch.losses.contract import BatchLoss
from hessops_torch.ranks.facts import facts_of_loss, facts_of_modules, facts_of_weights

__all__ = ["DataRanks", "as_floats", "ranks_beside"]


class DataRanks:
    """Who has which micro-batches of a data set, in the order of the ranks.

    Collective, as all methods but the properties are.

    Parameters
    ----------
    comm : Communicator
        The ranks; each of them has the model, and some of the data.
    count : int
        Micro-batches of this rank; 0 is fine.
    checksum : int
        Of its data.

    Raises
    ------
    ValueError
        On all ranks, if none has data, or all have the same.
    """

    def __init__(self, comm: Communicator, count: int, checksum: int) -> None:
        self.comm = comm
        table = np.zeros((comm.size, 2))
        table[comm.rank] = count, checksum
        counts, checksums = to_numpy(comm.all_reduce(table)).astype(int).T
        if not counts.any():
            raise ValueError(
                "the data of all ranks is empty: there is no batch to compute a loss on"
            )
        if comm.size > 1 and len(set(checksums.tolist())) == 1:
            raise ValueError(
                "every rank was given the same data, which would count as often as there are ranks: "
                "give each its part, by shard(data, comm)"
            )
        self.holders: list[int] = np.repeat(np.arange(comm.size), counts).tolist()
        self.first = int(counts[: comm.rank].sum())
        self.count = count

    @property
    def total(self) -> int:
        """Return the number of micro-batches of all ranks."""
        return len(self.holders)

    def gathered(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """Return one number for every micro-batch of all ranks, of one for each of this rank's."""
        if self.comm.size == 1:
            return tuple(numbers)
        table = np.zeros(self.total)
        table[self.first : self.first + self.count] = numbers
        return tuple(to_numpy(self.comm.all_reduce(table)).tolist())

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        if self.comm.size == 1:
            return flag
        return bool(to_numpy(self.comm.all_reduce(np.array([float(flag)])))[0] > 0)

    def buffer(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return zeros to add products to, and the buffer that they are part of."""
        extra = self.comm.size + 1 if self.comm.size > 1 else 0
        flat = torch.zeros(like.numel() + extra, dtype=like.dtype, device=like.device)
        return flat[: like.numel()].view(like.shape), flat

    def summed(
        self, out: Tensor, flat: Tensor, error: Exception | None, missing: bool, of: Tensor
    ) -> tuple[Tensor, bool]:
        """Return the sum of products over ranks, by one reduction of one flat buffer.

        Parameters
        ----------
        out, flat : torch.Tensor
            From `buffer`, with this rank's products.
        error : Exception or None
            What kept this rank from making them.
        missing : bool
            Whether this rank does not know the counts of all micro-batches.
        of : torch.Tensor, shape (k, n)
            What was multiplied, of which all ranks have to have the same copy.

        Returns
        -------
        (torch.Tensor, bool)
            The sum, and whether any rank misses the counts.

        Raises
        ------
        Exception
            On all ranks if there was an error on any, or if they have multiplied other blocks.
        """
        if self.comm.size == 1:
            if error is not None:
                raise error
            return out, missing
        size = out.numel()
        if error is not None:
            out.zero_()
        flat[size + self.comm.rank] = number_to_tell(error, of.T)
        flat[-1] = missing
        total: Any = self.comm.all_reduce(flat)
        flags = total[size:].cpu().to(torch.float64).numpy()
        hear(self.comm, flags[:-1], error, torch.finfo(flat.dtype).eps)
        products: Tensor = total[:size].view(out.shape)
        return products, bool(flags[-1] > 0)

    def require_same(self, facts: Mapping[str, object]) -> None:
        """Raise on all ranks if they were called with different models or options."""
        hint = "pass the same on every rank; only the data is dealt out"
        require_same(self.comm, facts, hint)

    def require_same_model(self, model: nn.Module, mode: str | None) -> None:
        """Raise on all ranks if their models differ: in modules, weights, or what else they compute by.

        Parameters
        ----------
        model : torch.nn.Module
            Its modules, parameters and buffers are looked at.
        mode : {'eval', 'train'} or None
            Of all its modules during products; as they stand if None.
        """
        self.require_same(facts_of_modules(model, mode))
        hint = (
            "the ranks have different weights. Load the same on every rank, or seed alike "
            "(torch.manual_seed) before the model is made"
        )
        require_same(self.comm, facts_of_weights(model, mode), hint)

    def require_same_loss(self, loss: BatchLoss) -> None:
        """Raise on all ranks if their losses differ: in kind, or in settings and weights of modules."""
        self.require_same(facts_of_loss(loss))


def ranks_beside(comm: Communicator) -> int:
    """Return how many ranks share this machine, as far as the communicator says; collective."""
    return comm.local_size() if hasattr(comm, "local_size") else 1


def as_floats(counts: Sequence[Tensor | float]) -> tuple[float, ...]:
    """Return counts as numbers of the host, by one synchronisation."""
    tensors = [count.to(torch.float64) for count in counts if torch.is_tensor(count)]
    on_host = iter(torch.stack(tensors).tolist() if tensors else [])
    return tuple(next(on_host) if torch.is_tensor(count) else count for count in counts)
