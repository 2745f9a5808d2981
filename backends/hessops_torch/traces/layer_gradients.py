"""Gradients of every sample by the parameters of a layer, from its input and its output's gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name

__all__ = ["LAYERS", "LayerGradient"]

LayerGradient: TypeAlias = Callable[[Tensor], Mapping[str, Tensor]]
"""From the gradient of a layer's output to blocks (samples, *parameter.shape), by parameter name."""


def _linear(_layer: nn.Linear, inputs: Tensor) -> LayerGradient:
    rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])

    def gradient(delta: Tensor) -> dict[str, Tensor]:
        columns = delta.reshape(len(delta), -1, delta.shape[-1])
        return {"weight": columns.transpose(1, 2) @ rows, "bias": columns.sum(1)}

    return gradient


def _convolution(layer: nn.Conv1d | nn.Conv2d, inputs: Tensor) -> LayerGradient:
    patches = _patches(layer, inputs)
    count, groups = len(inputs), layer.groups

    def gradient(delta: Tensor) -> dict[str, Tensor]:
        rows = delta.reshape(count, groups, layer.out_channels // groups, -1)
        weight = (rows @ patches.transpose(2, 3)).reshape(count, *layer.weight.shape)
        return {"weight": weight, "bias": delta.flatten(2).sum(2)}

    return gradient


def _patches(layer: Any, inputs: Tensor) -> Tensor:
    """Return what each output position sees, shape (samples, groups, patch, positions)."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError("only zeros may pad, by numbers")
    options = [layer.kernel_size, layer.dilation, layer.padding, layer.stride]
    if inputs.ndim == 3:
        inputs, neutral = inputs.unsqueeze(2), (1, 1, 0, 1)
        options = [(unit, *option) for unit, option in zip(neutral, options, strict=True)]
    patches = F.unfold(inputs, *options)
    return patches.reshape(len(inputs), layer.groups, -1, patches.shape[-1])


def _batch_norm(layer: nn.modules.batchnorm._BatchNorm, inputs: Tensor) -> LayerGradient:
    if layer.training or layer.running_mean is None or layer.running_var is None:
        raise ValueError("samples are joined by batch statistics")
    shape = (1, -1, *(1 for _ in inputs.shape[2:]))
    mean, scale = layer.running_mean, torch.rsqrt(layer.running_var + layer.eps)
    normalized = (inputs - mean.reshape(shape)) * scale.reshape(shape)
    return _per_channel(normalized)


def _group_norm(layer: nn.GroupNorm, inputs: Tensor) -> LayerGradient:
    return _per_channel(F.group_norm(inputs, layer.num_groups, eps=layer.eps))


def _per_channel(normalized: Tensor) -> LayerGradient:
    def summed(block: Tensor) -> Tensor:
        return block.flatten(2).sum(2) if block.ndim > 2 else block

    return lambda delta: {"weight": summed(delta * normalized), "bias": summed(delta)}


def _layer_norm(layer: nn.LayerNorm, inputs: Tensor) -> LayerGradient:
    shape = layer.normalized_shape
    normalized = F.layer_norm(inputs, shape, eps=layer.eps)

    def summed(block: Tensor) -> Tensor:
        return block.reshape(len(block), -1, *shape).sum(1)

    return lambda delta: {"weight": summed(delta * normalized), "bias": summed(delta)}


def _embedding(layer: nn.Embedding, inputs: Tensor) -> LayerGradient:
    if layer.max_norm is not None or layer.scale_grad_by_freq:
        raise ValueError("only plain look-ups are linear")
    tokens = inputs.reshape(len(inputs), -1)

    def gradient(delta: Tensor) -> dict[str, Tensor]:
        rows = delta.reshape(*tokens.shape, -1)
        if layer.padding_idx is not None:
            rows = rows * (tokens != layer.padding_idx).unsqueeze(-1)
        weight = rows.new_zeros((len(rows), *layer.weight.shape))
        weight.scatter_add_(1, tokens.unsqueeze(-1).expand_as(rows), rows)
        return {"weight": weight}

    return gradient


LAYERS: dict[type[nn.Module], Callable[[Any, Tensor], LayerGradient]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}
"""By exact type: a subclass may do anything else."""
