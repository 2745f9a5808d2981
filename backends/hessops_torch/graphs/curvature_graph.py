"""Quadratic forms of a Hessian and its Gauss-Newton matrix with the same probe, from one graph.

With outputs f, their Jacobian J and the loss's gradient r by them, q = <J^T w, z> is
differentiated at w = r: by w it gives J z, and by the parameters (w held fixed) the product with
the curvature of the model, H - G. So one backward pass of a Hessian product gives z' (H - G) z
and, by J z alone, z' G z = (J z)' M (J z).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessops_torch.graphs.nodes import Lasting, differentiable, require_second_derivatives
from hessops_torch.graphs.output_graph import OutputGraph
from hessops_torch.graphs.symmetry import shows_symmetry
from hessops_torch.losses.contract import OutputLoss
from hessops_torch.losses.failures import applying, differentiating
from hessops_torch.losses.output_gradient import output_gradient
from hessops_torch.losses.output_hessian import output_hessian
from hessops_torch.model.parameters import add_pieces

__all__ = ["CurvatureGraph"]


class CurvatureGraph:
    """The gradient of one micro-batch's summed loss as a function of parameters and of the seed w.

    In units of a forward pass it costs 3 to build, and 6 for the forms with each vector; 8 with the
    products themselves.

    Parameters
    ----------
    model : torch.nn.Module
        The model, ready for second derivatives.
    loss : OutputLoss
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
        loss: OutputLoss,
        batch: Any,
        parameters: Sequence[Tensor],
        name: str,
    ) -> None:
        with applying(batch, parameters[0], name):
            self.outputs = loss.outputs(model, batch)
            self.total, _count, gradient = output_gradient(loss, self.outputs, batch)
            self.metric = output_hessian(loss, self.outputs.detach(), batch)
        seed = torch.zeros_like(self.outputs) if gradient is None else gradient
        self.seed = seed.requires_grad_()
        self.parameters = parameters
        self.name = name
        self._sizes = [parameter.numel() for parameter in parameters]
        lasting = Lasting.of((model, *loss.parts), batch)
        self._adjoint = OutputGraph(self.outputs, parameters, name, lasting)
        pulled: Sequence[Tensor | None] = [None] * len(parameters)
        if self.outputs.requires_grad:
            with differentiating(name):
                pulled = torch.autograd.grad(
                    self.outputs, parameters, self.seed, create_graph=True, allow_unused=True
                )
        self._pulled = differentiable(pulled)
        require_second_derivatives([self.outputs, *self._pulled.values()])

    def products(self, rows: Tensor, *, whole: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return products with H - G, forms of G and, if asked for, products with G.

        Parameters
        ----------
        rows : torch.Tensor, shape (k, n)
            Flat vectors z.
        whole : bool
            Whether products with G are wanted.

        Returns
        -------
        (torch.Tensor, torch.Tensor, torch.Tensor or None)
            Of shapes (k, n), (k,) and (k, n).
        """
        residual = torch.zeros_like(rows)
        along = rows.new_zeros((len(rows), *self.outputs.shape))
        if self._pulled:
            for index, row in enumerate(rows):
                along[index] = self._add_residual(row, residual[index])
        weighted = self.metric(along)
        forms = (along * weighted).flatten(1).sum(1, dtype=torch.float64)
        if not whole:
            return residual, forms, None
        out = torch.zeros_like(rows)
        self._adjoint.add_adjoint(weighted, out, keep=True)
        return residual, forms, out

    def shows_symmetry(self) -> bool:
        """Look at two products with H - G for symmetry, and tell whether they say anything."""
        if not self._pulled:
            return False
        return shows_symmetry(
            lambda rows: self.products(rows, whole=False)[0],
            sum(self._sizes),
            self.parameters[0].detach(),
            self.name,
        )

    def num_bytes(self) -> int:
        """Return the memory that the graph holds, without the parameters themselves."""
        return self._adjoint.num_bytes(*self._pulled.values())

    def _add_residual(self, row: Tensor, out: Tensor) -> Tensor:
        pieces = torch.split(row, self._sizes)
        with differentiating(self.name):
            along, *found = torch.autograd.grad(
                list(self._pulled.values()),
                [self.seed, *self.parameters],
                [pieces[i].view_as(self.parameters[i]) for i in self._pulled],
                retain_graph=True,
                allow_unused=True,
            )
        add_pieces(torch.split(out, self._sizes), found)
        return torch.zeros_like(self.seed) if along is None else along
