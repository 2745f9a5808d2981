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

__all__ = ["AddProducts", "measured_error"]

AddProducts: TypeAlias = Callable[[int, Any, Tensor, Tensor], object]
"""What adds a micro-batch's products with some rows to others, while the model is ready."""

_SEED = 0xBF16
_NUM_VECTORS = 3


def measured_error(
    objective: Objective, add: AddProducts, exact: Objective, add_exact: AddProducts
) -> tuple[float, str | None]:
    """Return the relative error of products, and why they are not to be used if so; collective.

    Of the first micro-batch of every rank, and three random vectors: the largest counts.

    Parameters
    ----------
    objective : Objective
        The loss in the lower precision.
    add : callable
        The products of that.
    exact : Objective
        The same loss in the precision of the model.
    add_exact : callable
        The products of that.

    Returns
    -------
    (float, str or None)
        The error, no less than one rounding of the lower precision. Products are not used where they
        are off by half their digits, are not symmetric or cannot be computed.

    Raises
    ------
    Exception
        What products in the precision of the model raise.
    """
    comm = objective.ranks.comm
    found, failure = jointly(comm, lambda: _compared(objective, add, exact, add_exact))
    error = max(float(table(comm, [found]).max()), objective.epsilon / 2)
    if math.isinf(error):
        return error, f"fails ({failure or 'on another rank'})"
    if error <= math.sqrt(objective.epsilon):
        return error, None
    return error, f"gives products that are off by {100 * error:.2g} % of their norm"


def _compared(
    objective: Objective, add: AddProducts, exact: Objective, add_exact: AddProducts
) -> tuple[float, str]:
    """Return the largest relative error on this rank; infinity and why if there is no product."""
    if not len(objective.batches):
        return 0.0, ""
    batch = next(objective.batches.here())
    domain = objective.domain
    generator = torch.Generator(device=domain.device).manual_seed(_SEED)
    shape = _NUM_VECTORS, domain.dim
    rows = torch.randn(shape, generator=generator, device=domain.device, dtype=domain.dtype)
    expected, found = torch.zeros_like(rows), torch.zeros_like(rows)
    with exact.ready():
        add_exact(0, batch, rows, expected)
    try:
        with objective.ready():
            add(0, batch, rows, found)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines() or ["without a reason"]
        return math.inf, f"{type(error).__name__}: {lines[0][:200]}"
    if not (expected.any() and expected.isfinite().all()):
        # Zeros say nothing, and what is not finite the product itself tells of.
        return 0.0, ""
    worst = float(relative_difference(found, expected).max())
    return (worst if math.isfinite(worst) else math.inf), "products that are not finite"
