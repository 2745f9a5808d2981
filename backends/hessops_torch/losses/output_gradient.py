"""The gradient of a loss by the outputs of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hessops_torch.losses.contract import OutputLoss

__all__ = ["output_gradient"]


def output_gradient(
    loss: OutputLoss, outputs: Tensor, batch: Any
) -> tuple[Tensor, Tensor | float, Tensor | None]:
    """Return the sum of a loss over a micro-batch, its count, and the sum's gradient by the outputs.

    Parameters
    ----------
    loss : OutputLoss
        The loss.
    outputs : torch.Tensor
        Of the model; their graph is not used.
    batch : object
        The micro-batch.

    Returns
    -------
    (torch.Tensor, torch.Tensor or float, torch.Tensor or None)
        Without graphs; no gradient if the loss does not depend on the outputs.
    """
    leaf = outputs.detach().requires_grad_()
    with torch.enable_grad():
        # Into a copy a loss may write (to mask logits, say).
        total, count = loss.of_outputs(leaf.clone(), batch)
    if not total.requires_grad:
        return total, count, None
    (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return total.detach(), count, None if gradient is None else gradient.detach()
