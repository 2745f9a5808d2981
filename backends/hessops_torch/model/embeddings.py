"""Embeddings as functions of their weight that can be differentiated twice.

What PyTorch's embeddings do besides looking rows up is not the loss's: `sparse` chooses the format of
gradients, `scale_grad_by_freq` scales gradients that are then no gradients of the loss, and `max_norm`
writes into the weight. `EmbeddingBag` has no second derivative of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name

__all__ = ["bag", "plain_embeddings"]

_PLAIN: dict[str, Any] = {"sparse": False, "scale_grad_by_freq": False, "max_norm": None}


@contextmanager
def plain_embeddings(model: nn.Module) -> Iterator[None]:
    """Have a model's embeddings look up rows and do nothing else, and put them back.

    Parameters
    ----------
    model : torch.nn.Module
        The model.

    Yields
    ------
    None
        While they do.

    Raises
    ------
    ValueError
        If a row is longer than its `max_norm`, so that the forward pass would write into it.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    ]
    for name, module in found:
        _require_short_rows(name, module)
    before = [
        (module, {option: getattr(module, option) for option in _PLAIN}) for _, module in found
    ]
    # A forward of a subclass, or one that somebody hung on the module, is the user's own.
    bags = [
        module
        for _, module in found
        if isinstance(module, nn.EmbeddingBag)
        and type(module).forward is nn.EmbeddingBag.forward
        and "forward" not in vars(module)
    ]
    try:
        for module, _ in before:
            vars(module).update(_PLAIN)
        for module in bags:
            vars(module)["forward"] = partial(bag, module)
        yield
    finally:
        for module in bags:
            vars(module).pop("forward", None)
        for module, options in before:
            vars(module).update(options)


def bag(
    module: nn.EmbeddingBag,
    input: Tensor,  # noqa: A002 - as PyTorch calls it
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
) -> Tensor:
    """Return what an `EmbeddingBag` does, by operations that have a second derivative.

    Parameters
    ----------
    module : torch.nn.EmbeddingBag
        Its weight, mode and `padding_idx` count.
    input : torch.Tensor
        Indices, of shape (num_bags, length), or (total,) with offsets.
    offsets : torch.Tensor, optional
        Where bags begin.
    per_sample_weights : torch.Tensor, optional
        Of the shape of `input`.

    Returns
    -------
    torch.Tensor, shape (num_bags, width)
        The sum, mean or maximum of each bag; 0 for one that is empty.
    """
    indices, owners, count = _owners(module, input, offsets)
    rows = F.embedding(indices, module.weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    if module.padding_idx is not None:
        kept = indices != module.padding_idx
        rows, owners = rows[kept], owners[kept]
    empty = rows.new_zeros(count, rows.shape[1])
    if module.mode == "max":
        index = owners.unsqueeze(1).expand_as(rows)
        return empty.scatter_reduce(0, index, rows, "amax", include_self=False)
    sums = empty.index_add(0, owners, rows)
    if module.mode == "sum":
        return sums
    sizes = torch.bincount(owners, minlength=count).clamp(min=1)
    return sums / sizes.unsqueeze(1).to(sums.dtype)


def _owners(
    module: nn.EmbeddingBag, indices: Tensor, offsets: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """Return the indices in one row, the bag that each belongs to, and the number of bags."""
    if indices.ndim == 2:
        count, length = indices.shape
        bags = torch.arange(count, device=indices.device)
        return indices.reshape(-1), bags.repeat_interleave(length), count
    if offsets is None:
        raise ValueError("an EmbeddingBag takes offsets with indices of one axis")
    starts = offsets[:-1] if module.include_last_offset else offsets
    places = torch.arange(len(indices), device=indices.device)
    owners = torch.searchsorted(starts.contiguous(), places, right=True, out_int32=False) - 1
    return indices, owners, len(starts)


def _require_short_rows(name: str, module: nn.Embedding | nn.EmbeddingBag) -> None:
    if module.max_norm is None:
        return
    with torch.no_grad():
        longest = float(torch.linalg.vector_norm(module.weight, module.norm_type, dim=1).max())
    # What renormalising leaves is that long, to rounding.
    if longest > module.max_norm * (1 + 1e-5):
        raise ValueError(
            f"{name} has max_norm={module.max_norm:g} and a row of norm {longest:.6g}: its forward "
            f"pass would write into the weight. Do so first, by "
            f"{name}.weight.data.renorm_({module.norm_type:g}, 0, {module.max_norm:g}), or set "
            "max_norm to None"
        )
