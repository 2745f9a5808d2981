"""Up to which curvature a step of an optimizer is stable: 2 over the learning rate, and with momentum.

On a quadratic with largest eigenvalue λ, gradient descent diverges where λ > 2 / learning rate. Full
batch training goes up to that line and stays there, the edge of stability (Cohen, Kaur, Li, Kolter &
Talwalkar 2021).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.optim import Optimizer

__all__ = ["StepLimits", "step_limits"]


class StepLimits(NamedTuple):
    """What a step allows of curvature; NaN where nothing is known.

    Parameters
    ----------
    learning_rate : float
        The largest of the parameter groups.
    two_over_learning_rate : float
        The limit of gradient descent without momentum.
    stability_limit : float
        The limit of the optimizer as it is, the smallest of its groups. NaN for others than
        `torch.optim.SGD`: adaptive ones see another matrix.
    """

    learning_rate: float = math.nan
    two_over_learning_rate: float = math.nan
    stability_limit: float = math.nan


def step_limits(
    optimizer: Optimizer | None = None, learning_rate: float | None = None
) -> StepLimits:
    """Return what a step of an optimizer, as it is set now, allows of curvature.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer, optional
        Its parameter groups are read.
    learning_rate : float, optional
        Instead of the optimizer's.

    Returns
    -------
    StepLimits
        For the deterministic iteration on a quadratic; steps on random batches may diverge earlier.

    Raises
    ------
    ValueError
        If a learning rate is negative or NaN.

    Notes
    -----
    With momentum β and dampening τ the limit is ``2 (1 + β) / (lr (1 - τ))``, with Nesterov's momentum
    ``2 (1 + β) / (lr (1 + 2 β))``. An optimizer's weight decay w takes w off it.

    References
    ----------
    Cohen, Kaur, Li, Kolter & Talwalkar (2021), ICLR.

    Examples
    --------
    >>> import torch
    >>> from hessops_torch.training.stability import step_limits
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> step_limits(torch.optim.SGD([weight], lr=0.5, momentum=0.9))
    StepLimits(learning_rate=0.5, two_over_learning_rate=4.0, stability_limit=7.6)
    """
    if learning_rate is not None:
        rate = _checked(learning_rate)
        return StepLimits(rate, _over(2.0, rate))
    if optimizer is None:
        return StepLimits()
    groups = optimizer.param_groups
    rate = max(_checked(group["lr"]) for group in groups)
    limit = math.nan
    if type(optimizer) is torch.optim.SGD:
        limit = min(_limit_of_group(group) for group in groups)
    return StepLimits(rate, _over(2.0, rate), limit)


def _limit_of_group(group: dict[str, object]) -> float:
    rate, beta, dampening, decay = (
        float(group[name])  # type: ignore[arg-type]
        for name in ("lr", "momentum", "dampening", "weight_decay")
    )
    if group["maximize"]:
        return math.nan
    if group["nesterov"]:
        return _over(2 * (1 + beta), rate * (1 + 2 * beta)) - decay
    # Without momentum the dampening is not read.
    return _over(2 * (1 + beta), rate * (1 - dampening if beta else 1.0)) - decay


def _checked(learning_rate: float) -> float:
    rate = float(learning_rate)
    if not rate >= 0:
        raise ValueError(f"learning_rate={rate:g} must not be negative")
    return rate


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.inf
