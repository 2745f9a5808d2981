"""Products in a lower precision than that of the model: on request alone, and measured.

Nothing else lowers it. PyTorch has global switches for training that let it convolve in TF32, as it
does on a GPU unless told otherwise, and multiply matrices in TF32 or bfloat16; a second derivative of
a trained network is a small difference of large terms, and loses digits that its gradient keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

__all__ = ["FULL", "Calls", "Precision", "calls_in", "check_precision", "epsilon", "kernels"]

Precision = Literal["tf32", "bf16"]
"""Precisions below that of the model, in which products may be asked for."""

_EPSILON: dict[Precision, float] = {"tf32": 2.0**-10, "bf16": 2.0**-7}
_AMPERE = 8, 0


@dataclass(frozen=True)
class Calls:
    """How the model is called: what it multiplies and convolves may be rounded to bfloat16.

    As in mixed-precision training, by autocast: parameters and what norms and losses compute stay in
    single precision, and derivatives go the way of the forward pass.

    Parameters
    ----------
    device_type : str
        Where.
    dtype : torch.dtype, optional
        To round to; that of the model if None.
    """

    device_type: str = "cpu"
    dtype: torch.dtype | None = None

    def rounding(self) -> AbstractContextManager[Any]:
        """Return what to call the model in."""
        if self.dtype is None:
            return nullcontext()
        # What is kept between calls would tie the graphs of micro-batches together.
        return torch.autocast(self.device_type, self.dtype, cache_enabled=False)

    def outputs(self, outputs: Any) -> Any:
        """Return the model's outputs, those of half precision in single precision for the loss."""
        if self.dtype is None or not torch.is_tensor(outputs) or outputs.dtype != self.dtype:
            return outputs
        return outputs.float()


FULL = Calls()
"""In the precision of the model."""


def calls_in(precision: Precision | None, device: torch.device) -> Calls:
    """Return how a model on a device is called for products in a precision."""
    return Calls(device.type, torch.bfloat16) if precision == "bf16" else FULL


def check_precision(precision: Any, parameter: Tensor) -> None:
    """Raise if a precision is unknown, or not to be had for a model.

    Parameters
    ----------
    precision : str or None
        One of `Precision`, or None.
    parameter : torch.Tensor
        One of the model's, with their dtype and device.

    Raises
    ------
    ValueError
        If there is no such precision for them.
    """
    if precision is None:
        return
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision={precision!r} is unknown; choose one of {', '.join(get_args(Precision))}, or "
            "leave it out for that of the model"
        )
    if parameter.dtype != torch.float32:
        raise ValueError(
            f"precision={precision!r} rounds what is in torch.float32, and the model is in "
            f"{parameter.dtype}: leave precision out, or convert model and data by .float()"
        )
    if precision == "tf32" and not _has_tf32(parameter.device):
        raise ValueError(
            f"precision='tf32' needs an NVIDIA GPU of the Ampere generation or later, and the model is "
            f"on {_describe(parameter.device)}: leave precision out, or use 'bf16'"
        )


def epsilon(precision: Precision | None, dtype: torch.dtype) -> float:
    """Return the distance from 1 to the next number that products are computed with."""
    return torch.finfo(dtype).eps if precision is None else _EPSILON[precision]


@contextmanager
def kernels(precision: Precision | None, device_type: str) -> Iterator[None]:
    """Have matrices and convolutions of single precision multiplied in it, or in TF32 if asked for.

    Parameters
    ----------
    precision : {'tf32', 'bf16'} or None
        What products are asked for in.
    device_type : str
        Whose kernels.

    Yields
    ------
    None
        While they are; PyTorch's own switches are as they were afterwards.
    """
    with ExitStack() as stack:
        for owner, name, plain, rounded in _switches(device_type):
            stack.enter_context(_set(owner, name, rounded if precision == "tf32" else plain))
        yield


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    try:
        setattr(owner, name, value)
        yield
    finally:
        setattr(owner, name, before)


def _switches(device_type: str) -> list[tuple[Any, str, Any, Any]]:
    """Return the owner and name of PyTorch's switches, and their values without and with TF32."""
    backends: Any = torch.backends
    # Since torch 2.9 each kind of operation has one of its own, and the older must not be mixed in.
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        library = backends.cudnn if device_type == "cuda" else backends.mkldnn
        matmul = backends.cuda.matmul if device_type == "cuda" else backends.mkldnn.matmul
        owners = matmul, library.conv, library.rnn
        return [(owner, "fp32_precision", "ieee", "tf32") for owner in owners]
    if device_type != "cuda":
        return []
    return [(owner, "allow_tf32", False, True) for owner in (backends.cuda.matmul, backends.cudnn)]


def _has_tf32(device: torch.device) -> bool:
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= _AMPERE
    )


def _describe(device: torch.device) -> str:
    if device.type != "cuda":
        return f"the {device.type}"
    return f"{torch.cuda.get_device_name(device)} ({device})"
