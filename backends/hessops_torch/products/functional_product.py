"""Hessian products by function transforms, several columns at a time.

Two orders of differentiation stand beside the plain double backward pass, that of `GradientGraph`: the
derivative along a vector of the gradient ("forward over reverse"), and the gradient of the
derivative along a vector ("reverse over forward"). Both keep nothing between products, share what does
not depend on the vector among the columns of a chunk, and do fewer and larger operations than a loop
over the columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value, jvp, vmap

from hessops_torch.losses.failures import differentiating, name_of
from hessops_torch.model.functional import called_with
from hessops_torch.objective.loss_module import LossModule
from hessops_torch.objective.objective import Objective

__all__ = [
    "FunctionalMode",
    "FunctionalProduct",
    "Named",
    "Order",
    "ProductsAndLoss",
    "attributes_kept",
    "named_views",
]

Order = Literal["forward-over-reverse", "reverse-over-forward"]
"""Which of the two derivatives is taken last, and which first."""

FunctionalMode = Literal["forward-over-reverse", "reverse-over-forward", "compiled"]
"""Ways to compute products by function transforms."""

Named: TypeAlias = dict[str, Tensor]
"""Tensors by the names of the parameters that they belong to."""
ProductsAndLoss: TypeAlias = tuple[Named, tuple[Tensor, Tensor]]
"""ProductsAndLoss with some vectors, and the loss and the count of the micro-batch."""


class FunctionalProduct:
    """Hessian products of the summed loss of a micro-batch by `torch.func`.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    order : {'forward-over-reverse', 'reverse-over-forward'}
        The order of the derivatives.
    chunk_size : int
        Most columns at a time; each takes about the memory of a gradient graph.
    """

    def __init__(self, objective: Objective, order: Order, chunk_size: int = 1) -> None:
        self.objective = objective
        self.order = order
        self.chunk_size = chunk_size

    @property
    def mode(self) -> FunctionalMode:
        """Return what the way to compute products is called."""
        return self.order

    def add_products(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        """Add the products with each row of `columns` to `out`, while the model is ready.

        Parameters
        ----------
        index : int
            Of the micro-batch.
        batch : object
            The micro-batch.
        columns, out : torch.Tensor, shape (k, n)
            One flat vector per row.

        Returns
        -------
        (torch.Tensor, torch.Tensor)
            The micro-batch's count and its loss.
        """
        count: Tensor | float = 0.0
        total: Tensor | None = None
        with (
            differentiating(name_of(index)),
            attributes_kept(self.objective.model),
            warnings.catch_warnings(),
        ):
            # PyTorch compiles its own forward-mode formulas with what it has deprecated.
            warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
            for first in range(0, len(columns), self.chunk_size):
                rows = slice(first, first + self.chunk_size)
                total, count = self._add_chunk(index, batch, columns[rows], out[rows])
        return count, total

    def function(
        self, index: int, batch: Any, width: int, buffers: Named | None = None
    ) -> Callable[[Named, Named], ProductsAndLoss]:
        """Return what takes parameters and vectors to the products with these.

        Parameters
        ----------
        index : int
            Of the micro-batch.
        batch : object
            The micro-batch.
        width : int
            Vectors at a time, stacked.
        buffers : dict of str to torch.Tensor, optional
            To use instead of those of the model.

        Returns
        -------
        callable
            From parameters and vectors to products, loss and count.
        """
        if buffers is None:
            buffers = dict(self.objective.model.named_buffers())
        single = _ORDERS[self.order](_LossOfParameters(self.objective, index, batch, buffers))
        if width > 1:
            # Neither loss nor count depends on the vector.
            out_dims: Any = 0, None
            return vmap(single, in_dims=(None, 0), out_dims=out_dims)

        def of_one(parameters: Named, vectors: Named) -> ProductsAndLoss:
            products, aside = single(parameters, {n: v[0] for n, v in vectors.items()})
            return {name: product[None] for name, product in products.items()}, aside

        return of_one

    def _add_chunk(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor, Tensor]:
        parameters = {name: p.detach() for name, p in self.objective.parameters.items()}
        vectors = named_views(columns, parameters)
        products, aside = self._products(index, batch, parameters, vectors, len(columns))
        for name, target in named_views(out, parameters).items():
            target.add_(products[name])
        return aside

    def _products(
        self, index: int, batch: Any, parameters: Named, vectors: Named, width: int
    ) -> ProductsAndLoss:
        return self.function(index, batch, width)(parameters, vectors)


def named_views(rows: Tensor, parameters: Mapping[str, Tensor]) -> Named:
    """Return flat vectors, one per row, as stacks of tensors of the parameters' shapes."""
    pieces = torch.split(rows, [p.numel() for p in parameters.values()], dim=1)
    return {
        name: piece.view(len(rows), *p.shape)
        for piece, (name, p) in zip(pieces, parameters.items(), strict=True)
    }


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Put back the attributes that a forward pass writes, which would hold tensors of a transform.

    Parameters
    ----------
    model : torch.nn.Module
        With all modules inside.

    Yields
    ------
    None
        While they may be written.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            now = vars(module)
            # Never without its parameters, which an interrupt in between would leave it.
            now.update(attributes)
            for name in now.keys() - attributes.keys():
                del now[name]


class _LossOfParameters:
    """The summed loss of a micro-batch as a function of the parameters, with its count beside."""

    def __init__(self, objective: Objective, index: int, batch: Any, buffers: Named) -> None:
        self.module = LossModule(objective)
        self.index = index
        self.batch = batch
        self.buffers = buffers

    def __call__(self, parameters: Named) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        # Cloned under the transform, which lets what it has seen come into being be written to.
        buffers = {name: b.clone() for name, b in self.buffers.items()}
        tensors = {f"model.{name}": t for name, t in (parameters | buffers).items()}
        total, count = called_with(self.module, tensors, self.index, self.batch)
        return total, (total.detach(), torch.as_tensor(count, dtype=torch.float64))


def _forward_over_reverse(loss: _LossOfParameters) -> Callable[[Named, Named], ProductsAndLoss]:
    def gradient(parameters: Named) -> ProductsAndLoss:
        with_value: Any = grad_and_value(loss, has_aux=True)
        gradients, (_total, aside) = with_value(parameters)
        return gradients, aside

    def product(parameters: Named, vector: Named) -> ProductsAndLoss:
        derivatives: Any = jvp(gradient, (parameters,), (vector,), has_aux=True)
        _gradients, products, aside = derivatives
        return products, aside

    return product


def _reverse_over_forward(loss: _LossOfParameters) -> Callable[[Named, Named], ProductsAndLoss]:
    def product(parameters: Named, vector: Named) -> ProductsAndLoss:
        def slope(parameters: Named) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            derivatives: Any = jvp(loss, (parameters,), (vector,), has_aux=True)
            _total, along, aside = derivatives
            return along, aside

        products, aside = grad(slope, has_aux=True)(parameters)
        return products, aside

    return product


_ORDERS = {
    "forward-over-reverse": _forward_over_reverse,
    "reverse-over-forward": _reverse_over_forward,
}
