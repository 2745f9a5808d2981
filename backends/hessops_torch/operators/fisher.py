"""The Fisher information of a model's own labels: exact, or by labels drawn from the model."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessops.agreement import agreed_seed
from hessops.algorithms._common import require_positive
from hessops.comm import Communicator
from hessops.random import Purpose, RandomState, Stream
from hessops.row_collectives import jointly
from hessops.structure import POSITIVE_SEMIDEFINITE, SELF_ADJOINT
from hessops_torch.losses.criterion import CriterionLoss
from hessops_torch.losses.likelihoods import LIKELIHOODS, Likelihood
from hessops_torch.losses.loss import Loss
from hessops_torch.losses.output_hessian import (
    OutputMatrix,
    closed_form_holds,
    has_nonnegative_weights,
    is_plain,
)
from hessops_torch.model.precision import Precision
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.objective import Objective
from hessops_torch.objective.options import check_weight_decay
from hessops_torch.objective.passes import output_shapes
from hessops_torch.operators.arguments import objective_of
from hessops_torch.operators.output_sum import OutputSum
from hessops_torch.products.jacobian_modes import JacobianMode

__all__ = ["Fisher", "fisher"]


def fisher(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    num_draws: int | None = None,
    rng: RandomState = None,
    params: ParameterSelection = None,
    mode: Mode | None = None,
    weight_decay: float = 0.0,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
    product: JacobianMode | None = None,
    precision: Precision | None = None,
    comm: Communicator | None = None,
) -> Fisher:
    """Return the Fisher information matrix of a model over a data set.

    With l_i(y) the term of the loss that belongs to the i-th label, where the label is y, it is
    Σ_i w_i E[∇l_i(y) ∇l_i(y)^T] / N: the labels y are the model's own, of the distribution that the
    outputs stand for and whose negative log-likelihood the criterion is. For `CrossEntropyLoss` (of
    logits) and `NLLLoss` (of log-probabilities) that is a categorical distribution for every
    position, for `BCEWithLogitsLoss` a Bernoulli and for `MSELoss` a normal distribution of variance
    1/2 for every entry of the outputs. N is what the loss divides by (1 for ``reduction='sum'``, the
    number of entries for the mean of `MSELoss`), w_i the weight of the i-th label of the data: its
    class weight, 0 where it is ignored. The exact matrix equals `ggn` but for `NLLLoss`, whose
    Gauss-Newton matrix would be zero.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found. In single or
        double precision.
    loss : torch.nn.Module or SplitLoss
        One of the four criteria or its functional form; in a `SplitLoss` for other batches.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        Batches are (input, target) for a criterion. Every pass has to give the same.
    num_draws : int, optional
        Labels to draw in place of every label, whose mean estimates the expectation (the Monte Carlo
        Fisher); exact where not given. Products cost the same for any number. Errors of results are
        then for the matrix of these draws: how far it is from the exact one, other seeds show.
    rng : int, numpy.random.Generator or None
        What the labels are drawn by. All products see the same draw, which is the same for any batches,
        micro-batches and ranks, and goes with the model where its parameters change.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        Parameters to differentiate by; all that require a gradient where not given.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given.
    weight_decay : float
        Adds this multiple of the identity.
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
    Fisher
        A positive semidefinite operator whose `terms()` are the micro-batches.

    Raises
    ------
    ValueError
        As for `hessian`, if `product` is unknown, `num_draws` is not positive, or `rng` is given and
        nothing is drawn.
    TypeError
        If model, loss or data are of a kind that is not understood, or of the loss no distribution is
        known.
    RuntimeError
        If the model cannot be applied to the first batch.

    Warns
    -----
    RuntimeWarning
        As for `ggn`, if `product` fails or gives another result than backward passes.

    Notes
    -----
    Products cost as much as those of `ggn`. Drawing takes a forward pass over all data once.

    References
    ----------
    Martens (2020), JMLR 21(146); Kunstner, Balles, Hennig (2019), NeurIPS 32.

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> torch.nn.init.zeros_(model.weight).shape
    torch.Size([2, 2])
    >>> data = [(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))]
    >>> hessops_torch.fisher(model, torch.nn.CrossEntropyLoss(), data).to_dense()[::2, ::2]
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    check_weight_decay(weight_decay)
    objective = objective_of(
        model, loss, data, params, mode, micro_batch_size, memory_budget, comm, precision
    )
    return Fisher(
        objective, num_draws=num_draws, rng=rng, weight_decay=weight_decay, product=product
    )


class Fisher(OutputSum):
    """The Fisher information matrix; `fisher` makes one from a model, a loss and data.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    num_draws : int, optional
        Labels to draw for every label of the data; exact where not given.
    rng : int, numpy.random.Generator or None
        What the labels are drawn by.
    weight_decay : float
        Multiple of the identity to add.
    product : {'backward', 'forward', 'batched', 'auto'}, optional
        How to multiply by the Jacobian and its adjoint, as for `ggn`.

    Raises
    ------
    TypeError
        If of the loss no distribution is known.
    ValueError
        If `num_draws` is not positive, or if `rng` is given and nothing is drawn.
    """

    _made_by = "fisher"

    def __init__(
        self,
        objective: Objective,
        *,
        num_draws: int | None = None,
        rng: RandomState = None,
        weight_decay: float = 0.0,
        product: JacobianMode | None = None,
    ) -> None:
        objective.ranks.require_same({"num_draws": num_draws})
        require_positive(num_draws=num_draws)
        if num_draws is None and rng is not None:
            raise ValueError("rng is for labels that are drawn: give num_draws, or leave rng out")
        likelihood = _likelihood(objective)
        semidefinite = weight_decay >= 0 and has_nonnegative_weights(objective.loss)
        structure = POSITIVE_SEMIDEFINITE if semidefinite else SELF_ADJOINT
        super().__init__(objective, weight_decay=weight_decay, structure=structure, product=product)
        self.num_draws = num_draws
        self.seed = None if num_draws is None else agreed_seed(objective.domain, rng)
        self._first_labels = () if num_draws is None else self._count_labels(likelihood)
        self._seems_right = False

    def _count_labels(self, likelihood: Likelihood) -> tuple[int, ...]:
        """Return which of all labels is the first of each micro-batch of this rank, and their end."""
        ranks = self.objective.ranks

        def sizes() -> list[int]:
            return [likelihood.num_labels(shape) for shape in output_shapes(self.objective)]

        of_all = ranks.gathered(jointly(ranks.comm, sizes))
        ends = tuple(accumulate(map(int, of_all), initial=0))
        return ends[ranks.first : ranks.first + ranks.count + 1]

    def _metric(self, outputs: Tensor, batch: Any, index: int) -> OutputMatrix:
        loss, likelihood = self.loss, _likelihood(self.objective)
        assert isinstance(loss, CriterionLoss)
        if not self._seems_right:
            self._seems_right = True
            _require_usual_form(loss, outputs, batch)
        target = loss.target(batch)
        if self.num_draws is None:
            return likelihood.exact(loss.criterion, outputs, target)
        uniform = self._uniform(index, likelihood.num_labels(outputs.shape))
        return likelihood.drawn(loss.criterion, outputs, target, uniform.to(outputs.device))

    def _uniform(self, index: int, num_labels: int) -> Tensor:
        """Return numbers between 0 and 1, one a label and draw, that depend on these two alone."""
        assert self.seed is not None
        assert self.num_draws is not None
        start, stop = self._first_labels[index : index + 2]
        if stop - start != num_labels:
            raise ValueError(
                f"micro-batch {index} had {stop - start} labels when the operator was made, and has "
                f"{num_labels} now: make it again"
            )
        stream = Stream(self.seed, Purpose.LABELS)
        words = np.stack([stream.words(j, start, stop) for j in range(self.num_draws)], axis=1)
        # The middles of 2**52 intervals, so that neither 0 nor 1 is drawn.
        return torch.from_numpy(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)

    def _describe(self) -> str:
        how = "exact" if self.num_draws is None else f"{self.num_draws} draws, seed {self.seed}"
        return f"{how}, {super()._describe()}"


def _likelihood(objective: Objective) -> Likelihood:
    loss = objective.loss
    criterion = loss.criterion if isinstance(loss, CriterionLoss) else None
    likelihood = None if criterion is None else LIKELIHOODS.get(type(criterion))
    if likelihood is None or not is_plain(criterion):
        known = ", ".join(kind.__name__ for kind in LIKELIHOODS)
        name = "this loss" if criterion is None else f"this {type(criterion).__name__}"
        raise TypeError(
            f"of {name} it is not known which distribution of labels it stands for: use {known} as "
            "they are, with hessops_torch.SplitLoss(forward, criterion, target) for other batches; "
            "where a loss is the negative log-likelihood of an exponential family in its natural "
            "parameters, hessops_torch.ggn is the Fisher matrix"
        )
    return likelihood


def _require_usual_form(loss: CriterionLoss, outputs: Tensor, batch: Any) -> None:
    if isinstance(loss.criterion, nn.NLLLoss) or closed_form_holds(loss, outputs, batch):
        return
    raise ValueError(
        f"the second derivative of {type(loss.criterion).__name__} by its input is not that of the "
        "likelihood hessops knows for it: use hessops_torch.ggn, which differentiates"
    )
