"""Hessians of a loss by activations and by inputs."""

from __future__ import annotations

from typing import Any

from torch import nn

from hessops_torch.losses.loss import Loss
from hessops_torch.model.state import Mode
from hessops_torch.operators.arguments import objective_of
from hessops_torch.operators.shift_hessian import ShiftHessian
from hessops_torch.operators.shift_points import (
    InputTensor,
    ModuleOutputs,
    ModuleSelection,
    find_modules,
)

__all__ = ["activation_hessian", "input_hessian"]


def activation_hessian(
    model: nn.Module,
    loss: Loss,
    data: Any,
    modules: ModuleSelection,
    *,
    mode: Mode | None = None,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
) -> ShiftHessian:
    """Return the Hessian of a loss over a data set by the outputs of some modules.

    Something is added to the output of each module for each sample, and the loss differentiated by
    that. The operator acts on all these outputs at once: the diagonal block of one module is the
    Hessian by its activations, as HAWQ-V2 uses it to give activations their number of bits. In eval
    mode samples do not know of each other, so that each such block is block diagonal over samples.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found.
    loss : torch.nn.Module or callable
        As for `hessian`. A mean over N samples makes the blocks of single samples 1/N of those of
        their own losses.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        As for `hessian`.
    modules : str, re.Pattern, torch.nn.Module, type, or iterable of these
        Names, shell patterns such as ``'layer1.*.conv?'``, regular expressions, modules, or classes.
        Each has to be called once in a forward pass, and to return one tensor.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given.
    micro_batch_size : int, optional
        Cut batches into parts of at most that many samples, to save memory.
    memory_budget : int, optional
        Bytes of gradient graphs to keep between products; half of the free memory of the device where
        not given, none if 0.

    Returns
    -------
    ShiftHessian
        On a space with one section for every module. `hessops.trace` gives the trace of every section,
        and `layer_curvature` a table.

    Raises
    ------
    ValueError
        As for `hessian`, and if no module fits, or one is not called once in a forward pass.
    TypeError
        If an output is no floating tensor, or model, loss or data are of a kind that is not understood.
    RuntimeError
        If the model cannot be applied to the first batch.

    Notes
    -----
    Making the operator takes a forward pass over the data, for the shapes. A product costs about half
    of one of the Hessian by the parameters, or less: passes go down to the first of the modules and
    leave out the gradients of weights. Counted by floating point operations, for all convolutions of a
    ResNet20, it is 1.0 gradients with a graph that was kept and 1.7 without. Vectors are long, as they
    have entries for every sample; trace and diagonal need no fresh probes for micro-batches, whose
    entries of one probe are independent.

    References
    ----------
    Dong et al. (2020), NeurIPS (HAWQ-V2).

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> data = [(torch.randn(8, 3), torch.randn(8, 1)), (torch.randn(2, 3), torch.randn(2, 1))]
    >>> A = hessops_torch.activation_hessian(model, torch.nn.MSELoss(), data, ["0", "1"])
    >>> A.space.shapes
    {'0': torch.Size([10, 4]), '1': torch.Size([10, 4])}
    >>> sorted(hessops.trace(A, rng=0).sections)
    ['0', '1']
    """
    params = _all_parameters(model)
    # Which says what is wrong with a model that is none.
    objective = objective_of(model, loss, data, params, mode, micro_batch_size, memory_budget)
    return ShiftHessian(objective, ModuleOutputs(find_modules(model, modules)))


def input_hessian(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    which: int | str = 0,
    mode: Mode | None = None,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
) -> ShiftHessian:
    """Return the Hessian of a loss over some data by the data's inputs.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found.
    loss : torch.nn.Module or callable
        As for `hessian`.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        As for `hessian`.
    which : int or str
        Place of the input in a batch, or its key where batches are dictionaries. Where a loss of one's
        own uses it elsewhere, too, that is differentiated with it.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given.
    micro_batch_size : int, optional
        Cut batches into parts of at most that many samples, to save memory.
    memory_budget : int, optional
        Bytes of gradient graphs to keep between products; half of the free memory of the device where
        not given, none if 0.

    Returns
    -------
    ShiftHessian
        On vectors with the entries of the inputs of all samples; block diagonal over samples in eval
        mode. A product costs half of one of the Hessian by the parameters.

    Raises
    ------
    ValueError
        As for `hessian`, and if a batch has no such input.
    TypeError
        If the input is no floating tensor, or model, loss or data are of a kind that is not understood.
    RuntimeError
        If the model cannot be applied to the first batch.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> torch.nn.init.constant_(model.weight, 2.0)
    Parameter containing:
    tensor([[2., 2.]], requires_grad=True)
    >>> hessops_torch.input_hessian(model, torch.nn.MSELoss(), (torch.eye(2), torch.zeros(2, 1)))
    ShiftHessian(4x4, float32, self-adjoint, by 'input 0', 1 micro-batch, train mode)
    """
    params = _all_parameters(model)
    objective = objective_of(model, loss, data, params, mode, micro_batch_size, memory_budget)
    return ShiftHessian(objective, InputTensor(which))


def _all_parameters(model: nn.Module) -> list[nn.Parameter] | None:
    """Return the parameters of a model, whether or not they are frozen; None of what is no model."""
    return list(model.parameters()) if isinstance(model, nn.Module) else None
