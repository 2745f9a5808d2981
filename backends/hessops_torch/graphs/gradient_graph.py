"""The gradient of a micro-batch as a graph that Hessian products are pulled through.

Building it costs one forward and one backward pass (3 units, if a forward pass is 1), each product
pulled through it 6: so it is built once for all columns of a block, and kept between products as long
as memory allows (Pearlmutter 1994 for the product; the units are floating point work).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessops_torch.graphs.nodes import (
    Lasting,
    bytes_behind,
    differentiable,
    largest_behind,
    require_second_derivatives,
)
from hessops_torch.graphs.symmetry import shows_symmetry
from hessops_torch.losses.contract import BatchLoss
from hessops_torch.losses.failures import differentiating, evaluate
from hessops_torch.model.parameters import add_pieces

__all__ = ["GradientGraph"]


class GradientGraph:
    """The gradient of the summed loss of one micro-batch, ready to be differentiated again.

    Parameters
    ----------
    model : torch.nn.Module
        The model, ready for second derivatives.
    loss : BatchLoss
        The loss.
    batch : object
        One micro-batch.
    parameters : sequence of torch.Tensor
        To differentiate by.
    name : str
        What messages call the micro-batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: BatchLoss,
        batch: Any,
        parameters: Sequence[Tensor],
        name: str = "the batch",
    ) -> None:
        total, self.count = evaluate(model, loss, batch, parameters[0], name)
        self.parameters = parameters
        self.name = name
        self._lasting = Lasting.of((model, *loss.parts), batch)
        self.total = total.detach()
        gradients: Sequence[Tensor | None] = [None] * len(parameters)
        if total.requires_grad:
            with differentiating(name):
                gradients = torch.autograd.grad(
                    total, parameters, create_graph=True, allow_unused=True
                )
        # A parameter that the loss does not use, or uses linearly, has no second derivative.
        self._curved = differentiable(gradients)
        require_second_derivatives([total, *self._curved.values()])

    def add_products(
        self, columns: Tensor, out: Tensor, *, keep: bool, among: Sequence[int] | None = None
    ) -> None:
        """Add the Hessian products of the summed loss with each row of `columns` to `out`.

        Parameters
        ----------
        columns, out : torch.Tensor, shape (k, n)
            One flat vector per row.
        keep : bool
            Whether the graph is needed again.
        among : sequence of int, optional
            Places of the parameters whose diagonal block to multiply by; all where not given. Passes
            go no further down in the network than these.
        """
        places = range(len(self.parameters)) if among is None else among
        curved = [place for place in places if place in self._curved]
        if not curved:
            return
        sizes = [parameter.numel() for parameter in self.parameters]
        for row in range(len(columns)):
            pieces, targets = torch.split(columns[row], sizes), torch.split(out[row], sizes)
            with differentiating(self.name):
                products = torch.autograd.grad(
                    [self._curved[place] for place in curved],
                    [self.parameters[place] for place in places],
                    [pieces[place].view_as(self.parameters[place]) for place in curved],
                    retain_graph=keep or row + 1 < len(columns),
                    allow_unused=True,
                )
            add_pieces([targets[place] for place in places], products)

    def shows_symmetry(self) -> bool:
        """Look at two products whether they are symmetric, and tell whether they say anything."""
        if not self._curved:
            return False

        def products(rows: Tensor) -> Tensor:
            out = torch.zeros_like(rows)
            self.add_products(rows, out, keep=True)
            return out

        size = sum(parameter.numel() for parameter in self.parameters)
        return shows_symmetry(products, size, self.parameters[0].detach(), self.name)

    def num_bytes(self) -> int:
        """Return the memory that the graph holds, without the parameters themselves."""
        return bytes_behind(list(self._curved.values()), self._lasting)

    def largest_bytes(self) -> int:
        """Return the bytes of the largest tensor that the graph holds, without the parameters."""
        return largest_behind(list(self._curved.values()), self._lasting)
