"""A few numbers by which a block of vectors is known again: norms and inner products."""

from __future__ import annotations

import math

import numpy as np

from hessops.arrays import Array, HostArray, eps, to_numpy
from hessops.random import Purpose, Stream
from hessops.space import Space

__all__ = ["Sketcher", "deviations"]

# The same in every process, whatever the seed of the run.
_STREAM = Stream(0, Purpose.CHECKPOINT)
_NUM_PROBES = 2
_ROUNDINGS = 32


class Sketcher:
    """Makes and compares sketches of blocks of one space, by its reductions alone.

    The probes are normal. Signs, which are cheaper, would not tell vectors of signs apart, nor unit
    vectors: the inner products of the former are small integers, those of the latter ±1.

    Parameters
    ----------
    space : Space
        Of the blocks. Two of its vectors are kept.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._probes: Array | None = None

    def sketch(self, X: Array) -> HostArray:
        """Return [‖x‖², <z_1, x>, <z_2, x>] of every column, shape (3, k), by one reduction."""
        if self._probes is None:
            self._probes = self.space.probes(_STREAM, range(_NUM_PROBES), "normal")
        Z = self._probes
        X = self.space.coefficients(X)
        pairs = [(Z[:, j : j + 1], X) for j in range(_NUM_PROBES)]
        return to_numpy(self.space.column_inners((X, X), *pairs))

    def probe(self) -> Array:
        """Return one more fixed vector, to multiply with, as a block of one column."""
        return self.space.probes(_STREAM, range(_NUM_PROBES, _NUM_PROBES + 1), "normal")

    def rounding(self) -> float:
        """Return how far sketches of one block may differ, relative to its norm.

        Each entry by a few roundings; and the sums, in double precision, may be taken in another order.
        """
        entries = _ROUNDINGS * eps(self.space.xp, self.space.dtype)
        return entries + math.sqrt(self.space.dim) * float(np.finfo(np.float64).eps)

    def half_precision(self) -> float:
        """Return half the digits, by which products of one operator may differ."""
        return math.sqrt(eps(self.space.xp, self.space.dtype))


def deviations(found: HostArray, recorded: HostArray) -> HostArray:
    """Return how far two sketches of the same shape differ, relative to the norm of each column.

    Parameters
    ----------
    found, recorded : numpy.ndarray, shape (3, k)
        By `Sketcher.sketch`.

    Returns
    -------
    numpy.ndarray, shape (k,)
        0 where they are the same, NaN among them; infinite where a norm is 0, infinite or NaN and they
        are not.
    """
    same = np.all((found == recorded) | (np.isnan(found) & np.isnan(recorded)), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        norms = [np.sqrt(sketch[0].real) for sketch in (found, recorded)]
        rows = [norms[0] - norms[1], *(found[1:] - recorded[1:])]
        relative = np.max(np.abs(rows), axis=0) / norms[1]
    return np.where(same, 0.0, np.where(np.isfinite(relative), relative, np.inf))
