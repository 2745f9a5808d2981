"""Jacobians of small networks as dense matrices, and what is made of them, by plain autograd alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Forward = Callable[[Callable[..., Any]], Tensor]
"""From a stand-in for the model to its outputs for all the data."""


def dense_jacobian(model: nn.Module, forward: Forward) -> Tensor:
    """Return the derivative of all outputs, flattened, by all parameters, in the model's order."""
    model = copy.deepcopy(model)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}

    def outputs(*pieces: Tensor) -> Tensor:
        named = dict(zip(parameters, pieces, strict=True))
        return forward(lambda *inputs: functional_call(model, named, inputs)).reshape(-1)

    with sdpa_kernel(SDPBackend.MATH):
        pieces = jacobian(outputs, tuple(parameters.values()))
    return torch.cat([piece.reshape(len(piece), -1) for piece in pieces], dim=1)


def outputs_of(model: nn.Module, forward: Forward) -> Tensor:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return forward(copy.deepcopy(model))


def dense_ggn(model: nn.Module, forward: Forward, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return J^T M J, with M the second derivative of `loss` by the outputs for all the data."""
    J, outputs = dense_jacobian(model, forward), outputs_of(model, forward)
    M = hessian(lambda flat: loss(flat.reshape(outputs.shape)), outputs.reshape(-1))
    return J.T @ M @ J


def unit_gradients(
    model: nn.Module,
    forward: Forward,
    loss: Callable[[Tensor], Tensor],
    axes: tuple[int, ...] = (0,),
) -> Tensor:
    """Return the gradient of every unit's share of a summed loss, one a row.

    Units are told apart by `axes` of the outputs, and the loss is a sum over them.
    """
    J, outputs = dense_jacobian(model, forward), outputs_of(model, forward)
    leaf = outputs.clone().requires_grad_()
    (residual,) = torch.autograd.grad(loss(leaf), leaf)
    shares = residual[..., None] * J.reshape(*outputs.shape, -1)
    others = tuple(axis for axis in range(outputs.ndim) if axis not in axes)
    return (shares.sum(others) if others else shares).flatten(0, len(axes) - 1)
