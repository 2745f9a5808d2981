"""Operators on parameter vectors that are sums over the micro-batches of a data set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hessops.operator import LinearOperator
from hessops.operators.algebra import Scaled
from hessops.operators.elementary import Identity
from hessops.structure import SELF_ADJOINT, Structure
from hessops_torch.batches import tensors_in
from hessops_torch.graphs import GraphCache
from hessops_torch.objective import Objective
from hessops_torch.parameters import ParameterSpace

__all__ = ["DataSum"]


class DataSum(LinearOperator):
    """A self-adjoint operator that every micro-batch adds its share to.

    Subclasses write `_add_products`.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    weight_decay : float
        Multiple of the identity to add.
    structure : Structure
        Self-adjoint, at least.
    """

    domain: ParameterSpace

    def __init__(
        self,
        objective: Objective,
        *,
        weight_decay: float = 0.0,
        structure: Structure = SELF_ADJOINT,
    ) -> None:
        super().__init__(objective.domain, structure=structure)
        self.objective = objective
        self.weight_decay = weight_decay
        # Graphs of micro-batches that are kept between products.
        self.graphs: GraphCache[Any] = GraphCache(
            (objective.model, *objective.loss.parts), objective.memory_budget
        )
        # All that has to be given up when model or loss change.
        self.caches: tuple[GraphCache[Any], ...] = (self.graphs,)

    @property
    def space(self) -> ParameterSpace:
        """Return the space of flat parameter vectors, which flattens and unflattens."""
        return self.domain

    @abstractmethod
    def _add_products(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        """Add one micro-batch's products, of the sum over its samples, while the model is ready.

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
        (torch.Tensor or float, torch.Tensor or None)
            The micro-batch's count and, if it was computed, its loss.
        """

    def _divisor(self, found: Sequence[Tensor | float] | None = None) -> float:
        """Return what the sum over all micro-batches is divided by, while the model is ready.

        Parameters
        ----------
        found : sequence of torch.Tensor or float, optional
            The micro-batches' counts, if they are at hand.

        Returns
        -------
        float
            Positive.
        """
        return self.objective.divisor(found)

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the micro-batches' shares of the operator, and the weight decay."""
        with self.objective.ready():
            counts = self.objective.counts()
        for index, batch in enumerate(self.objective.batches):
            yield _Share(self, index, batch, counts[index] if counts else None)
        if self.weight_decay:
            yield Scaled(Identity(self.domain), self.weight_decay)

    def _apply(self, X: Any) -> Any:
        with self.objective.ready(*self.caches):
            columns = X.detach().T.contiguous()
            out = torch.zeros_like(columns)
            added = [
                self._add_products(index, batch, columns, out)
                for index, batch in enumerate(self.objective.batches)
            ]
            out /= self._divisor([count for count, _ in added])
            self.objective.require_finite([total for _, total in added], self.graphs)
        if self.weight_decay:
            out += self.weight_decay * columns
        return out.T

    def _describe(self) -> str:
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        return f"{self.objective.describe()}{decay}"


class _Share(LinearOperator):
    """One micro-batch's share of a sum."""

    def __init__(self, whole: DataSum, index: int, batch: Any, count: float | None) -> None:
        super().__init__(whole.domain, structure=whole.structure)
        self.whole = whole
        self.index = index
        self.batch = batch
        self.num_samples = _num_samples(batch) if count is None else count

    def _apply(self, X: Any) -> Any:
        whole = self.whole
        with whole.objective.ready(*whole.caches):
            columns = X.detach().T.contiguous()
            out = torch.zeros_like(columns)
            _count, total = whole._add_products(self.index, self.batch, columns, out)
            out /= whole._divisor()
            whole.objective.require_finite([total], whole.graphs, self.index)
        return out.T


def _num_samples(batch: Any) -> float:
    """Return the length of a micro-batch's first tensor."""
    first = next(tensors_in(batch), None)
    return 1.0 if first is None or first.ndim == 0 else float(first.shape[0])
