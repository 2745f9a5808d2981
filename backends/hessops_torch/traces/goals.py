"""When traces are known well enough, and which variance stands between them and that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hessops.arrays import HostArray
from hessops.statistics import t_quantile

if TYPE_CHECKING:
    from hessops_torch.traces.trace_engine import TraceState

__all__ = ["BlockGoal", "TraceGoal", "WholeGoal", "block_scales", "worst"]


class TraceGoal(Protocol):
    """What an engine works towards."""

    def weights(self, state: TraceState) -> HostArray:
        """Return by how much the variance of every column counts."""

    def variance(self, state: TraceState, aim: float) -> float | None:
        """Return the weighed variance to reach, `aim` times the tolerance; None without one."""

    def reached(self, state: TraceState) -> bool:
        """Tell whether the tolerance is reached."""


@dataclass(frozen=True)
class WholeGoal:
    """The trace of the whole to a half-width of its interval.

    Parameters
    ----------
    rtol, atol : float
        Half-width, relative and absolute; the looser one counts. No tolerance if both are 0.
    confidence : float
        Of the interval.
    """

    rtol: float
    atol: float
    confidence: float

    def weights(self, state: TraceState) -> HostArray:
        """Return 1 for the whole, and 0 for sections."""
        weights = np.zeros(len(state.values))
        weights[0] = 1.0
        return weights

    def variance(self, state: TraceState, aim: float) -> float | None:
        """Return the variance that the half-width takes."""
        if self.rtol == self.atol == 0:
            return None
        quantile = t_quantile(self.confidence, state.freedom())
        return float((aim * self._target(state) / quantile) ** 2)

    def reached(self, state: TraceState) -> bool:
        """Tell whether the half-width is reached; without a tolerance it is."""
        return self.rtol == self.atol == 0 or state.half_width(self.confidence) <= self._target(
            state
        )

    def _target(self, state: TraceState) -> float:
        return max(self.atol, self.rtol * abs(float(state.values[0])))


@dataclass(frozen=True)
class BlockGoal:
    """The traces of blocks, each relative to itself or, if that is larger, to the average block.

    Parameters
    ----------
    num_blocks : int
        In columns 1 to `num_blocks` of states.
    rtol : float
        Half-width by that; no tolerance if 0.
    confidence : float
        Of the intervals.
    """

    num_blocks: int
    rtol: float
    confidence: float

    def weights(self, state: TraceState) -> HostArray:
        """Return the inverse squares of what errors are relative to."""
        scales = block_scales(state.values[1 : 1 + self.num_blocks])
        weights = np.zeros(len(state.values))
        if np.all(scales > 0):
            weights[1 : 1 + self.num_blocks] = (scales.min() / scales) ** 2
        else:
            weights[0] = 1.0
        return weights

    def variance(self, state: TraceState, aim: float) -> float | None:
        """Return the weighed variance at which the worst block is where it should be."""
        if self.rtol == 0:
            return None
        now = float(state.variances.sum(axis=0) @ self.weights(state))
        excess = self.excess(state)
        return now * (aim / excess) ** 2 if excess > 0 else now

    def reached(self, state: TraceState) -> bool:
        """Tell whether every block is known as well as asked for; without a tolerance it is."""
        return self.rtol == 0 or self.excess(state) <= 1.0

    def excess(self, state: TraceState) -> float:
        """Return the half-width of the worst block, by what is asked for."""
        columns = range(1, 1 + self.num_blocks)
        halves = np.array([state.half_width(self.confidence, column) for column in columns])
        return worst(halves, state.values[1 : 1 + self.num_blocks]) / self.rtol


def block_scales(traces: HostArray) -> HostArray:
    """Return what the errors of blocks' traces are relative to: their own, or the average block's.

    Parameters
    ----------
    traces : numpy.ndarray, shape (b,)
        The traces of all blocks.

    Returns
    -------
    numpy.ndarray, shape (b,)
        Moduli, none less than their mean.
    """
    sizes = np.abs(traces)
    scales: HostArray = np.maximum(sizes, sizes.mean())
    return scales


def worst(halves: HostArray, traces: HostArray) -> float:
    """Return the largest half-width of a block's interval, by its scale; 0 where all are exact.

    Parameters
    ----------
    halves, traces : numpy.ndarray, shape (b,)
        Half-widths, and the traces that they are of.

    Returns
    -------
    float
        Infinite if a block is not known and none has a trace.
    """
    scales = block_scales(traces)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(halves > 0, halves / scales, 0.0)
    return float(ratios.max())
