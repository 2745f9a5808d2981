"""Modules with other tensors in the place of their parameters and buffers, for function transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["called_with"]


def called_with(module: nn.Module, tensors: Mapping[str, Tensor], *arguments: Any) -> Any:
    """Call a module with other tensors in the place of some of its parameters and buffers.

    `torch.func.functional_call` exchanges the parameters of a module that stands in two places twice,
    and so leaves it with the tensors of the call, and cut off from its parameters (PyTorch 2.13).
    Here every module is exchanged once, and all places of a tied tensor get the same.

    Parameters
    ----------
    module : torch.nn.Module
        The module; afterwards as it was, also after an exception.
    tensors : mapping of str to torch.Tensor
        By the name of a parameter or buffer, one of several where it is tied.
    *arguments : object
        Of the module.

    Returns
    -------
    object
        What the module returns.
    """
    places: dict[int, list[str]] = {}
    for prefix, part in module.named_modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    places.setdefault(id(tensor), []).append(f"{prefix}.{name}" if prefix else name)
    inside = {
        place: value
        for name, value in tensors.items()
        for place in places[id(_tensor_at(module, name))]
    }
    call: Any = torch.func.functional_call  # It has no types.
    return call(module, inside, arguments, tie_weights=False)


def _tensor_at(module: nn.Module, name: str) -> Tensor:
    prefix, _, last = name.rpartition(".")
    owner = module.get_submodule(prefix)
    found = owner._parameters[last] if last in owner._parameters else owner._buffers[last]
    assert found is not None
    return found
