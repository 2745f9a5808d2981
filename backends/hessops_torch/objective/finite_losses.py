"""A loss that is NaN or infinite is told of, with the micro-batch that it is the loss of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hessops.errors import NonFiniteError
from hessops_torch.graphs.cache import GraphCache
from hessops_torch.losses.failures import name_of

__all__ = ["require_finite_losses"]


def require_finite_losses(
    totals: Sequence[Tensor | None], cache: GraphCache[Any] | None = None, first: int = 0
) -> None:
    """Raise if a loss that was computed is NaN or infinite, by one synchronisation.

    Parameters
    ----------
    totals : sequence of torch.Tensor or None
        Of micro-batches, in their order; None for what was not computed.
    cache : GraphCache, optional
        Emptied then: of a graph that is kept nobody would hear again.
    first : int
        Index of the first of them.

    Raises
    ------
    NonFiniteError
        Naming the micro-batch.
    """
    computed = {first + i: total for i, total in enumerate(totals) if total is not None}
    if not computed:
        return
    values = torch.stack([total.to(torch.float64) for total in computed.values()]).tolist()
    for index, value in zip(computed, values, strict=True):
        if not math.isfinite(value):
            if cache is not None:
                cache.clear()
            raise NonFiniteError(
                f"the loss of {name_of(index)} is {value}: look for NaN or infinity in its data, "
                "and for a division or a logarithm of 0 in the model or the loss"
            )
