"""What all functions that make operators take, put together in one place."""

from __future__ import annotations

from typing import Any

from torch import nn

from hessops.comm import Communicator
from hessops_torch.losses.loss import Loss
from hessops_torch.model.precision import Precision
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.objective import Objective

__all__ = ["objective_of"]


def objective_of(
    model: nn.Module,
    loss: Loss,
    data: Any,
    params: ParameterSelection,
    mode: Mode | None,
    micro_batch_size: int | None,
    memory_budget: int | None,
    comm: Communicator | None = None,
    precision: Precision | None = None,
) -> Objective:
    """Return the objective of an operator, from a function's arguments of these names.

    Parameters
    ----------
    model, loss, data, params, mode, micro_batch_size, memory_budget, comm, precision : object
        As `Objective` takes them.

    Returns
    -------
    Objective
        Model, loss and data.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As for `Objective`.
    """
    return Objective(
        model,
        loss,
        data,
        params=params,
        mode=mode,
        micro_batch_size=micro_batch_size,
        memory_budget=memory_budget,
        precision=precision,
        comm=comm,
    )
