"""What the model, the loss or autograd raise, as sentences that name the batch and say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hessops_torch.data.batch import describe_batch
from hessops_torch.losses.contract import BatchLoss, EvaluationError

__all__ = ["applying", "differentiating", "evaluate", "name_of"]


def evaluate(
    model: nn.Module, loss: BatchLoss, batch: Any, parameter: Tensor, name: str
) -> tuple[Tensor, Tensor | float]:
    """Return the sum of the loss over a micro-batch and its count, or say why there is none.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    loss : BatchLoss
        The loss.
    batch : object
        One micro-batch.
    parameter : torch.Tensor
        One of the model's parameters, whose dtype and device are shown beside those of the batch.
    name : str
        What to call the micro-batch.

    Returns
    -------
    (torch.Tensor, torch.Tensor or float)
        The sum and the count.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As what was raised; RuntimeError for all other kinds.
    """
    with applying(batch, parameter, name):
        return loss(model, batch)


@contextmanager
def applying(batch: Any, parameter: Tensor, name: str) -> Iterator[None]:
    """Say to which micro-batch the model or the loss cannot be applied, and what may be the reason.

    Parameters
    ----------
    batch : object
        One micro-batch.
    parameter : torch.Tensor
        One of the model's parameters, whose dtype and device are shown beside those of the batch.
    name : str
        What to call the micro-batch.

    Yields
    ------
    None
        While they are applied.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As what was raised; RuntimeError for all other kinds.
    """
    try:
        yield
    except EvaluationError as error:
        cause = error.__cause__
        reason = _text(cause) + (f"; {error.hint}" if error.hint else "") + _advice(cause)
        message = (
            f"the model or the loss cannot be applied to {name} ({describe_batch(batch)}; "
            f"parameters are {parameter.dtype} on {parameter.device}): {reason}"
        )
        for kind in (TypeError, ValueError):
            if isinstance(cause, kind):
                raise kind(message) from cause
        raise RuntimeError(message) from cause


@contextmanager
def differentiating(name: str) -> Iterator[None]:
    """Say of which micro-batch the loss cannot be differentiated twice, and what can be done.

    Parameters
    ----------
    name : str
        What to call the micro-batch.

    Yields
    ------
    None
        While autograd works.

    Raises
    ------
    RuntimeError
        With autograd's own message and an advice.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RuntimeError(
            f"the loss of {name} cannot be differentiated twice: {_text(error)}{_advice(error)}"
        ) from error


def name_of(index: int) -> str:
    """Return what messages call a micro-batch; they count from 0, as Python does."""
    return "the first batch" if index == 0 else f"micro-batch {index}"


_ADVICE = {
    "target with class probabilities": (
        "one-hot rows become classes by target.argmax(1), or probabilities by target.to(dtype), that "
        "of the parameters"
    ),
    "multi-target not supported": (
        "the target has an axis that the outputs have not: classes are one number a sample "
        "(target.squeeze(1) of a column), and where they are one for each "
        "position of a sequence, the outputs have to be (samples, classes, positions)"
    ),
    "xpected target size": (
        "classes are the second axis of the outputs, (samples, classes, positions), and the target is "
        "(samples, positions): transpose(1, 2) the outputs, or flatten both by "
        "hessops_torch.SplitLoss(forward, criterion, target)"
    ),
    "more than 1 value per channel": (
        "batch norm in train mode needs more than one sample: leave a last batch of one out "
        "(drop_last=True), or use mode='eval'"
    ),
    "aot_autograd": "pass the model as it was before torch.compile (its _orig_mod)",
    "checkpoint": "call torch.utils.checkpoint.checkpoint with use_reentrant=False",
    "_scaled_dot_product": (
        "the model asks for a fused attention kernel (torch.nn.attention.sdpa_kernel?): leave the "
        "choice out of its forward pass"
    ),
    "_embedding_bag": "use the module torch.nn.EmbeddingBag, or torch.nn.functional.embedding and sum",
    "not implemented": (
        "write what it names in operations that can be differentiated twice (hardsigmoid as "
        "torch.clamp(x / 6 + 0.5, 0, 1), cdist as the norm of differences), or put another in its place"
    ),
}


def _text(error: BaseException | None) -> str:
    # What is raised without a message has a name.
    return str(error).rstrip(". \n") or type(error).__name__


def _advice(error: BaseException | None) -> str:
    text = _text(error)
    for sign, advice in _ADVICE.items():
        if sign in text:
            return f"; {advice}"
    return ""
