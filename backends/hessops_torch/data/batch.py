"""One batch: tensors, and whatever else, in nested tuples, lists and mappings."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "bytes_of",
    "describe_batch",
    "fingerprint",
    "is_mapping",
    "leaves",
    "length_of",
    "map_tensors",
    "num_samples",
    "split_batch",
    "taken",
    "tensors_in",
    "versions",
]

_SHOWN = 6


def leaves(batch: Any) -> Iterator[Any]:
    """Yield everything that a nested tuple, list, mapping or dataclass holds."""
    if isinstance(batch, tuple | list):
        for part in batch:
            yield from leaves(part)
    elif _is_dataclass(batch):
        for field in fields(batch):
            yield from leaves(getattr(batch, field.name, None))
    elif not torch.is_tensor(batch) and is_mapping(batch):
        for key in batch.keys():  # noqa: SIM118 - a Hugging Face BatchEncoding iterates otherwise
            yield from leaves(batch[key])
    else:
        yield batch


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Yield every tensor of a nested tuple, list, mapping or dataclass."""
    return (leaf for leaf in leaves(batch) if torch.is_tensor(leaf))


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Apply a function to every tensor that `leaves` yields; keep everything else."""
    if torch.is_tensor(batch):
        return function(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, part) for part in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(map_tensors(function, part) for part in batch)
    if _is_dataclass(batch):
        return _mapped_dataclass(function, batch)
    if is_mapping(batch):
        return {key: map_tensors(function, batch[key]) for key in batch.keys()}  # noqa: SIM118
    return batch


def length_of(batch: Any) -> int:
    """Return the length of a batch's first tensor, 1 if it has none or that has no axis."""
    first = next(tensors_in(batch), None)
    return 1 if first is None or first.ndim == 0 else first.shape[0]


def num_samples(batch: Any) -> int | None:
    """Return the length of the first axis that all tensors of a batch share, None if they do not."""
    lengths = _lengths(batch)
    return next(iter(lengths)) if len(lengths) == 1 and 0 not in lengths else None


def taken(batch: Any, rows: Tensor) -> Any:
    """Return some samples of a batch."""
    return map_tensors(lambda tensor: tensor[rows.to(tensor.device)], batch)


def split_batch(batch: Any, size: int | None) -> Sequence[Any]:
    """Cut a batch along the first axis of all its tensors."""
    if size is None:
        return [batch]
    if any(tensor.layout != torch.strided for tensor in tensors_in(batch)):
        raise ValueError(
            "cannot split a batch with sparse or nested tensors; leave micro_batch_size out, or cut "
            "the data yourself"
        )
    length = num_samples(batch)
    if length is None:
        raise ValueError(
            "cannot split a batch whose tensors have first axes of lengths "
            f"{sorted(_lengths(batch))}; leave micro_batch_size out, or cut the data yourself"
        )
    return [
        map_tensors(lambda t, start=start: t[start : start + size], batch)  # type: ignore[misc]
        for start in range(0, length, size)
    ]


def versions(batch: Any) -> tuple[int, ...]:
    """Return numbers that change whenever a tensor of the batch is written to."""
    return tuple(t._version for t in tensors_in(batch) if not t.is_inference())


def fingerprint(batch: Any) -> int:
    """Return a checksum of the tensors, arrays, strings and numbers in a batch."""
    code = 0
    for leaf in leaves(batch):
        if torch.is_tensor(leaf) and leaf.is_nested and leaf.layout == torch.strided:
            raise TypeError(
                "a nested tensor of the data does not say what its samples are: give a list of "
                "tensors, or make it with layout=torch.jagged"
            )
        if torch.is_tensor(leaf):
            kind, content = f"{tuple(leaf.shape)}{leaf.dtype}", bytes_of(leaf)
        elif isinstance(leaf, np.ndarray) and leaf.dtype != object:
            kind, content = f"{leaf.shape}{leaf.dtype}", leaf.tobytes()
        elif isinstance(leaf, str | bytes | int | float | complex | np.generic | None):
            kind, content = type(leaf).__name__, repr(leaf).encode()
        else:  # It may be anything, such as an object made anew in every pass.
            kind, content = type(leaf).__name__, b"".join(map(bytes_of, _tensors_inside(leaf)))
        code = zlib.crc32(content, zlib.crc32(kind.encode(), code))
    return code


def bytes_of(tensor: Tensor) -> bytes:
    """Return the entries of a tensor on any device as bytes."""
    if tensor.is_meta:
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} is on the meta device, without values: give the "
            "data itself"
        )
    parts = _strided_parts(tensor.detach())
    if parts is not None:
        return b"".join(map(bytes_of, parts))
    data = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if not data.numel():
        return b""
    # A single entry counts as contiguous whatever its stride, with which it has no bytes.
    return data.as_strided(data.shape, (1,)).view(torch.uint8).numpy().tobytes()


def describe_batch(batch: Any) -> str:
    """Return shapes, dtypes and devices of what is in a batch, for messages."""
    found = [_describe_leaf(leaf) for leaf in islice(leaves(batch), _SHOWN + 1)]
    return ", ".join(found[:_SHOWN] + ["..."] * (len(found) > _SHOWN))


def is_mapping(batch: Any) -> bool:
    """Tell whether a batch is something with keys, of the library's own kind or not."""
    return hasattr(batch, "keys") and hasattr(batch, "__getitem__")


def _is_dataclass(batch: Any) -> bool:
    return is_dataclass(batch) and not isinstance(batch, type) and not torch.is_tensor(batch)


def _mapped_dataclass(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    mapped = copy(batch)
    for field in fields(batch):
        if hasattr(batch, field.name):
            # A frozen one has no other way, and what __init__ does with its fields is its own affair.
            object.__setattr__(
                mapped, field.name, map_tensors(function, getattr(batch, field.name))
            )
    return mapped


def _tensors_inside(leaf: Any) -> Iterator[Tensor]:
    """Yield the tensors that are attributes of an object: those of a batch of a class of one's own."""
    return tensors_in(list(getattr(leaf, "__dict__", {}).values()))


def _strided_parts(tensor: Tensor) -> Sequence[Tensor] | None:
    """Return what a sparse or nested tensor is made of, None for any other."""
    if tensor.is_nested:
        return list(tensor.unbind())
    if tensor.layout == torch.strided:
        return None
    if tensor.layout == torch.sparse_coo:
        # Indices of the same matrix may come in any order.
        tensor = tensor.coalesce()
        return tensor.indices(), tensor.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    raise TypeError(
        f"a tensor of the data has the layout {tensor.layout}, whose entries cannot be compared "
        "between two passes: convert it (tensor.to_dense())"
    )


def _lengths(batch: Any) -> set[int]:
    return {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors_in(batch)}


def _describe_leaf(leaf: Any) -> str:
    if torch.is_tensor(leaf):
        return f"{tuple(leaf.shape)} {leaf.dtype} on {leaf.device}"
    if isinstance(leaf, np.ndarray):
        return f"{leaf.shape} {leaf.dtype} of NumPy"
    return type(leaf).__name__
