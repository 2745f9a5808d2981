"""The second derivative of a loss by the outputs of the model, as products.

For the usual criteria it is known in closed form and costs as much as an elementwise operation:
diag(p) - p p^T per sample for cross-entropy with probabilities p, 2 for a squared error, p (1 - p) for
the binary cross-entropy of logits (Martens 2020, section 8). Everything else is differentiated twice,
from the outputs on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hessops_torch.losses.contract import BatchLoss, OutputLoss
from hessops_torch.losses.criterion import CriterionLoss
from hessops_torch.losses.failures import differentiating

__all__ = [
    "CLOSED_FORMS",
    "OutputMatrix",
    "OutputProduct",
    "bernoulli_mass",
    "class_axis",
    "closed_form",
    "closed_form_holds",
    "differentiated",
    "has_nonnegative_weights",
    "is_convex",
    "is_plain",
    "output_hessian",
    "target_mass",
]

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
_SEED = 0xC105ED
_LARGEST = 2**20
_TOLERANCE = 1e-8


@dataclass(frozen=True)
class OutputMatrix:
    """A matrix on the outputs of a micro-batch, known by its products.

    Parameters
    ----------
    product : callable
        From a block of outputs, shape (k, *outputs.shape), to the products with each.
    holds : tuple of torch.Tensor
        What it keeps in memory for that: ends of graphs, and other tensors.
    """

    product: OutputProduct
    holds: tuple[Tensor, ...] = ()

    def __call__(self, block: Tensor) -> Tensor:
        """Return the products with each of a block of outputs."""
        return self.product(block)


def output_hessian(loss: OutputLoss, outputs: Tensor, batch: Any) -> OutputMatrix:
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
    OutputMatrix
        From a block of shape (k, *outputs.shape) to one of the same shape.
    """
    known = closed_form(loss, outputs, batch)
    return differentiated(loss, outputs, batch) if known is None else known


def is_convex(loss: OutputLoss) -> bool:
    """Tell whether a loss is known to be convex in the outputs, so that its Hessian is semidefinite."""
    known = isinstance(loss, CriterionLoss) and type(loss.criterion) in _CONVEX
    return known and has_nonnegative_weights(loss)


def has_nonnegative_weights(loss: BatchLoss) -> bool:
    """Tell whether no weight of a criterion is negative."""
    if not isinstance(loss, CriterionLoss):
        return False
    weights = (getattr(loss.criterion, name, None) for name in ("weight", "pos_weight"))
    return all(weight is None or bool((weight >= 0).all()) for weight in weights)


def closed_form(loss: OutputLoss, outputs: Tensor, batch: Any) -> OutputMatrix | None:
    """Return the Hessian by the outputs in closed form, None if no form is known.

    None is known of a subclass of a criterion, nor of one whose forward pass was changed.
    """
    if not isinstance(loss, CriterionLoss):
        return None
    form = CLOSED_FORMS.get(type(loss.criterion))
    if form is None or not is_plain(loss.criterion):
        return None
    return form(loss.criterion, outputs.detach(), loss.target(batch))


def closed_form_holds(loss: CriterionLoss, outputs: Tensor, batch: Any) -> bool:
    """Hold the closed form against what autograd finds, at random outputs in double precision.

    What a criterion may learn in a later version of PyTorch would be missed otherwise. Of many classes
    some samples are enough: autograd holds ten times the logits.

    Parameters
    ----------
    loss : CriterionLoss
        A criterion with a closed form.
    outputs : torch.Tensor
        Of the model; only their shape and place.
    batch : object
        The micro-batch.

    Returns
    -------
    bool
        Whether both products with a random block are the same.
    """
    criterion, target = loss.criterion, loss.target(batch)
    if isinstance(criterion, nn.CrossEntropyLoss) and outputs.ndim > 1:
        rows = max(_LARGEST * len(outputs) // max(outputs.numel(), 1), 1)
        outputs, target = outputs[:rows], target[:rows]
    generator = torch.Generator(device=outputs.device).manual_seed(_SEED)

    def random_outputs() -> Tensor:
        size, place = tuple(outputs.shape), outputs.device
        return torch.randn(size, generator=generator, device=place, dtype=torch.float64)

    target = target.double() if target.dtype.is_floating_point else target
    exact = CriterionLoss(copy.deepcopy(criterion).double(), (_no_model, _first))
    at, block = random_outputs(), random_outputs()[None]
    known = CLOSED_FORMS[type(criterion)](exact.criterion, at, target)(block)
    found = differentiated(exact, at, (target,))(block)
    deviation, size = (float(torch.linalg.vector_norm(x)) for x in (known - found, found))
    return deviation <= _TOLERANCE * size


def differentiated(loss: OutputLoss, outputs: Tensor, batch: Any) -> OutputMatrix:
    """Return the Hessian by the outputs as autograd finds it; arguments as of `output_hessian`."""
    leaf = outputs.detach().requires_grad_()
    # Into a copy a loss may write.
    total, _count = loss.of_outputs(leaf.clone(), batch)
    gradient = None
    if total.requires_grad:
        with differentiating("a micro-batch"):
            (gradient,) = torch.autograd.grad(total, leaf, create_graph=True, allow_unused=True)
    if gradient is None or not gradient.requires_grad:
        # Linear in the outputs.
        return OutputMatrix(torch.zeros_like)
    curved: Tensor = gradient

    def product(block: Tensor) -> Tensor:
        with differentiating("a micro-batch"):
            products = [
                torch.autograd.grad(curved, leaf, row, retain_graph=True, allow_unused=True)[0]
                for row in block
            ]
        return torch.stack([torch.zeros_like(leaf) if p is None else p for p in products])

    return OutputMatrix(product, (curved,))


def class_axis(shape: Sequence[int]) -> int:
    """Return the axis of the classes in outputs of a shape, as PyTorch has it."""
    return 0 if len(shape) == 1 else 1


def target_mass(criterion: Any, outputs: Tensor, target: Tensor, axis: int) -> Tensor:
    """Return the weight of log sum exp in every sample's cross-entropy.

    Parameters
    ----------
    criterion : torch.nn.CrossEntropyLoss or torch.nn.NLLLoss
        With class weights, an ignored label and smoothing.
    outputs : torch.Tensor
        Of the model.
    target : torch.Tensor
        Labels, or probabilities in the shape of the outputs.
    axis : int
        Of the classes.

    Returns
    -------
    torch.Tensor
        In the shape of the outputs without the axis of the classes.
    """
    classes, smoothing = outputs.shape[axis], getattr(criterion, "label_smoothing", 0.0)
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


def bernoulli_mass(criterion: Any, outputs: Tensor, target: Tensor) -> Tensor:
    """Return the weight of every entry of a binary cross-entropy of logits, in their shape."""
    mass = torch.ones_like(outputs)
    if criterion.pos_weight is not None:
        mass = mass * (1 + (criterion.pos_weight - 1) * target)
    if criterion.weight is not None:
        mass = mass * criterion.weight
    return mass


def is_plain(criterion: Any) -> bool:
    """Tell whether a criterion of PyTorch's computes what its class does."""
    hooks = (criterion._forward_hooks, criterion._forward_pre_hooks)
    return "forward" not in vars(criterion) and not any(hooks)


def _cross_entropy(criterion: Any, outputs: Tensor, target: Tensor) -> OutputMatrix:
    axis = class_axis(outputs.shape)
    probabilities = outputs.softmax(axis)
    # The loss is m log sum exp z with the target's mass m, and beside that linear in the logits z.
    mass = target_mass(criterion, outputs, target, axis)
    scaled = mass.unsqueeze(axis) * probabilities

    def product(block: Tensor) -> Tensor:
        mean = (probabilities * block).sum(axis + 1, keepdim=True)
        return scaled * (block - mean)

    return OutputMatrix(product, (probabilities, scaled))


def _squared_error(_criterion: Any, _outputs: Tensor, _target: Tensor) -> OutputMatrix:
    return OutputMatrix(lambda block: 2 * block)


def _binary_cross_entropy(criterion: Any, outputs: Tensor, target: Tensor) -> OutputMatrix:
    # Not p (1 - p), which is zero to rounding as soon as p is one.
    curvature = outputs.sigmoid() * (-outputs).sigmoid()
    curvature = curvature * bernoulli_mass(criterion, outputs, target)
    return OutputMatrix(lambda block: curvature * block, (curvature,))


CLOSED_FORMS: dict[Any, Callable[[Any, Tensor, Tensor], OutputMatrix]] = {
    nn.CrossEntropyLoss: _cross_entropy,
    nn.MSELoss: _squared_error,
    nn.BCEWithLogitsLoss: _binary_cross_entropy,
}
"""By the criterion, of which a subclass may compute anything."""


def _no_model(_model: nn.Module, _batch: Any) -> Tensor:
    raise AssertionError("outputs are given")


def _first(batch: Any) -> Any:
    return batch[0]
