"""Matrices of the form J^T M J: J the Jacobian of a model's outputs, M a matrix on outputs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from hessops.structure import Structure
from hessops_torch.data_sum import DataSum
from hessops_torch.failures import applying, name_of
from hessops_torch.loss_contract import OutputLoss
from hessops_torch.objective import Objective
from hessops_torch.output_graph import OutputGraph
from hessops_torch.output_hessian import OutputProduct

__all__ = ["OutputSum"]


class OutputSum(DataSum):
    """A sum of J_b^T M_b J_b over micro-batches b.

    Subclasses write `_metric`. In units of a forward pass a product costs 4 where the graphs are
    kept, and 3 / k + 4 for each of k columns where they are not; a gradient costs 3.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    weight_decay : float
        Multiple of the identity to add.
    structure : Structure
        Self-adjoint, at least.

    Raises
    ------
    TypeError
        If the loss is not known in two parts, outputs and loss.
    """

    def __init__(
        self, objective: Objective, *, weight_decay: float = 0.0, structure: Structure
    ) -> None:
        if not isinstance(objective.loss, OutputLoss):
            raise TypeError(
                f"{type(self).__name__} needs the model's outputs by themselves, and a function of "
                "(model, batch) does not show them: pass a criterion, or "
                "hessops_torch.SplitLoss(forward, loss)"
            )
        super().__init__(objective, weight_decay=weight_decay, structure=structure)
        self.loss: OutputLoss = objective.loss

    @abstractmethod
    def _metric(self, outputs: Tensor, batch: Any, index: int) -> OutputProduct:
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
        callable
            From a block of shape (k, *outputs.shape) to one of the same shape.
        """

    def _add_products(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        share = self.graphs.get(index)
        if share is not None:
            share.add_products(columns, out, keep=True)
            return share.count, None
        share, total = self._new_share(index, batch)
        # What J v needs is part of what is kept, so that it is made first.
        products = share.metric(share.graph.forward(columns))
        share.graph.add_adjoint(products, out, keep=self.graphs.offer(index, share))
        return share.count, total

    def _new_share(self, index: int, batch: Any) -> tuple[_Share, Tensor]:
        objective, name = self.objective, name_of(index)
        parameters = list(objective.parameters.values())
        with applying(batch, parameters[0], name):
            outputs = self.loss.outputs(objective.model, batch)
            total, count = self.loss.of_outputs(outputs.detach(), batch)
            metric = self._metric(outputs.detach(), batch, index)
        return _Share(OutputGraph(outputs, parameters, name), metric, count), total


class _Share:
    """What a micro-batch adds: a graph of outputs, and a matrix on them."""

    def __init__(self, graph: OutputGraph, metric: OutputProduct, count: Tensor | float) -> None:
        self.graph = graph
        self.metric = metric
        self.count = count

    def add_products(self, columns: Tensor, out: Tensor, *, keep: bool) -> None:
        self.graph.add_adjoint(self.metric(self.graph.forward(columns)), out, keep=keep)

    def num_bytes(self) -> int:
        return self.graph.num_bytes()
