"""Gradients of single samples: J_i^T u_i for every sample i of a micro-batch, from one backward pass.

Where all parameters belong to layers whose gradient is known in closed form from the layer's input
and the gradient of its output (linear, convolution, normalisation, embedding), one backward pass
for the whole micro-batch gives those of all samples (Goodfellow 2015, arXiv:1510.01799, for
norms). Other models are differentiated sample by sample by `torch.func.vmap`. Both are held
against the gradient of the whole micro-batch before they are believed: samples that a model joins
(batch norm in train mode) have no gradients of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from hessops_torch.data.batch import map_tensors, tensors_in
from hessops_torch.losses.contract import EvaluationError, OutputLoss
from hessops_torch.losses.failures import applying, differentiating
from hessops_torch.model.functional import called_with
from hessops_torch.objective.loss_module import OutputsModule
from hessops_torch.traces.layer_gradients import LAYERS, LayerGradient

__all__ = [
    "HookedGradients",
    "MappedGradients",
    "SampleGradients",
    "WholeGradients",
    "supported",
]


class SampleGradients(ABC):
    """Gradients of a micro-batch's outputs, for seeds that are given later.

    Parameters
    ----------
    model : torch.nn.Module
        The model, ready.
    loss : OutputLoss
        The loss; only its outputs are used.
    batch : object
        The micro-batch.
    parameters : mapping of str to torch.Tensor
        To differentiate by.
    name : str
        What messages call the micro-batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: OutputLoss,
        batch: Any,
        parameters: Mapping[str, Tensor],
        name: str,
    ) -> None:
        self.parameters = list(parameters.values())
        with applying(batch, self.parameters[0], name):
            self.graph = loss.outputs(model, batch)
        self.outputs = self.graph.detach()
        self.name = name

    @abstractmethod
    def of(self, seeds: Tensor) -> list[Tensor]:
        """Return the gradients of <seeds, outputs>, a block for every parameter.

        Parameters
        ----------
        seeds : torch.Tensor
            In the shape of the outputs.

        Returns
        -------
        list of torch.Tensor
            Each of shape (samples, *parameter.shape), or (1, *parameter.shape) for the whole.
        """

    def whole(self, seeds: Tensor) -> list[Tensor]:
        """Return the gradients of <seeds, outputs> over all samples, each of the parameter's shape."""
        if not self.graph.requires_grad:
            return [torch.zeros_like(parameter) for parameter in self.parameters]
        with differentiating(self.name):
            found = torch.autograd.grad(
                self.graph, self.parameters, seeds, retain_graph=True, allow_unused=True
            )
        pairs = zip(found, self.parameters, strict=True)
        return [torch.zeros_like(p) if gradient is None else gradient for gradient, p in pairs]

    def holds(self) -> bool:
        """Tell whether gradients of samples are theirs alone, and add up to that of the whole."""
        if len(self.outputs) < 2:
            return True
        # Of every other sample: none of the others has a share.
        signs = torch.ones(self.outputs.numel(), dtype=self.outputs.dtype)
        signs[::2] = -1.0
        seeds = signs.to(self.outputs.device).reshape(self.outputs.shape)
        seeds[1::2] = 0.0
        eps = torch.finfo(seeds.dtype).eps
        for found, whole in zip(self.of(seeds), self.whole(seeds), strict=True):
            if len(found) != len(self.outputs):
                return False
            tolerance = eps**0.5 * max(float(found.norm()), float(whole.norm()))
            if float((found.sum(0) - whole).norm()) > tolerance:
                return False
            if float(found[1::2].norm()) > tolerance:
                return False
        return True


class WholeGradients(SampleGradients):
    """The gradient of the whole micro-batch, as if it were one sample."""

    def of(self, seeds: Tensor) -> list[Tensor]:
        """Return the gradient of <seeds, outputs> over all samples, as that of one."""
        return [gradient[None] for gradient in self.whole(seeds)]


class MappedGradients(SampleGradients):
    """By `torch.func.vmap` over samples; any model that it can run one sample at a time."""

    def __init__(
        self,
        model: nn.Module,
        loss: OutputLoss,
        batch: Any,
        parameters: Mapping[str, Tensor],
        name: str,
    ) -> None:
        super().__init__(model, loss, batch, parameters, name)
        self._tensors = list(tensors_in(batch))
        outputs = OutputsModule(model, loss)
        fixed = {f"model.{key}": p.detach() for key, p in model.named_parameters()}
        fixed |= {f"model.{key}": buffer for key, buffer in model.named_buffers()}
        names = [f"model.{key}" for key in parameters]
        self._chosen = {key: fixed.pop(key) for key in names}

        def weighted(chosen: dict[str, Tensor], seed: Tensor, *tensors: Tensor) -> Tensor:
            parts = iter(tensors)
            one = map_tensors(lambda _: next(parts).unsqueeze(0), batch)
            found: Tensor = called_with(outputs, fixed | chosen, one)
            return (found[0] * seed).sum()

        axes = (None, 0, *(0 for _ in self._tensors))
        self._gradients = vmap(grad(weighted), in_dims=axes)

    def of(self, seeds: Tensor) -> list[Tensor]:
        """Return the gradients of <seeds, outputs> by `vmap`."""
        return list(self._gradients(self._chosen, seeds, *self._tensors).values())


class HookedGradients(SampleGradients):
    """From the inputs of layers and the gradients of their outputs, for layers of known kinds."""

    def __init__(
        self,
        model: nn.Module,
        loss: OutputLoss,
        batch: Any,
        parameters: Mapping[str, Tensor],
        name: str,
    ) -> None:
        self._calls: list[tuple[nn.Module, LayerGradient, Tensor]] = []
        wanted = {id(parameter) for parameter in parameters.values()}
        layers = [
            module
            for module in model.modules()
            if any(id(p) in wanted for p in module.parameters(recurse=False))
        ]
        if not all(type(layer) in LAYERS for layer in layers):
            raise NotSupportedError
        handles = [layer.register_forward_hook(self._record) for layer in layers]
        try:
            super().__init__(model, loss, batch, parameters, name)
        finally:
            for handle in handles:
                handle.remove()
        self._index = {id(parameter): i for i, parameter in enumerate(self.parameters)}

    def _record(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        if not (len(inputs) == 1 and torch.is_tensor(inputs[0]) and torch.is_tensor(output)):
            raise NotSupportedError
        self._calls.append((layer, LAYERS[type(layer)](layer, inputs[0].detach()), output))
        # A copy, as what comes next may work in place.
        return output.clone()

    def of(self, seeds: Tensor) -> list[Tensor]:
        """Return the gradients of <seeds, outputs> from one backward pass to the layers."""
        count = len(self.outputs)
        found: list[Tensor | None] = [None] * len(self.parameters)
        ends = [output for _, _, output in self._calls]
        deltas: Sequence[Tensor | None] = [None] * len(ends)
        if self.graph.requires_grad and ends:
            with differentiating(self.name):
                deltas = torch.autograd.grad(
                    self.graph, ends, seeds, retain_graph=True, allow_unused=True
                )
        for (layer, gradient, _), delta in zip(self._calls, deltas, strict=True):
            if delta is None:
                continue
            for key, block in gradient(delta).items():
                index = self._index.get(id(getattr(layer, key)))
                if index is not None:
                    before = found[index]
                    found[index] = block if before is None else before + block
        pairs = zip(found, self.parameters, strict=True)
        return [p.new_zeros((count, *p.shape)) if block is None else block for block, p in pairs]


class NotSupportedError(Exception):
    """A layer is of no known kind, or called in no known way."""


def supported(make: Callable[[], SampleGradients]) -> SampleGradients | None:
    """Return what gives gradients of samples, or None if it does not give them or gives others.

    Parameters
    ----------
    make : callable
        Makes it.

    Returns
    -------
    SampleGradients or None
        Once it was held against the gradient of the whole.
    """
    try:
        gradients = make()
        return gradients if gradients.holds() else None
    except torch.OutOfMemoryError:
        raise
    # vmap refuses a model by all kinds of them; the whole micro-batch shows what is wrong, if it is.
    except (NotSupportedError, EvaluationError, RuntimeError, ValueError, TypeError, IndexError):
        return None
