"""Standard criteria as (sum, count) per batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessops_torch.losses.contract import describe_value, of_the_user, require_scalar
from hessops_torch.model.precision import FULL, Calls

__all__ = ["CriterionLoss"]

_OF_NUMBERS = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss,
)  # fmt: skip

_FORWARD = "the forward function is called as forward(model, batch)"
_MODEL = "the model is called with the first item of a batch (input, target)"


class CriterionLoss:
    """A criterion of (output, target), applied to batches (input, target).

    Parameters
    ----------
    criterion : torch.nn.Module
        With a `reduction`.
    parts : (callable, callable), optional
        Functions that take other batches apart: the outputs, of (model, batch), and the target, of
        the batch.
    """

    calls: Calls = FULL

    def __init__(
        self,
        criterion: Any,
        parts: tuple[Callable[[nn.Module, Any], Any], Callable[[Any], Any]] | None = None,
    ) -> None:
        self.criterion = criterion
        self._functions = parts
        _require_known_reduction(criterion)
        self._checked = False

    @property
    def averages(self) -> bool:
        """Return whether the total is to be divided by the count."""
        return bool(self.criterion.reduction != "sum")

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return the criterion and what takes batches apart."""
        functions = self._functions or ()
        return (self.criterion, *functions, *(getattr(f, "__self__", None) for f in functions))

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch and the count to divide by."""
        return self.of_outputs(self.outputs(model, batch), batch)

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the model's outputs for a batch."""
        if self._functions is not None:
            call: Callable[[Any], Any] = partial(self._functions[0], model)
            hint, given = _FORWARD, batch
        else:
            call, hint, given = model, _MODEL, _input_and_target(batch)[0]
        with of_the_user(hint), self.calls.rounding():
            output = self.calls.outputs(call(given))
        if not torch.is_tensor(output):
            what = "model" if self._functions is None else "forward function"
            raise TypeError(
                f"the {what} returned {describe_value(output)}, not a tensor that a criterion takes; "
                "pass a function of (model, batch) that returns (sum, count), or "
                "hessops_torch.SplitLoss(forward, criterion, target), whose forward returns a tensor"
            )
        return output

    def target(self, batch: Any) -> Any:
        """Return what the outputs are held against."""
        if self._functions is None:
            return _input_and_target(batch)[1]
        with of_the_user("the target function is called as target(batch)"):
            return self._functions[1](batch)

    def of_outputs(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch, by its outputs, and the count to divide by."""
        _require_known_reduction(self.criterion)
        target = self.target(batch)
        _require_tensor_target(self.criterion, target)
        _require_floating_target(self.criterion, outputs, target)
        # Copied each time, so that a setting of the criterion may be changed between products.
        unreduced = copy.copy(self.criterion)
        unreduced.reduction = "none"
        with of_the_user(
            "a criterion is called as loss(output, target); for one that takes anything else pass a "
            "function of (model, batch) that returns (sum, count)"
        ):
            values = unreduced(outputs, target)
        self._require_unreduced(values, outputs, target)
        total, count = values.sum(), self._count(outputs, target, values)
        if not self._checked:
            self._check(total, count, outputs, target)
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
        require_scalar(total)
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


def _require_tensor_target(criterion: Any, target: Any) -> None:
    """Raise where a criterion of PyTorch's own is given a list, a tuple or a number for a target."""
    if torch.is_tensor(target) or not _is_of_torch(criterion):
        return
    tensors = (
        isinstance(target, list | tuple)
        and len(target) > 0
        and all(torch.is_tensor(one) for one in target)
    )
    how = "torch.stack(target)" if tensors else "torch.as_tensor(target)"
    raise TypeError(
        f"the target is {describe_value(target)}, and {type(criterion).__name__} takes a tensor: "
        f"convert it by {how}, in the data or by a collate_fn of the loader, or pass a function of "
        "(model, batch) that returns (sum, count)"
    )


def _require_floating_target(criterion: Any, output: Tensor, target: Any) -> None:
    """Raise where integers stand for numbers: PyTorch computes such a loss but not its gradient."""
    if type(criterion) not in _OF_NUMBERS or not torch.is_tensor(target):
        return
    if not target.dtype.is_floating_point and output.dtype.is_floating_point:
        raise TypeError(
            f"the target is {target.dtype}, and {type(criterion).__name__} takes floating numbers: "
            f"convert it by target.to({output.dtype}), or use CrossEntropyLoss where it holds classes"
        )


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
        f"a criterion takes batches (input, target), got {describe_value(batch)}; pass a function of "
        "(model, batch) that returns (sum, count)"
    )
