"""The generalized Gauss-Newton matrix of a loss: its Hessian without the curvature of the model."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from hessops.algorithms._common import level_outside
from hessops.comm import Communicator
from hessops.structure import POSITIVE_SEMIDEFINITE, SELF_ADJOINT
from hessops_torch.losses.contract import OutputLoss
from hessops_torch.losses.criterion import CriterionLoss
from hessops_torch.losses.loss import Loss
from hessops_torch.losses.output_hessian import (
    OutputMatrix,
    closed_form,
    closed_form_holds,
    differentiated,
    is_convex,
)
from hessops_torch.model.precision import Precision
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.objective import Objective
from hessops_torch.objective.options import check_weight_decay
from hessops_torch.operators.arguments import objective_of
from hessops_torch.operators.linear_losses import require_curvature
from hessops_torch.operators.output_sum import OutputSum
from hessops_torch.products.jacobian_modes import JacobianMode

__all__ = ["GaussNewton", "ggn"]


def ggn(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    params: ParameterSelection = None,
    mode: Mode | None = None,
    weight_decay: float = 0.0,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
    product: JacobianMode | None = None,
    precision: Precision | None = None,
    comm: Communicator | None = None,
) -> GaussNewton:
    """Return the generalized Gauss-Newton matrix of a loss over a data set.

    It is the sum of J^T M J over the data, with J the Jacobian of the model's outputs by its
    parameters and M the Hessian of the loss by the outputs: the Hessian of what the loss would be if
    the model were linear in its parameters. Where the loss is convex in the outputs it is positive
    semidefinite. For cross-entropy and squared errors it is the Fisher information matrix (of a
    Gaussian of variance 1/2).

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
    weight_decay : float
        Adds this multiple of the identity.
    micro_batch_size : int, optional
        Cut batches into parts of at most that many samples, to save memory.
    memory_budget : int, optional
        Bytes of graphs to keep between products; half of the free memory of the device where not given,
        none if 0.
    product : {'backward', 'forward', 'batched', 'auto'}, optional
        How to multiply by J and J^T. 'backward': by two backward passes and one for each column.
        'forward': by J in forward mode, 2 to 16 columns at a time, which keeps half as much and on a
        CPU takes half the time for convolutions. 'batched': by J^T so many at a time, too, for blocks
        and networks of small operations. 'auto': by what is fastest of these in a short trial at the
        first product. Each but 'backward' is compared with that once. Where not given, it is 'forward'
        if convolutions have some of the parameters, and else 'backward'.
    precision : {'tf32', 'bf16'}, optional
        Multiply matrices and convolutions in a lower precision than the model's, as for `hessian`.
    comm : Communicator, optional
        Ranks that call this together, each with the same model and its part of the data, as for
        `hessian`.

    Returns
    -------
    GaussNewton
        A self-adjoint operator whose `terms()` are the micro-batches; declared positive semidefinite if
        the criterion is known to be convex.

    Raises
    ------
    ValueError
        As for `hessian`, and if the loss is linear in the outputs or `product` is unknown.
    TypeError
        If model, loss or data are of a kind that is not understood, or the loss is a function of
        (model, batch), which does not show the outputs.
    RuntimeError
        If the model cannot be applied to the first batch.

    Warns
    -----
    RuntimeWarning
        At the first product, if `product` fails there or gives another result than backward passes,
        which then take its place.

    Notes
    -----
    In units of a forward pass, of which a gradient takes 3, a product by backward passes costs 4 where
    the graphs are kept, and 4 + 3 / k for each of k columns where they are not: 1.33 and (k = 8) 1.46
    gradients. With J in forward mode it is 4 + 1 / k and 4 + 2 / k, whether J^T is batched or not, for
    k up to 16 (2 where tensors are large).

    References
    ----------
    Schraudolph (2002), Neural Computation 14(7); Martens (2020), JMLR 21(146).

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> data = [(torch.eye(2), torch.zeros(2, 1))]
    >>> G = hessops_torch.ggn(model, torch.nn.MSELoss(), data)
    >>> G.to_dense(), G.structure.positive_semidefinite
    (tensor([[1., 0.],
            [0., 1.]]), True)
    """
    check_weight_decay(weight_decay)
    objective = objective_of(
        model, loss, data, params, mode, micro_batch_size, memory_budget, comm, precision
    )
    return GaussNewton(objective, weight_decay=weight_decay, product=product)


class GaussNewton(OutputSum):
    """The generalized Gauss-Newton matrix; `ggn` makes one from a model, a loss and data.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    weight_decay : float
        Multiple of the identity to add.
    product : {'backward', 'forward', 'batched', 'auto'}, optional
        How to multiply by the Jacobian and its adjoint, as for `ggn`.
    """

    _made_by = "ggn"

    def __init__(
        self,
        objective: Objective,
        *,
        weight_decay: float = 0.0,
        product: JacobianMode | None = None,
    ) -> None:
        loss = objective.loss
        semidefinite = isinstance(loss, OutputLoss) and is_convex(loss) and weight_decay >= 0
        structure = POSITIVE_SEMIDEFINITE if semidefinite else SELF_ADJOINT
        super().__init__(objective, weight_decay=weight_decay, structure=structure, product=product)
        # None until the closed form was held against what autograd finds.
        self._closed_form_holds: bool | None = None
        require_curvature(objective, self.loss)

    def _metric(self, outputs: Tensor, batch: Any, index: int) -> OutputMatrix:  # noqa: ARG002
        loss = self.loss
        known = closed_form(loss, outputs, batch)
        if known is None or not isinstance(loss, CriterionLoss):
            return differentiated(loss, outputs, batch)
        if self._closed_form_holds is None:
            self._closed_form_holds = closed_form_holds(loss, outputs, batch)
            if not self._closed_form_holds:
                warnings.warn(
                    _other_form(loss.criterion), RuntimeWarning, stacklevel=level_outside()
                )
        return known if self._closed_form_holds else differentiated(loss, outputs, batch)


def _other_form(criterion: nn.Module) -> str:
    return (
        f"the second derivative of {type(criterion).__name__} by its input is not what hessops knows "
        "in closed form, so that autograd computes it, which is slower; the result is right"
    )
