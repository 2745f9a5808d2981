"""The Hessian minus the Gauss-Newton matrix: what the curvature of the model itself adds."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from hessops.comm import Communicator
from hessops_torch.losses.contract import BatchLoss, OutputLoss, require_outputs
from hessops_torch.losses.loss import Loss
from hessops_torch.losses.output_gradient import output_gradient
from hessops_torch.model.precision import Precision
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.objective import Objective
from hessops_torch.operators.arguments import objective_of
from hessops_torch.operators.hessian import Hessian

__all__ = ["ResidualCurvature", "residual_curvature"]


def residual_curvature(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    params: ParameterSelection = None,
    mode: Mode | None = None,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
    precision: Precision | None = None,
    comm: Communicator | None = None,
) -> ResidualCurvature:
    """Return the Hessian of a loss minus its Gauss-Newton matrix.

    With r the gradient of the loss by the outputs z, it is Σ_j r_j ∇² z_j, the part of the Hessian that
    vanishes where the model is linear in its parameters or fits all data. It is computed as the Hessian
    of Σ_j r_j z_j with r held fixed, so that no difference loses digits.

    Its `terms()` are the same micro-batches as those of `hessian` and `ggn` of the same data, so that
    ``hessian(...)`` with ``control=(ggn(...), trace)`` and this operator belong together.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found. In single or
        double precision.
    loss : torch.nn.Module or SplitLoss
        A standard criterion, its functional form, or a loss in two parts.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        Batches are (input, target) for a criterion. Every pass has to give the same.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        Parameters to differentiate by; all that require a gradient where not given.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given.
    micro_batch_size : int, optional
        Cut batches into parts of at most that many samples, to save memory.
    memory_budget : int, optional
        Bytes of graphs to keep between products; half of the free memory of the device where not given,
        none if 0.
    precision : {'tf32', 'bf16'}, optional
        Multiply matrices and convolutions in a lower precision than the model's, as for `hessian`.
    comm : Communicator, optional
        Ranks that call this together, each with the same model and its part of the data, as for
        `hessian`.

    Returns
    -------
    ResidualCurvature
        A self-adjoint operator, indefinite as a rule, whose `terms()` are the micro-batches.

    Raises
    ------
    ValueError
        As for `hessian`.
    TypeError
        If model, loss or data are of a kind that is not understood, or the loss is a function of
        (model, batch), which does not show the outputs.
    RuntimeError
        If the model cannot be applied to the first batch.

    Notes
    -----
    Products cost as much as those of `hessian`. The loss is differentiated only once.

    References
    ----------
    Martens (2020), JMLR 21(146), section 8; Dauphin, Agarwala, Mobahi (2024), arXiv:2401.10809.

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Linear(2, 1)
    >>> data = [(torch.eye(2), torch.zeros(2, 1))]
    >>> int(hessops_torch.residual_curvature(model, torch.nn.MSELoss(), data).to_dense().norm())
    0
    """
    objective = objective_of(
        model, loss, data, params, mode, micro_batch_size, memory_budget, comm, precision
    )
    return ResidualCurvature(objective)


class ResidualCurvature(Hessian):
    """The Hessian minus the Gauss-Newton matrix; `residual_curvature` makes one.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.

    Raises
    ------
    TypeError
        If the loss is not known in two parts, outputs and loss.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective)
        require_outputs(objective.loss, "the residual curvature")

    @property
    def loss(self) -> BatchLoss:
        """Return the loss, of which only the model's curvature is left."""
        return _LinearizedLoss(self.objective.loss)


class _LinearizedLoss:
    """A loss that is replaced by its tangent at the outputs, with its value and its gradient.

    Parameters
    ----------
    loss : BatchLoss
        In two parts.
    """

    def __init__(self, loss: BatchLoss) -> None:
        self.loss = cast("OutputLoss", loss)

    @property
    def averages(self) -> bool:
        """Return whether the total is to be divided by the count."""
        return self.loss.averages

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return the objects whose attributes make the loss what it is."""
        return self.loss.parts

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a batch and the count to divide by."""
        outputs = self.loss.outputs(model, batch)
        total, count, residual = output_gradient(self.loss, outputs, batch)
        if residual is None or not outputs.requires_grad:
            return total, count
        tangent = (residual * outputs).sum()
        # Of the tangent only the derivatives: with the loss's own value, checks and messages are right.
        return total + (tangent - tangent.detach()), count
