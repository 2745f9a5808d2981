"""The covariance of the gradients of single samples, the noise of stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessops.arrays import to_numpy
from hessops.comm import Communicator
from hessops.together import summed_together, tried
from hessops_torch.graphs.cache import GraphCache
from hessops_torch.losses.loss import Loss
from hessops_torch.losses.unit_gradients import UnitGradients, unit_gradients
from hessops_torch.model.precision import Precision
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.objective import Objective
from hessops_torch.objective.passes import summed_gradient
from hessops_torch.operators.arguments import objective_of
from hessops_torch.operators.empirical_fisher import EmpiricalFisher
from hessops_torch.operators.output_sum import OutputShare
from hessops_torch.products.jacobian_modes import JacobianMode

__all__ = ["GradientCovariance", "gradient_covariance"]


def gradient_covariance(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    centred: bool = True,
    sample_axes: Sequence[int] = (0,),
    params: ParameterSelection = None,
    mode: Mode | None = None,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
    product: JacobianMode | None = None,
    precision: Precision | None = None,
    comm: Communicator | None = None,
) -> GradientCovariance:
    """Return the covariance matrix of the gradient of a single sample.

    Of the S samples of the data one is drawn at random; h_i = S g_i / N, with g_i the gradient of its
    term of the summed loss and N what the loss divides by, is then the gradient h of the loss on
    average. The covariance is Σ_i (h_i - h)(h_i - h)^T / S. Uncentred it is the second moment Σ_i h_i
    h_i^T / S, which is S / N times `empirical_fisher`. The gradient of B samples that are drawn
    independently has 1 / B of the covariance. Samples whose label is ignored are none.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found. In single or
        double precision.
    loss : torch.nn.Module or SplitLoss
        A standard criterion, its functional form, or a loss in two parts.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        Batches are (input, target) for a criterion. Every pass has to give the same.
    centred : bool
        Whether the mean gradient h is taken off.
    sample_axes : sequence of int
        Axes of the model's outputs that tell samples apart, the first among them: (0,) for samples;
        (0, 2) for tokens where logits have the shape (samples, classes, tokens), and (0, 1) where they
        have (samples, tokens, classes).
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        Parameters to differentiate by; all that require a gradient where not given.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given.
    micro_batch_size : int, optional
        Cut batches into parts of at most that many samples, to save memory.
    memory_budget : int, optional
        Bytes of graphs to keep between products; half of the free memory of the device where not given,
        none if 0.
    product : {'backward', 'forward', 'batched', 'auto'}, optional
        How to multiply by the Jacobian and its adjoint, as for `ggn`.
    precision : {'tf32', 'bf16'}, optional
        Multiply matrices and convolutions in a lower precision than the model's, as for `hessian`.
    comm : Communicator, optional
        Ranks that call this together, each with the same model and its part of the data, as for
        `hessian`.

    Returns
    -------
    GradientCovariance
        A positive semidefinite operator whose `terms()` are the micro-batches' shares of the sum over
        samples, positive semidefinite as well.

    Raises
    ------
    ValueError
        As for `hessian`, and if `sample_axes` are not the outputs' or `product` is unknown.
    TypeError
        If model, loss or data are of a kind that is not understood, or the loss is a function of
        (model, batch), which does not show the outputs.
    RuntimeError
        If the model cannot be applied to the first batch.

    Warns
    -----
    RuntimeWarning
        As for `ggn`, if `product` fails or gives another result than backward passes.

    Notes
    -----
    Products cost as much as those of `ggn`. For every state of the model, the mean gradient costs one
    gradient and a copy of all parameters; the samples are counted once, in one forward pass. Of several
    ranks, a product then takes two reductions: one of its own, and one number before it, by which ranks
    hear whether any has lost the mean.

    References
    ----------
    Mandt, Hoffman, Blei (2017), JMLR 18(134).

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> torch.nn.init.zeros_(model.weight).shape
    torch.Size([1, 2])
    >>> data = [(torch.eye(2), torch.tensor([[1.0], [2.0]]))]
    >>> hessops_torch.gradient_covariance(model, torch.nn.MSELoss(), data).to_dense()
    tensor([[ 1., -2.],
            [-2.,  4.]])
    """
    objective = objective_of(
        model, loss, data, params, mode, micro_batch_size, memory_budget, comm, precision
    )
    return GradientCovariance(objective, centred=centred, sample_axes=sample_axes, product=product)


class GradientCovariance(EmpiricalFisher):
    """The gradients' covariance; `gradient_covariance` makes one from a model, a loss and data.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    centred : bool
        Whether the mean gradient is taken off.
    sample_axes : sequence of int
        Axes of the outputs that tell samples apart.
    product : {'backward', 'forward', 'batched', 'auto'}, optional
        How to multiply by the Jacobian and its adjoint, as for `ggn`.
    """

    _made_by = "gradient_covariance"

    def __init__(
        self,
        objective: Objective,
        *,
        centred: bool = True,
        sample_axes: Sequence[int] = (0,),
        product: JacobianMode | None = None,
    ) -> None:
        self.centred = centred
        objective.ranks.require_same({"centred": centred})
        super().__init__(objective, sample_axes=sample_axes, product=product)

    def _start_over(self, besides: int = 0) -> None:
        super()._start_over(besides)
        self._means: GraphCache[_Mean] = self.objective.new_cache(math.inf)
        if self.centred:
            self.caches = (*self.caches, self._means)

    def misses_samples(self) -> bool:
        """Tell whether the samples are still to be counted, in a forward pass over the data."""
        return ("samples", self.sample_axes) not in self.objective.found

    def _add_products(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        if self.centred:
            # Before there is a graph, which would lie beside those of the gradients.
            self._mean_gradient()
        return super()._add_products(index, batch, columns, out)

    def _multiply(
        self, share: OutputShare, forward: Tensor, columns: Tensor, out: Tensor, *, keep: bool
    ) -> None:
        """Add Σ_i (g_i - m) <g_i - m, v>, with m the mean of all g_i, to `out`."""
        if not self.centred:
            super()._multiply(share, forward, columns, out, keep=keep)
            return
        metric, mean = share.metric, self._mean_gradient()
        assert isinstance(metric, UnitGradients)
        shape = (len(columns), *(1,) * metric.residual.ndim)
        # Centred before it is pulled back: no digits are lost where g_i and m are nearly the same.
        numbers = metric.coefficients(forward) - (columns @ mean).reshape(shape)
        numbers = numbers * metric.counted
        share.graph.add_adjoint(metric.residual * numbers, out, keep=keep)
        out -= numbers.flatten(1).sum(1)[:, None] * mean

    def _meet(self) -> None:
        objective, ranks = self.objective, self.objective.ranks
        if ranks.comm.size == 1:
            return  # Products find it all themselves.
        known, error = tried(self._is_known)
        if not ranks.any(error is not None or not known):
            return
        found, error = tried(self._found_here)
        samples, gradient = found or (0.0, None)
        counted = to_numpy(summed_together(ranks.comm, np.array([samples]), error))
        total = float(counted[0])
        summed: Any = None if gradient is None else ranks.comm.all_reduce(gradient)
        with objective.ready(*self.caches):
            objective.found[self._key] = total
            if summed is not None:
                self._means.offer(0, _Mean(summed / self._num_samples()))

    def _is_known(self) -> bool:
        with self.objective.ready(*self.caches):
            has_mean = not self.centred or self._means.get(0) is not None
            return has_mean and self._key in self.objective.found

    def _found_here(self) -> tuple[float, Tensor | None]:
        """Return this rank's number of samples, and its gradient of the summed loss if it counts."""
        with self.objective.ready(*self.caches):
            samples = self._samples_here()
            return samples, summed_gradient(self.objective)[0] if self.centred else None

    def _require_alone(self) -> None:
        if self.objective.ranks.comm.size > 1:
            raise RuntimeError(
                "the model or the loss has changed since terms() was called, and the ranks find the "
                "mean gradient together: call terms() again, on all of them"
            )

    def _mean_gradient(self) -> Tensor:
        """Return the mean over all samples of the gradient of the summed loss."""
        kept = self._means.get(0)
        if kept is None:
            self._require_alone()
            gradient, _totals, _counts = summed_gradient(self.objective)
            kept = _Mean(gradient / self._num_samples())
            self._means.offer(0, kept)
        return kept.gradient

    def _num_samples(self) -> float:
        """Return how many samples there are, while the model is ready."""
        found = self.objective.found
        if self._key not in found:
            self._require_alone()
            found[self._key] = self._samples_here()
        if not found[self._key]:
            raise ValueError(
                "the labels of all samples are ignored: there is no gradient of a sample"
            )
        return found[self._key]

    @property
    def _key(self) -> Hashable:
        return "samples", self.sample_axes

    def _samples_here(self) -> float:
        """Return how many samples this rank has, by a forward pass the first time."""
        objective, key = self.objective, ("samples here", self.sample_axes)
        if key not in objective.found:
            numbers = []
            for index, batch in enumerate(objective.batches.here()):
                with torch.no_grad(), objective.applying(index, batch):
                    outputs = self.loss.outputs(objective.model, batch)
                    units = unit_gradients(self.loss, outputs, batch, self.sample_axes)
                numbers.append(units.num_samples())
            objective.found[key] = float(torch.stack(numbers).sum()) if numbers else 0.0
        return objective.found[key]

    def _divisor(self, found: Sequence[Tensor | float] | None = None) -> float:
        # Σ_i h_i h_i^T / S is S / N² times Σ_i g_i g_i^T. Ranks do not meet while the model is ready.
        divisor = super()._divisor(found)
        with self.objective.ready():
            return divisor**2 / self._num_samples()

    def _describe(self) -> str:
        return f"{'centred' if self.centred else 'uncentred'}, {super()._describe()}"


class _Mean:
    """The mean gradient for one state of the model."""

    def __init__(self, gradient: Tensor) -> None:
        self.gradient = gradient

    def num_bytes(self) -> int:
        return self.gradient.untyped_storage().nbytes()
