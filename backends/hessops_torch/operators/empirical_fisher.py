"""The empirical Fisher matrix: outer products of the gradients of single samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hessops.comm import Communicator
from hessops.structure import POSITIVE_SEMIDEFINITE, SELF_ADJOINT
from hessops_torch.losses.loss import Loss
from hessops_torch.losses.unit_gradients import UnitGradients, check_sample_axes, unit_gradients
from hessops_torch.model.precision import Precision
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.objective import Objective
from hessops_torch.objective.options import check_weight_decay
from hessops_torch.operators.arguments import objective_of
from hessops_torch.operators.output_sum import OutputSum
from hessops_torch.products.jacobian_modes import JacobianMode

__all__ = ["EmpiricalFisher", "empirical_fisher"]


def empirical_fisher(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    sample_axes: Sequence[int] = (0,),
    params: ParameterSelection = None,
    mode: Mode | None = None,
    weight_decay: float = 0.0,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
    product: JacobianMode | None = None,
    precision: Precision | None = None,
    comm: Communicator | None = None,
) -> EmpiricalFisher:
    """Return the empirical Fisher matrix of a loss over a data set.

    It is Σ_i g_i g_i^T / N, with g_i the gradient of the i-th sample's term of the summed loss, its
    class weight included, and N what the loss divides by: the number of samples (or tokens, or their
    weight) for the mean of a cross-entropy, that of entries for the mean of `MSELoss`, 1 for
    ``reduction='sum'``. With labels of the model's own in place of the data's, its expectation would be
    `fisher`.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found. In single or
        double precision.
    loss : torch.nn.Module or SplitLoss
        A standard criterion, its functional form, or a loss in two parts.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        Batches are (input, target) for a criterion. Every pass has to give the same.
    sample_axes : sequence of int
        Axes of the model's outputs that tell samples apart, the first among them: (0,) for one gradient
        of each sample; (0, 2) for one of each token where logits have the shape (samples, classes,
        tokens), and (0, 1) where they have (samples, tokens, classes).
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        Parameters to differentiate by; all that require a gradient where not given.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given. In train mode, batch
        norm mixes samples, and g_i is what the i-th sample's outputs add to the gradient.
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
    EmpiricalFisher
        A positive semidefinite operator whose `terms()` are the micro-batches.

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
    No gradient of a single sample is formed: products cost as much as those of `ggn`.

    References
    ----------
    Kunstner, Balles, Hennig (2019), NeurIPS 32.

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> torch.nn.init.zeros_(model.weight).shape
    torch.Size([1, 2])
    >>> data = [(torch.eye(2), torch.tensor([[1.0], [2.0]]))]
    >>> hessops_torch.empirical_fisher(model, torch.nn.MSELoss(), data).to_dense()
    tensor([[2., 0.],
            [0., 8.]])
    """
    check_weight_decay(weight_decay)
    objective = objective_of(
        model, loss, data, params, mode, micro_batch_size, memory_budget, comm, precision
    )
    return EmpiricalFisher(
        objective, sample_axes=sample_axes, weight_decay=weight_decay, product=product
    )


class EmpiricalFisher(OutputSum):
    """The empirical Fisher matrix; `empirical_fisher` makes one from a model, a loss and data.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    sample_axes : sequence of int
        Axes of the outputs that tell samples apart.
    weight_decay : float
        Multiple of the identity to add.
    product : {'backward', 'forward', 'batched', 'auto'}, optional
        How to multiply by the Jacobian and its adjoint, as for `ggn`.
    """

    _made_by = "empirical_fisher"

    def __init__(
        self,
        objective: Objective,
        *,
        sample_axes: Sequence[int] = (0,),
        weight_decay: float = 0.0,
        product: JacobianMode | None = None,
    ) -> None:
        structure = POSITIVE_SEMIDEFINITE if weight_decay >= 0 else SELF_ADJOINT
        objective.ranks.require_same({"sample_axes": repr(sample_axes)})
        super().__init__(objective, weight_decay=weight_decay, structure=structure, product=product)
        self.sample_axes = check_sample_axes(sample_axes)

    def _metric(self, outputs: Tensor, batch: Any, index: int) -> UnitGradients:  # noqa: ARG002
        return unit_gradients(self.loss, outputs, batch, self.sample_axes)
