"""Losses that are linear in the outputs of a model, of which the Gauss-Newton matrix is zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hessops.row_collectives import jointly
from hessops_torch.losses.contract import OutputLoss
from hessops_torch.losses.criterion import CriterionLoss
from hessops_torch.losses.failures import differentiating, name_of
from hessops_torch.losses.output_hessian import differentiated
from hessops_torch.objective.objective import Objective

__all__ = ["require_curvature"]

_SEED = 0x66E
_LINEAR = (nn.NLLLoss, nn.KLDivLoss, nn.L1Loss)


def require_curvature(objective: Objective, loss: OutputLoss) -> None:
    """Raise on all ranks if a loss is linear in the outputs; collective.

    Of PyTorch's criteria it is known. Any other loss is so if it has no second derivative at the
    outputs for any batch, nor near by: where it is linear in pieces, it may have some later.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    loss : OutputLoss
        The loss in two parts.

    Raises
    ------
    ValueError
        If it is.
    """
    criterion = loss.criterion if isinstance(loss, CriterionLoss) else None
    of_torch = type(criterion).__module__.startswith("torch.nn.")
    if type(criterion) not in _LINEAR:
        ranks = objective.ranks
        if of_torch or ranks.any(jointly(ranks.comm, lambda: _curves(objective, loss))):
            return
    raise ValueError(
        "the loss is linear in the model's outputs, so that the Gauss-Newton matrix would be zero; if "
        "the outputs are log-probabilities (NLLLoss after log_softmax), take the logits for outputs: "
        "CrossEntropyLoss, or hessops_torch.SplitLoss(forward, loss)"
    )


def _curves(objective: Objective, loss: OutputLoss) -> bool:
    """Tell whether the loss has a second derivative for any batch of this rank."""
    with objective.ready():
        return any(
            _curves_at(objective, loss, index, batch)
            for index, batch in enumerate(objective.batches.here())
        )


def _curves_at(objective: Objective, loss: OutputLoss, index: int, batch: Any) -> bool:
    with torch.no_grad(), objective.applying(index, batch):
        outputs = loss.outputs(objective.model, batch)
    generator = torch.Generator(outputs.device).manual_seed(_SEED)
    noise = torch.empty_like(outputs).normal_(generator=generator)
    for place in (outputs, outputs + noise):
        with objective.applying(index, batch):
            hessian = differentiated(loss, place, batch)
        with differentiating(name_of(index)):
            if bool(torch.count_nonzero(hessian(noise[None]))):
                return True
    return False
