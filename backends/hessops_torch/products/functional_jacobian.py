"""Products of a model's Jacobian with vectors by forward mode, some vectors at a time.

`OutputGraph` has J v of two backward passes, which everything that can be differentiated twice has.
Convolutions do, but the second of these takes much longer than the floating point work in it. Forward
mode takes one forward pass and, for each vector, two more. It keeps nothing between products.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import jvp, vmap

from hessops_torch.graphs.output_graph import OutputGraph
from hessops_torch.losses.failures import differentiating, name_of
from hessops_torch.objective.model_outputs import graph_of_outputs
from hessops_torch.objective.objective import Objective
from hessops_torch.products.output_pullback import OutputPullback, OutputsOfParameters
from hessops_torch.products.transforms import (
    Named,
    attributes_kept,
    forward_mode,
    named_views,
)

__all__ = ["FunctionalJacobian", "FunctionalJacobianMode"]

FunctionalJacobianMode = Literal["forward", "batched"]
"""Whether J alone goes through function transforms, or its adjoint, too (`OutputPullback`)."""


class FunctionalJacobian:
    """Products of the Jacobian of a micro-batch's outputs by `torch.func`.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    mode : {'forward', 'batched'}
        Whether its adjoint goes vector by vector, or several at a time, too.
    chunk_size : int
        Most vectors at a time (`columns_at_a_time`).
    """

    def __init__(self, objective: Objective, mode: FunctionalJacobianMode, chunk_size: int) -> None:
        self.objective = objective
        self.mode = mode
        self.chunk_size = chunk_size

    def graph(self, index: int, batch: Any) -> OutputGraph | OutputPullback:
        """Return the outputs for a micro-batch with what multiplies by J^T, while the model is ready.

        Parameters
        ----------
        index : int
            Of the micro-batch.
        batch : object
            The micro-batch.

        Returns
        -------
        OutputGraph or OutputPullback
            As the mode has it.
        """
        if self.mode == "batched":
            return OutputPullback(self.objective, index, batch, self.chunk_size)
        return graph_of_outputs(self.objective, index, batch)

    def forward(self, index: int, batch: Any, rows: Tensor) -> Tensor:
        """Return J v for each row v, while the model is ready.

        Parameters
        ----------
        index : int
            Of the micro-batch.
        batch : object
            The micro-batch.
        rows : torch.Tensor, shape (k, n)
            Flat parameter vectors.

        Returns
        -------
        torch.Tensor, shape (k, *outputs.shape)
            The products.
        """
        objective = self.objective
        with (
            objective.applying(index, batch),
            differentiating(name_of(index)),
            attributes_kept(objective.model),
            forward_mode(),
            torch.no_grad(),
        ):
            chunks = torch.split(rows, self.chunk_size)
            return torch.cat([self._chunk(batch, chunk) for chunk in chunks])

    def _chunk(self, batch: Any, rows: Tensor) -> Tensor:
        parameters = {name: p.detach() for name, p in self.objective.parameters.items()}
        vectors = named_views(rows, parameters)
        outputs = OutputsOfParameters(self.objective, batch)

        def along(vector: Named) -> Tensor:
            pair: Any = jvp(outputs, (parameters,), (vector,))
            product: Tensor = pair[1]
            return product

        if len(rows) == 1:
            return along({name: stack[0] for name, stack in vectors.items()})[None]
        products: Tensor = vmap(along)(vectors)
        return products
