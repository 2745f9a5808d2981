"""Matrices of the form J^T M J: J the Jacobian of a model's outputs, M a matrix on outputs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, cast

from torch import Tensor

from hessops.structure import Structure
from hessops_torch.graphs.output_graph import OutputGraph
from hessops_torch.losses.contract import OutputLoss, require_outputs
from hessops_torch.losses.failures import name_of
from hessops_torch.losses.output_hessian import OutputMatrix
from hessops_torch.objective.objective import Objective
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.products.output_tangents import (
    JacobianMode,
    OutputTangents,
    check_jacobian_mode,
    find_tangents,
    takes_tangents,
)

__all__ = ["OutputShare", "OutputSum"]


class OutputSum(DataSum):
    """A sum of J_b^T M_b J_b over micro-batches b.

    Subclasses write `_metric`. In units of a forward pass a product costs 4 where the graphs are
    kept, and 3 / k + 4 for each of k columns where they are not; a gradient costs 3. By forward mode it
    is 4 and one more for every eight columns, and with one more for each block if they are not kept.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    weight_decay : float
        Multiple of the identity to add.
    structure : Structure
        Self-adjoint, at least.
    product : {'backward', 'forward'}, optional
        How to multiply by J: by two backward passes or by forward mode, which is checked once. Where
        not given, by forward mode if convolutions have some of the parameters.

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
        # What multiplies by forward mode, once that is found to be right.
        self._tangents: OutputTangents | None = None
        what = f"{self._made_by} is not for this loss: {type(self).__name__}"
        require_outputs(objective.loss, what)
        super().__init__(objective, weight_decay=weight_decay, structure=structure)

    @property
    def loss(self) -> OutputLoss:
        """Return the loss in its two parts."""
        return cast("OutputLoss", self.objective.loss)

    def _start_over(self, besides: int = 0) -> None:
        super()._start_over(besides)
        # What was found right for all parameters is so for some.
        found, self._tangents = self._tangents, None
        if found is not None and takes_tangents(self.product, self.objective):
            self._tangents = OutputTangents(self.objective, found.chunk_size)

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
        share, total = self._new_share(index, batch)
        # What J v needs is part of what is kept, so that it is made first.
        forward = self._forward(share.graph, index, batch, columns)
        keep = self.graphs.offer(index, share)
        self._multiply(share, forward, columns, out, keep=keep)
        return share.count, total

    def _forward(self, graph: OutputGraph, index: int, batch: Any, columns: Tensor) -> Tensor:
        """Return J v for each row v of `columns`."""
        if self._tangents is None:
            return graph.forward(columns)
        return self._tangents.forward(index, batch, columns)

    def _multiply(
        self, share: OutputShare, forward: Tensor, columns: Tensor, out: Tensor, *, keep: bool
    ) -> None:
        """Add J^T M J v to `out` for each row v of `columns`, of which `forward` holds J v."""
        del columns
        share.graph.add_adjoint(share.metric(forward), out, keep=keep)

    def _new_share(self, index: int, batch: Any) -> tuple[OutputShare, Tensor]:
        objective = self.objective
        with objective.applying(index, batch):
            outputs = self.loss.outputs(objective.model, batch)
            # A copy, into which a loss may write (to mask logits, say).
            total, count = self.loss.of_outputs(outputs.detach().clone(), batch)
            metric = self._metric(outputs.detach(), batch, index)
        graph = OutputGraph(outputs, list(objective.parameters.values()), name_of(index))
        if not self._seems_adjoint:
            self._seems_adjoint = graph.shows_adjoint()
            if self._seems_adjoint:
                self._tangents = find_tangents(self.product, objective, graph, index, batch)
            if self._tangents is not None:
                graph.release()
        return OutputShare(graph, metric, count), total


class OutputShare:
    """What a micro-batch adds: a graph of outputs, and a matrix on them.

    Parameters
    ----------
    graph : OutputGraph
        Products with J and J^T.
    metric : OutputMatrix
        Products with M.
    count : torch.Tensor or float
        The micro-batch's, that the mean divides by.
    """

    def __init__(self, graph: OutputGraph, metric: OutputMatrix, count: Tensor | float) -> None:
        self.graph = graph
        self.metric = metric
        self.count = count

    def num_bytes(self) -> int:
        """Return the memory that graph and matrix hold, without the parameters themselves."""
        return self.graph.num_bytes(*self.metric.holds)
