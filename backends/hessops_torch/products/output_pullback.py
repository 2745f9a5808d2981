"""A micro-batch's outputs with a pullback, through which products with J^T go some at a time.

`OutputGraph` takes one backward pass for each vector. Here all vectors of a chunk share one, whose
operations are fewer and larger: less time where they are small, or many to a device's second. The
pullback of `torch.func.vjp` is what `torch.func.vmap` takes along with every operation; through an
ordinary graph it goes sample by sample at many (PyTorch 2.13: layer norm, softmax, GELU, tanh).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from hessops_torch.losses.contract import require_outputs
from hessops_torch.losses.failures import differentiating, name_of
from hessops_torch.objective.loss_module import OutputsModule
from hessops_torch.objective.model_outputs import graph_of_outputs
from hessops_torch.objective.objective import Objective
from hessops_torch.products.transforms import (
    Named,
    attributes_kept,
    function_of_model,
    named_views,
)

__all__ = ["OutputPullback", "OutputsOfParameters"]


class OutputPullback:
    """The outputs of a model for one micro-batch, ready to be pulled back, while the model is ready.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    index : int
        Of the micro-batch.
    batch : object
        The micro-batch.
    chunk_size : int
        Most vectors at a time.
    """

    def __init__(self, objective: Objective, index: int, batch: Any, chunk_size: int) -> None:
        self.objective = objective
        self.chunk_size = chunk_size
        self._index = index
        self._batch = batch
        self._parameters = {name: p.detach() for name, p in objective.parameters.items()}
        outputs = OutputsOfParameters(objective, batch)
        with objective.applying(index, batch), attributes_kept(objective.model), torch.no_grad():
            found: Any = vjp(outputs, self._parameters)
        self.outputs: Tensor = found[0]
        self._pullback = found[1]

    def add_adjoint(self, seeds: Tensor, out: Tensor, *, keep: bool) -> None:
        """Add J^T u for each u to the rows of `out`.

        Parameters
        ----------
        seeds : torch.Tensor, shape (k, *outputs.shape)
            Each u in the shape of the outputs.
        out : torch.Tensor, shape (k, n)
            Flat parameter vectors.
        keep : bool
            As for `OutputGraph`; here the graph lives as long as this object.
        """
        del keep
        with differentiating(name_of(self._index)), torch.no_grad():
            chunks = (torch.split(x, self.chunk_size) for x in (seeds, out))
            for some, rows in zip(*chunks, strict=True):
                products = self._products(some)
                for name, target in named_views(rows, self._parameters).items():
                    target.add_(products[name])

    def num_bytes(self, *more: Tensor) -> int:
        """Return the memory that the graph and some more tensors hold, without the parameters.

        It is what an ordinary graph of the same outputs holds, which is made for that: tensors of a
        transform do not show where they lie.
        """
        return graph_of_outputs(self.objective, self._index, self._batch).num_bytes(*more)

    def _products(self, seeds: Tensor) -> Named:
        products: Named
        if len(seeds) == 1:
            (products,) = self._pullback(seeds[0])
            return {name: product[None] for name, product in products.items()}
        (products,) = vmap(self._pullback)(seeds)
        return products


class OutputsOfParameters:
    """The outputs for a micro-batch as a function of the parameters, for function transforms.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    batch : object
        The micro-batch.
    """

    def __init__(self, objective: Objective, batch: Any) -> None:
        self.module = OutputsModule(objective.model, require_outputs(objective.loss, "a Jacobian"))
        self.batch = batch
        self.buffers = dict(objective.model.named_buffers())

    def __call__(self, parameters: Named) -> Tensor:
        """Return the outputs, with parameters by their names."""
        outputs: Tensor = function_of_model(self.module, parameters, self.buffers, self.batch)
        return outputs
