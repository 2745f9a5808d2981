"""What operators need of a loss: its sum over a batch and a count, and its two parts if it has them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = [
    "BatchLoss",
    "EvaluationError",
    "OutputLoss",
    "describe_value",
    "of_the_user",
    "require_outputs",
    "require_scalar",
    "sum_and_count",
]


class BatchLoss(Protocol):
    """What the operators need of a loss."""

    @property
    def averages(self) -> bool:
        """Return whether the total is to be divided by the count."""

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return the objects whose attributes make the loss what it is."""

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch and the count to divide by."""


@runtime_checkable
class OutputLoss(BatchLoss, Protocol):
    """A loss that is known in two parts: outputs of the model, and a function of them."""

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the model's outputs for a batch."""

    def of_outputs(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch, by its outputs, and the count to divide by."""


class EvaluationError(Exception):
    """The model or the loss raised the chained exception.

    Parameters
    ----------
    hint : str
        How it was called, where that may be the reason.
    """

    def __init__(self, hint: str) -> None:
        super().__init__(hint)
        self.hint = hint


@contextmanager
def of_the_user(hint: str) -> Iterator[None]:
    """Mark what the model or the loss raises, to be told from what is raised here.

    Parameters
    ----------
    hint : str
        How they are called, which may be the reason.

    Yields
    ------
    None
        While they run.

    Raises
    ------
    EvaluationError
        Chained to what was raised.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (TypeError, AttributeError) as error:
        raise EvaluationError(hint) from error
    except (RuntimeError, ValueError, LookupError) as error:
        raise EvaluationError("") from error


def require_outputs(loss: BatchLoss, what: str) -> OutputLoss:
    """Return a loss that shows the model's outputs, or say that this one does not.

    Parameters
    ----------
    loss : BatchLoss
        The loss.
    what : str
        What needs the outputs.

    Returns
    -------
    OutputLoss
        The same.

    Raises
    ------
    TypeError
        If it is not known in two parts, outputs and loss.
    """
    if not isinstance(loss, OutputLoss):
        raise TypeError(
            f"{what} needs the model's outputs by themselves, and a function of (model, batch) does "
            "not show them: pass a criterion, or hessops_torch.SplitLoss(forward, loss)"
        )
    return loss


def sum_and_count(returned: Any) -> tuple[Tensor, Tensor | float]:
    """Return what a function of the user's returned, if it is a sum and a count.

    Parameters
    ----------
    returned : object
        What it returned.

    Returns
    -------
    (torch.Tensor, torch.Tensor or float)
        The sum and the count.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise TypeError(
            f"the loss function returned {describe_value(returned)}; it must return (sum, count): the "
            "sum of the loss over the batch, and the number of samples (or tokens, or their "
            "total weight) that the mean divides by"
        )
    total, count = returned
    require_scalar(total)
    return total, _checked_count(count)


def require_scalar(total: Any) -> None:
    """Raise if a loss is not one real floating number."""
    if not torch.is_tensor(total) or total.ndim != 0:
        raise ValueError(f"the loss must be a scalar tensor, got {describe_value(total)}")
    if not total.dtype.is_floating_point:
        raise ValueError(f"the loss must be a real floating number, got {total.dtype}")
    if torch.finfo(total.dtype).bits < 32:
        raise ValueError(
            f"the loss is {total.dtype}, in which second derivatives have two or three digits: compute "
            "in torch.float32 or torch.float64 (torch.autocast inside the model? switch it off)"
        )


def describe_value(value: Any) -> str:
    """Return a few words on a value of the user's, for messages."""
    if torch.is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _checked_count(count: Any) -> Tensor | float:
    if torch.is_tensor(count):
        if count.requires_grad:
            raise ValueError(
                "the count that the loss function returned depends on the parameters; a mean is "
                "differentiated with its count held fixed"
            )
        if count.numel() != 1 or count.dtype.is_complex:
            raise ValueError(
                f"the loss function returned the count {describe_value(count)} and {count.dtype}; it "
                "must be one real number, such as len(target) or mask.sum()"
            )
        return count.reshape(())
    if not isinstance(count, Real):
        raise TypeError(
            f"the loss function returned the count {count!r}; it must be a real number or a tensor, "
            "such as len(target) or mask.sum()"
        )
    number = float(count)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"the loss function returned the count {count}; it must not be negative")
    return number
