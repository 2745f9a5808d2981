"""How far products in a lower precision are off: held once against those of the model's precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hessops.row_collectives import jointly, table
from hessops_torch.objective.objective import Objective
from hessops_torch.products.difference import relative_difference

__all__ = ["AddProducts", "objection", "product_error"]

AddProducts: TypeAlias = Callable[[int, Any, Tensor, Tensor], object]
"""What adds a micro-batch's products with some rows to others, while the model is ready."""

_SEED = 0xBF16
_NUM_VECTORS = 3


def product_error(
    objective: Objective, add: AddProducts, exact: Objective, add_exact: AddProducts
) -> float:
    """Return the relative error of products; collective.

    Of the first micro-batch of every rank, and three random vectors: the largest counts.

    Parameters
    ----------
    objective, exact : Objective
        The same loss, in the lower precision and in that of the model.
    add, add_exact : callable
        The products of either.

    Returns
    -------
    float
        No less than one rounding of the lower precision.
    """

    def found() -> float:
        if not len(objective.batches):
            return 0.0
        batch = next(objective.batches.here())
        domain = objective.domain
        generator = torch.Generator(device=domain.device).manual_seed(_SEED)
        shape = _NUM_VECTORS, domain.dim
        rows = torch.randn(shape, generator=generator, device=domain.device, dtype=domain.dtype)
        products = []
        for each, multiply in ((objective, add), (exact, add_exact)):
            out = torch.zeros_like(rows)
            with each.ready():
                multiply(0, batch, rows, out)
            products.append(out)
        error = float(relative_difference(*products).max())
        # Products of zeros say nothing, and what is not finite the product itself tells of.
        return error if math.isfinite(error) else 0.0

    comm = objective.ranks.comm
    return max(float(table(comm, [jointly(comm, found)]).max()), objective.epsilon / 2)


def objection(objective: Objective, error: float) -> str | None:
    """Return why products of such an error are not to be used, None if they are.

    Parameters
    ----------
    objective : Objective
        In the lower precision.
    error : float
        Their relative error.

    Returns
    -------
    str or None
        They may be off by half their digits.
    """
    if error <= math.sqrt(objective.epsilon):
        return None
    return f"gives products that are off by {100 * error:.2g} % of their norm"
