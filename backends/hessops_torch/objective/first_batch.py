"""A first look at a loss, that refuses early and in words what would fail in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hessops_torch.data.batch import versions
from hessops_torch.data.micro_batches import MicroBatches
from hessops_torch.data.random_state import random_state
from hessops_torch.model.state import unwritten
from hessops_torch.objective.reentrant import evaluated_beside_checkpoints

__all__ = ["INDEPENDENT", "shows_dependence"]

Evaluate: TypeAlias = Callable[[int, Any], tuple[Tensor, Tensor | float]]
"""From a micro-batch and its index to the sum of the loss and its count."""

INDEPENDENT = (
    "the loss does not depend on the parameters, or is cut off from them, so that its Hessian "
    "would be zero: look for torch.no_grad, torch.inference_mode, .detach(), .item() or a "
    "checkpoint with use_reentrant=True in the model's forward and in the loss, and whether "
    "params names parameters that are used"
)


def shows_dependence(
    evaluate: Evaluate, batches: MicroBatches, parameters: Mapping[str, nn.Parameter]
) -> bool:
    """Look at the loss of the first micro-batch twice, while the model is ready.

    Parameters
    ----------
    evaluate : callable
        The loss of a micro-batch.
    batches : MicroBatches
        The data of this rank.
    parameters : mapping of str to torch.nn.Parameter
        To differentiate by.

    Returns
    -------
    bool
        Whether the loss of any batch depends on the parameters, so that its derivatives are not zero.

    Raises
    ------
    ValueError
        If the loss is not finite or changes, or a forward pass writes into its batch or parameters.
    RuntimeError
        If a reentrant checkpoint cuts parameters off.
    """
    batch = next(batches.here())
    device = next(iter(parameters.values())).device
    before, untouched = random_state(device), versions(batch)
    with torch.no_grad(), unwritten(parameters):
        first, _count = evaluate(0, batch)
    draws = not torch.equal(before, random_state(device))
    if versions(batch) != untouched:
        raise ValueError(
            "the model or the loss writes into its batch, so that the next product would see "
            "other data: let it work on a copy (x = x.clone())"
        )
    second, _count = evaluated_beside_checkpoints(lambda: evaluate(0, batch))
    depends = second.requires_grad or any(
        evaluate(index, batch)[0].requires_grad for index, batch in enumerate(batches.here())
    )
    second = second.detach()
    if not bool(torch.isfinite(first)):
        raise ValueError(f"the loss of the first batch is {float(first)}")
    # Some CUDA kernels sum in an order that varies: beyond rounding, it is randomness.
    if draws or not torch.allclose(first, second, rtol=1e-4, atol=0.0):
        why = (
            "draws random numbers (dropout in train mode?); use mode='eval', or turn dropout off"
            if draws
            else "draws random numbers, or depends on what a forward pass changes (a buffer, a "
            "counter?); use mode='eval', or keep it from changing"
        )
        raise ValueError(
            f"the loss of the same batch is {float(first):.6g} and then {float(second):.6g}: the "
            f"model {why}"
        )
    return depends
