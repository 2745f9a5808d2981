"""What products by `torch.func` have in common: tensors by name, and a model left as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hessops_torch.model.functional import called_with

__all__ = ["Named", "attributes_kept", "forward_mode", "function_of_model", "named_views"]

Named: TypeAlias = dict[str, Tensor]
"""Tensors by the names of the parameters that they belong to."""


def named_views(rows: Tensor, parameters: Mapping[str, Tensor]) -> Named:
    """Return flat vectors, one per row, as stacks of tensors of the parameters' shapes."""
    pieces = torch.split(rows, [p.numel() for p in parameters.values()], dim=1)
    return {
        name: piece.view(len(rows), *p.shape)
        for piece, (name, p) in zip(pieces, parameters.items(), strict=True)
    }


def function_of_model(module: nn.Module, parameters: Named, buffers: Named, *arguments: Any) -> Any:
    """Call a module whose attribute `model` has other parameters, and copies of other buffers.

    Parameters
    ----------
    module : torch.nn.Module
        Such as `LossModule`, or `OutputsModule`.
    parameters, buffers : dict of str to torch.Tensor
        By their names in the model.
    *arguments : object
        Of the module.

    Returns
    -------
    object
        What the module returns.
    """
    # Cloned under the transform, which lets what it has seen come into being be written to.
    copies = {name: buffer.clone() for name, buffer in buffers.items()}
    tensors = {f"model.{name}": tensor for name, tensor in (parameters | copies).items()}
    return called_with(module, tensors, *arguments)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Put back the attributes that a forward pass writes, which would hold tensors of a transform.

    Parameters
    ----------
    model : torch.nn.Module
        With all modules inside.

    Yields
    ------
    None
        While they may be written.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            now = vars(module)
            # Never without its parameters, which an interrupt in between would leave it.
            now.update(attributes)
            for name in now.keys() - attributes.keys():
                del now[name]


@contextmanager
def forward_mode() -> Iterator[None]:
    """Let PyTorch compile its own forward-mode formulas with what it has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
        yield
