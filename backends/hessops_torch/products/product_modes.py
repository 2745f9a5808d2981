"""Which way a Hessian computes its products: asked for or found by timing, and checked once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast, get_args

import torch

from hessops.algorithms._common import level_outside
from hessops_torch.graphs.gradient_graph import GradientGraph
from hessops_torch.objective.objective import Objective
from hessops_torch.products.columns import columns_at_a_time
from hessops_torch.products.compiled_product import CompiledProduct
from hessops_torch.products.difference import difference_of
from hessops_torch.products.functional_product import FunctionalProduct, Order
from hessops_torch.products.trial import Trial, short

__all__ = ["ProductMode", "check_product", "find_product"]

ProductMode = Literal[
    "backward", "forward-over-reverse", "reverse-over-forward", "compiled", "auto"
]
"""Ways to compute Hessian products; 'auto' takes the fastest."""


def check_product(product: Any) -> None:
    """Raise if a way to compute products is unknown.

    Parameters
    ----------
    product : str
        One of `ProductMode`.

    Raises
    ------
    ValueError
        If it is not.
    """
    if product not in get_args(ProductMode):
        raise ValueError(
            f"product={product!r} is unknown; choose one of {', '.join(get_args(ProductMode))}"
        )


def find_product(
    mode: ProductMode,
    objective: Objective,
    graph: GradientGraph,
    index: int,
    batch: Any,
    width: int,
) -> FunctionalProduct | None:
    """Return what computes products in a mode, after one look at whether it is right.

    Parameters
    ----------
    mode : str
        One of `ProductMode`.
    objective : Objective
        Model, loss and data, ready.
    graph : GradientGraph
        Of a micro-batch, for the products to compare with.
    index : int
        Of the micro-batch.
    batch : object
        The micro-batch.
    width : int
        Columns at a time.

    Returns
    -------
    FunctionalProduct or None
        None for the plain double backward pass.

    Warns
    -----
    RuntimeWarning
        If a mode that was asked for fails, or gives other products than the plain one.
    """
    trial = _Trial(objective, graph, index, batch, width)
    if mode != "auto":
        product = trial.candidate(mode)
        reason = trial.objection(product)
        if reason is None:
            return product
        warnings.warn(
            f"product={mode!r} {reason}: the Hessian takes the plain double backward pass instead",
            RuntimeWarning,
            stacklevel=level_outside(),
        )
        return None
    modes = ["forward-over-reverse", "reverse-over-forward"]
    # A compiler takes a minute, which a GPU's small models earn back.
    if objective.domain.device.type == "cuda":
        modes.append("compiled")
    return trial.fastest(modes)


class _Trial(Trial[FunctionalProduct]):
    """A random block, and its product by the plain double backward pass."""

    def __init__(
        self, objective: Objective, graph: GradientGraph, index: int, batch: Any, width: int
    ) -> None:
        domain = objective.domain
        super().__init__("a Hessian product", width, domain.device)
        self.objective = objective
        self.graph = graph
        self.index = index
        self.batch = batch
        self.num_bytes = graph.num_bytes()
        self.most_columns = columns_at_a_time(graph.largest_bytes(), domain.device)
        self.block = self.random((max(width, 2), domain.dim), domain.dtype)
        self.expected = torch.zeros_like(self.block[-1:])
        graph.add_products(self.block[-1:], self.expected, keep=True)

    def candidate(self, mode: str) -> FunctionalProduct:
        """Return what computes products in a mode, within the memory for graphs."""
        fitting = self.objective.memory_budget // max(self.num_bytes, 1)
        chunk_size = int(max(1, min(fitting, self.most_columns)))
        if mode == "compiled":
            return CompiledProduct(self.objective, chunk_size)
        return FunctionalProduct(self.objective, cast("Order", mode), chunk_size)

    def difference(self, way: FunctionalProduct) -> str | None:
        """Return in what the product of the last column differs from the plain one."""
        # Several columns at a time where they may come, as their transform is another.
        rows = self.block if way.chunk_size > 1 else self.block[-1:]
        out = torch.zeros_like(rows)
        way.add_products(self.index, self.batch, rows, out)
        if isinstance(way, CompiledProduct) and way.failure is not None:
            return f"cannot be compiled ({short(way.failure)})"
        difference = difference_of(out[-1:], self.expected, self.objective.epsilon)
        if difference is None:
            return None
        return f"gives products that differ from those of the double backward pass by {difference}"

    def product(self, way: FunctionalProduct | None) -> Callable[[], object]:
        """Return what computes the product of the block, the plain one rebuilt if not to be kept."""
        objective, block = self.objective, self.block[: self.width]
        out = torch.zeros_like(block)
        if way is not None:
            return partial(way.add_products, self.index, self.batch, block, out)
        if self.num_bytes * len(objective.batches) <= objective.memory_budget:
            return partial(self.graph.add_products, block, out, keep=True)

        def rebuilt() -> None:
            parameters = list(objective.parameters.values())
            GradientGraph(objective.model, objective.loss, self.batch, parameters).add_products(
                block, out, keep=False
            )

        return rebuilt
