"""Bounds of extreme eigenvalues from Lanczos coefficients, but for unlucky start vectors.

With q the unit start, u a unit eigenvector of the eigenvalue λ and χ the characteristic polynomial of
T, the Lanczos identity gives u^H χ(A) q = χ(λ) u^H q, and ‖χ(A) q‖ is the product of all β. So

    |χ(λ)| |u^H q| <= β_1 β_2 ... β_k.

Outside of the Ritz values |χ| grows, and a λ further out than where it reaches Π β / b belongs to a u
with |u^H q| < b. For a start uniform on the sphere the probability of that is known (Van Dorsselaer,
Hochstenbach & van der Vorst 2000). The event is one of the start alone: it is the same for every
number of steps, so that a run may stop when it likes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.special import betaincinv

from hessops.algorithms.functions.gauss_brackets import gauss_rule
from hessops.algorithms.functions.quadrature import checkpoint
from hessops.algorithms.krylov.lanczos import LanczosState, lanczos_steps
from hessops.arrays import Array, HostArray, is_complex, numpy_dtype
from hessops.operator import LinearOperator
from hessops.result import Interval
from hessops.scalars import require_real, require_tolerance
from hessops.space import Space

__all__ = [
    "ExtremeState",
    "extreme_steps",
    "most_steps",
    "require_options",
    "ritz_vectors",
    "unlucky_overlap",
]

_BASIS_BYTES = 2**30
_MIN_STEPS, _MAX_STEPS = 100, 1000
_BISECTIONS = 60


@dataclass(frozen=True)
class ExtremeState:
    """The extreme Ritz values after k steps, and what the eigenvalues probably do not exceed.

    Parameters
    ----------
    step : int
        Lanczos steps.
    num_products : int
        The same.
    lanczos : LanczosState
        The recurrence.
    ritz : Interval
        Smallest and largest Ritz value: within the spectrum.
    outer : Interval
        Bounds of the spectrum: each holds if the start overlaps enough with the eigenspace at its
        end.
    """

    step: int
    num_products: int
    lanczos: LanczosState
    ritz: Interval
    outer: Interval

    @property
    def rounding(self) -> float:
        """Return what is rounding in a Ritz value."""
        return self.lanczos.rounding


def extreme_steps(
    A: LinearOperator, start: Array, *, overlap: float, num_steps: int
) -> Iterator[ExtremeState]:
    """Yield bounds of the spectrum at checkpoints: steps 1 to 8, and then ever more rarely.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    start : array, shape (n, 1)
        Start vector, uniform on the sphere for `overlap` to mean anything.
    overlap : float
        Length b of the projection of the unit start on an eigenspace that is taken for granted.
    num_steps : int
        Most steps.

    Yields
    ------
    ExtremeState
        At checkpoints, at the last step, and when the Krylov space is exhausted.
    """
    for state in lanczos_steps(A, start, capacity=min(num_steps, A.domain.dim)):
        ended = state.step >= num_steps or not state.alive[0]
        if ended or checkpoint(state.step):
            yield _extreme_state(state, overlap)
        if ended:
            return


def _extreme_state(state: LanczosState, overlap: float) -> ExtremeState:
    diagonal, off_diagonal = state.tridiagonal()
    nodes = gauss_rule(diagonal, off_diagonal).nodes
    low, high = float(nodes[0]), float(nodes[-1])
    betas = np.append(off_diagonal, state.residual_norm())
    allowed = _log(betas).sum() - math.log(overlap)
    # Products and recurrences with rounding are those of a nearby operator.
    margin = state.rounding
    outer = Interval(
        low - _distance(nodes - low, allowed) - margin,
        high + _distance((high - nodes)[::-1], allowed) + margin,
    )
    return ExtremeState(state.step, state.num_products, state, Interval(low, high), outer)


def _distance(gaps: HostArray, allowed: float) -> float:
    """Return the d with Σ log(d + gaps) = allowed, for gaps of which the first is 0."""
    if allowed == -math.inf:
        return 0.0
    # Between those, the sum of logarithms is below and above; all are at least log d.
    high = allowed / len(gaps)
    low = allowed - float(np.sum(_log(math.exp(high) + gaps[1:])))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = middle + float(np.sum(_log(math.exp(middle) + gaps[1:]))) > allowed
        low, high = (low, middle) if above else (middle, high)
    return math.exp(high)


def _log(values: HostArray) -> HostArray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values))


def unlucky_overlap(space: Space, failure: float) -> float:
    """Return the overlap with one eigenvector that a start on the sphere misses so rarely.

    Parameters
    ----------
    space : Space
        Whose dimension counts, and whether it is complex: the square of the overlap then has the law
        Beta(1, n - 1), and otherwise Beta(1/2, (n - 1)/2).
    failure : float
        Probability of a smaller overlap.

    Returns
    -------
    float
        Its length.
    """
    if space.dim == 1:
        return 1.0
    half = 1.0 if is_complex(space.xp, space.dtype) else 0.5
    return math.sqrt(float(betaincinv(half, half * (space.dim - 1), failure)))


def require_options(rtol: float, failure: float) -> None:
    """Raise if a tolerance or a probability is no number, or out of range."""
    require_tolerance(rtol=rtol)
    require_real(failure=failure)
    if not 0 < failure < 1:
        raise ValueError(f"failure={failure} must lie between 0 and 1, e.g. 0.001")


def most_steps(space: Space) -> int:
    """Return how many steps to allow: what fits a gigabyte, from 100 to 1000, at most n."""
    vector_bytes = max(space.local_dim, 1) * numpy_dtype(space.dtype).itemsize
    fitting = min(max(_BASIS_BYTES // vector_bytes, _MIN_STEPS), _MAX_STEPS)
    return min(space.dim, space.comm.broadcast(fitting))


def ritz_vectors(state: ExtremeState) -> Array:
    """Return the Ritz vectors of the smallest and of the largest Ritz value.

    Parameters
    ----------
    state : ExtremeState
        With its basis.

    Returns
    -------
    array, shape (n, 2)
        Of norm 1 but for rounding.
    """
    lanczos = state.lanczos
    diagonal, off_diagonal = lanczos.tridiagonal()
    # Scaled, so that tiny or huge operators do not under- or overflow in LAPACK's squares.
    scale = max(abs(state.ritz.low), abs(state.ritz.high)) or 1.0
    vectors = eigh_tridiagonal(diagonal / scale, off_diagonal / scale)[1]
    if lanczos.basis is None:  # The engine keeps it.
        raise ValueError("Ritz vectors need the basis of the recurrence")
    return lanczos.basis.combined(lanczos.space.from_host(vectors[:, [0, -1]]))
