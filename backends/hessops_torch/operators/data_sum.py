"""Operators on parameter vectors that are sums over the micro-batches of a data set."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import count
from typing import Any, Self

import torch
from torch import Tensor

from hessops.algorithms._common import level_outside
from hessops.operator import LinearOperator
from hessops.operators.algebra import Scaled
from hessops.operators.elementary import Identity
from hessops.structure import SELF_ADJOINT, Structure
from hessops.together import tried
from hessops_torch.graphs.cache import GraphCache
from hessops_torch.model.parameters import ParameterSpace
from hessops_torch.model.precision import Precision
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.objective.finite_losses import require_finite_losses
from hessops_torch.objective.objective import Objective
from hessops_torch.objective.options import check_weight_decay
from hessops_torch.operators.precision_trial import measured_error, state_of

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

    Raises
    ------
    ValueError
        If the weight decay is no finite real number.
    """

    domain: ParameterSpace

    def __init__(
        self,
        objective: Objective,
        *,
        weight_decay: float = 0.0,
        structure: Structure = SELF_ADJOINT,
    ) -> None:
        check_weight_decay(weight_decay)
        super().__init__(objective.domain, structure=structure)
        self.objective = objective
        self.weight_decay = weight_decay
        objective.ranks.require_same(
            {"the operator": type(self).__name__, "weight_decay": weight_decay}
        )
        self._start_over()

    @property
    def precision(self) -> Precision | None:
        """Return what products are computed in if it is less than the precision of the model."""
        return self.objective.precision

    @property
    def product_error(self) -> float:
        """Return the relative error of products in a lower precision than the model's, 0 in its own.

        As measured with three random vectors and the first micro-batch (of every rank) before the
        first product, where all ranks have to be here, and again once weights, buffers or mode of the
        model have changed: of several ranks, at the next product.
        """
        if self._tried_with is None or self.objective.ranks.comm.size == 1:
            self._look_at_precision()
        return self._product_error

    def in_full_precision(self) -> Self:
        """Return this operator, computed in the precision of the model."""
        other = copy(self)
        other.objective = self.objective.in_full_precision()
        other._start_over()
        return other

    @property
    def space(self) -> ParameterSpace:
        """Return the space of flat parameter vectors, which flattens and unflattens."""
        return self.domain

    def restricted(self, params: ParameterSelection) -> Self:
        """Return the diagonal block of this operator that belongs to some parameters.

        Its products are cheaper than those of the whole, as derivatives need not go further down than
        these parameters, and its graphs are its own.

        Parameters
        ----------
        params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
            As `hessian` takes them.

        Returns
        -------
        DataSum
            Of the same class, on flat vectors of these parameters.

        Raises
        ------
        ValueError
            If a pattern fits no parameter, or one that this operator does not act on.
        """
        block = copy(self)
        block.objective = self.objective.restricted(params)
        for name in block.objective.domain.sections:
            if name not in self.domain.sections:
                raise ValueError(
                    f"this operator does not act on {name}, so that it has no such block: make an "
                    "operator with params that cover it"
                )
        block.domain = block.codomain = block.objective.domain
        block._start_over(besides=self.graphs.num_bytes)
        return block

    def require_full_precision(self, verb: str) -> None:
        """Raise if products are in a lower precision than the model's.

        Parameters
        ----------
        verb : str
            What has no error for such products.

        Raises
        ------
        ValueError
            If they are.
        """
        if self.precision is not None:
            raise ValueError(
                f"{verb} knows no error of products in precision={self.precision!r}: pass what the "
                "operator's in_full_precision() returns, or use hessops.trace or hessops.diagonal"
            )

    def _start_over(self, besides: int = 0) -> None:
        """Know nothing of earlier products; subclasses add what they know of them.

        Parameters
        ----------
        besides : int
            Bytes of the budget that another operator's graphs take.
        """
        budget = max(self.objective.memory_budget - besides, 0)
        # Graphs of micro-batches that are kept between products.
        self.graphs: GraphCache[Any] = self.objective.new_cache(budget)
        # All that has to be given up when model or loss change.
        self.caches: tuple[GraphCache[Any], ...] = (self.graphs,)
        self._product_error = 0.0
        # What the model was when products in a lower precision were held against exact ones.
        self._tried_with: list[Any] | None = None

    def _look_at_precision(self) -> None:
        """Hold products in a lower precision against exact ones, once for each model; collective.

        Warns
        -----
        RuntimeWarning
            If they are too far off: then the precision of the model is taken.
        """
        objective = self.objective
        if objective.precision is None:
            return
        now = state_of(objective.model)
        if not objective.ranks.any(now != self._tried_with):
            return
        exact = self._for_comparison()
        for operator in (self, exact):
            operator._meet()
        error, reason = measured_error(
            objective, self._add_products, self.caches, exact.objective, exact._add_products
        )
        if self.objective is not objective:
            return  # Another thread has given it up meanwhile.
        if reason is None:
            # Only now, so that what is interrupted does not pass for exact.
            self._product_error, self._tried_with = error, now
            return
        # Before the warning, which may be an error.
        self.objective = exact.objective
        self._start_over()
        warnings.warn(
            f"precision={objective.precision!r} {reason}: the operator computes in "
            f"{self.domain.dtype} instead",
            RuntimeWarning,
            stacklevel=level_outside(),
        )

    def _for_comparison(self) -> Self:
        """Return what computes the plainest products in the precision of the model."""
        return self.in_full_precision()

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

    def _add_block_products(
        self,
        index: int,
        batch: Any,
        columns: Tensor,
        out: Tensor,
        blocks: Sequence[Sequence[int]],
    ) -> tuple[Tensor | float, Tensor | None]:
        """Add one micro-batch's products with the diagonal blocks, while the model is ready.

        Here at the cost of a product with the whole for each block; subclasses may know better.

        Parameters
        ----------
        index, batch, columns, out : as for `_add_products`
            The products of each block go to its own entries.
        blocks : sequence of sequence of int
            Places of each block's parameters among all.

        Returns
        -------
        (torch.Tensor or float, torch.Tensor or None)
            As for `_add_products`.
        """
        ranges = list(self.domain.sections.values())
        found: list[tuple[Tensor | float, Tensor | None]] = []
        for block in blocks:
            part, product = torch.zeros_like(columns), torch.zeros_like(columns)
            for place in block:
                part[:, slice(*ranges[place])] = columns[:, slice(*ranges[place])]
            found.append(self._add_products(index, batch, part, product))
            for place in block:
                out[:, slice(*ranges[place])] += product[:, slice(*ranges[place])]
        # The loss was computed for the first of them, and the graph perhaps kept.
        return found[0]

    def _meet(self) -> None:
        """Have at hand what products need to know of the data of all ranks; collective.

        Called before the model is ready. Here nothing; subclasses know of more.
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
        """Yield the micro-batches' shares of the operator, of all ranks, and the weight decay."""
        self._look_at_precision()
        self._meet()
        ranks = self.objective.ranks
        samples = self.objective.num_samples()
        here = self._read_here()
        for holder, num_samples in zip(ranks.holders, samples, strict=True):
            if holder == ranks.comm.rank:
                yield _Share(self, *next(here), num_samples)
            else:
                yield _ShareElsewhere(self, holder, num_samples)
        if self.weight_decay:
            yield Scaled(Identity(self.domain), self.weight_decay)

    def _apply(self, X: Any) -> Any:
        self._look_at_precision()
        self._meet()
        objective, ranks = self.objective, self.objective.ranks
        # What is made in inference mode cannot be written to while the model is ready.
        with torch.inference_mode(mode=False):
            columns = X.detach().T.contiguous()
            out, flat = ranks.buffer(columns)
        counts, error = tried(lambda: self._add_all(columns, out))
        # Not while the model is ready: other threads wait for it, and other ranks may be threads.
        out, missing = ranks.summed(out, flat, error, objective.misses_counts(), columns)
        if missing:
            objective.forget_counts()
        out /= self._divisor(counts)
        if self.weight_decay:
            out += self.weight_decay * columns
        return out.T

    def _add_all(self, columns: Tensor, out: Tensor) -> list[Tensor | float]:
        """Add the products of this rank's micro-batches; return their counts."""
        with self.objective.ready(*self.caches):
            added = [
                self._add_products(index, batch, columns, out)
                for index, batch in enumerate(self.objective.batches.here())
            ]
            require_finite_losses([total for _, total in added], self.graphs)
        return [found for found, _ in added]

    def _read_here(self) -> Iterator[tuple[int, Any, Exception | None]]:
        """Yield this rank's micro-batches, with their indices; of one that cannot be read, why.

        Its product raises that: here it would leave the ranks alone that meet this one after all terms.
        """
        index = -1
        try:
            for index, batch in enumerate(self.objective.batches.here()):
                yield index, batch, None
        except Exception as error:
            if self.objective.ranks.comm.size == 1:
                raise
            for unread in count(index + 1):
                yield unread, None, error

    def _describe(self) -> str:
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        precision = f", {self.precision}" if self.precision else ""
        return f"{self.objective.describe()}{decay}{precision}"


class _Share(LinearOperator):
    """One micro-batch's share of a sum."""

    def __init__(
        self, whole: DataSum, index: int, batch: Any, error: Exception | None, num_samples: float
    ) -> None:
        super().__init__(whole.domain, structure=whole.structure)
        self.whole = whole
        self.index = index
        self.batch = batch
        self.error = error
        self.num_samples = num_samples
        self._product_error = whole._product_error
        comm = whole.objective.ranks.comm
        self.held_by = comm.rank if comm.size > 1 else None

    def _apply(self, X: Any) -> Any:
        whole, objective = self.whole, self.whole.objective
        if self.error is not None:
            raise self.error
        with objective.ready(*whole.caches):
            if self.held_by is not None and objective.misses_counts():
                raise RuntimeError(
                    "the loss has changed since terms() was called, and what to divide by is known "
                    "by all ranks together: call terms() again, on all of them"
                )
            columns = X.detach().T.contiguous()
            out = torch.zeros_like(columns)
            _count, total = whole._add_products(self.index, self.batch, columns, out)
            out /= whole._divisor()
            require_finite_losses([total], whole.graphs, self.index)
        return out.T


class _ShareElsewhere(LinearOperator):
    """The share of a micro-batch that another rank has."""

    def __init__(self, whole: DataSum, holder: int, num_samples: float) -> None:
        super().__init__(whole.domain, structure=whole.structure)
        self._product_error = whole._product_error
        self.held_by = holder
        self.num_samples = num_samples

    def _apply(self, X: Any) -> Any:
        raise RuntimeError(
            f"the data of this term is on rank {self.held_by}, which alone can multiply a block of "
            f"shape {tuple(X.shape)} with it; the whole operator multiplies on all ranks"
        )
