"""The trace and the diagonal of a Gauss-Newton matrix from squared gradients of samples.

G is the sum of J_i^T S_i S_i^T J_i over samples i. Its trace is the sum of |J_i^T s|² over all
columns s of S_i, exactly; or the mean of |J_i^T S_i ε_i|² over random signs ε_i, a backward pass
each. For cross-entropy the first is the expected squared norm of the gradient under the model's
own labels. Entry by entry the squares give the diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessops.arrays import HostArray
from hessops.random import Stream, draw
from hessops_torch.data.batch import num_samples, taken
from hessops_torch.losses.contract import OutputLoss
from hessops_torch.losses.failures import name_of
from hessops_torch.losses.output_factor import OutputFactor, output_factor
from hessops_torch.model.state import uses_batch_statistics
from hessops_torch.objective.finite_losses import require_finite_losses
from hessops_torch.objective.objective import Objective
from hessops_torch.traces.sample_gradients import (
    HookedGradients,
    MappedGradients,
    SampleGradients,
    WholeGradients,
    supported,
)

__all__ = ["NoRootError", "SquaredGradients", "Squares"]

_BYTES = 2**27


class NoRootError(ValueError):
    """The second derivative of a loss by the outputs has no square root."""


@dataclass
class Squares:
    """Sums of squared gradients over some samples.

    Parameters
    ----------
    sums : numpy.ndarray, shape (1 + num_parameters, k)
        Over the whole vector, and over each parameter tensor, by seed.
    diagonal : torch.Tensor or None
        Entry by entry, shape (n,), summed over seeds.
    cost : float
        Forward passes times samples.
    """

    sums: HostArray
    diagonal: Tensor | None
    cost: float


class SquaredGradients:
    """Squared gradients of a model's samples, by the cheapest way that is right for it.

    To be made and used while the model is ready.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    loss : OutputLoss
        Its loss.
    """

    def __init__(self, objective: Objective, loss: OutputLoss) -> None:
        self.objective = objective
        self.loss = loss
        self.kind: type[SampleGradients] = WholeGradients
        self.num_columns = 0
        """Columns of S for a sample; 0 if there is no S."""
        self.separate = False
        """Whether samples were seen to count on their own."""
        self._choose()

    def exact(self, batch: Any, index: int, *, diagonal: bool = False) -> Squares:
        """Return the sums over all columns of S, one micro-batch's share of n G.

        Parameters
        ----------
        batch : object
            The micro-batch.
        index : int
            Of the micro-batch, for messages.
        diagonal : bool
            Whether entries are wanted.

        Returns
        -------
        Squares
            With k = 1.
        """
        found = None
        for gradients, factor, _ in self._chunks(batch, index):
            seeds = (factor.column(j) for j in range(factor.num_columns))
            squares = self._squares(gradients, seeds, diagonal)
            squares.sums = squares.sums.sum(axis=1, keepdims=True)
            found = _added(found, squares)
        assert found is not None
        return found

    def sampled(self, batch: Any, index: int, stream: Stream, indices: range) -> Squares:
        """Return the sums with random signs, whose expectation is one micro-batch's share of n G.

        Parameters
        ----------
        batch : object
            The micro-batch.
        index : int
            Of the micro-batch, for messages.
        stream : Stream
            Where the signs come from.
        indices : range
            The k seeds wanted.

        Returns
        -------
        Squares
            One column for each seed.
        """
        found = None
        for gradients, factor, start in self._chunks(batch, index):
            shape, size = gradients.outputs.shape, gradients.outputs.numel()
            signs = (
                draw(stream, seed, start, start + size, "rademacher", complex_valued=False)
                for seed in indices
            )
            seeds = (
                factor.mixed(torch.as_tensor(s).to(gradients.outputs).reshape(shape)) for s in signs
            )
            found = _added(found, self._squares(gradients, seeds, False))
        assert found is not None
        return found

    def _chunks(
        self, batch: Any, index: int
    ) -> Iterator[tuple[SampleGradients, OutputFactor, int]]:
        """Yield parts of a micro-batch whose gradients of samples fit the memory."""
        start = 0
        for part in self._parts(batch):
            gradients = self._made(self.kind, part, index)
            self._require_finite_loss(gradients, part, index)
            factor = output_factor(self.loss, gradients.outputs, part)
            if factor is None:
                raise NoRootError(
                    f"the loss of {name_of(index)} has a negative curvature by the outputs, or joins "
                    "its samples, unlike that of the first batch: use hessops.trace of the operator"
                )
            yield gradients, factor, start
            start += gradients.outputs.numel()

    def _require_finite_loss(self, gradients: SampleGradients, part: Any, index: int) -> None:
        """Raise as products with the matrix do, whose trace may not show it."""
        with torch.no_grad():
            # Into a copy a loss may write.
            total, _count = self.loss.of_outputs(gradients.outputs.clone(), part)
        require_finite_losses([total], first=index)

    def _parts(self, batch: Any) -> Iterable[Any]:
        count = num_samples(batch)
        if self.kind is WholeGradients or count is None:
            return [batch]
        space = self.objective.domain
        each = space.dim * torch.finfo(space.dtype).bits // 8
        size = max(1, min(count, _BYTES // (2 * each)))
        rows = torch.arange(count)
        if size >= count:
            return [batch]
        return [taken(batch, part) for part in torch.split(rows, size)]

    def _squares(
        self, gradients: SampleGradients, seeds: Iterable[Tensor], diagonal: bool
    ) -> Squares:
        entries = [torch.zeros_like(p) for p in gradients.parameters] if diagonal else []
        columns = []
        for seed in seeds:
            blocks = gradients.of(seed)
            squares = [block.square() for block in blocks]
            columns.append(
                torch.stack([s[:, None].flatten(1).sum(1).double().sum() for s in squares])
            )
            entries = [e + s.sum(0) for e, s in zip(entries, squares, strict=False)]
        host = np.zeros((len(gradients.parameters), 0))
        if columns:
            host = torch.stack(columns, dim=1).cpu().numpy()
        sums = np.concatenate([host.sum(axis=0, keepdims=True), host])
        count = len(gradients.outputs)
        flat = torch.cat([entry.reshape(-1) for entry in entries]) if diagonal else None
        return Squares(sums, flat, count * (1.0 + 2.0 * len(columns)))

    def _made(self, kind: type[SampleGradients], batch: Any, index: int) -> SampleGradients:
        objective = self.objective
        return kind(objective.model, self.loss, batch, objective.parameters, name_of(index))

    def _choose(self) -> None:
        """Look at the first micro-batch of several samples, which way is right."""
        objective = self.objective
        chosen = next(iter(objective.batches))
        for batch in objective.batches:
            if (num_samples(batch) or 0) > 1:
                chosen = batch
                break
        factor = output_factor(self.loss, self._made(WholeGradients, chosen, 0).outputs, chosen)
        if factor is None:
            return
        self.num_columns = factor.num_columns
        count = num_samples(chosen)
        if count is None or len(factor.outputs) != count:
            return
        if uses_batch_statistics(objective.model, objective.mode):
            return
        few = taken(chosen, torch.arange(min(count, 3)))
        for kind in (HookedGradients, MappedGradients):
            if supported(lambda kind=kind: self._made(kind, few, 0)) is not None:  # type: ignore[misc]
                self.kind, self.separate = kind, True
                return


def _added(found: Squares | None, more: Squares) -> Squares:
    if found is None:
        return more
    both = found.diagonal is not None and more.diagonal is not None
    diagonal = found.diagonal + more.diagonal if both else None  # type: ignore[operator]
    return Squares(found.sums + more.sums, diagonal, found.cost + more.cost)
