"""Data as a fixed sequence of micro-batches on the device, the same in every pass."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hessops_torch.data.batch import (
    describe_batch,
    fingerprint,
    is_mapping,
    map_tensors,
    split_batch,
    tensors_in,
    versions,
)
from hessops_torch.data.copies import ahead, to_device
from hessops_torch.data.random_state import preserved_global_rng

__all__ = ["MicroBatches"]

_DATASET_BATCH = 128


class MicroBatches:
    """Batches, cut into micro-batches, in an order and with contents that never change.

    What fits the budget is kept on the device; a larger source is read again in every pass, and each
    batch held against what it was in the first.

    Parameters
    ----------
    data : DataLoader, Dataset, sequence of batches, or one batch as a tuple of tensors
        The source.
    device : torch.device
        Where to put the batches.
    micro_batch_size : int, optional
        Most samples to a micro-batch; batches stay whole where not given.
    memory_budget : int
        Most bytes of data to keep on the device.
    is_part : bool
        Other ranks have more of the data, or all of it.

    Raises
    ------
    ValueError
        If there is no batch, or two passes over the source differ.
    TypeError
        If the source can be read only once or not at all.
    """

    def __init__(
        self,
        data: Any,
        device: torch.device,
        micro_batch_size: int | None,
        memory_budget: int,
        *,
        is_part: bool = False,
    ) -> None:
        self.device = device
        self.is_part = is_part
        self.micro_batch_size = micro_batch_size
        self._source = _as_source(data, micro_batch_size, is_part)
        self._resident: list[Any] | None = []
        self._prints: list[int] = []
        self._versions: list[tuple[int, ...]] = []
        self._count = 0
        with preserved_global_rng():
            self._read(memory_budget)
            if not (self._prints or is_part):
                raise ValueError("the data is empty: there is no batch to compute a loss on")
            # Drawn again without putting the random state back, as in the user's own loop.
            if not isinstance(self._source, list | tuple):
                for _ in self._checked_pass():
                    pass

    def __iter__(self) -> Iterator[Any]:
        if self.is_part:
            raise RuntimeError(
                "this needs all the data in one process, and only products with operators know how to "
                "add up what ranks have: make it without comm, of all the data"
            )
        return self.here()

    def here(self) -> Iterator[Any]:
        """Yield the batches of this rank, for who adds up over ranks; of one process, all."""
        if self._resident is not None:
            self._require_untouched(self._resident)
            yield from self._resident
            return
        batches = _with_global_rng_preserved(self._checked_pass())
        parts = (part for batch in batches for part in split_batch(batch, self.micro_batch_size))
        yield from ahead(parts, self.device)

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        # Copies have versions of their own, by which nobody could tell what was written before.
        if self._resident is not None:
            self._require_untouched(self._resident)
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._resident is not None:
            self._versions = [versions(batch) for batch in self._resident]

    def checksum(self) -> int:
        """Return a number that tells the data from other data."""
        return zlib.crc32(repr(self._prints).encode())

    @property
    def resident(self) -> list[Any] | None:
        """Return the micro-batches that stay on the device, None if they are read in every pass."""
        return self._resident

    def _read(self, memory_budget: int) -> None:
        used = 0
        for batch in self._source:
            checksum = fingerprint(batch)
            _require_samples(batch, len(self._prints))
            self._prints.append(checksum)
            used += sum(t.numel() * t.element_size() for t in tensors_in(batch))
            parts = split_batch(batch, self.micro_batch_size)
            self._count += len(parts)
            if self._resident is not None and used > memory_budget:
                self._resident = None
            if self._resident is not None:
                self._resident.extend(map_tensors(self._on_device, part) for part in parts)
        if self._resident is not None:
            self._versions = [versions(batch) for batch in self._resident]

    def _require_untouched(self, batches: Sequence[Any]) -> None:
        for index, (batch, before) in enumerate(zip(batches, self._versions, strict=True)):
            if versions(batch) != before:
                raise ValueError(
                    f"micro-batch {index} was written to since the operator was made: leave the data "
                    "as it is, pass a copy, or make the operator again"
                )

    def _checked_pass(self) -> Iterator[Any]:
        count = 0
        for index, batch in enumerate(self._source):
            if index >= len(self._prints) or fingerprint(batch) != self._prints[index]:
                raise ValueError(_difference(index))
            count += 1
            yield batch
        if count < len(self._prints):
            raise ValueError(_difference(count))

    def _on_device(self, tensor: Tensor) -> Tensor:
        return to_device(tensor, self.device)


def _with_global_rng_preserved(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield from an iterator whose own draws leave no trace, without touching the consumer's."""
    while True:
        with preserved_global_rng():
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


def _as_source(data: Any, micro_batch_size: int | None, may_be_empty: bool) -> Iterable[Any]:
    if isinstance(data, tuple) and data and isinstance(data[0], Tensor | np.ndarray):
        return [data]
    if isinstance(data, list | tuple):
        return data
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, Dataset) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        if len(data) == 0:
            if may_be_empty:
                return []
            raise ValueError("the data set is empty")
        return DataLoader(data, batch_size=micro_batch_size or _DATASET_BATCH, shuffle=False)
    if is_mapping(data):
        raise TypeError(f"{type(data).__name__} is one batch, not a list of batches; pass [batch]")
    if isinstance(data, Iterator):
        raise TypeError(
            f"{type(data).__name__} can be read once, and every product reads the data; pass "
            "list(...) of it"
        )
    if (
        isinstance(data, Iterable)
        and not isinstance(data, str | bytes)
        and not torch.is_tensor(data)
    ):
        return data
    raise TypeError(
        f"cannot read batches from {type(data).__name__}; pass a DataLoader, a Dataset, a list of "
        "batches, or one batch (inputs, targets)"
    )


def _require_samples(batch: Any, index: int) -> None:
    lengths = {t.shape[0] for t in tensors_in(batch) if t.ndim}
    if lengths == {0}:
        name = "the first batch" if index == 0 else f"batch {index}"
        raise ValueError(
            f"{name} is empty ({describe_batch(batch)}): leave it out, or look at why the source gives "
            "one without samples (a filter, a sampler, a last batch)"
        )


def _difference(index: int) -> str:
    return (
        f"two passes over the data differ, first in batch {index}: a Hessian needs the same data in "
        "every product. Turn off shuffling (shuffle=False) and random augmentation, or draw once and "
        "pass the list: list(loader)"
    )
