"""Losses as (sum, count) per batch, so that ragged batches and masks give the exact mean.

The mean loss over a data set is the sum of all batches' sums divided by the sum of all their counts.
Averaging the batches' means instead weighs a short last batch, or one with many masked tokens, wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, TypeAlias

from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name

from hessops_torch.losses.contract import BatchLoss
from hessops_torch.losses.criterion import CriterionLoss
from hessops_torch.losses.function import FunctionLoss, SplitLoss
from hessops_torch.model.precision import FULL, Calls

__all__ = ["Loss", "as_batch_loss"]

Loss: TypeAlias = nn.Module | SplitLoss | Callable[..., Any]
"""A standard criterion, a function of (model, batch) that returns (sum, count), or a `SplitLoss`."""


_FUNCTIONAL: dict[Any, type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
}


def as_batch_loss(loss: Loss, calls: Calls = FULL) -> BatchLoss:
    """Return what computes (sum, count) of a batch.

    Parameters
    ----------
    loss : torch.nn.Module or callable
        A criterion with a `reduction` of 'mean', 'sum' or 'batchmean', the functional form of one,
        or a function of (model, batch) that returns (sum, count).
    calls : Calls
        How it calls the model: in what precision.

    Returns
    -------
    BatchLoss
        Its `averages` says whether the total is to be divided by the count.

    Raises
    ------
    ValueError
        If a criterion has another reduction.
    TypeError
        If `loss` is neither.
    """
    found = _as_batch_loss(loss)
    if calls == found.calls:
        return found
    # A loss in two parts is the user's own, and may be that of other operators.
    found = copy(found)
    found.calls = calls
    return found


def _as_batch_loss(loss: Loss) -> CriterionLoss | SplitLoss | FunctionLoss:
    if isinstance(loss, SplitLoss) and loss.target is not None:
        return CriterionLoss(loss.loss, (loss.forward, loss.target))
    if isinstance(loss, SplitLoss):
        return loss
    if isinstance(loss, type):
        raise TypeError(
            f"the loss is the class {loss.__name__}: pass an instance, {loss.__name__}()"
        )
    for function, criterion in _FUNCTIONAL.items():
        if loss is function:
            return CriterionLoss(criterion())
    if hasattr(loss, "reduction"):
        return CriterionLoss(loss)
    if isinstance(loss, nn.Module):
        raise TypeError(
            f"{type(loss).__name__} has no 'reduction', so it does not say how it averages; pass a "
            "function of (model, batch) that returns (sum, count)"
        )
    if not callable(loss):
        raise TypeError(
            f"a loss must be a criterion or a function, got {type(loss).__name__}; pass one such as "
            "torch.nn.CrossEntropyLoss(), or a function of (model, batch) that returns (sum, count)"
        )
    return FunctionLoss(loss)
