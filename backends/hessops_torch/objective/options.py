"""Checks of what `hessian` is given, each with a sentence of its own."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from torch import nn

__all__ = ["check_model", "check_options", "check_weight_decay"]


def check_model(model: Any) -> None:
    """Raise if a model is none.

    Parameters
    ----------
    model : object
        To be a `torch.nn.Module`.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if isinstance(model, nn.Module):
        return
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(f"the model is the class {model.__name__}: pass an instance of it")
    raise TypeError(
        f"a model must be a torch.nn.Module, got {_short(model)}; put a function of parameters into "
        "the forward of a module that holds them"
    )


def check_options(*, mode: Any, micro_batch_size: Any, memory_budget: Any) -> None:
    """Raise if an option of `Objective` is out of range.

    Parameters
    ----------
    mode : {'eval', 'train'} or None
        Mode of the model.
    micro_batch_size : int or None
        Positive.
    memory_budget : int or None
        Not negative.

    Raises
    ------
    ValueError
        If one is of another kind or out of range.
    """
    if mode not in (None, "eval", "train"):
        raise ValueError(f"mode={mode!r} is unknown; choose 'eval' or 'train'")
    if micro_batch_size is not None and not (
        _is(micro_batch_size, Integral) and micro_batch_size >= 1
    ):
        raise ValueError(
            f"micro_batch_size={micro_batch_size!r} must be a positive integer, or be left out"
        )
    if memory_budget is not None and not (_is(memory_budget, Real) and memory_budget >= 0):
        raise ValueError(
            f"memory_budget={memory_budget!r} must be a number of bytes, not negative; 0 keeps no "
            "gradient graphs"
        )


def check_weight_decay(weight_decay: Any) -> None:
    """Raise if a multiple of the identity is none.

    Parameters
    ----------
    weight_decay : float
        Finite.

    Raises
    ------
    ValueError
        If it is no finite real number.
    """
    if not _is(weight_decay, Real) or not math.isfinite(weight_decay):
        raise ValueError(f"weight_decay={weight_decay!r} must be a finite real number")


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"a {type(value).__name__}"
