"""Lanczos for the product of a function of a self-adjoint operator with vectors (Lanczos-FA).

k steps from v give A Q = Q T + r e_k^T with v = ‖v‖ Q e_1, and

    f(A) v ≈ x_k = ‖v‖ Q f(T) e_1,

which is exact for polynomials of degree k - 1 and off by at most 2 ‖v‖ times the error of the best
such polynomial on the spectrum (Saad 1992; Druskin & Knizhnerman 1989). All columns of a block share
the products, each with a recurrence of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.agreement import to_host
from hessops.algorithms._one_line import one_line
from hessops.algorithms.krylov.lanczos import LanczosState, lanczos_steps
from hessops.arrays import Array, HostArray
from hessops.blocks.basis import Basis
from hessops.operator import LinearOperator
from hessops.record import require_finite
from hessops.spectral_function import SpectralFunction

__all__ = ["LanczosFAState", "lanczos_fa_steps"]


@dataclass(frozen=True)
class LanczosFAState:
    """The product f(A) v after k steps: column j is ``x_j = Q_j coefficients[:, j]``.

    Parameters
    ----------
    lanczos : LanczosState
        The recurrences.
    function : SpectralFunction
        The function f.
    norms : numpy.ndarray, shape (m,)
        Norms of the vectors v.
    operator : LinearOperator
        Whose function it is.
    start : array, shape (n, m)
        The vectors that the recurrences start from: v, with a unit vector where v is 0.
    """

    lanczos: LanczosState
    function: SpectralFunction
    norms: HostArray
    operator: LinearOperator
    start: Array

    __repr__ = one_line

    @property
    def step(self) -> int:
        """Return the number k of steps."""
        return self.lanczos.step

    @property
    def num_products(self) -> int:
        """Return the columns multiplied so far."""
        return self.lanczos.num_products

    @property
    def exact(self) -> bool:
        """Tell whether all Krylov spaces are exhausted."""
        return not self.lanczos.alive.any()

    @cached_property
    def coefficients(self) -> HostArray:
        """Return ‖v‖ f(T) e_1 of every column, shape (k, m)."""
        return self._coefficients(self.step)

    @cached_property
    def sizes(self) -> HostArray:
        """Return the norms of f(A) v, shape (m,)."""
        return np.asarray(np.sqrt(np.sum(self.coefficients**2, axis=0)))

    @property
    def error_kind(self) -> Literal["residual", "difference"]:
        """Return what the errors are."""
        return "residual" if self.function.name == "inverse" else "difference"

    @cached_property
    def errors(self) -> HostArray:
        """Return an estimate of every column's error, shape (m,)."""
        last = self.lanczos.lengths - 1
        columns = np.arange(len(last))
        if self.error_kind == "residual":
            residuals = self.lanczos.betas[last, columns] * self.coefficients[last, columns]
            return np.asarray(np.abs(residuals))
        return np.where(self.lanczos.alive, self._extrapolated(), self._rounding_errors())

    def relative_error(self) -> float:
        """Return the largest error, relative to ‖v‖ for residuals and to ‖x‖ for differences."""
        scale = self.norms if self.error_kind == "residual" else self.sizes
        ratios = np.divide(self.errors, scale, out=np.zeros_like(scale), where=scale > 0)
        infinite = (scale == 0) & (self.errors > 0)
        return float(np.max(np.where(infinite, math.inf, ratios), initial=0.0))

    def vectors(self) -> Array:
        """Return f(A) v, shape (n, m); where no basis was kept, by step - 1 more products each."""
        basis = self.lanczos.basis
        return self._second_pass() if basis is None else self._combined(basis)

    def _combined(self, basis: Basis) -> Array:
        space = self.operator.domain
        columns = [
            basis.combined(space.from_host(self.coefficients[:, [column]]), column)
            for column in range(len(self.norms))
        ]
        together: Array = space.xp.concat(columns, axis=1)
        return together

    def _second_pass(self) -> Array:
        """Run the recurrence again, which makes the same vectors, and add them up."""
        space = self.operator.domain
        norms = np.sqrt(to_host(space, space.column_norms_squared(self.start)))
        total = self.start * space.from_host(self.coefficients[0] / norms)
        states = lanczos_steps(self.operator, self.start, reorthogonalize=False)
        for state in islice(states, self.step - 1):
            total = total + state.following * space.from_host(self.coefficients[state.step])
        return total

    def _rounding_errors(self) -> HostArray:
        """Return what rounding of the products may do to f(A) v."""
        found = np.zeros(len(self.norms))
        for column in np.flatnonzero(~self.lanczos.alive).tolist():
            nodes, vectors = self._eigenpairs(column, int(self.lanczos.lengths[column]))
            changes = self.function.variation(nodes, self.lanczos.rounding) * vectors[0]
            found[column] = self.norms[column] * np.sqrt(np.sum(changes**2))
        return found

    def _extrapolated(self) -> HostArray:
        """Return the change over the last quarter of the steps, and what is to come at that rate.

        The last step alone would say next to nothing where convergence is slow: x then still moves
        for many steps by as much.
        """
        shorter = [self._coefficients(steps) for steps in (3 * self.step // 4, self.step // 2)]
        last = _distance(self.coefficients, shorter[0])
        before = _distance(*shorter)
        ratio = np.divide(last, before, out=np.ones_like(last), where=before > 0)
        to_come = np.divide(last, 1 - ratio, out=np.full_like(last, math.inf), where=ratio < 1)
        # At the level of rounding, changes do not fall any more.
        rounding = self.lanczos.rounding / (self.lanczos.scale or 1.0) * self.sizes
        return np.where(last <= rounding, last, to_come)

    def _coefficients(self, steps: int) -> HostArray:
        found = np.zeros((self.step, len(self.norms)))
        for column, norm in enumerate(self.norms):
            length = min(int(self.lanczos.lengths[column]), steps)
            if length > 0:
                nodes, vectors = self._eigenpairs(column, length)
                found[:length, column] = norm * (vectors @ (self.function(nodes) * vectors[0]))
        return found

    def _eigenpairs(self, column: int, length: int) -> tuple[HostArray, HostArray]:
        """Return the Ritz values after some steps, all of them where f is defined, and T's vectors."""
        diagonal = self.lanczos.alphas[:length, column]
        off_diagonal = self.lanczos.betas[: length - 1, column]
        # Scaled, so that tiny or huge operators do not under- or overflow in LAPACK's squares.
        scale = float(max(np.max(np.abs(diagonal)), np.max(off_diagonal, initial=0.0))) or 1.0
        values, vectors = eigh_tridiagonal(diagonal / scale, off_diagonal / scale)
        nodes, f = scale * values, self.function
        f.require_defined(float(nodes[0]), self.lanczos.rounding)
        return (np.maximum(nodes, f.low) if f.closed else nodes), vectors


def lanczos_fa_steps(
    A: LinearOperator, f: SpectralFunction, v: Array, *, keep_basis: bool = True, capacity: int = 16
) -> Iterator[LanczosFAState]:
    """Yield approximations of f(A) v, one step after another; end when they are exact.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    f : SpectralFunction
        The function.
    v : array, shape (n, m)
        What to multiply.
    keep_basis : bool
        Keep the bases, and orthogonalise against them.
    capacity : int
        Steps to make room for at first.

    Yields
    ------
    LanczosFAState
        One step further.

    Raises
    ------
    NonFiniteError
        If `v` holds NaN or infinity.
    """
    space = A.domain
    norms = np.sqrt(to_host(space, space.column_norms_squared(v))).astype(np.float64)
    require_finite(norms, 0, "v (which is no product yet)")
    # No recurrence starts from 0; its coefficients are multiplied by 0 afterwards.
    zero = norms == 0
    if zero.any():
        v = v + space.unit_vectors(0, 1) * space.from_host(zero.astype(np.float64))
    for state in lanczos_steps(A, v, reorthogonalize=keep_basis, capacity=capacity):
        yield LanczosFAState(state, f, norms, A, v)


def _distance(first: HostArray, second: HostArray) -> HostArray:
    """Return how far apart two approximations are, as the basis is orthonormal."""
    return np.asarray(np.sqrt(np.sum((first - second) ** 2, axis=0)))
