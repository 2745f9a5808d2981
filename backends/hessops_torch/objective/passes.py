"""What a pass over all the data tells of an objective: shapes of outputs, and the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from hessops_torch.losses.contract import OutputLoss
from hessops_torch.losses.failures import differentiating, name_of
from hessops_torch.model.parameters import add_pieces
from hessops_torch.objective.objective import Objective

__all__ = ["output_shapes", "summed_gradient"]


def output_shapes(objective: Objective) -> tuple[torch.Size, ...]:
    """Return the shapes of the outputs for this rank's micro-batches, by a forward pass over them.

    Parameters
    ----------
    objective : Objective
        Its loss is in two parts.

    Returns
    -------
    tuple of torch.Size
        One per micro-batch; of one process, of all the data.
    """
    loss = objective.loss
    assert isinstance(loss, OutputLoss)
    shapes = []
    with objective.ready(), torch.no_grad():
        for index, batch in enumerate(objective.batches.here()):
            with objective.applying(index, batch):
                shapes.append(loss.outputs(objective.model, batch).shape)
    return tuple(shapes)


def summed_gradient(objective: Objective) -> tuple[Tensor, list[Tensor], list[Tensor | float]]:
    """Return the gradient of the loss summed over this rank's data, while the model is ready.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.

    Returns
    -------
    (torch.Tensor, list of torch.Tensor, list of torch.Tensor or float)
        The gradient as a flat vector, and the sum of the loss and the count of every micro-batch.
    """
    parameters = list(objective.parameters.values())
    sizes = [parameter.numel() for parameter in parameters]
    gradient = objective.domain.zeros(1)[:, 0]
    totals: list[Tensor] = []
    counts: list[Tensor | float] = []
    for index, batch in enumerate(objective.batches.here()):
        total, count = objective.evaluate(index, batch)
        totals.append(total.detach())
        counts.append(count)
        if total.requires_grad:
            with differentiating(name_of(index)):
                found = torch.autograd.grad(total, parameters, allow_unused=True)
            add_pieces(torch.split(gradient, sizes), found)
    return gradient, totals, counts
