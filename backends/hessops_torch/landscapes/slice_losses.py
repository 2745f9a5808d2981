"""Losses at many points of a slice, several in one forward pass where the model allows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from hessops.arrays import HostArray
from hessops_torch.model.functional import called_with
from hessops_torch.objective.loss_module import LossModule
from hessops_torch.objective.objective import Objective

__all__ = ["SliceLosses"]

_AT_ONCE = 8
# Kernels for one and for several points sum in other orders: in machine epsilons.
_SAME_DIGITS = 100


class SliceLosses:
    """The mean loss at parameters + directions · t, for any t; the parameters are never written to.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    columns : torch.Tensor, shape (n, d)
        Directions.
    """

    def __init__(self, objective: Objective, columns: Tensor) -> None:
        self.objective = objective
        self.columns = columns
        self._loss = LossModule(objective)

    def on_grid(
        self, axes: Sequence[HostArray], points_per_pass: int | None
    ) -> tuple[HostArray, str]:
        """Return the losses on a grid.

        Parameters
        ----------
        axes : sequence of numpy.ndarray
            Coordinates along each direction.
        points_per_pass : int or None
            Points to a forward pass; found out where None.

        Returns
        -------
        (numpy.ndarray, str)
            Losses, in float64, and how they were computed.
        """
        points = torch.as_tensor(np.array(list(product(*axes))), dtype=self.columns.dtype)
        points = points.to(self.columns.device)
        with self.objective.ready(), torch.no_grad():
            width, method = self._width(points, points_per_pass)
            sums = torch.zeros(len(points), dtype=torch.float64, device=points.device)
            counts = torch.zeros_like(sums)
            for index, batch in enumerate(self.objective.batches):
                for start in range(0, len(points), width):
                    some = points[start : start + width]
                    totals, found = self._evaluate(some, batch, width, index)
                    sums[start : start + width] += totals
                    counts[start : start + width] += found
        if self.objective.loss.averages:
            sums = sums / counts
        shape = [len(axis) for axis in axes]
        return sums.cpu().numpy().reshape(shape), method

    def _width(self, points: Tensor, wanted: int | None) -> tuple[int, str]:
        """Return how many points to evaluate at once: many, if that gives the same and is no slower."""
        width = min(_AT_ONCE if wanted is None else wanted, len(points))
        if width == 1:
            return 1, "one by one, as asked for"
        batch = next(iter(self.objective.batches))
        # From the middle, where the loss is finite.
        some = points[len(points) // 2 :][:width]
        self._evaluate(some[:1], batch, 1)  # what is slow the first time
        single, seconds = self._timed(some, batch, 1)
        try:
            many, seconds_at_once = self._timed(some, batch, len(some))
        except (RuntimeError, ValueError, TypeError) as error:
            return 1, f"one by one, as the model cannot be vectorised ({_first_line(error)})"
        if not _same(many, single, self.columns.dtype):
            return 1, "one by one, as vectorised over points the model gives other numbers"
        if wanted is None and seconds_at_once > seconds:
            return 1, "one by one, which is faster"
        return width, f"{width} at once"

    def _timed(self, points: Tensor, batch: Any, width: int) -> tuple[Tensor, float]:
        begin = time.perf_counter()
        parts = [
            self._evaluate(points[start : start + width], batch, width)
            for start in range(0, len(points), width)
        ]
        # On the host, so that a device has done its work.
        totals = torch.cat([torch.stack(part) for part in parts], dim=1).cpu()
        return totals, time.perf_counter() - begin

    def _evaluate(
        self, points: Tensor, batch: Any, width: int, index: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return sums and counts of one batch at some points, in float64."""
        flat = self.objective.domain.unflatten
        center = {f"model.{name}": p.detach() for name, p in self.objective.parameters.items()}

        def at(t: Tensor) -> tuple[Tensor, Tensor]:
            moved = flat(self.columns @ t)
            inside = {name: p + moved[name.removeprefix("model.")] for name, p in center.items()}
            total, count = called_with(self._loss, inside, index, batch)
            return total, torch.as_tensor(count, dtype=torch.float64, device=t.device)

        if width == 1:
            totals, counts = zip(*(at(t) for t in points), strict=True)
            return torch.stack(totals).double(), torch.stack(counts).double()
        found, counted = vmap(at)(points)
        return found.double(), counted.double()


def _same(many: Tensor, single: Tensor, dtype: torch.dtype) -> bool:
    rtol = _SAME_DIGITS * torch.finfo(dtype).eps
    return bool(torch.allclose(many, single, rtol=rtol, atol=0.0, equal_nan=True))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
