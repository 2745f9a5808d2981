"""A model is left as it was found: mode, buffers, gradients, random state, also after an exception."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hessops_torch.data.random_state import preserved_global_rng
from hessops_torch.model.embeddings import plain_embeddings
from hessops_torch.model.precision import Precision, kernels

__all__ = [
    "Mode",
    "require_separate_samples",
    "second_order",
    "unwritten",
    "uses_batch_statistics",
]

Mode = Literal["eval", "train"]

_logger = logging.getLogger("hessops")
_told: set[str] = set()


@contextmanager
def second_order(
    model: nn.Module,
    parameters: Iterable[nn.Parameter],
    mode: Mode | None,
    precision: Precision | None = None,
) -> Iterator[None]:
    """Make a model ready for second derivatives, and put everything back afterwards.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    parameters : iterable of torch.nn.Parameter
        Those to differentiate by; no other gets a gradient graph.
    mode : {'eval', 'train'} or None
        Of all its modules; as they are if None.
    precision : {'tf32', 'bf16'} or None
        In which products are asked for; that of the model if None.

    Yields
    ------
    None
        While the model is ready.
    """
    chosen = list(parameters)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        # Products have the precision of the model, also within somebody's mixed-precision training.
        stack.enter_context(torch.autocast(chosen[0].device.type, enabled=False))
        stack.enter_context(kernels(precision, chosen[0].device.type))
        stack.enter_context(_mode(model, mode))
        stack.enter_context(_gradients_for(model, chosen))
        stack.enter_context(_own_buffers(model))
        stack.enter_context(_without_gradient_hooks(model, chosen))
        stack.enter_context(_differentiable_kernels(model))
        stack.enter_context(plain_embeddings(model))
        devices = [chosen[0].device] if chosen[0].device.type == "cuda" else []
        stack.enter_context(preserved_global_rng(devices))
        yield


@contextmanager
def unwritten(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Refuse a forward pass that writes into its parameters, and undo it.

    Parameters
    ----------
    parameters : mapping of str to torch.nn.Parameter
        By name.

    Yields
    ------
    None
        While it runs.

    Raises
    ------
    ValueError
        If it has written into one.
    """
    before = {name: (p._version, p.detach().clone()) for name, p in parameters.items()}
    yield
    written = [name for name, p in parameters.items() if p._version != before[name][0]]
    if not written:
        return
    with torch.no_grad():
        for name in written:
            parameters[name].copy_(before[name][1])
    raise ValueError(
        f"the forward pass writes into the parameter {written[0]}, so that the model is not left as "
        "it was found and the loss is another one each time: compute with a copy instead (an "
        "embedding with max_norm writes, too)"
    )


def uses_batch_statistics(model: nn.Module, mode: Mode | None) -> bool:
    """Tell whether some batch norm normalises by the batch, which then must not be split."""
    return any(
        (module.training if mode is None else mode == "train") or module.running_mean is None
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    )


def require_separate_samples(model: nn.Module, mode: Mode | None) -> None:
    """Raise if batches must not be cut, since batch norm makes each one function of its samples."""
    if uses_batch_statistics(model, mode):
        raise ValueError(
            "batch norm in train mode makes a batch one function of all its samples, so it cannot be "
            "split: leave micro_batch_size out, or use mode='eval'"
        )


@contextmanager
def _mode(model: nn.Module, mode: Mode | None) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    # Within the block, here as below, so that what interrupts the changes leaves none behind.
    try:
        if mode is not None:
            for module in before:
                module.training = mode == "train"
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextmanager
def _gradients_for(model: nn.Module, chosen: list[nn.Parameter]) -> Iterator[None]:
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    wanted = set(chosen)
    try:
        for parameter in before:
            parameter.requires_grad_(parameter in wanted)
        yield
    finally:
        for parameter, requires_grad in before.items():
            parameter.requires_grad_(requires_grad)


@contextmanager
def _own_buffers(model: nn.Module) -> Iterator[None]:
    """Let the model update copies of its buffers.

    Exchanging the tensors, not copying values back: kept graphs hold the copies, and writing into
    what a graph holds would make it unusable. In eval mode, too: observers and caches are written
    then.
    """
    owners: list[tuple[nn.Module, str, Tensor]] = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        for module, name, buffer in owners:
            module._buffers[name] = buffer.clone()
        yield
    finally:
        for module, name, buffer in owners:
            module._buffers[name] = buffer


@contextmanager
def _without_gradient_hooks(model: nn.Module, chosen: list[nn.Parameter]) -> Iterator[None]:
    """Take off what a training loop hangs on gradients, such as clipping: it is not the loss's."""
    modules = [
        (module, dict(module._backward_hooks), dict(module._backward_pre_hooks))
        for module in model.modules()
        if module._backward_hooks or module._backward_pre_hooks
    ]
    tensors = [(p, p._backward_hooks) for p in chosen if p._backward_hooks]
    try:
        for module, _, _ in modules:
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
        for parameter, _ in tensors:
            parameter._backward_hooks = None
        yield
    finally:
        for parameter, hooks in tensors:
            parameter._backward_hooks = hooks
        for module, hooks, pre_hooks in modules:
            module._backward_hooks.update(hooks)
            module._backward_pre_hooks.update(pre_hooks)


@contextmanager
def _differentiable_kernels(model: nn.Module) -> Iterator[None]:
    """Choose kernels that have a second derivative: not fused attention, not cuDNN's recurrent nets."""
    if any("attention" in type(module).__name__.lower() for module in model.modules()):
        _tell_once(
            "second derivatives of attention use its unfused math kernel; first-order passes of "
            "yours keep the fused ones"
        )
    fastpath = torch.backends.mha.get_fastpath_enabled()
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if recurrent:
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _tell_once(message: str) -> None:
    if message not in _told:
        _told.add(message)
        _logger.info(message)
