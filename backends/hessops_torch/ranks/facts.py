"""What models and losses are, as small facts that ranks can hold against each other."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import partial
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from hessops_torch.data.batch import bytes_of
from hessops_torch.losses.contract import BatchLoss

__all__ = ["facts_of_loss", "facts_of_modules", "facts_of_state", "facts_of_weights"]

_PLAIN = (bool, int, float, str, type(None))
# Of batches that batch norm has seen: no product reads it.
_COUNTER = "num_batches_tracked"
# Own modules may hold what differs: the name of a device, a counter of calls.
_LIBRARY = "torch.nn.modules."


def facts_of_modules(model: nn.Module, mode: str | None) -> dict[str, object]:
    """Return the kinds of a model's modules, their modes, and settings of those of PyTorch.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    mode : {'eval', 'train'} or None
        Of all its modules during products; as they stand if None.

    Returns
    -------
    dict of str to object
        By the names of the modules.
    """
    return {
        f"module {name}" if name else "the model": _describe_module(module, mode)
        for name, module in model.named_modules()
    }


def facts_of_weights(model: nn.Module, mode: str | None) -> dict[str, object]:
    """Return checksums of a model's parameters, frozen ones as well, and of the buffers that it reads.

    Parameters
    ----------
    model : torch.nn.Module
        The model. Those of batch norm in train mode are not read.
    mode : {'eval', 'train'} or None
        Of all its modules during products; as they stand if None.

    Returns
    -------
    dict of str to object
        By name.
    """
    parameters = dict(model.named_parameters())
    buffers = _buffers_read(model, mode)
    return _checksums("parameter", parameters) | _checksums("buffer", buffers)


def facts_of_state(model: nn.Module, mode: str | None) -> dict[str, object]:
    """Return norms of what `facts_of_weights` looks at, to tell whether it has changed on some rank.

    Parameters
    ----------
    model : torch.nn.Module
        The model. Each tensor is read once, where it is, and all norms come by one synchronisation.
    mode : {'eval', 'train'} or None
        Of all its modules during products; as they stand if None.

    Returns
    -------
    dict of str to object
        Of real tensors with entries, by name, to ten digits.
    """
    named: dict[str, Tensor] = {f"parameter {name}": p for name, p in model.named_parameters()}
    named |= {f"buffer {name}": tensor for name, tensor in _buffers_read(model, mode).items()}
    read = {
        name: tensor.detach()
        for name, tensor in named.items()
        if _is_legible(tensor) and tensor.dtype.is_floating_point
    }
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in read.values()]
    numbers = torch.stack([norm.to(norms[0].device) for norm in norms]).tolist() if norms else []
    # Processors of another kind round the last digits otherwise.
    return {f"the norm of {name}": f"{x:.10g}" for name, x in zip(read, numbers, strict=True)}


def facts_of_loss(loss: BatchLoss) -> dict[str, object]:
    """Return what a loss is: kinds, settings and weights of criteria, names and code of functions.

    Parameters
    ----------
    loss : BatchLoss
        The loss.

    Returns
    -------
    dict of str to object
        By what they are called in messages.
    """
    facts: dict[str, object] = {
        "the loss": ", ".join(map(_describe_part, loss.parts)),
        "a mean over the data": loss.averages,
    }
    for part in loss.parts:
        if isinstance(part, nn.Module):
            name = type(part).__qualname__
            facts |= {f"{name}.{key}": value for key, value in _settings(part).items()}
            facts |= _checksums("parameter of the loss", dict(part.named_parameters()))
            facts |= _checksums("buffer of the loss", dict(part.named_buffers()))
    return facts


def _buffers_read(model: nn.Module, mode: str | None) -> dict[str, Tensor]:
    unread = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        for name, _ in module.named_buffers(recurse=False)
        if name == _COUNTER or (isinstance(module, _NormBase) and _trains(module, mode))
    }
    return {name: b for name, b in model.named_buffers() if name not in unread}


def _trains(module: nn.Module, mode: str | None) -> bool:
    return module.training if mode is None else mode == "train"


def _describe_module(module: nn.Module, mode: str | None) -> str:
    own = {} if not type(module).__module__.startswith(_LIBRARY) else _settings(module)
    listed = ", ".join(f"{key}={value!r}" for key, value in own.items())
    state = "train" if _trains(module, mode) else "eval"
    return f"{type(module).__qualname__}({listed}) in {state} mode"


def _settings(module: nn.Module) -> dict[str, object]:
    """Return the options of a module that are numbers or words."""
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and isinstance(value, _PLAIN)
    }


def _describe_part(part: Any) -> str:
    """Return the kind of a criterion, or the name, place and code of a function."""
    if isinstance(part, partial):
        held = [*part.args, *part.keywords.values()]
        return f"partial of {_describe_part(part.func)}{_floats(held)}"
    function = getattr(part, "__func__", part)
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return type(part).__qualname__
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *cells]
    return (
        f"{function.__qualname__} in line {code.co_firstlineno} of {function.__module__}, with code "
        f"{_checksum_of_code(code):08x}{_floats(held)}"
    )


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # Not assigned yet.
        return False


def _floats(held: list[Any]) -> str:
    # Not other numbers and words, such as a rank or the name of its device.
    numbers = [value for value in held if isinstance(value, float)]
    return f" and {', '.join(map(repr, numbers))}" if numbers else ""


def _checksum_of_code(code: CodeType) -> int:
    constants = [
        _checksum_of_code(constant) if isinstance(constant, CodeType) else repr(constant)
        for constant in code.co_consts
        # The order of a set depends on the process.
        if not isinstance(constant, frozenset)
    ]
    return zlib.crc32(repr((constants, code.co_names)).encode(), zlib.crc32(code.co_code))


def _checksums(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Return shape, dtype and a checksum of the entries of every tensor, by kind and name."""
    return {
        f"{kind} {name}": f"{tuple(t.shape)} {t.dtype} with checksum {_checksum(t):08x}"
        for name, t in tensors.items()
        if not is_lazy(t)
    }


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(bytes_of(tensor)) if _is_legible(tensor) else 0


def _is_legible(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_meta and tensor.layout == torch.strided
