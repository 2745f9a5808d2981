"""Columns that are solved in lock-step and end one by one.

A column that has ended is taken out of the block, so that it costs no more products; its solution is
put aside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hessops.algorithms._one_line import one_line
from hessops.arrays import Array, HostArray
from hessops.space import Space

__all__ = ["ActiveColumns", "LinearSolveState"]


@dataclass(frozen=True)
class LinearSolveState:
    """The iterates of m linear systems after k steps.

    In exact arithmetic, ``residual_norms[j]`` is ‖b_j - (A + shift I) x_j‖. The iterates of conjugate
    gradients are, of all in x_0 + K_k, the closest to the solution in the norm of A + shift I; those
    of MINRES have the smallest residual. K_k is the Krylov space of the first residual.

    Parameters
    ----------
    step : int
        Steps k taken; 0 for the first guess.
    num_products : int
        Columns multiplied so far.
    residual_norms : numpy.ndarray, shape (m,)
        By the recurrence, not relative to anything.
    endings : numpy.ndarray of str, shape (m,)
        How a column ended; empty while it goes on.
    lengths : numpy.ndarray, shape (m,)
        Steps that each column took.
    curvature : float
        Least curvature met at which a column had to end; NaN where there was none.
    _active : array, shape (n, a)
        Iterates of the columns that go on.
    _finished : array, shape (n, m), or None
        Iterates of those that have ended, once there are any.
    """

    step: int
    num_products: int
    residual_norms: HostArray
    endings: HostArray
    lengths: HostArray
    curvature: float = math.nan
    _active: Array = field(repr=False, kw_only=True)
    _finished: Array | None = field(repr=False, kw_only=True)

    __repr__ = one_line

    @property
    def solution(self) -> Array:
        """Return the iterates, shape (n, m)."""
        return _filled(self._finished, self._active, np.flatnonzero(self.endings == ""))


class ActiveColumns:
    """Which columns go on, and where those that have ended are.

    Parameters
    ----------
    space : Space
        Where the columns live.
    count : int
        Number m of columns.
    """

    def __init__(self, space: Space, count: int) -> None:
        self.space = space
        self.step = 0
        self.num_products = 0
        self.indices = np.arange(count)
        self.endings = np.full(count, "", dtype="<U18")
        self.lengths = np.zeros(count, dtype=np.int64)
        self.residual_norms = np.zeros(count)
        self.curvature = math.nan
        self._finished: Array | None = None

    def advance(self, products: int = 1) -> None:
        """Count one step of all columns that go on."""
        self.step += 1
        self.num_products += products * len(self.indices)
        self.lengths[self.indices] = self.step

    def record(self, norms: HostArray, where: HostArray | None = None) -> None:
        """Note the residual norms of the columns that go on, or of some of them."""
        chosen = slice(None) if where is None else where
        self.residual_norms[self.indices[chosen]] = norms[chosen]

    def mark(self, ended: HostArray, ending: str) -> None:
        """Say how columns that go on have ended, of which `ended` is a mask; the first word counts."""
        chosen = self.indices[ended]
        self.endings[chosen] = np.where(self.endings[chosen] == "", ending, self.endings[chosen])

    def marked(self) -> HostArray:
        """Return the mask of the columns at work that are marked as ended."""
        ended: HostArray = self.endings[self.indices] != ""
        return ended

    def retire(self, X: Array) -> HostArray | None:
        """Put the marked columns of `X` aside.

        Parameters
        ----------
        X : array, shape (n, a)
            The iterates of the columns at work.

        Returns
        -------
        numpy.ndarray or None
            Positions, among the columns at work, of those that go on; None if all of them do.
        """
        ended = self.marked()
        if not ended.any():
            return None
        # A new array: the states yielded before keep theirs.
        self._finished = _filled(self._finished, X, self.indices)
        kept = np.flatnonzero(~ended)
        self.indices = self.indices[kept]
        return kept

    def taken(self, array: Array, kept: HostArray | None) -> Array:
        """Return the given columns (last axis) of an array on the device."""
        if kept is None:
            return array
        xp = self.space.xp
        chosen: Array = xp.take(array, xp.asarray(kept, device=self.space.device), axis=-1)
        return chosen

    def state(self, X: Array) -> LinearSolveState:
        """Return what there is, with the iterates `X` of the columns at work."""
        return LinearSolveState(
            step=self.step,
            num_products=self.num_products,
            residual_norms=self.residual_norms.copy(),
            endings=self.endings.copy(),
            lengths=self.lengths.copy(),
            curvature=self.curvature,
            _active=X,
            _finished=self._finished,
        )


def _filled(whole: Array | None, part: Array, indices: HostArray) -> Array:
    """Return `whole` with some columns replaced; neither is changed.

    Before any column has ended there is no `whole`.
    """
    if whole is None or part.shape[1] == whole.shape[1]:
        return part
    filled = whole + 0
    for position, index in enumerate(indices):
        filled[:, int(index)] = part[:, position]
    return filled
