"""The ω-recurrence: how orthogonal a Lanczos basis is, from its coefficients alone (Simon 1984).

Let ω_{k,j} = <q_j, q_k>. The three-term recurrence of q_{k+1}, multiplied by q_j, and that of q_{j+1},
multiplied by q_k, have the product <q_j, A q_k> in common. Their difference is

    β_k ω_{k+1,j} = β_j ω_{k,j+1} + (α_j - α_k) ω_{k,j} + β_{j-1} ω_{k,j-1} - β_{k-1} ω_{k-1,j} + ϑ

where ϑ is rounding. Neighbours are orthogonal to ω_{k+1,k} = rounding / β_k. So no inner product of
long vectors is needed to follow all of them: O(k) operations a step, on the host.
"""

from __future__ import annotations

import numpy as np

from hessops.arrays import HostArray

__all__ = ["OrthogonalityEstimate"]


_NUM_GUESSES = 4


class OrthogonalityEstimate:
    """Estimates of the inner products of the next Lanczos vector with all before, for m recurrences.

    The signs of ϑ are unknown. One guess takes that of the sum, so that errors add up; as terms of
    earlier steps may still cancel in it that did not in the run, others take random signs, and the
    largest counts. Estimates tend to be too large for that, and never go beyond 1.

    Parameters
    ----------
    count : int
        Number m of recurrences.
    precision : float
        Machine epsilon of the products.
    """

    def __init__(self, count: int, precision: float) -> None:
        self.precision = precision
        self._signs = np.random.default_rng(0)  # the same for every run, whatever its seed
        self._level = np.zeros(count)
        # Guesses, recurrences, earlier vectors.
        self._before: HostArray = np.zeros((_NUM_GUESSES, count, 0))
        self._latest: HostArray = np.ones((_NUM_GUESSES, count, 1))
        self._next: HostArray = np.zeros((_NUM_GUESSES, count, 0))

    @property
    def estimates(self) -> HostArray:
        """Return the moduli of ω_{k+1,j} for j = 1 ... k, shape (m, k)."""
        moduli: HostArray = np.abs(self._next).max(axis=0)
        return moduli

    @property
    def level(self) -> HostArray:
        """Return the largest modulus of all ω so far, shape (m,), the next vector's among them."""
        level: HostArray = np.maximum(self._level, self.estimates.max(axis=1, initial=0.0))
        return level

    def advance(self, alphas: HostArray, betas: HostArray) -> None:
        """Estimate ω of the vector that follows k others.

        Parameters
        ----------
        alphas, betas : numpy.ndarray, shape (k, m)
            The coefficients so far; the last row of `betas` belongs to the next vector. A recurrence
            whose last β is 0 has ended, and its next vector is 0.
        """
        self._accept(len(alphas))
        diagonal, couplings, last = alphas.T, betas[:-1].T, betas[-1]
        latest = self._latest
        new = (diagonal - diagonal[:, -1:]) * latest
        new[..., :-1] += couplings * latest[..., 1:]
        new[..., 1:] += couplings * latest[..., :-1]
        if couplings.shape[1]:
            new[..., :-1] -= couplings[:, -1:] * self._before
        # A product rounds at the size of A, of which T knows its largest row, however small the row
        # of this step: a dense A cancels to reach it.
        sizes = np.abs(diagonal) + betas.T
        sizes[:, 1:] += couplings
        rounding = self.precision * sizes.max(axis=1, keepdims=True)
        signs = self._signs.choice([-1.0, 1.0], new.shape)
        signs[0] = np.copysign(1.0, new[0])
        new += 2 * rounding * signs
        new[..., -1:] = rounding * signs[..., -1:]
        going = last > 0
        divisor = np.where(going, last, 1.0)[:, None]
        self._next = np.where(going[:, None], np.clip(new / divisor, -1.0, 1.0), 0.0)

    def clear(self, ranges: list[slice] | None = None) -> None:
        """Note that the next vector was just orthogonalised against some before it, or all."""
        for chosen in [slice(None)] if ranges is None else ranges:
            rest = self._next[..., chosen]
            self._next[..., chosen] = np.where(rest == 0, 0.0, np.copysign(self.precision, rest))

    def measured(self, inner: HostArray) -> None:
        """Begin anew with what was measured of a single recurrence.

        Parameters
        ----------
        inner : numpy.ndarray, shape (2, k)
            Moduli of the inner products with the k vectors, of the last of them and of the next.
        """
        self._before = np.zeros((_NUM_GUESSES, 1, inner.shape[1] - 1))
        self._latest, self._next = np.repeat(inner[:, None, None], _NUM_GUESSES, axis=1)
        self._latest[..., -1] = 1.0

    def purge(self, coefficients: list[HostArray]) -> None:
        """Note that the next vectors were just orthogonalised against some Ritz vectors.

        Parameters
        ----------
        coefficients : list of numpy.ndarray, shape (k, g)
            For every recurrence, those of its Ritz vectors in its basis.
        """
        for index, known in enumerate(coefficients):
            part = self._next[:, index, : len(known)]
            part -= (part @ known) @ known.T

    def _accept(self, size: int) -> None:
        """Make the next vector the latest one, unless there is none yet."""
        if self._latest.shape[-1] == size:
            return
        self._level = self.level
        self._before = self._latest
        ones = np.ones((*self._next.shape[:-1], 1))
        self._latest = np.concatenate([self._next, ones], axis=-1)
