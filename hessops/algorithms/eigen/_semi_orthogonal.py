"""Single-vector Lanczos that keeps its basis orthogonal to as many digits as the tolerance needs.

Every vector is taken off the two before it. The ω-recurrence estimates what it keeps of the others;
when that passes a bound, it and its successor are taken off all of them (Simon 1984; Grcar 1981). What
is taken off enters the small matrix as a loss, so residual norms stay true, and the bound is chosen so
that these losses stay below the tolerance.
"""

from __future__ import annotations

import math

import numpy as np

from hessops.agreement import to_host
from hessops.algorithms.eigen._block_orthonormal import (
    Negligible,
    OrthonormalRest,
    orthonormal_rest,
    projected,
    truncated,
)
from hessops.algorithms.eigen._block_tridiagonal import BlockTridiagonal
from hessops.algorithms.krylov._omega import OrthogonalityEstimate
from hessops.arrays import Array, HostArray
from hessops.blocks.basis import Basis
from hessops.blocks.orthogonalize import LITTLE_TAKEN_OFF

__all__ = ["SemiOrthogonal"]

# Losses add up as the root of the number of sweeps.
_SHARE = 1 / 32
_MOST, _LEAST_UNITS = 1 / 4, 100
# The first vectors are taken off all others: that costs little, shows what is not self-adjoint at once,
# and measures rounding.
_AT_FIRST = 16
_CAUTION = 4.0
_MOST_SWEEPS = 4


class SemiOrthogonal:
    """Decides which vectors of the one recurrence are taken off all others.

    Parameters
    ----------
    precision : float
        Machine epsilon of the products.
    bound : float
        What a vector may keep of all others, in norm.
    """

    def __init__(self, precision: float, bound: float) -> None:
        self._precision, self._bound = precision, bound
        self._estimate = OrthogonalityEstimate(1, precision)
        self._again = False

    @staticmethod
    def pays(precision: float, tol: float) -> float | None:
        """Return the bound for a tolerance, or None where full orthogonality is as cheap."""
        bound = min(_MOST * math.sqrt(precision), _SHARE * tol)
        return bound if bound >= _LEAST_UNITS * precision else None

    @property
    def level(self) -> float:
        """Return the largest inner product of two basis vectors, as it is estimated."""
        return float(self._estimate.level[0])

    def rest(
        self, basis: Basis, W: Array, small: BlockTridiagonal, negligible: Negligible
    ) -> OrthonormalRest:
        """Return what is left of the product with the last basis vector.

        Parameters
        ----------
        basis : Basis
            Of one recurrence.
        W : array, shape (n, 1)
            The product.
        small : BlockTridiagonal
            The small matrix without it.
        negligible : callable
            As for `orthonormal_rest`.

        Returns
        -------
        OrthonormalRest
            The split; coefficients that were not asked for are 0.
        """
        size = basis.size
        if size <= _AT_FIRST:
            return self._off_all(basis, W, small, negligible)
        near = slice(max(0, size - 2), size)
        W, inner, gram = projected(basis, W, [near])
        limit = negligible(inner, gram)
        coefficients = np.zeros((size, 1), dtype=inner.dtype)
        coefficients[near] = inner
        beta = _root(gram)
        self._advance(small, float(np.real(inner[-1, 0])), beta)
        lost = float(np.linalg.norm(self._estimate.estimates))
        due = lost > self._bound or beta <= limit
        if due or self._again:
            self._again = due and not self._again
            for turn in range(_MOST_SWEEPS):
                before = beta
                W, inner, gram = projected(basis, W)
                negligible(coefficients[-1:], gram)
                coefficients, beta = coefficients + inner, _root(gram)
                if turn == 0:
                    self._learn(float(np.linalg.norm(inner)) / max(before, 1e-300), lost)
                if beta >= LITTLE_TAKEN_OFF * before:
                    break
            self._estimate.clear()
        space = basis.space
        factor = np.array([[beta]])
        kept, factor, dropped = truncated(space, factor, limit, space.dim - size)
        if factor.shape[0] == 0:
            return OrthonormalRest(space.zeros(0), coefficients, factor, dropped)
        return OrthonormalRest(W * space.from_host(kept / beta), coefficients, factor, dropped)

    def restarted(self, basis: Basis, following: Array) -> None:
        """Measure how orthogonal the last two vectors are, after the basis was replaced."""
        space, size = basis.space, basis.size
        last = basis.combined(space.from_host(np.eye(size)[:, -1:]))
        inner = basis.inner(space.xp.concat([last, following], axis=1))
        self._estimate.measured(np.abs(to_host(space, inner)).astype(np.float64).T)
        self._again = False

    def _off_all(
        self, basis: Basis, W: Array, small: BlockTridiagonal, negligible: Negligible
    ) -> OrthonormalRest:
        """Take a vector off all others as where the basis is fully orthogonal: one wait, not two."""
        rest = orthonormal_rest(basis, W, negligible)
        self._advance(
            small, float(np.real(rest.coefficients[-1, 0])), float(np.sum(rest.factor.real))
        )
        self._estimate.clear()
        return rest

    def _advance(self, small: BlockTridiagonal, alpha: float, beta: float) -> None:
        diagonal, off_diagonal = small.diagonals()
        coupling = small.coupling.real.ravel() if small.size else np.zeros(0)
        alphas = np.append(diagonal, alpha)
        betas = np.concatenate([off_diagonal, coupling, [beta]])
        self._estimate.advance(alphas[:, None], betas[:, None])

    def _learn(self, truth: float, estimated: float) -> None:
        """Adapt what rounding is taken for: estimates are proportional to it."""
        if estimated > 0:
            wanted = _CAUTION * self._estimate.precision * truth / estimated
            lowest = max(self._estimate.precision / 2, self._precision / 64)
            self._estimate.precision = max(wanted, lowest)


def _root(gram: HostArray) -> float:
    return math.sqrt(max(float(np.real(gram[0, 0])), 0.0))
