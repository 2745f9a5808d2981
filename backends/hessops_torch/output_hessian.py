"""The second derivative of a loss by the outputs of the model, as products.

For the usual criteria it is known in closed form and costs as much as an elementwise operation:
diag(p) - p p^T per sample for cross-entropy with probabilities p, 2 for a squared error, p (1 - p) for
the binary cross-entropy of logits (Martens 2020, section 8). Everything else is differentiated twice,
from the outputs on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hessops_torch.criterion_loss import CriterionLoss
from hessops_torch.loss_contract import OutputLoss

__all__ = ["OutputProduct", "is_convex", "output_hessian"]

OutputProduct: TypeAlias = Callable[[Tensor], Tensor]
"""From a block of outputs, shape (k, *outputs.shape), to the products with each."""

_CONVEX = (
    nn.CrossEntropyLoss,
    nn.MSELoss,
    nn.BCEWithLogitsLoss,
    nn.BCELoss,
    nn.HuberLoss,
    nn.SmoothL1Loss,
    nn.SoftMarginLoss,
    nn.MultiLabelSoftMarginLoss,
)


def output_hessian(loss: OutputLoss, outputs: Tensor, batch: Any) -> OutputProduct:
    """Return products with the Hessian of the summed loss by the outputs.

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
    callable
        From a block of shape (k, *outputs.shape) to one of the same shape.

    Raises
    ------
    ValueError
        If the loss is linear in the outputs, so that its Hessian by them is zero.
    """
    outputs = outputs.detach()
    criterion = loss.criterion if isinstance(loss, CriterionLoss) else None
    closed_form = _CLOSED_FORMS.get(type(criterion))
    if closed_form is not None:
        return closed_form(criterion, outputs, batch[1])
    return _differentiated(loss, outputs, batch)


def is_convex(loss: OutputLoss) -> bool:
    """Tell whether a loss is known to be convex in the outputs, so that its Hessian is semidefinite."""
    return isinstance(loss, CriterionLoss) and type(loss.criterion) in _CONVEX


def _cross_entropy(criterion: Any, outputs: Tensor, target: Tensor) -> OutputProduct:
    axis = 0 if outputs.ndim == 1 else 1
    probabilities = outputs.softmax(axis)
    # The loss is m log sum exp z with the target's mass m, and beside that linear in the logits z.
    mass = _target_mass(criterion, outputs, target, axis)
    scaled = mass.unsqueeze(axis) * probabilities

    def product(block: Tensor) -> Tensor:
        mean = (probabilities * block).sum(axis + 1, keepdim=True)
        return scaled * (block - mean)

    return product


def _target_mass(criterion: Any, outputs: Tensor, target: Tensor, axis: int) -> Tensor:
    """Return the weight of log sum exp in every sample's cross-entropy."""
    classes, smoothing = outputs.shape[axis], criterion.label_smoothing
    weight: Tensor = outputs.new_ones(classes) if criterion.weight is None else criterion.weight
    if target.dtype.is_floating_point:
        shape = [-1 if i == axis else 1 for i in range(outputs.ndim)]
        smooth = (1 - smoothing) * target + smoothing / classes
        total: Tensor = (smooth * weight.reshape(shape)).sum(axis)
        return total
    kept = target != criterion.ignore_index
    own = weight[torch.where(kept, target, 0)]
    mass: Tensor = torch.where(kept, (1 - smoothing) * own + smoothing * weight.mean(), 0)
    return mass


def _squared_error(_criterion: Any, _outputs: Tensor, _target: Tensor) -> OutputProduct:
    return lambda block: 2 * block


def _binary_cross_entropy(criterion: Any, outputs: Tensor, target: Tensor) -> OutputProduct:
    p = outputs.sigmoid()
    curvature = p * (1 - p)
    if criterion.pos_weight is not None:
        curvature = curvature * (1 + (criterion.pos_weight - 1) * target)
    if criterion.weight is not None:
        curvature = curvature * criterion.weight
    return lambda block: curvature * block


_CLOSED_FORMS: dict[Any, Callable[[Any, Tensor, Tensor], OutputProduct]] = {
    nn.CrossEntropyLoss: _cross_entropy,
    nn.MSELoss: _squared_error,
    nn.BCEWithLogitsLoss: _binary_cross_entropy,
}


def _differentiated(loss: OutputLoss, outputs: Tensor, batch: Any) -> OutputProduct:
    leaf = outputs.clone().requires_grad_()
    total, _count = loss.of_outputs(leaf, batch)
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True, allow_unused=True)
    if gradient is None or not gradient.requires_grad:
        raise ValueError(
            "the loss is linear in the model's outputs, so that the Gauss-Newton matrix would be zero; "
            "if the outputs are log-probabilities (NLLLoss after log_softmax), take the logits for "
            "outputs: CrossEntropyLoss, or hessops_torch.SplitLoss(forward, loss)"
        )
    curved: Tensor = gradient

    def product(block: Tensor) -> Tensor:
        products = [
            torch.autograd.grad(curved, leaf, row, retain_graph=True, allow_unused=True)[0]
            for row in block
        ]
        return torch.stack([torch.zeros_like(leaf) if p is None else p for p in products])

    return product
