"""Losses that a user writes, as (sum, count) per batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hessops_torch.losses.contract import describe_value, of_the_user, sum_and_count
from hessops_torch.model.precision import FULL, Calls

__all__ = ["FunctionLoss", "SplitLoss"]


class FunctionLoss:
    """A user's function of (model, batch) that returns (sum, count).

    Parameters
    ----------
    function : callable
        The function.
    """

    averages = True
    calls: Calls = FULL

    def __init__(self, function: Callable[[nn.Module, Any], Any]) -> None:
        self.function = function

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return the function and, of a method, the object that it belongs to."""
        return self.function, getattr(self.function, "__self__", None)

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch and the count to divide by."""
        with (
            of_the_user("a function is called as loss(model, batch) and returns (sum, count)"),
            self.calls.rounding(),
        ):
            returned = self.function(model, batch)
        self._require_single_precision(returned)
        return sum_and_count(returned)

    def _require_single_precision(self, returned: Any) -> None:
        total = returned[0] if isinstance(returned, tuple) and returned else returned
        if self.calls.dtype is not None and getattr(total, "dtype", None) == self.calls.dtype:
            raise ValueError(
                "the loss is torch.bfloat16, as are outputs with precision='bf16', and sums of so few "
                "digits say nothing: let the loss function convert the outputs, model(x).float(), or "
                "pass hessops_torch.SplitLoss(forward, loss), which does so"
            )


class SplitLoss:
    """A loss in two parts, for operators that need the outputs of the model by themselves.

    The Hessian takes it as any other loss, by its composition.

    Parameters
    ----------
    forward : callable
        From (model, batch) to the outputs, a tensor such as the logits.
    loss : callable or torch.nn.Module
        From (outputs, batch) to (sum, count). With `target`, a criterion, such as
        ``torch.nn.CrossEntropyLoss(ignore_index=-100)`` for tokens, of which more is known.
    target : callable, optional
        From the batch to what the criterion holds the outputs against.

    Raises
    ------
    TypeError
        If there is a target and the loss is no criterion, or the other way round.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> def forward(model, batch):
    ...     return model(batch["x"])
    >>> def loss(outputs, batch):
    ...     return (outputs - batch["y"]).square().sum(), len(outputs)
    >>> split = hessops_torch.SplitLoss(forward, loss)
    >>> batch = {"x": torch.eye(2), "y": torch.zeros(2, 1)}
    >>> hessops_torch.hessian(torch.nn.Linear(2, 1, bias=False), split, [batch]).to_dense()
    tensor([[1., 0.],
            [0., 1.]])
    """

    averages = True
    calls: Calls = FULL

    def __init__(
        self,
        forward: Callable[[nn.Module, Any], Tensor],
        loss: Callable[..., Any],
        target: Callable[[Any], Any] | None = None,
    ) -> None:
        if target is not None and (isinstance(loss, type) or not hasattr(loss, "reduction")):
            raise TypeError(
                f"a target was given for {describe_value(loss)}, and only a criterion takes one: pass "
                "an instance such as torch.nn.CrossEntropyLoss(), or leave target out"
            )
        if target is None and type(loss).__module__.startswith("torch.nn.modules.loss"):
            raise TypeError(
                "a criterion needs to know its target: pass target=, a function of the batch, or a "
                "function of (outputs, batch) that returns (sum, count)"
            )
        self.forward = forward
        self.loss = loss
        self.target = target

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return both functions and, of methods, the objects that they belong to."""
        functions = (self.forward, self.loss)
        return (*functions, *(getattr(function, "__self__", None) for function in functions))

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch and the count to divide by."""
        return self.of_outputs(self.outputs(model, batch), batch)

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the model's outputs for a batch."""
        with (
            of_the_user("the forward function is called as forward(model, batch)"),
            self.calls.rounding(),
        ):
            outputs = self.calls.outputs(self.forward(model, batch))
        if not torch.is_tensor(outputs):
            raise TypeError(
                f"the forward function returned {describe_value(outputs)}, not a tensor: have it "
                "return the outputs alone"
            )
        return outputs

    def of_outputs(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch, by its outputs, and the count to divide by."""
        with of_the_user("a function is called as loss(outputs, batch) and returns (sum, count)"):
            returned = self.loss(outputs, batch)
        return sum_and_count(returned)
