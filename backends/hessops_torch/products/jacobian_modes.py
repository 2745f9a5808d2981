"""Which way the products of a Jacobian and its adjoint are computed: by rule, asked for, or timed."""

from __future__ import annotations

import logging
import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hessops.algorithms._common import level_outside
from hessops_torch.graphs.output_graph import OutputGraph
from hessops_torch.objective.model_outputs import graph_of_outputs
from hessops_torch.objective.objective import Objective
from hessops_torch.products.clock import seconds_of
from hessops_torch.products.columns import columns_at_a_time
from hessops_torch.products.difference import difference_of
from hessops_torch.products.functional_jacobian import (
    FunctionalJacobian,
    FunctionalJacobianMode,
)
from hessops_torch.products.output_pullback import OutputPullback

__all__ = ["JacobianMode", "check_jacobian_mode", "find_jacobian", "may_transform"]

JacobianMode = Literal["backward", "forward", "batched", "auto"]
"""Ways to multiply by a Jacobian and its adjoint; 'auto' takes the fastest."""

_SEED = 0xFA57
_ROUNDS = 3
_logger = logging.getLogger("hessops")


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
        Where no convolution has one of the parameters, backward passes need not go as far down.
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
        return _fastest(trial)
    found = trial.candidate("batched" if mode == "batched" else "forward")
    reason = trial.objection(found)
    if reason is None:
        return found
    if mode is not None:
        warnings.warn(
            f"product={mode!r} {reason}: backward passes, vector by vector, take its place",
            RuntimeWarning,
            stacklevel=level_outside(),
        )
    return None


def _fastest(trial: _Trial) -> FunctionalJacobian | None:
    """Return the fastest of the modes that are right, at the number of columns of the first block."""
    best, shortest = None, trial.seconds(None)
    seconds = [f"backward {shortest:.2g} s"]
    for mode in ("forward", "batched"):
        found = trial.candidate(mode)
        reason = trial.objection(found)
        if reason is not None:
            seconds.append(f"{mode} {reason}")
            continue
        needed = trial.seconds(found)
        seconds.append(f"{mode} {needed:.2g} s")
        if needed < shortest:
            best, shortest = found, needed
    columns = f"{trial.width} column{'s' if trial.width > 1 else ''}"
    _logger.info("J v and J^T u of %s: %s", columns, "; ".join(seconds))
    return best


class _Trial:
    """Random vectors with which all modes are tried."""

    def __init__(
        self, objective: Objective, graph: OutputGraph, index: int, batch: Any, width: int
    ) -> None:
        self.objective = objective
        self.index = index
        self.batch = batch
        self.width = width
        self.chunk_size = columns_at_a_time(graph.largest_bytes(), objective.domain.device)
        count = max(width, 2)
        self.rows = self._random((count, objective.domain.dim), _SEED)
        self.seeds = self._random((count, *graph.outputs.shape), _SEED + 1)
        # Of two at a time the second is compared, as the transform for several is another.
        self.expected = self._products(None, graph, slice(1, 2))

    def candidate(self, mode: FunctionalJacobianMode) -> FunctionalJacobian:
        """Return what multiplies in a mode."""
        return FunctionalJacobian(self.objective, mode, self.chunk_size)

    def objection(self, found: FunctionalJacobian) -> str | None:
        """Return why a mode cannot be taken, None if it can."""
        try:
            graph = found.graph(self.index, self.batch)
            products = self._products(found, graph, slice(0, 2))
        except Exception as error:
            if found.chunk_size == 1:
                return f"fails ({_short(error)})"
            # Some operations can be transformed, but not for several vectors at a time.
            found.chunk_size = 1
            return self.objection(found)
        for product, expected in zip(products, self.expected, strict=True):
            difference = difference_of(product[1:], expected, self.objective.epsilon)
            if difference is not None:
                return f"gives a product that differs from theirs by {difference}"
        return None

    def seconds(self, found: FunctionalJacobian | None) -> float:
        """Return how long J v and J^T u of a block take, graphs rebuilt if they cannot be kept."""
        objective, block = self.objective, slice(0, self.width)
        kept = self._graph(found)
        needed = kept.num_bytes() * len(objective.batches)
        graph = kept if needed <= objective.memory_budget else None

        def product() -> None:
            self._products(found, self._graph(found) if graph is None else graph, block)

        return min(seconds_of(product, objective.domain.device) for _ in range(_ROUNDS))

    def _graph(self, found: FunctionalJacobian | None) -> OutputGraph | OutputPullback:
        if found is not None:
            return found.graph(self.index, self.batch)
        graph = graph_of_outputs(self.objective, self.index, self.batch)
        graph.prepare()
        return graph

    def _products(
        self,
        found: FunctionalJacobian | None,
        graph: OutputGraph | OutputPullback,
        block: slice,
    ) -> tuple[Tensor, Tensor]:
        """Return J v and J^T u for some of the vectors."""
        rows = self.rows[block]
        if found is None:
            assert isinstance(graph, OutputGraph)
            pushed = graph.forward(rows)
        else:
            pushed = found.forward(self.index, self.batch, rows)
        pulled = torch.zeros_like(rows)
        graph.add_adjoint(self.seeds[block], pulled, keep=True)
        return pushed, pulled

    def _random(self, shape: tuple[int, ...], seed: int) -> Tensor:
        domain = self.objective.domain
        generator = torch.Generator(device=domain.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=domain.device, dtype=domain.dtype)


def _short(error: Exception) -> str:
    # What was raised in the model, without what is said around it of the batch.
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines() or ["it says no more"]
    return f"{type(cause).__name__}: {lines[0][:200]}"
