"""A micro-batch's outputs as a graph, through which products with the Jacobian and its adjoint go.

With J the derivative of the outputs by the parameters, J^T u is one backward pass. J v is what J^T u
tells, differentiated once more: J^T w is linear in w, and the derivative of <v, J^T w> by w is J v. So
both products come of backward passes alone, which everything that can be differentiated twice has. In
units of a forward pass, the graph costs 1 for the outputs and 2 for J^T w, and then J v 2 and J^T u 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hessops_torch.graphs.nodes import (
    Lasting,
    bytes_behind,
    differentiable,
    largest_behind,
    require_second_derivatives,
)
from hessops_torch.graphs.symmetry import shows_adjoint
from hessops_torch.losses.failures import differentiating
from hessops_torch.model.parameters import add_pieces

__all__ = ["OutputGraph"]


class OutputGraph:
    """The outputs of a model for one micro-batch, ready to be differentiated.

    Parameters
    ----------
    outputs : torch.Tensor
        With the graph behind them; of any shape.
    parameters : sequence of torch.Tensor
        To differentiate by.
    name : str
        What messages call the micro-batch.
    lasting : Lasting
        What is there without the graph.
    """

    def __init__(
        self, outputs: Tensor, parameters: Sequence[Tensor], name: str, lasting: Lasting
    ) -> None:
        self.outputs = outputs
        self.parameters = parameters
        self.name = name
        self._lasting = lasting
        self._sizes = [parameter.numel() for parameter in parameters]
        self._weights: Tensor | None = None
        self._pulled: dict[int, Tensor] = {}

    def forward(self, rows: Tensor) -> Tensor:
        """Return J v for each row v.

        Parameters
        ----------
        rows : torch.Tensor, shape (k, n)
            Flat parameter vectors.

        Returns
        -------
        torch.Tensor, shape (k, *outputs.shape)
            The products; the graph is kept.
        """
        weights = self.prepare()
        if not self._pulled:
            return self.outputs.new_zeros((len(rows), *self.outputs.shape))
        products = []
        for row in rows:
            pieces = torch.split(row, self._sizes)
            with differentiating(self.name):
                (product,) = torch.autograd.grad(
                    list(self._pulled.values()),
                    weights,
                    [pieces[i].view_as(self.parameters[i]) for i in self._pulled],
                    retain_graph=True,
                    allow_unused=True,
                )
            products.append(torch.zeros_like(weights) if product is None else product)
        return torch.stack(products)

    def add_adjoint(self, seeds: Tensor, out: Tensor, *, keep: bool) -> None:
        """Add J^T u for each u to the rows of `out`.

        Parameters
        ----------
        seeds : torch.Tensor, shape (k, *outputs.shape)
            Each u in the shape of the outputs.
        out : torch.Tensor, shape (k, n)
            Flat parameter vectors.
        keep : bool
            Whether the graph is needed again.
        """
        if not self.outputs.requires_grad:
            return
        for row, seed in enumerate(seeds):
            with differentiating(self.name):
                products = torch.autograd.grad(
                    self.outputs,
                    self.parameters,
                    seed,
                    retain_graph=keep or row + 1 < len(seeds),
                    allow_unused=True,
                )
            add_pieces(torch.split(out[row], self._sizes), products)

    def shows_adjoint(self) -> bool:
        """Look once whether J v and J^T u belong to one J, and tell whether they say anything."""

        def adjoint(seeds: Tensor) -> Tensor:
            out = seeds.new_zeros((len(seeds), sum(self._sizes)))
            self.add_adjoint(seeds, out, keep=True)
            return out

        if not self.outputs.requires_grad:
            return False
        shapes = (sum(self._sizes),), self.outputs.shape
        return shows_adjoint(self.forward, adjoint, shapes, self.outputs.detach(), self.name)

    def num_bytes(self, *more: Tensor) -> int:
        """Return the memory that the graph and some more tensors hold, without the parameters."""
        return bytes_behind([self.outputs, *self._pulled.values(), *more], self._lasting)

    def largest_bytes(self) -> int:
        """Return the bytes of the largest tensor that the graph holds, without the parameters."""
        return largest_behind([self.outputs], self._lasting)

    def release(self) -> None:
        """Give up what `forward` needs, and the memory that it takes."""
        self._weights, self._pulled = None, {}

    def prepare(self) -> Tensor:
        """Make what `forward` needs, J^T w as a graph, and return w."""
        if self._weights is not None:
            return self._weights
        self._weights = torch.zeros_like(self.outputs, requires_grad=True)
        if self.outputs.requires_grad:
            with differentiating(self.name):
                pulled = torch.autograd.grad(
                    self.outputs,
                    self.parameters,
                    self._weights,
                    create_graph=True,
                    allow_unused=True,
                )
            # What the outputs do not depend on is left out.
            self._pulled = differentiable(pulled)
            require_second_derivatives(self._pulled.values(), linear=True)
        return self._weights
