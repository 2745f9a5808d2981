"""Samples sorted by how much they bend the loss, so that probes go where the variance is.

In a trained network most samples are classified with certainty: the gradient r of their loss by
the outputs and its Hessian M are all but zero, and with them all that they add to the curvature.
So the samples are cut into strata by √(|r|² + (tr M)²), which one forward pass tells, and each
stratum gets probes of its own number (Neyman 1934). In an untrained network all samples are alike,
and there is one stratum: the data as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessops.arrays import HostArray
from hessops_torch.data.batch import leaves, map_tensors, num_samples, taken, tensors_in
from hessops_torch.losses.contract import EvaluationError, OutputLoss
from hessops_torch.losses.output_factor import output_factor
from hessops_torch.losses.output_gradient import output_gradient
from hessops_torch.objective.finite_losses import require_finite_losses
from hessops_torch.objective.objective import Objective

__all__ = ["StrataBatches", "Stratum", "strata_of"]

# A stratum ends where the size of its samples' share is so much less than that of its first.
_RATIO = 4.0
_MOST_STRATA = 5

Group = list[tuple[int, Tensor | None]]
"""Micro-batches and the rows that are taken of each; None for all of them."""


@dataclass(frozen=True)
class Stratum:
    """Some of the samples, as micro-batches of their own.

    Parameters
    ----------
    groups : sequence of list
        What each of its micro-batches is made of.
    num_samples : float
        Samples in all.
    share : float
        Of the variance of probes, as one forward pass predicts it.
    first : int
        Index of its first micro-batch among those of all strata.
    """

    groups: Sequence[Group]
    num_samples: float
    share: float
    first: int


@dataclass(frozen=True)
class StrataBatches:
    """All strata of some data.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    strata : tuple of Stratum
        From the samples that bend the loss most on.
    reason : str
        Why the samples were cut so.
    cost : float
        What it cost to find them, in forward passes over all data.
    """

    objective: Objective
    strata: tuple[Stratum, ...]
    reason: str
    cost: float

    @property
    def num_samples(self) -> float:
        """Return the samples of all strata."""
        return sum(stratum.num_samples for stratum in self.strata)

    def batches(self, stratum: Stratum) -> Iterator[tuple[int, Any]]:
        """Yield the micro-batches of a stratum with their indices among those of all strata."""
        source = enumerate(self.objective.batches)
        index, batch = next(source)
        for number, group in enumerate(stratum.groups, start=stratum.first):
            parts = []
            for wanted, rows in group:
                while index < wanted:
                    index, batch = next(source)
                parts.append(batch if rows is None else taken(batch, rows))
            yield number, parts[0] if len(parts) == 1 else _joined(parts)


def strata_of(objective: Objective, loss: OutputLoss, *, separate: bool) -> StrataBatches:
    """Cut the samples of some data into strata, while the model is ready.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    loss : OutputLoss
        Its loss.
    separate : bool
        Whether every sample of a batch counts on its own.

    Returns
    -------
    StrataBatches
        One stratum, the data as it is, where samples are alike or cannot be told apart.
    """
    if not separate:
        return _as_it_is(objective, "a batch is one function of all its samples", 0.0)
    scores, kinds = [], []
    for index, batch in enumerate(objective.batches):
        found = _scores(objective, loss, index, batch)
        if found is None:
            return _as_it_is(objective, "its batches cannot be cut into samples", 1.0)
        scores.append(found)
        kinds.append(tuple(tuple(tensor.shape[1:]) for tensor in tensors_in(batch)))
    of_all = np.concatenate(scores)
    strata_indices = _cut(of_all)
    if max(strata_indices) == 0:
        return _as_it_is(objective, "all samples bend the loss alike", 1.0)
    edges = np.cumsum([len(found) for found in scores])[:-1]
    levels = np.split(strata_indices, edges)
    size = max(len(found) for found in scores)
    total, first, strata = float(np.sum(of_all**2)), 0, []
    for level in range(max(strata_indices) + 1):
        rows = [torch.as_tensor(np.flatnonzero(found == level)) for found in levels]
        groups = _grouped(rows, kinds, size)
        share = float(np.sum(of_all[strata_indices == level] ** 2)) / total
        count = float(sum(len(chosen) for chosen in rows))
        strata.append(Stratum(groups, count, share, first))
        first += len(groups)
    return StrataBatches(objective, tuple(strata), "by how much samples bend the loss", 1.0)


def _as_it_is(objective: Objective, reason: str, cost: float) -> StrataBatches:
    lengths = [num_samples(batch) or 1 for batch in objective.batches]
    groups: list[Group] = [[(index, None)] for index in range(len(lengths))]
    return StrataBatches(objective, (Stratum(groups, float(sum(lengths)), 1.0, 0),), reason, cost)


def _scores(objective: Objective, loss: OutputLoss, index: int, batch: Any) -> HostArray | None:
    """Return every sample's √(|r|² + (tr M)²), None if the loss is not a sum over samples."""
    count = num_samples(batch)
    only_tensors = all(torch.is_tensor(leaf) or leaf is None for leaf in leaves(batch))
    with objective.applying(index, batch), torch.no_grad():
        outputs = loss.outputs(objective.model, batch)
    if count is None or not only_tensors or outputs.ndim == 0 or len(outputs) != count:
        return None
    with objective.applying(index, batch):
        total, size, gradient = output_gradient(loss, outputs, batch)
    require_finite_losses([total], first=index)
    with torch.no_grad():
        parts = [torch.arange(i, count, 2) for i in range(min(2, count))]
        try:
            found = [loss.of_outputs(outputs[part], taken(batch, part)) for part in parts]
        except EvaluationError:
            # It takes all of a batch, and no part of it.
            return None
    eps = torch.finfo(outputs.dtype).eps ** 0.5
    for whole, halves in (
        (total, [f[0] for f in found]),
        (size, [f[1] for f in found]),
    ):
        if abs(float(sum(halves)) - float(whole)) > eps * max(abs(float(whole)), 1e-30):
            return None
    if gradient is None:
        return None
    sizes = gradient.reshape(count, -1).norm(dim=1)
    factor = output_factor(loss, outputs, batch)
    if factor is not None:
        sizes = torch.hypot(sizes, factor.sizes())
    host: HostArray = sizes.to(torch.float64).cpu().numpy()
    return host


def _cut(scores: HostArray) -> HostArray:
    """Return the stratum of every sample."""
    largest = float(scores.max())
    if largest <= 0:
        return np.zeros(len(scores), dtype=np.int64)
    with np.errstate(divide="ignore"):
        levels = np.floor(np.log(largest / scores) / np.log(_RATIO))
    levels = np.minimum(levels, _MOST_STRATA - 1).astype(np.int64)
    # Without gaps.
    return np.unique(levels, return_inverse=True)[1]


def _grouped(rows: Sequence[Tensor], kinds: Sequence[Any], size: int) -> list[Group]:
    """Return micro-batches of at most `size` samples, joined where shapes allow it."""
    groups: list[Group] = []
    held, kind = size, None
    for index, chosen in enumerate(rows):
        for part in torch.split(chosen, size) if len(chosen) else ():
            if held + len(part) > size or kinds[index] != kind:
                groups.append([])
                held, kind = 0, kinds[index]
            groups[-1].append((index, part))
            held += len(part)
    return groups


def _joined(parts: Sequence[Any]) -> Any:
    """Return some batches of one kind as one."""
    columns = [list(tensors_in(part)) for part in parts]
    joined = iter([torch.cat(tensors) for tensors in zip(*columns, strict=True)])
    return map_tensors(lambda _: next(joined), parts[0])
