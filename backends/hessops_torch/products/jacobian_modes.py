"""Which way the products of a Jacobian and its adjoint are computed: by rule, asked for, or timed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from hessops.algorithms._common import level_outside
from hessops_torch.graphs.output_graph import OutputGraph
from hessops_torch.objective.model_outputs import graph_of_outputs
from hessops_torch.objective.objective import Objective
from hessops_torch.products.columns import columns_at_a_time
from hessops_torch.products.difference import difference_of
from hessops_torch.products.functional_jacobian import (
    FunctionalJacobian,
    FunctionalJacobianMode,
)
from hessops_torch.products.output_pullback import OutputPullback
from hessops_torch.products.trial import Trial

__all__ = ["JacobianMode", "check_jacobian_mode", "find_jacobian", "may_transform"]

JacobianMode = Literal["backward", "forward", "batched", "auto"]
"""Ways to multiply by a Jacobian and its adjoint; 'auto' takes the fastest."""


def check_jacobian_mode(product: Any) -> None:
    """Raise if a way to multiply by a Jacobian is unknown.

    Parameters
    ----------
    product : str or None
        One of `JacobianMode`, or None.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if product is not None and product not in get_args(JacobianMode):
        raise ValueError(
            f"product={product!r} is unknown; choose one of {', '.join(get_args(JacobianMode))}, or "
            "leave it out"
        )


def may_transform(product: JacobianMode | None, objective: Objective) -> bool:
    """Tell whether function transforms are to be tried.

    Parameters
    ----------
    product : {'backward', 'forward', 'batched', 'auto'} or None
        What was asked for; None takes forward mode for parameters of convolutions.
    objective : Objective
        Model and parameters.

    Returns
    -------
    bool
        Where nothing was asked for, whether a convolution has one of the parameters: for others alone,
        backward passes need not go as far down.
    """
    if product is not None:
        return product != "backward"
    chosen = {id(parameter) for parameter in objective.parameters.values()}
    return any(
        id(parameter) in chosen
        for module in objective.model.modules()
        if isinstance(module, nn.modules.conv._ConvNd)
        for parameter in module.parameters()
    )


def find_jacobian(
    mode: JacobianMode | None,
    objective: Objective,
    graph: OutputGraph,
    index: int,
    batch: Any,
    width: int,
) -> FunctionalJacobian | None:
    """Return what multiplies by function transforms, after one look at whether it is right.

    Parameters
    ----------
    mode : {'backward', 'forward', 'batched', 'auto'} or None
        What was asked for; None takes forward mode for parameters of convolutions.
    objective : Objective
        Model, loss and data, ready.
    graph : OutputGraph
        Of a micro-batch, for the products to compare with.
    index : int
        Of the micro-batch.
    batch : object
        The micro-batch.
    width : int
        Columns at a time.

    Returns
    -------
    FunctionalJacobian or None
        None for backward passes alone, vector by vector.

    Warns
    -----
    RuntimeWarning
        If a mode that was asked for fails, or gives other products.
    """
    if not may_transform(mode, objective):
        return None
    trial = _Trial(objective, graph, index, batch, width)
    if mode == "auto":
        return trial.fastest(["forward", "batched"])
    found = trial.candidate("batched" if mode == "batched" else "forward")
    reason = trial.objection(found)
    if reason is None:
        return found
    if mode is not None:
        warnings.warn(
            f"product={mode!r} {reason}: the operator takes product='backward' instead",
            RuntimeWarning,
            stacklevel=level_outside(),
        )
    return None


class _Trial(Trial[FunctionalJacobian]):
    """Random vectors, and J v and J^T u of them by backward passes alone."""

    def __init__(
        self, objective: Objective, graph: OutputGraph, index: int, batch: Any, width: int
    ) -> None:
        domain = objective.domain
        super().__init__("J v and J^T u", width, domain.device)
        self.objective = objective
        self.index = index
        self.batch = batch
        self.chunk_size = columns_at_a_time(graph.largest_bytes(), domain.device)
        count = max(width, 2)
        self.rows = self.random((count, domain.dim), domain.dtype)
        self.seeds = self.random((count, *graph.outputs.shape), domain.dtype, other=1)
        # Of two at a time the second is compared, as the transform for several is another.
        self.expected = self._products(None, graph, slice(1, 2))

    def candidate(self, mode: str) -> FunctionalJacobian:
        """Return what multiplies in a mode."""
        return FunctionalJacobian(
            self.objective, cast("FunctionalJacobianMode", mode), self.chunk_size
        )

    def difference(self, way: FunctionalJacobian) -> str | None:
        """Return in what a product differs from that of backward passes."""
        graph = way.graph(self.index, self.batch)
        products = self._products(way, graph, slice(0, 2))
        for product, expected in zip(products, self.expected, strict=True):
            difference = difference_of(product[1:], expected, self.objective.epsilon)
            if difference is not None:
                return f"gives a product that differs from that of backward passes by {difference}"
        return None

    def product(self, way: FunctionalJacobian | None) -> Callable[[], object]:
        """Return what computes J v and J^T u of a block, graphs rebuilt if they cannot be kept."""
        objective, block = self.objective, slice(0, self.width)
        kept = self._graph(way)
        needed = kept.num_bytes() * len(objective.batches)
        graph = kept if needed <= objective.memory_budget else None

        def product() -> None:
            self._products(way, self._graph(way) if graph is None else graph, block)

        return product

    def _graph(self, way: FunctionalJacobian | None) -> OutputGraph | OutputPullback:
        if way is not None:
            return way.graph(self.index, self.batch)
        graph = graph_of_outputs(self.objective, self.index, self.batch)
        graph.prepare()
        return graph

    def _products(
        self, way: FunctionalJacobian | None, graph: OutputGraph | OutputPullback, block: slice
    ) -> tuple[Tensor, Tensor]:
        """Return J v and J^T u for some of the vectors."""
        rows = self.rows[block]
        if way is None:
            assert isinstance(graph, OutputGraph)
            pushed = graph.forward(rows)
        else:
            pushed = way.forward(self.index, self.batch, rows)
        pulled = torch.zeros_like(rows)
        graph.add_adjoint(self.seeds[block], pulled, keep=True)
        return pushed, pulled
