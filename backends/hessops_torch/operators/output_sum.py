"""Matrices of the form J^T M J: J the Jacobian of a model's outputs, M a matrix on outputs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self, cast

from torch import Tensor

from hessops.structure import Structure
from hessops_torch.graphs.output_graph import OutputGraph
from hessops_torch.losses.contract import OutputLoss, require_outputs
from hessops_torch.losses.output_hessian import OutputMatrix
from hessops_torch.objective.model_outputs import graph_of_outputs
from hessops_torch.objective.objective import Objective
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.products.functional_jacobian import FunctionalJacobian
from hessops_torch.products.jacobian_modes import (
    JacobianMode,
    check_jacobian_mode,
    find_jacobian,
    may_transform,
)
from hessops_torch.products.output_pullback import OutputPullback

__all__ = ["OutputShare", "OutputSum"]


class OutputSum(DataSum):
    """A sum of J_b^T M_b J_b over micro-batches b.

    Subclasses write `_metric`. What products cost is in the docstring of `ggn`.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    weight_decay : float
        Multiple of the identity to add.
    structure : Structure
        Self-adjoint, at least.
    product : {'backward', 'forward', 'batched', 'auto'}, optional
        How to multiply by J and its adjoint, as for `ggn`.

    Raises
    ------
    TypeError
        If the loss is not known in two parts, outputs and loss.
    ValueError
        If `product` is unknown.
    """

    _made_by: ClassVar[str]
    """The function that users call."""

    def __init__(
        self,
        objective: Objective,
        *,
        weight_decay: float = 0.0,
        structure: Structure,
        product: JacobianMode | None = None,
    ) -> None:
        check_jacobian_mode(product)
        self.product = product
        self._seems_adjoint = False
        # What multiplies by function transforms, once that is found to be right.
        self._jacobian: FunctionalJacobian | None = None
        self._jacobian_found = False
        what = f"{self._made_by} is not for this loss: {type(self).__name__}"
        require_outputs(objective.loss, what)
        super().__init__(objective, weight_decay=weight_decay, structure=structure)

    @property
    def loss(self) -> OutputLoss:
        """Return the loss in its two parts."""
        return cast("OutputLoss", self.objective.loss)

    @property
    def product_found(self) -> JacobianMode | None:
        """Return how products are computed; until the first, what was asked for."""
        if self._jacobian is not None:
            return self._jacobian.mode
        return "backward" if self._jacobian_found else self.product

    def _start_over(self, besides: int = 0) -> None:
        super()._start_over(besides)
        found, self._jacobian = self._jacobian, None
        if self.product == "auto":
            # What is fastest for all parameters need not be for some.
            self._jacobian_found = False
        elif found is not None and may_transform(self.product, self.objective):
            # What was found right for all parameters is so for some.
            self._jacobian = FunctionalJacobian(self.objective, found.mode, found.chunk_size)

    def _for_comparison(self) -> Self:
        plain = self.in_full_precision()
        plain.product = "backward"
        plain._start_over()
        return plain

    @abstractmethod
    def _metric(self, outputs: Tensor, batch: Any, index: int) -> OutputMatrix:
        """Return products with M, of the sum over a micro-batch.

        Parameters
        ----------
        outputs : torch.Tensor
            Of the model, without a graph.
        batch : object
            The micro-batch.
        index : int
            Of the micro-batch.

        Returns
        -------
        OutputMatrix
            From a block of shape (k, *outputs.shape) to one of the same shape.
        """

    def _add_products(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        share = self.graphs.get(index)
        if share is not None:
            forward = self._forward(share.graph, index, batch, columns)
            self._multiply(share, forward, columns, out, keep=True)
            return share.count, None
        share, total = self._new_share(index, batch, len(columns))
        # What J v needs is part of what is kept, so that it is made first.
        forward = self._forward(share.graph, index, batch, columns)
        keep = self.graphs.offer(index, share)
        self._multiply(share, forward, columns, out, keep=keep)
        return share.count, total

    def _forward(
        self, graph: OutputGraph | OutputPullback, index: int, batch: Any, columns: Tensor
    ) -> Tensor:
        """Return J v for each row v of `columns`."""
        if self._jacobian is not None:
            return self._jacobian.forward(index, batch, columns)
        assert isinstance(graph, OutputGraph)
        return graph.forward(columns)

    def _multiply(
        self, share: OutputShare, forward: Tensor, columns: Tensor, out: Tensor, *, keep: bool
    ) -> None:
        """Add J^T M J v to `out` for each row v of `columns`, of which `forward` holds J v."""
        del columns
        share.graph.add_adjoint(share.metric(forward), out, keep=keep)

    def _new_share(self, index: int, batch: Any, width: int) -> tuple[OutputShare, Tensor]:
        objective = self.objective
        graph = self._graph(index, batch)
        with objective.applying(index, batch):
            outputs = graph.outputs.detach()
            # A copy, into which a loss may write (to mask logits, say).
            total, count = self.loss.of_outputs(outputs.clone(), batch)
            metric = self._metric(outputs, batch, index)
        if not self._jacobian_found:
            graph = self._looked_at(graph, index, batch, width)
        return OutputShare(graph, metric, count), total

    def _graph(self, index: int, batch: Any) -> OutputGraph | OutputPullback:
        if self._jacobian is not None:
            return self._jacobian.graph(index, batch)
        return graph_of_outputs(self.objective, index, batch)

    def _looked_at(
        self, graph: OutputGraph | OutputPullback, index: int, batch: Any, width: int
    ) -> OutputGraph | OutputPullback:
        """Look once at the products, and for a way to compute them; return the graph for these."""
        assert isinstance(graph, OutputGraph)
        if not (self._seems_adjoint or graph.shows_adjoint()):
            return graph
        self._seems_adjoint = True
        self._jacobian = find_jacobian(self.product, self.objective, graph, index, batch, width)
        self._jacobian_found = True
        if self._jacobian is None:
            return graph
        graph.release()
        return self._graph(index, batch) if self._jacobian.mode == "batched" else graph

    def _describe(self) -> str:
        mode = "" if self.product is None else f", product {self.product}"
        return super()._describe() + mode


class OutputShare:
    """What a micro-batch adds: a graph of outputs, and a matrix on them.

    Parameters
    ----------
    graph : OutputGraph or OutputPullback
        Products with J^T, the former also with J.
    metric : OutputMatrix
        Products with M.
    count : torch.Tensor or float
        The micro-batch's, that the mean divides by.
    """

    def __init__(
        self,
        graph: OutputGraph | OutputPullback,
        metric: OutputMatrix,
        count: Tensor | float,
    ) -> None:
        self.graph = graph
        self.metric = metric
        self.count = count

    def num_bytes(self) -> int:
        """Return the memory that graph and matrix hold, without the parameters themselves."""
        return self.graph.num_bytes(*self.metric.holds)
