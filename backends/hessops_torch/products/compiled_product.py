"""Hessian products whose every operation is recorded once, and compiled.

The whole product is recorded and not the model, as what is compiled ahead of time cannot be
differentiated twice. The record holds operations on tensors and none of the model's Python, so it is
made for one shape of batch, one number of columns and one state of everything but the values of
parameters, buffers and data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from hessops_torch.data.batch import leaves, map_tensors, tensors_in
from hessops_torch.model.snapshot import Snapshot
from hessops_torch.objective.objective import Objective
from hessops_torch.products.functional_product import (
    FunctionalMode,
    FunctionalProduct,
    ProductsAndLoss,
)
from hessops_torch.products.transforms import Named

__all__ = ["CompiledProduct"]

_MOST_COMPILED = 8
_logger = logging.getLogger("hessops")

_Compiled = Callable[[Named, Named, Named, Sequence[Tensor]], ProductsAndLoss]


class CompiledProduct(FunctionalProduct):
    """Forward-over-reverse products, compiled.

    What cannot be compiled, and further shapes when there are eight, goes uncompiled.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    chunk_size : int
        Most columns at a time.
    """

    def __init__(self, objective: Objective, chunk_size: int = 1) -> None:
        super().__init__(objective, "forward-over-reverse", chunk_size)
        self.failure: Exception | None = None
        self._compiled: dict[Any, _Compiled | None] = {}
        self._snapshot: Snapshot | None = None

    @property
    def mode(self) -> FunctionalMode:
        """Return what the way to compute products is called."""
        return "compiled"

    def _products(
        self, index: int, batch: Any, parameters: Named, vectors: Named, width: int
    ) -> ProductsAndLoss:
        buffers = dict(self.objective.model.named_buffers())
        key = _signature(batch, width, [*parameters.values(), *buffers.values()])
        self._drop_stale()
        if key is not None and key not in self._compiled and len(self._compiled) < _MOST_COMPILED:
            self._compiled[key] = self._compile(index, batch, parameters, vectors, width)
        compiled = self._compiled.get(key)
        if compiled is None:
            return super()._products(index, batch, parameters, vectors, width)
        with torch.no_grad():
            products, (total, count) = compiled(
                parameters, vectors, buffers, list(tensors_in(batch))
            )
        # On a GPU these lie in memory that the next call writes to.
        return products, (total.clone(), count.clone())

    def _compile(
        self, index: int, batch: Any, parameters: Named, vectors: Named, width: int
    ) -> _Compiled | None:
        def product(
            parameters: Named, vectors: Named, buffers: Named, tensors: Sequence[Tensor]
        ) -> ProductsAndLoss:
            remaining = iter(tensors)
            own = map_tensors(lambda _: next(remaining), batch)
            with _PlainZeros():  # type: ignore[no-untyped-call]
                return self.function(index, own, width, buffers)(parameters, vectors)

        buffers = dict(self.objective.model.named_buffers())
        mode = "reduce-overhead" if self.objective.domain.device.type == "cuda" else "default"
        inputs = parameters, vectors, buffers, list(tensors_in(batch))
        try:
            recorded = make_fx(product)(*inputs)
            compiled: _Compiled = torch.compile(recorded, fullgraph=True, dynamic=False, mode=mode)
            with torch.no_grad():
                compiled(*inputs)  # Fails now, if ever.
        except Exception as error:
            self.failure = error
            _logger.info("a Hessian product is not compiled: %s", error)
            return None
        return compiled

    def _drop_stale(self) -> None:
        """Forget what was recorded if anything but the values of parameters and buffers differs."""
        if self._snapshot is not None and self._snapshot.fits():
            return
        self._compiled.clear()
        parts = self.objective.model, *self.objective.loss.parts
        self._snapshot = Snapshot(parts, exchangeable=self.objective.model)


class _PlainZeros(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Have zeros in memory: torch 2.13 crashes where it records a product with none of its own."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._efficientzerotensor.default:
            func = torch.ops.aten.zeros.default
        return func(*args, **(kwargs or {}))


def _signature(batch: Any, width: int, others: Sequence[Tensor]) -> Any:
    """Return what a record is made for, None if that cannot be told."""
    signature: list[Any] = [width]
    for leaf in leaves(batch):
        if torch.is_tensor(leaf):
            signature.append(_form(leaf))
        elif isinstance(leaf, str | bytes | int | float | complex | np.generic | None):
            signature.append((type(leaf), leaf))
        else:
            return None
    structure = repr(map_tensors(lambda _: 0, batch))  # type: ignore[arg-type, return-value]
    return (structure, *signature, *map(_form, others))


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype
