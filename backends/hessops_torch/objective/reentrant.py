"""Reentrant checkpoints of inputs without a gradient, whose parameters would count as zeros."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointFunction

from hessops_torch.graphs.nodes import THROUGH_CHECKPOINT

__all__ = ["evaluated_beside_checkpoints"]

_T = TypeVar("_T")

_SIGN = "None of the inputs have requires_grad=True"


def evaluated_beside_checkpoints(evaluate: Callable[[], _T]) -> _T:
    """Evaluate a loss with its graph, or raise if a checkpoint cuts parameters off.

    Such a checkpoint computes without a graph and leaves no node behind where no argument of it has a
    gradient, as that of the first layers: PyTorch only warns, also where all inside is frozen, which
    does no harm. So a loss that brings the warning is evaluated once more, with a look at what the
    checkpoint computes with.

    Parameters
    ----------
    evaluate : callable
        Evaluates the loss, while gradients are enabled.

    Returns
    -------
    object
        What it returns.

    Raises
    ------
    RuntimeError
        If something inside would need a gradient.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=_SIGN, category=UserWarning)
        try:
            return evaluate()
        except UserWarning as sign:
            if not str(sign).startswith(_SIGN):
                raise
        warnings.filterwarnings("ignore", message=_SIGN, category=UserWarning)
        with _Look():  # type: ignore[no-untyped-call]
            return evaluate()


class _Look(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where a reentrant checkpoint computes with what needs a gradient."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if not torch.is_grad_enabled() and any(
            torch.is_tensor(leaf) and leaf.requires_grad for leaf in tree_leaves((args, kwargs))
        ):
            _require_no_checkpoint()
        return func(*args, **(kwargs or {}))


def _require_no_checkpoint() -> None:
    """Raise within a reentrant checkpoint; others who compute without a graph mean to."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            raise RuntimeError(THROUGH_CHECKPOINT)
        frame = frame.f_back  # type: ignore[assignment]
