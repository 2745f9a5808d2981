"""What Lanczos keeps on the host: coefficients, who is exhausted, and signs of asymmetry."""

from __future__ import annotations

import numpy as np

from hessops.algorithms._asymmetry import not_self_adjoint
from hessops.algorithms._precision import half_the_digits
from hessops.arrays import HostArray, eps
from hessops.blocks.basis import Basis
from hessops.blocks.rounding import ROUNDINGS
from hessops.operator import LinearOperator
from hessops.record import require_finite

__all__ = ["Recurrence"]


class Recurrence:
    """The coefficients of m recurrences on the host, and which of them go on.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    count : int
        Number m of recurrences.
    basis : Basis or None
        Where their vectors are kept, after those of earlier runs.
    scale : float
        Size of the operator as earlier runs saw it.
    breakdown : float
        Residual norm that ends a recurrence, relative to the scale, if above rounding.
    local : bool
        Whether every vector is orthogonalised against the two before it only.
    """

    def __init__(
        self,
        A: LinearOperator,
        count: int,
        basis: Basis | None,
        scale: float,
        breakdown: float,
        *,
        local: bool,
    ) -> None:
        self.operator = A
        self.basis = basis
        self.deflated = 0 if basis is None else basis.size
        self.scale = scale
        self.local = local
        self.alphas: list[HostArray] = []
        self.betas: list[HostArray] = []
        self.alive = np.ones(count, dtype=bool)
        self.lengths = np.zeros(count, dtype=np.int64)
        self._eps = eps(A.xp, A.dtype)
        self._breakdown = max(ROUNDINGS * self._eps, breakdown)

    @property
    def num_products(self) -> int:
        """Return the columns multiplied so far."""
        return len(self.alive) * len(self.alphas)

    def advance(self, host: HostArray) -> None:
        """Record one step's coefficients and find out which recurrences are exhausted.

        Parameters
        ----------
        host : numpy.ndarray, shape (4, m)
            Of every recurrence alpha, the new beta, the imaginary part of alpha, and what else shows
            asymmetry. If the recurrence is local, that is the difference of
            <beta_{k-1} q_{k-1}, A q_k> and beta_{k-1}^2; if not, an inner product that should be 0.
        """
        alpha, beta, imaginary, stray = host
        require_finite(host, self.num_products + len(alpha), self.operator)
        before = self.betas[-1] if self.betas else np.zeros_like(beta)
        self.scale = max(self.scale, float(np.max(np.abs(alpha) + beta + before)))
        # From a null vector the first step sees nothing but rounding.
        if self.alphas and self.scale > 0:
            # Locally orthogonal q are so to rounding / beta (Paige 1971), hence the beta in there.
            weight = self.scale if self.local else 1.0
            self._require_self_adjoint(imaginary + stray / weight)
        self.alphas.append(np.where(self.alive, alpha, 0.0))
        self.betas.append(np.where(self.alive, beta, 0.0))
        self.lengths = self.lengths + self.alive
        self._find_exhausted()

    def correct(self, beta: HostArray, inner: HostArray) -> None:
        """Replace the last beta, after the new vectors were taken off others.

        Parameters
        ----------
        beta : numpy.ndarray, shape (m,)
            What is left of each in norm.
        inner : numpy.ndarray, shape (m,)
            The largest inner product with one of the others.
        """
        require_finite(np.stack([beta, inner]), self.num_products, self.operator)
        # Up to half the digits in the last two vectors, times a row of T and of its transpose.
        self._require_self_adjoint(inner / 4)
        self.betas[-1] = np.where(self.betas[-1] > 0, beta, 0.0)
        self._find_exhausted()

    def coefficients(self) -> HostArray:
        """Return 1 / beta and beta where a recurrence goes on and 0 elsewhere, shape (2, m)."""
        beta = np.where(self.alive, self.betas[-1], 0.0)
        return np.stack([np.divide(1.0, beta, where=self.alive, out=np.zeros_like(beta)), beta])

    def _find_exhausted(self) -> None:
        # A space of dimension n holds no more than n orthogonal vectors.
        full = self.basis is not None and self.basis.size >= self.basis.space.dim
        self.alive = self.alive & (self.betas[-1] > self._breakdown * self.scale) & (not full)

    def require_symmetric(self, overlaps: HostArray) -> None:
        """Raise if Q^H A Q of the start vectors shows that A is not self-adjoint."""
        self._require_self_adjoint(np.abs(overlaps - overlaps.conj().T))

    def _require_self_adjoint(self, asymmetry: HostArray) -> None:
        worst = float(np.max(asymmetry))
        # Errors of local orthogonality may add up over the steps, by some roundings each.
        half = half_the_digits(self.operator)
        allowed = max(half, ROUNDINGS * self._eps * len(self.alphas))
        if worst > allowed * self.scale:
            raise not_self_adjoint(self.operator, worst, self.scale)
