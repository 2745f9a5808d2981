"""When to take a Lanczos vector off those before it, and off which: a menu between all and none.

Lanczos vectors lose orthogonality just where Ritz pairs converge (Paige 1971), and T is as good as
with full orthogonality while no inner product of two of them is above the root of machine epsilon
(Simon 1984). So it is enough to

    partial    follow the inner products by the ω-recurrence; when one passes sqrt(eps), take the next
               vector, and the one after it, off those whose inner products are above eps^(3/4);
    periodic   the same, off all vectors (Grcar 1981);
    selective  take every vector off the Ritz vectors whose residual norm is below a few sqrt(eps) of
               the scale, and off nothing else (Parlett & Scott 1979).
"""

from __future__ import annotations

import math
from typing import Literal, Protocol, get_args

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.agreement import to_host
from hessops.algorithms.krylov._omega import OrthogonalityEstimate
from hessops.algorithms.krylov._recurrence import Recurrence
from hessops.arrays import Array, HostArray
from hessops.blocks.basis import Basis
from hessops.blocks.orthogonalize import LITTLE_TAKEN_OFF

__all__ = ["Reorthogonalize", "Watch", "choose_reorthogonalization", "watch"]

Reorthogonalize = Literal["none", "full", "partial", "periodic", "selective"]

_MOST_PASSES = 3
# The estimate is no bound, nor is Paige's of what is lost along a Ritz vector, eps over its residual
# norm: sweeps begin at this share of what is promised.
_MARGIN = 1 / 4
_LEAST_NEAR = 16


def choose_reorthogonalization(choice: Reorthogonalize | bool) -> Reorthogonalize:
    """Return the name of a choice: True is 'full' and False 'none'."""
    if isinstance(choice, bool | np.bool_):
        return "full" if choice else "none"
    if choice not in get_args(Reorthogonalize):
        raise ValueError(
            f"reorthogonalize={choice!r} is unknown; choose one of "
            f"{', '.join(get_args(Reorthogonalize))}, or True for full and False for none"
        )
    return choice


class Watch(Protocol):
    """Sees every new Lanczos vector, and says what to take off it."""

    num_inner_products: int

    @property
    def level(self) -> HostArray:
        """Return the largest inner product of two basis vectors, as estimated, shape (m,)."""

    def inspect(self, W: Array, recurrence: Recurrence) -> Array:
        """Return the new vectors, times β, after what reorthogonalisation is due."""


def watch(
    choice: Reorthogonalize, basis: Basis | None, count: int, precision: float, *, observe: bool
) -> Watch:
    """Return what watches over m recurrences; if nothing depends on it, only to `observe`."""
    if choice in {"full", "none"} and not observe:
        return _Nobody(count)
    estimate = OrthogonalityEstimate(count, precision)
    if choice in {"partial", "periodic"} and basis is not None:
        return _Sweeps(basis, estimate, whole=choice == "periodic")
    if choice == "selective" and basis is not None:
        return _Purges(basis, estimate)
    return _Observer(estimate, cleared=choice == "full")


class _Nobody:
    """Sees nothing."""

    num_inner_products = 0

    def __init__(self, count: int) -> None:
        self.level = np.full(count, np.nan)

    def inspect(self, W: Array, _recurrence: Recurrence) -> Array:
        return W


class _Observer:
    """Estimates the level and takes nothing off; with `cleared`, somebody else does so every step."""

    def __init__(self, estimate: OrthogonalityEstimate, *, cleared: bool) -> None:
        self.num_inner_products = 0
        self._estimate, self._cleared = estimate, cleared

    @property
    def level(self) -> HostArray:
        return self._estimate.level

    def inspect(self, W: Array, recurrence: Recurrence) -> Array:
        self._estimate.advance(np.array(recurrence.alphas), np.array(recurrence.betas))
        if self._cleared:
            self._estimate.clear()
            self.num_inner_products += 2 * len(recurrence.alphas) * W.shape[1]
        return W


class _Sweeps:
    """Partial and periodic reorthogonalisation."""

    def __init__(self, basis: Basis, estimate: OrthogonalityEstimate, *, whole: bool) -> None:
        self.num_inner_products = 0
        self._basis, self._estimate, self._whole = basis, estimate, whole
        self._bound = _MARGIN * math.sqrt(estimate.precision)
        self._noticed = estimate.precision ** (3 / 4)
        # The next vector inherits what was lost by the one before: it takes two sweeps in a row.
        self._again: HostArray | None = None

    @property
    def level(self) -> HostArray:
        return self._estimate.level

    def inspect(self, W: Array, recurrence: Recurrence) -> Array:
        estimate = self._estimate
        estimate.advance(np.array(recurrence.alphas), np.array(recurrence.betas))
        lost = estimate.estimates.max(axis=0)
        if lost.max() > self._bound:
            chosen = np.full(len(lost), True) if self._whole else _near(lost > self._noticed)
            self._again = chosen
        elif self._again is not None:
            # Each inner product brings in those of its neighbours.
            chosen = np.full(len(lost), True)
            chosen[:-1] = np.convolve(self._again, [1, 1, 1], "same") > 0
            chosen[-1] = chosen[-2]
            self._again = None
        else:
            return W
        ranges = _runs(chosen)
        W, passes = _swept(W, self._basis, recurrence, ranges)
        estimate.clear(ranges)
        self.num_inner_products += passes * int(chosen.sum()) * W.shape[1]
        return W


class _Purges:
    """Selective orthogonalisation: Ritz vectors that have converged are taken off every vector."""

    def __init__(self, basis: Basis, estimate: OrthogonalityEstimate) -> None:
        self.num_inner_products = 0
        self._basis, self._estimate = basis, estimate
        self._half_the_digits = math.sqrt(estimate.precision)
        self._good: list[HostArray] = [np.zeros((0, 0))] * len(estimate.level)
        self._vectors: Basis | None = None

    @property
    def level(self) -> HostArray:
        return self._estimate.level

    def inspect(self, W: Array, recurrence: Recurrence) -> Array:
        self._estimate.advance(np.array(recurrence.alphas), np.array(recurrence.betas))
        good = [self._converged(recurrence, column) for column in range(W.shape[1])]
        # Their number grows as pairs converge; those that have stay as they were when they did.
        if any(now.shape[1] > old.shape[1] for now, old in zip(good, self._good, strict=True)):
            self._good = recurrence.operator.domain.comm.broadcast(good)
            self._vectors = _ritz_vectors(self._basis, self._good)
        if self._vectors is None:
            return W
        W, passes = _swept(W, self._vectors, recurrence, None)
        self._estimate.purge(self._good)
        self.num_inner_products += passes * self._vectors.size * W.shape[1]
        return W

    def _converged(self, recurrence: Recurrence, column: int) -> HostArray:
        """Return the coefficients of the Ritz vectors of small residual, shape (k, g)."""
        length = int(recurrence.lengths[column])
        alphas = np.array(recurrence.alphas)[:length, column]
        betas = np.array(recurrence.betas)[:length, column]
        vectors = eigh_tridiagonal(alphas, betas[:-1])[1]
        allowed = self._half_the_digits / _MARGIN * recurrence.scale
        good: HostArray = vectors[:, betas[-1] * np.abs(vectors[-1]) <= allowed]
        return good


def _ritz_vectors(basis: Basis, coefficients: list[HostArray]) -> Basis:
    """Return the combinations of every basis, filled up with null vectors to the same number."""
    space, count = basis.space, len(coefficients)
    most = max(part.shape[1] for part in coefficients)
    found = Basis(space, count, most, limit=most)
    for index in range(most):
        columns = []
        for column, part in enumerate(coefficients):
            chosen = np.zeros((basis.size, 1))
            if index < part.shape[1]:
                chosen[: len(part), 0] = part[:, index]
            columns.append(basis.combined(space.from_host(chosen), column))
        found.append(space.xp.concat(columns, axis=1))
    return found


def _swept(
    W: Array, basis: Basis, recurrence: Recurrence, ranges: list[slice] | None
) -> tuple[Array, int]:
    """Take new vectors off a basis, again where little is left, and correct the last β."""
    space, xp = basis.space, basis.space.xp
    passes, enough = 0, False
    while not enough and passes < _MOST_PASSES:
        before = recurrence.betas[-1]
        W, coefficients = basis.project(W, ranges)
        norms, inner = xp.sqrt(space.column_norms_squared(W)), xp.max(xp.abs(coefficients), axis=1)
        both = to_host(space, xp.stack([xp.astype(row, xp.float64) for row in (norms, inner)]))
        recurrence.correct(*both)
        enough = bool(np.all(both[0] >= LITTLE_TAKEN_OFF * before))
        passes += 1
    return W, passes


def _near(chosen: HostArray) -> HostArray:
    """Return a mask with what is near its own: estimates change sign where the truth need not."""
    width = max(_LEAST_NEAR, len(chosen) // 8)
    window = np.ones(2 * width + 1)
    found: HostArray = np.convolve(chosen, window)[width:-width] > 0
    # Beyond half of them little is saved.
    found |= 2 * found.sum() > len(found)
    return found


def _runs(chosen: HostArray) -> list[slice]:
    """Return the ranges where a mask is set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(int), [0]])))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
