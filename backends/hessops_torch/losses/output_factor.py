"""A square root of a loss's second derivative by the outputs, sample by sample.

With M = S S^T the trace of J^T M J is the sum of the squared norms of J^T s over the columns s of
S, and J^T s is a gradient: one backward pass. For cross-entropy with probabilities p there are two
roots in closed form. One, (diag(p) - p p^T) diag(p)^(-1/2), is for mixing its columns with random
signs. The other is the triangular one (Tanabe & Sagae 1992, J. R. Stat. Soc. B 54), which has a
column less than there are classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from hessops_torch.losses.contract import OutputLoss
from hessops_torch.losses.criterion import CriterionLoss
from hessops_torch.losses.output_hessian import OutputProduct, is_plain, output_hessian, target_mass

__all__ = ["OutputFactor", "output_factor"]

_MOST_OUTPUTS = 128
_ELEMENTWISE = (
    nn.MSELoss,
    nn.BCEWithLogitsLoss,
    nn.BCELoss,
    nn.HuberLoss,
    nn.SmoothL1Loss,
    nn.SoftMarginLoss,
)


class OutputFactor(ABC):
    """S with M = S S^T, the same number of columns for every sample of a micro-batch.

    Parameters
    ----------
    outputs : torch.Tensor, shape (samples, ...)
        Of the model, without a graph.
    """

    def __init__(self, outputs: Tensor) -> None:
        self.outputs = outputs

    @property
    def num_columns(self) -> int:
        """Return the columns that a sample has."""
        return self.outputs[0].numel()

    @abstractmethod
    def sizes(self) -> Tensor:
        """Return the trace of every sample's M, shape (samples,)."""

    @abstractmethod
    def column(self, index: int) -> Tensor:
        """Return one column for every sample, in the shape of the outputs."""

    @abstractmethod
    def mixed(self, signs: Tensor) -> Tensor:
        """Return S times signs, both in the shape of the outputs."""


def output_factor(loss: OutputLoss, outputs: Tensor, batch: Any) -> OutputFactor | None:
    """Return a square root of the Hessian of the summed loss by the outputs, if there is one.

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
    OutputFactor or None
        None if the outputs have no axis of samples, the loss joins samples, has a negative curvature or
        too many outputs to look at them one by one.
    """
    outputs = outputs.detach()
    if outputs.ndim == 0 or outputs.numel() == 0:
        return None
    if _is_plain(loss, nn.CrossEntropyLoss):
        if outputs.ndim == 1:
            return None
        mass = target_mass(loss.criterion, outputs, loss.target(batch), 1)
        return None if bool((mass < 0).any()) else _Softmax(outputs, mass)
    metric = output_hessian(loss, outputs, batch)
    if _is_plain(loss, *_ELEMENTWISE):
        return _diagonal(outputs, metric(torch.ones_like(outputs)[None])[0])
    return _looked_at(outputs, metric)


def _is_plain(loss: OutputLoss, *kinds: type[nn.Module]) -> TypeGuard[CriterionLoss]:
    """Tell whether a loss is a criterion of one of these kinds, and computes what its class does."""
    return (
        isinstance(loss, CriterionLoss)
        and type(loss.criterion) in kinds
        and is_plain(loss.criterion)
    )


class _Softmax(OutputFactor):
    """Of cross-entropy: m (diag(p) - p p^T), with the target's mass m."""

    def __init__(self, outputs: Tensor, mass: Tensor) -> None:
        super().__init__(outputs)
        # One position after the other, the classes last: shape (samples, positions, classes).
        classes = outputs.shape[1]
        self.p = outputs.softmax(1).reshape(len(outputs), classes, -1).transpose(1, 2)
        self.root = mass.reshape(len(outputs), -1).sqrt()
        # What a class and those after it have together.
        self.tail = self.p.flip(2).cumsum(2).flip(2)

    @property
    def num_columns(self) -> int:
        positions, classes = self.p.shape[1:]
        return positions * (classes - 1)

    def sizes(self) -> Tensor:
        return (self.root.square() * (1 - self.p.square().sum(2))).sum(1)

    def column(self, index: int) -> Tensor:
        position, j = divmod(index, self.p.shape[2] - 1)
        p, tail = self.p[:, position], self.tail[:, position]
        after = tail[:, j + 1].clamp(min=torch.finfo(p.dtype).tiny)
        size = self.root[:, position] * torch.sqrt(p[:, j] * tail[:, j + 1] / tail[:, j])
        # Where nothing is left but rounding, nothing is added.
        size = torch.nan_to_num(size, nan=0.0, posinf=0.0)
        column = torch.zeros_like(self.p)
        column[:, position, j] = size
        column[:, position, j + 1 :] = -size[:, None] * (p[:, j + 1 :] / after[:, None])
        return self._shaped(column)

    def mixed(self, signs: Tensor) -> Tensor:
        rows = signs.reshape(len(signs), self.p.shape[2], -1).transpose(1, 2)
        scaled = self.p.sqrt() * rows
        mixed = scaled - self.p * scaled.sum(2, keepdim=True)
        return self._shaped(self.root[:, :, None] * mixed)

    def _shaped(self, rows: Tensor) -> Tensor:
        return rows.transpose(1, 2).reshape(self.outputs.shape)


class _Dense(OutputFactor):
    """Of a loss whose outputs belong together within a sample only."""

    def __init__(self, outputs: Tensor, roots: Tensor) -> None:
        super().__init__(outputs)
        self.roots = roots

    def sizes(self) -> Tensor:
        return self.roots.square().sum((1, 2))

    def column(self, index: int) -> Tensor:
        return self.roots[:, :, index].reshape(self.outputs.shape)

    def mixed(self, signs: Tensor) -> Tensor:
        mixed = torch.einsum("bij,bj->bi", self.roots, signs.flatten(1))
        return mixed.reshape(self.outputs.shape)


class _Diagonal(OutputFactor):
    """Of a loss that is a sum over outputs."""

    def __init__(self, outputs: Tensor, roots: Tensor) -> None:
        super().__init__(outputs)
        self.roots = roots

    def sizes(self) -> Tensor:
        return self.roots.square().reshape(len(self.roots), -1).sum(1)

    def column(self, index: int) -> Tensor:
        column = torch.zeros(self.outputs.shape, dtype=self.outputs.dtype, device=self.roots.device)
        column.view(len(column), -1)[:, index] = self.roots.reshape(len(column), -1)[:, index]
        return column

    def mixed(self, signs: Tensor) -> Tensor:
        return self.roots * signs


def _diagonal(outputs: Tensor, curvature: Tensor) -> OutputFactor | None:
    return None if bool((curvature < 0).any()) else _Diagonal(outputs, curvature.sqrt())


def _looked_at(outputs: Tensor, metric: OutputProduct) -> OutputFactor | None:
    """Return the root of a matrix that is known by products, each sample's block by itself."""
    count, size = len(outputs), outputs[0].numel()
    if size > _MOST_OUTPUTS:
        return None
    # Of every other sample, whose products have to leave the others alone.
    some = torch.zeros_like(outputs)
    some[::2] = 1.0
    if bool((metric(some[None])[0][1::2] != 0).any()):
        return None
    units = torch.eye(size, dtype=outputs.dtype, device=outputs.device)
    columns = [metric(unit.expand(count, size).reshape(outputs.shape)[None])[0] for unit in units]
    blocks = torch.stack([column.reshape(count, size) for column in columns], dim=2)
    values, vectors = torch.linalg.eigh(blocks)
    # Rounding is that of the outputs' scale; samples of little curvature have it, too.
    sizes = values.abs().amax(1, keepdim=True)
    least = (1000 * sizes + 100 * sizes.max()) * torch.finfo(values.dtype).eps
    if bool((values < -least).any()):
        return None
    return _Dense(outputs, vectors * values.clamp(min=0).sqrt()[:, None, :])
