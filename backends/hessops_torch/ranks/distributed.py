"""The processes of torch.distributed as ranks: gloo on CPUs, NCCL on GPUs, started by ``torchrun``."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hessops.arrays import Array
from hessops.comm import Communicator, SerialComm

__all__ = ["TorchComm", "distributed_comm", "rank_device"]

T = TypeVar("T")
_TIMEOUT = 1800.0


def distributed_comm(*, timeout: float = _TIMEOUT) -> Communicator:
    """Return the communicator of all processes that ``torchrun`` has started; collective.

    The process group is made if there is none: gloo for tensors in the host's memory, NCCL for those on
    GPUs, of which each process gets one, by its number on its machine.

    Parameters
    ----------
    timeout : float
        Seconds that a process may wait for the others in one collective, of a process group that is
        made here; it raises then, and ``torchrun`` ends all.

    Returns
    -------
    Communicator
        To pass as ``comm`` to `hessian` and `shard`; of one process, where there is no ``torchrun``.

    Raises
    ------
    ValueError
        If the time-out is not positive.

    Examples
    --------
    >>> import hessops_torch
    >>> hessops_torch.distributed_comm()  # without torchrun
    SerialComm()
    """
    if not timeout > 0:
        raise ValueError(f"timeout={timeout} must be a positive number of seconds")
    if not dist.is_available() or not (dist.is_initialized() or "RANK" in os.environ):
        return SerialComm()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if not dist.is_initialized():
        dist.init_process_group(timeout=timedelta(seconds=timeout))
        atexit.register(dist.destroy_process_group)
    return TorchComm()


def rank_device(comm: Communicator) -> torch.device:
    """Return the device of this rank: one GPU for each rank of a machine, or the CPU; collective.

    Parameters
    ----------
    comm : Communicator
        The ranks: `distributed_comm`, or ``hessops_mpi.world()``.

    Returns
    -------
    torch.device
        Where to move the model. If it is a GPU, it is made the current one, too. Ranks in excess of a
        machine's GPUs share them.

    Examples
    --------
    >>> import hessops, hessops_torch
    >>> device = hessops_torch.rank_device(hessops.SerialComm())
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = comm.local_rank() if hasattr(comm, "local_rank") else 0
    device = torch.device("cuda", local % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


class TorchComm:
    """The ranks of a process group; `distributed_comm` makes that of all processes.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        All processes where not given.

    Raises
    ------
    RuntimeError
        If ``torch.distributed`` has not been initialized.
    """

    # Rows of blocks, too: for `hessops.row_collectives`, which otherwise goes by the host.
    sends_tensors = True

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise RuntimeError(
                "there is no process group: start the program by torchrun and use "
                "hessops_torch.distributed_comm()"
            )
        self.group = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)
        # Of NCCL alone; by default a process group has gloo for the host's tensors, too.
        self._on_gpu_alone = dist.get_backend(group) == "nccl"

    def local_rank(self) -> int:
        """Return the number of this process among those on its machine, as ``torchrun`` says."""
        return int(os.environ.get("LOCAL_RANK", self.rank))

    def local_size(self) -> int:
        """Return the number of processes on this machine, as ``torchrun`` says; 1 where it does not."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def all_reduce(self, array: Array) -> Array:
        """Return the sum of `array` over all ranks, the same bits on every rank.

        Parameters
        ----------
        array : array
            A tensor on any device, or an array of NumPy; the same shape and dtype on every rank.

        Returns
        -------
        array
            A new one, of the same library, device, shape and dtype.
        """
        if self.size == 1:
            return array
        given: Any = array
        tensor = given.detach() if torch.is_tensor(given) else torch.as_tensor(given)
        buffer = tensor.to(self._device(tensor), copy=True, memory_format=torch.contiguous_format)
        if buffer.numel():
            # NCCL has no complex numbers.
            parts = torch.view_as_real(buffer) if buffer.is_complex() else buffer
            dist.all_reduce(parts, group=self.group)
        total = buffer.to(tensor.device)
        reduced: Any = total if torch.is_tensor(given) else total.numpy()
        return reduced  # type: ignore[no-any-return]

    def broadcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank.

        Parameters
        ----------
        value : object
            Anything small that can be pickled.

        Returns
        -------
        object
            Rank 0's own, copies of it elsewhere.
        """
        if self.size == 1:
            return value
        root = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        box = [value]
        dist.broadcast_object_list(box, src=root, group=self.group)
        return value if self.rank == 0 else box[0]

    def all_gather_rows(self, X: Array, counts: Sequence[int]) -> Array:
        """Return the rows of all ranks below each other, without a way by the host.

        Parameters
        ----------
        X : array, shape (counts[rank], k)
            A tensor on any device, or an array of NumPy.
        counts : sequence of int
            Rows of every rank. They are filled up to the most that any has, on the way.

        Returns
        -------
        array, shape (sum(counts), k)
            Of the library, device and dtype of `X`.
        """
        own, give_back = self._ready(X)
        most = max(counts)
        padded = own.new_zeros((most, *own.shape[1:]))
        padded[: own.shape[0]] = own
        together = padded.new_empty((self.size * most, *padded.shape[1:]))
        if together.numel():
            dist.all_gather_into_tensor(together, padded, group=self.group)
        parts = torch.split(together, most) if most else [together]
        whole = [part[:count] for part, count in zip(parts, counts, strict=False)]
        return give_back(torch.cat(whole))

    def reduce_scatter_rows(self, X: Array, counts: Sequence[int]) -> Array:
        """Return this rank's rows of the sum of all ranks' blocks, without a way by the host.

        Parameters
        ----------
        X : array, shape (sum(counts), k)
            A tensor on any device, or an array of NumPy.
        counts : sequence of int
            Rows of every rank. They are filled up to the most that any has, on the way.

        Returns
        -------
        array, shape (counts[rank], k)
            Of the library, device and dtype of `X`.
        """
        block, give_back = self._ready(X)
        if block.device.type == "cpu":
            # Gloo sums all of it anyway, where it knows this collective.
            total = block.clone()
            if total.numel():
                dist.all_reduce(total, group=self.group)
            return give_back(torch.split(total, list(counts))[self.rank].clone())
        most = max(counts)
        padded = block.new_zeros((self.size, most, *block.shape[1:]))
        for rank, rows in enumerate(torch.split(block, list(counts))):
            padded[rank, : counts[rank]] = rows
        own = padded.new_empty(padded.shape[1:])
        if own.numel():
            dist.reduce_scatter_tensor(own, padded.flatten(0, 1), group=self.group)
        return give_back(own[: counts[self.rank]])

    def _ready(self, X: Any) -> tuple[Tensor, Callable[[Tensor], Array]]:
        """Return real numbers in memory that the group sends, and what turns such into an `X` again."""
        tensor = X.detach() if torch.is_tensor(X) else torch.as_tensor(X)
        moved = tensor.to(self._device(tensor)).contiguous()
        # NCCL has no complex numbers.
        real = torch.view_as_real(moved) if moved.is_complex() else moved

        def give_back(result: Tensor) -> Any:
            block = torch.view_as_complex(result) if moved.is_complex() else result
            home = block.to(tensor.device)
            return home if torch.is_tensor(X) else home.numpy()

        return real, give_back

    def _device(self, tensor: Tensor) -> torch.device:
        on_host = tensor.device.type == "cpu"
        return torch.device("cuda") if on_host and self._on_gpu_alone else tensor.device

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TorchComm) and self.group is other.group

    def __hash__(self) -> int:
        return hash((TorchComm, id(self.group)))

    def __repr__(self) -> str:
        return f"TorchComm(rank {self.rank} of {self.size})"
