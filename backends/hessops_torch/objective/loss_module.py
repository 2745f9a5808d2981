"""A model as its loss uses it, as one module, for function transforms that exchange its parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hessops_torch.losses.contract import OutputLoss
from hessops_torch.objective.objective import Objective

__all__ = ["LossModule", "OutputsModule"]


class LossModule(nn.Module):
    """The loss of a micro-batch as a module, whatever the loss does with the model.

    Parameters are those of the model, by their names after ``model.``; parameters that the loss may
    have of its own stay where they are.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model = objective.model
        self.objective = objective

    def forward(self, index: int, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a micro-batch and its count."""
        return self.objective.evaluate(index, batch)


class OutputsModule(nn.Module):
    """The outputs of a model as a module of the batch.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters have their names after ``model.``.
    loss : OutputLoss
        Knows how to apply it to a batch.
    """

    def __init__(self, model: nn.Module, loss: OutputLoss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Any) -> Tensor:
        """Return the outputs."""
        return self.loss.outputs(self.model, batch)
