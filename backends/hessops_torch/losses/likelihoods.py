"""The distributions that the usual criteria are negative log-likelihoods of, by outputs of a model.

Each says what the Fisher information of one micro-batch's labels is, as a matrix on the outputs:
exactly, by its closed form, and by labels that are drawn from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hessops_torch.losses.output_hessian import (
    CLOSED_FORMS,
    OutputMatrix,
    bernoulli_mass,
    class_axis,
    target_mass,
)

__all__ = ["LIKELIHOODS", "Likelihood"]


class Likelihood(Protocol):
    """The distribution of the labels by the outputs of a model."""

    def num_labels(self, shape: Sequence[int]) -> int:
        """Return how many labels belong to outputs of a shape."""

    def exact(self, criterion: Any, outputs: Tensor, target: Any) -> OutputMatrix:
        """Return the expectation, over the labels, of the outer product of the outputs' gradient."""

    def drawn(self, criterion: Any, outputs: Tensor, target: Any, uniform: Tensor) -> OutputMatrix:
        """Return the mean of the same over labels that are drawn.

        Parameters
        ----------
        criterion : torch.nn.Module
            With weights.
        outputs : torch.Tensor
            Of the model.
        target : torch.Tensor
            The labels of the data, by which weights go.
        uniform : torch.Tensor, shape (num_labels, num_draws)
            In double precision, between 0 and 1.

        Returns
        -------
        OutputMatrix
            On the outputs.
        """


class _Categorical:
    """Labels among the classes of axis 1, whose logits the outputs are."""

    def num_labels(self, shape: Sequence[int]) -> int:
        return math.prod(shape) // shape[class_axis(shape)]

    def exact(self, criterion: Any, outputs: Tensor, target: Any) -> OutputMatrix:
        return CLOSED_FORMS[nn.CrossEntropyLoss](criterion, outputs, target)

    def drawn(self, criterion: Any, outputs: Tensor, target: Any, uniform: Tensor) -> OutputMatrix:
        """Return the mean of (e_y - p)(e_y - p)^T by how often each class y is drawn."""
        axis = class_axis(outputs.shape)
        p = outputs.softmax(axis)
        share = _drawn_shares(p, uniform, axis)
        mass = target_mass(criterion, outputs, target, axis).unsqueeze(axis)

        def product(block: Tensor) -> Tensor:
            # <e_y - p, u> for all y.
            weighted = share * (block - (p * block).sum(axis + 1, keepdim=True))
            return mass * (weighted - p * weighted.sum(axis + 1, keepdim=True))

        return OutputMatrix(product, (p, share, mass))


class _CategoricalByLogarithms(_Categorical):
    """Labels among the classes of axis 1, whose log-probabilities the outputs are.

    The loss is linear in them, so that the outer product of its gradient is e_y e_y^T.
    """

    def exact(self, criterion: Any, outputs: Tensor, target: Any) -> OutputMatrix:
        return self._diagonal(criterion, outputs, target, _probabilities(outputs))

    def drawn(self, criterion: Any, outputs: Tensor, target: Any, uniform: Tensor) -> OutputMatrix:
        share = _drawn_shares(_probabilities(outputs), uniform, class_axis(outputs.shape))
        return self._diagonal(criterion, outputs, target, share)

    def _diagonal(
        self, criterion: Any, outputs: Tensor, target: Any, share: Tensor
    ) -> OutputMatrix:
        axis = class_axis(outputs.shape)
        return _diagonal(target_mass(criterion, outputs, target, axis).unsqueeze(axis) * share)


class _Gaussian:
    """A label for each output, normal around it with variance 1/2, so that -log p is the square."""

    def num_labels(self, shape: Sequence[int]) -> int:
        return math.prod(shape)

    def exact(self, criterion: Any, outputs: Tensor, target: Any) -> OutputMatrix:
        return CLOSED_FORMS[nn.MSELoss](criterion, outputs, target)

    def drawn(
        self,
        criterion: Any,  # noqa: ARG002
        outputs: Tensor,
        target: Any,  # noqa: ARG002
        uniform: Tensor,
    ) -> OutputMatrix:
        # The gradient 2 (z - y) has variance 2, whatever the output z is.
        squares = 2 * torch.special.ndtri(uniform).square().mean(1)
        return _diagonal(squares.to(outputs.dtype).reshape(outputs.shape))


class _Bernoulli:
    """A label 0 or 1 for each output, which is the logit of a 1."""

    def num_labels(self, shape: Sequence[int]) -> int:
        return math.prod(shape)

    def exact(self, criterion: Any, outputs: Tensor, target: Any) -> OutputMatrix:
        return CLOSED_FORMS[nn.BCEWithLogitsLoss](criterion, outputs, target)

    def drawn(self, criterion: Any, outputs: Tensor, target: Any, uniform: Tensor) -> OutputMatrix:
        """Return the mean of (p - y)^2 by how often a 1 is drawn."""
        p, complement = outputs.sigmoid(), (-outputs).sigmoid()
        ones = uniform.reshape(*outputs.shape, -1) < p.double()[..., None]
        share = ones.double().mean(-1).to(outputs.dtype)
        squares = share * complement.square() + (1 - share) * p.square()
        return _diagonal(squares * bernoulli_mass(criterion, outputs, target))


LIKELIHOODS: Mapping[type[nn.Module], Likelihood] = {
    nn.CrossEntropyLoss: _Categorical(),
    nn.NLLLoss: _CategoricalByLogarithms(),
    nn.MSELoss: _Gaussian(),
    nn.BCEWithLogitsLoss: _Bernoulli(),
}
"""By the criterion, of which a subclass may compute anything."""


def _diagonal(entries: Tensor) -> OutputMatrix:
    return OutputMatrix(lambda block: entries * block, (entries,))


def _probabilities(log_probabilities: Tensor) -> Tensor:
    p = log_probabilities.exp()
    total = p.sum(class_axis(p.shape))
    if not torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-3):
        raise ValueError(
            "NLLLoss takes log-probabilities, and the exponentials of the model's outputs do not add "
            "up to one: end the model with log_softmax, or use CrossEntropyLoss for logits"
        )
    return p


def _drawn_shares(probabilities: Tensor, uniform: Tensor, axis: int) -> Tensor:
    """Return how often each class is drawn, in the shape of the probabilities.

    A uniform number chooses the class whose share of the distribution function it falls into.
    """
    rows = probabilities.movedim(axis, -1)
    cumulated = rows.reshape(-1, rows.shape[-1]).double().cumsum(1)
    labels = torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True)
    labels.clamp_(max=rows.shape[-1] - 1)
    counts = torch.zeros_like(cumulated)
    counts.scatter_add_(1, labels, torch.full_like(uniform, 1 / uniform.shape[1]))
    return counts.to(probabilities.dtype).reshape(rows.shape).movedim(-1, axis).contiguous()
