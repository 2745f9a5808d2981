"""Losses as (sum, count) per batch, so that ragged batches and masks give the exact mean.

The mean loss over a data set is the sum of all batches' sums divided by the sum of all their counts.
Averaging the batches' means instead weighs a short last batch, or one with many masked tokens, wrongly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name

__all__ = ["BatchLoss", "EvaluationError", "Loss", "as_batch_loss"]

Loss: TypeAlias = nn.Module | Callable[..., Any]
"""A standard criterion, or a function of (model, batch) that returns (sum, count)."""


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


def as_batch_loss(loss: Loss) -> BatchLoss:
    """Return what computes (sum, count) of a batch.

    Parameters
    ----------
    loss : torch.nn.Module or callable
        A criterion with a `reduction` of 'mean', 'sum' or 'batchmean', the functional form of one,
        or a function of (model, batch) that returns (sum, count).

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


class FunctionLoss:
    """A user's function of (model, batch) that returns (sum, count).

    Parameters
    ----------
    function : callable
        The function.
    """

    averages = True

    def __init__(self, function: Callable[[nn.Module, Any], Any]) -> None:
        self.function = function

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return the function and, of a method, the object that it belongs to."""
        return self.function, getattr(self.function, "__self__", None)

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch and the count to divide by."""
        with _of_the_user("a function is called as loss(model, batch) and returns (sum, count)"):
            returned = self.function(model, batch)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise TypeError(
                f"the loss function returned {_describe(returned)}; it must return (sum, count): the "
                "sum of the loss over the batch, and the number of samples (or tokens, or their "
                "total weight) that the mean divides by"
            )
        total, count = returned
        _require_scalar(total)
        return total, _checked_count(count)


class CriterionLoss:
    """A criterion of (output, target), applied to batches (input, target).

    Parameters
    ----------
    criterion : torch.nn.Module
        With a `reduction`.
    """

    def __init__(self, criterion: Any) -> None:
        self.criterion = criterion
        _require_known_reduction(criterion)
        self._checked = False

    @property
    def averages(self) -> bool:
        """Return whether the total is to be divided by the count."""
        return bool(self.criterion.reduction != "sum")

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return the criterion."""
        return (self.criterion,)

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch and the count to divide by."""
        _require_known_reduction(self.criterion)
        inputs, target = _input_and_target(batch)
        with _of_the_user("the model is called with the first item of a batch (input, target)"):
            output = model(inputs)
        if not torch.is_tensor(output):
            raise TypeError(
                f"the model returned {_describe(output)}, not a tensor that a criterion takes; pass "
                "a function of (model, batch) that returns (sum, count)"
            )
        # Copied each time, so that a setting of the criterion may be changed between products.
        unreduced = copy.copy(self.criterion)
        unreduced.reduction = "none"
        with _of_the_user(
            "a criterion is called as loss(output, target); for one that takes anything else pass a "
            "function of (model, batch) that returns (sum, count)"
        ):
            values = unreduced(output, target)
        self._require_unreduced(values, output, target)
        total, count = values.sum(), self._count(output, target, values)
        if not self._checked:
            self._check(total, count, output, target)
        return total, count

    def _require_unreduced(self, values: Tensor, output: Tensor, target: Any) -> None:
        """Raise if values are a mean already, or belong to pairs that nobody meant."""
        name = type(self.criterion).__name__
        unbatched = output.ndim <= 1 and (
            getattr(target, "ndim", None) == 0 or _is_of_torch(self.criterion)
        )
        if values.ndim == 0 and not unbatched:
            raise ValueError(
                f"{name} ignores reduction='none', so it averages in a way of its own; pass a "
                "function of (model, batch) that returns (sum, count)"
            )
        if _is_broadcast(values, output, target):
            raise ValueError(
                f"{name} broadcasts the model's output of shape {tuple(output.shape)} and the target "
                f"of shape {tuple(target.shape)} to {tuple(values.shape)}: give both one shape "
                "(target.unsqueeze(1) or a model that squeezes its output, say)"
            )

    def _count(self, output: Tensor, target: Tensor, values: Tensor) -> Tensor | float:
        if self.criterion.reduction == "batchmean":
            return float(output.shape[0])
        if isinstance(self.criterion, nn.CrossEntropyLoss | nn.NLLLoss):
            return _class_count(self.criterion, target, values)
        return float(values.numel())

    def _check(self, total: Tensor, count: Tensor | float, output: Tensor, target: Tensor) -> None:
        """Hold (sum, count) of the first batch against the criterion's own reduction."""
        with torch.no_grad():
            own = float(self.criterion(output, target))
            ours = float(total / count if self.averages else total)
        _require_scalar(total)
        if not math.isclose(own, ours, rel_tol=1e-3, abs_tol=1e-6) and math.isfinite(own):
            raise ValueError(
                f"{type(self.criterion).__name__} with reduction={self.criterion.reduction!r} gives "
                f"{own:.6g} on the first batch, not the {ours:.6g} of its unreduced values: it "
                "averages in a way of its own; pass a function of (model, batch) that returns "
                "(sum, count)"
            )
        # The mean over a batch without a valid target is NaN and shows nothing.
        self._checked = math.isfinite(own)


def _class_count(criterion: Any, target: Tensor, values: Tensor) -> Tensor | float:
    """Count as cross-entropy's mean does: without ignored targets, by class weight."""
    if target.dtype.is_floating_point:
        return float(values.numel())
    kept = target != criterion.ignore_index
    if criterion.weight is None:
        kept_count: Tensor = kept.sum()
        return kept_count
    weights = criterion.weight[torch.where(kept, target, 0)]
    return torch.where(kept, weights, 0).sum()


def _is_broadcast(values: Tensor, output: Tensor, target: Any) -> bool:
    """Tell whether there is a value for every pair of an output and a target of another sample."""
    if not torch.is_tensor(target) or values.numel() <= output.numel():
        return False
    try:
        return tuple(values.shape) == np.broadcast_shapes(output.shape, target.shape)
    except ValueError:
        return False


def _is_of_torch(criterion: Any) -> bool:
    return type(criterion).__module__.startswith("torch.nn.")


def _require_known_reduction(criterion: Any) -> None:
    if criterion.reduction not in ("mean", "sum", "batchmean"):
        raise ValueError(
            f"{type(criterion).__name__} has reduction={criterion.reduction!r}; use 'mean' or 'sum'"
        )


@contextmanager
def _of_the_user(hint: str) -> Iterator[None]:
    """Mark what the model or the loss raises, to be told from what is raised here."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (TypeError, AttributeError) as error:
        raise EvaluationError(hint) from error
    except (RuntimeError, ValueError, LookupError) as error:
        raise EvaluationError("") from error


def _checked_count(count: Any) -> Tensor | float:
    if torch.is_tensor(count):
        if count.requires_grad:
            raise ValueError(
                "the count that the loss function returned depends on the parameters; a mean is "
                "differentiated with its count held fixed"
            )
        if count.numel() != 1 or count.dtype.is_complex:
            raise ValueError(
                f"the loss function returned the count {_describe(count)} and {count.dtype}; it must "
                "be one real number, such as len(target) or mask.sum()"
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


def _input_and_target(batch: Any) -> tuple[Any, Tensor]:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        for what, part in zip(("input", "target"), batch, strict=True):
            if isinstance(part, np.ndarray):
                raise TypeError(
                    f"the {what} of a batch is a NumPy array of {part.dtype}, and a criterion takes "
                    "tensors: convert it by torch.as_tensor (floating ones to the parameters' dtype)"
                )
        return batch[0], batch[1]
    raise TypeError(
        f"a criterion takes batches (input, target), got {_describe(batch)}; pass a function of "
        "(model, batch) that returns (sum, count)"
    )


def _require_scalar(total: Any) -> None:
    if not torch.is_tensor(total) or total.ndim != 0:
        raise ValueError(f"the loss must be a scalar tensor, got {_describe(total)}")
    if not total.dtype.is_floating_point:
        raise ValueError(f"the loss must be a real floating number, got {total.dtype}")


def _describe(value: Any) -> str:
    if torch.is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
