"""How far products in a lower precision are off: held once against those of the model's precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hessops.row_collectives import jointly, table
from hessops_torch.graphs.cache import GraphCache
from hessops_torch.model.snapshot import places
from hessops_torch.objective.objective import Objective
from hessops_torch.products.difference import relative_difference

__all__ = ["AddProducts", "measured_error", "state_of"]

AddProducts: TypeAlias = Callable[[int, Any, Tensor, Tensor], object]
"""What adds a micro-batch's products with some rows to others, while the model is ready."""

_SEED = 0xBF16
_NUM_VECTORS = 3


def measured_error(
    objective: Objective,
    add: AddProducts,
    caches: Sequence[GraphCache[Any]],
    exact: Objective,
    add_exact: AddProducts,
) -> tuple[float, str | None]:
    """Return the relative error of products, and why they are not to be used if so; collective.

    Of three random vectors and the first micro-batch of every rank with which their products are not
    zero: the largest counts.

    Parameters
    ----------
    objective : Objective
        The loss in the lower precision.
    add : callable
        Its products.
    caches : sequence of GraphCache
        Their graphs, of a model that may have changed since.
    exact : Objective
        The same loss in the precision of the model.
    add_exact : callable
        Its products.

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
    # What is made in inference mode cannot be written to while the model is ready.
    with torch.inference_mode(mode=False):
        found, failure = jointly(comm, lambda: _compared(objective, add, caches, exact, add_exact))
    error = max(float(table(comm, [found]).max()), objective.epsilon / 2)
    if math.isinf(error):
        return error, f"fails ({failure or 'on another rank'})"
    if error <= math.sqrt(objective.epsilon):
        return error, None
    return error, f"gives products that are off by {100 * error:.2g} % of their norm"


def state_of(model: nn.Module) -> list[Any]:
    """Return what differs once a model has been trained, loaded or set to another mode.

    Parameters
    ----------
    model : torch.nn.Module
        The model.

    Returns
    -------
    list
        Modes of modules, and places and versions of tensors; no look at values.
    """
    modes = [module.training for module in model.modules()]
    return [*modes, *places(chain(model.parameters(), model.buffers()))]


def _compared(
    objective: Objective,
    add: AddProducts,
    caches: Sequence[GraphCache[Any]],
    exact: Objective,
    add_exact: AddProducts,
) -> tuple[float, str]:
    """Return the largest relative error on this rank; infinity and why if there is no product."""
    domain = objective.domain
    generator = torch.Generator(device=domain.device).manual_seed(_SEED)
    shape = _NUM_VECTORS, domain.dim
    rows = torch.randn(shape, generator=generator, device=domain.device, dtype=domain.dtype)
    for index, batch in enumerate(objective.batches.here()):
        expected, found = torch.zeros_like(rows), torch.zeros_like(rows)
        with exact.ready():
            add_exact(index, batch, rows, expected)
        try:
            with objective.ready(*caches):
                add(index, batch, rows, found)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or ["without a reason"]
            return math.inf, f"{type(error).__name__}: {lines[0][:200]}"
        if not expected.isfinite().all():
            return 0.0, ""  # The product itself tells of it.
        if expected.any():
            worst = float(relative_difference(found, expected).max())
            return (worst if math.isfinite(worst) else math.inf), "products that are not finite"
        # Zeros say nothing: the parameters take no part in this micro-batch.
    return 0.0, ""
