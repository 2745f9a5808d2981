"""The shapes of a model's outputs over a data set."""

from __future__ import annotations

import torch

from hessops_torch.losses.contract import OutputLoss
from hessops_torch.losses.failures import applying, name_of
from hessops_torch.objective.objective import Objective

__all__ = ["output_shapes"]


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
    loss, parameter = objective.loss, next(iter(objective.parameters.values()))
    assert isinstance(loss, OutputLoss)
    shapes = []
    with objective.ready(), torch.no_grad():
        for index, batch in enumerate(objective.batches.here()):
            with applying(batch, parameter, name_of(index)):
                shapes.append(loss.outputs(objective.model, batch).shape)
    return tuple(shapes)
