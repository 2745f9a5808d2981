"""Which way a Hessian computes its products: asked for or found by timing, and checked once."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hessops.algorithms._common import level_outside
from hessops_torch.graphs.gradient_graph import GradientGraph
from hessops_torch.objective.objective import Objective
from hessops_torch.products.clock import seconds_of
from hessops_torch.products.columns import columns_at_a_time
from hessops_torch.products.compiled_product import CompiledProduct
from hessops_torch.products.difference import difference_of
from hessops_torch.products.functional_product import FunctionalProduct

__all__ = ["ProductMode", "check_product", "find_product"]

ProductMode = Literal[
    "backward", "forward-over-reverse", "reverse-over-forward", "compiled", "auto"
]
"""Ways to compute Hessian products; 'auto' takes the fastest."""

_SEED = 0xFA57
_logger = logging.getLogger("hessops")


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
    return _fastest(trial)


def _fastest(trial: _Trial) -> FunctionalProduct | None:
    """Return the fastest of the modes that are right, at the number of columns of the first block."""
    best, shortest = None, trial.plain_seconds()
    modes: list[ProductMode] = ["forward-over-reverse", "reverse-over-forward"]
    # A compiler takes a minute, which a GPU's small models earn back.
    if trial.objective.domain.device.type == "cuda":
        modes.append("compiled")
    found = [f"backward {shortest:.2g} s"]
    for mode in modes:
        product = trial.candidate(mode)
        reason = trial.objection(product)
        if reason is not None:
            found.append(f"{mode} {reason}")
            continue
        seconds = trial.seconds(product)
        found.append(f"{mode} {seconds:.2g} s")
        if seconds < shortest:
            best, shortest = product, seconds
    _logger.info("a Hessian product of %d columns: %s", trial.width, "; ".join(found))
    return best


class _Trial:
    """One random block with which all modes are tried."""

    def __init__(
        self, objective: Objective, graph: GradientGraph, index: int, batch: Any, width: int
    ) -> None:
        self.objective = objective
        self.graph = graph
        self.index = index
        self.batch = batch
        self.width = width
        self.num_bytes = graph.num_bytes()
        domain = objective.domain
        self.device = domain.device
        self.most_columns = columns_at_a_time(graph.largest_bytes(), domain.device)
        generator = torch.Generator(device=domain.device).manual_seed(_SEED)
        shape = max(width, 2), domain.dim
        self.block = torch.randn(
            shape, generator=generator, device=domain.device, dtype=domain.dtype
        )
        self.expected = torch.zeros_like(self.block[-1:])
        graph.add_products(self.block[-1:], self.expected, keep=True)

    def candidate(self, mode: ProductMode) -> FunctionalProduct:
        """Return what computes products in a mode, within the memory for graphs."""
        fitting = self.objective.memory_budget // max(self.num_bytes, 1)
        chunk_size = int(max(1, min(fitting, self.most_columns)))
        if mode == "compiled":
            return CompiledProduct(self.objective, chunk_size)
        assert mode in ("forward-over-reverse", "reverse-over-forward")
        return FunctionalProduct(self.objective, mode, chunk_size)

    def objection(self, product: FunctionalProduct) -> str | None:
        """Return why a mode cannot be taken, None if it can."""
        try:
            found = self._last_product(product)
        except Exception as error:
            if product.chunk_size == 1:
                return f"fails ({_short(error)})"
            # Some operations can be transformed, but not for several vectors at a time.
            product.chunk_size = 1
            return self.objection(product)
        if isinstance(product, CompiledProduct) and product.failure is not None:
            return f"cannot be compiled ({_short(product.failure)})"
        difference = difference_of(found, self.expected, self.objective.epsilon)
        if difference is None:
            return None
        return f"gives products that differ from those of the double backward pass by {difference}"

    def seconds(self, product: FunctionalProduct) -> float:
        """Return how long the product with the block takes."""
        block = self.block[: self.width]
        out = torch.zeros_like(block)
        call = partial(product.add_products, self.index, self.batch, block, out)
        return seconds_of(call, self.device)

    def plain_seconds(self) -> float:
        """Return how long the plain product with the block takes, rebuilt if no graph can be kept."""
        block = self.block[: self.width]
        out = torch.zeros_like(block)
        objective = self.objective
        if self.num_bytes * len(objective.batches) <= objective.memory_budget:
            call = partial(self.graph.add_products, block, out, keep=True)
            return seconds_of(call, self.device)

        def rebuilt() -> None:
            parameters = list(objective.parameters.values())
            GradientGraph(objective.model, objective.loss, self.batch, parameters).add_products(
                block, out, keep=False
            )

        return seconds_of(rebuilt, self.device)

    def _last_product(self, product: FunctionalProduct) -> Tensor:
        # Several columns at a time where they may come, as their transform is another.
        rows = self.block if product.chunk_size > 1 else self.block[-1:]
        out = torch.zeros_like(rows)
        product.add_products(self.index, self.batch, rows, out)
        return out[-1:]


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["it says no more"]
    return f"{type(error).__name__}: {lines[0][:200]}"
