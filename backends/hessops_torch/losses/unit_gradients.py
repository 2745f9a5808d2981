"""The gradients of single samples as one matrix on outputs, none of them ever formed.

With r the gradient of a micro-batch's summed loss by the outputs, the gradient of a sample is J^T r
with r cut down to the sample's own outputs. The outer products of all samples' gradients therefore add
up to J^T M J, where M takes from each sample's outputs u the number <r, u> and gives r times it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessops_torch.losses.contract import OutputLoss
from hessops_torch.losses.criterion import CriterionLoss
from hessops_torch.losses.output_gradient import output_gradient
from hessops_torch.losses.output_hessian import OutputMatrix, class_axis

__all__ = ["UnitGradients", "check_sample_axes", "unit_gradients"]


@dataclass(frozen=True, kw_only=True)
class UnitGradients(OutputMatrix):
    """The sum over samples of r <r, ·>, each on its own outputs.

    Parameters
    ----------
    residual : torch.Tensor
        The gradient r of the summed loss by the outputs.
    others : tuple of int
        Axes of the outputs that belong to one sample.
    counted : torch.Tensor
        1 for samples that the loss counts and 0 for those that it ignores; the axes `others` have
        length 1.
    """

    residual: Tensor
    others: tuple[int, ...]
    counted: Tensor

    def coefficients(self, block: Tensor) -> Tensor:
        """Return <r, u> for every sample of every u of a block, the axes `others` kept."""
        return _sum_over(self.others, self.residual * block)

    def num_samples(self) -> Tensor:
        """Return how many samples are counted."""
        return self.counted.sum(dtype=torch.float64)


def unit_gradients(
    loss: OutputLoss, outputs: Tensor, batch: Any, axes: Sequence[int]
) -> UnitGradients:
    """Return the outer products of the gradients of a micro-batch's samples.

    Parameters
    ----------
    loss : OutputLoss
        The loss.
    outputs : torch.Tensor
        Of the model; their graph is not used.
    batch : object
        The micro-batch.
    axes : sequence of int
        Axes of the outputs that tell samples apart.

    Returns
    -------
    UnitGradients
        As a matrix on the outputs.

    Raises
    ------
    ValueError
        If the outputs have no such axis, or one that belongs to each sample.
    """
    classes = class_axis(outputs.shape) if _is_of_classes(loss) else None
    _require_axes(outputs, axes, classes)
    others = tuple(axis for axis in range(outputs.ndim) if axis not in axes)
    _total, _count, gradient = output_gradient(loss, outputs, batch)
    residual = torch.zeros_like(outputs) if gradient is None else gradient
    counted = _counted(loss, outputs, batch, others, classes)

    def product(block: Tensor) -> Tensor:
        return residual * _sum_over(others, residual * block)

    return UnitGradients(
        product, (residual, counted), residual=residual, others=others, counted=counted
    )


def check_sample_axes(axes: Any) -> tuple[int, ...]:
    """Return the axes that tell samples apart, or say why they cannot.

    Parameters
    ----------
    axes : sequence of int
        The first axis among them.

    Returns
    -------
    tuple of int
        In order.

    Raises
    ------
    ValueError
        If they are no axes, or the first is not among them.
    """
    valid = isinstance(axes, Sequence) and all(
        isinstance(axis, int) and not isinstance(axis, bool) and axis >= 0 for axis in axes
    )
    if not valid or 0 not in axes or len(set(axes)) < len(axes):
        raise ValueError(
            f"sample_axes={axes!r} must be different axes of the outputs, counted from 0, with the "
            "first, along which batches are split, among them"
        )
    return tuple(sorted(axes))


def _sum_over(others: tuple[int, ...], block: Tensor) -> Tensor:
    """Sum a block, with an axis of columns before those of the outputs, over a sample's own axes."""
    # No axes would mean all of them.
    return block.sum([axis + 1 for axis in others], keepdim=True) if others else block


def _is_of_classes(loss: OutputLoss) -> bool:
    """Tell whether the loss is known to have labels among classes, along an axis of the outputs."""
    return isinstance(loss, CriterionLoss) and isinstance(
        loss.criterion, nn.CrossEntropyLoss | nn.NLLLoss
    )


def _counted(
    loss: OutputLoss, outputs: Tensor, batch: Any, others: tuple[int, ...], classes: int | None
) -> Tensor:
    shape = [1 if axis in others else size for axis, size in enumerate(outputs.shape)]
    counted = outputs.new_ones(shape)
    if classes is None or not isinstance(loss, CriterionLoss):
        return counted
    target = loss.target(batch)
    if target.dtype.is_floating_point:
        return counted
    kept: Tensor = (target != loss.criterion.ignore_index).unsqueeze(classes).to(outputs.dtype)
    # A sample counts if any of its labels does; no axes would mean all of them.
    own = [axis for axis in others if axis != classes]
    return kept.amax(own, keepdim=True) if own else kept


def _require_axes(outputs: Tensor, axes: Sequence[int], classes: int | None) -> None:
    if axes[-1] >= outputs.ndim:
        raise ValueError(
            f"sample_axes={tuple(axes)} are no axes of outputs of shape {tuple(outputs.shape)}; a "
            "batch needs an axis of samples, also where it holds one"
        )
    if classes in axes:
        raise ValueError(
            f"axis {classes} of the outputs of shape {tuple(outputs.shape)} holds the classes of one "
            f"label, which belong to one sample: leave it out of sample_axes={tuple(axes)}"
            + ("; add an axis of samples" if classes == 0 else "")
        )
