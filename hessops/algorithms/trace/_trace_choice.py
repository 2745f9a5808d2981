"""Which estimator of a trace to take: what the structure allows and a few products show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hessops.algorithms.trace._leave_one_out import LeaveOneOutState
from hessops.algorithms.trace._probe_blocks import multiplied
from hessops.algorithms.trace._terms import is_stratified
from hessops.algorithms.trace.xtrace import removed_directions
from hessops.arrays import Array, HostArray, numpy_dtype, to_numpy
from hessops.blocks.tall_qr import extended_qr
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite

__all__ = ["Choice", "choose", "storage", "switch_to_xtrace"]

_PILOT = 16
_LEAST_PILOT = 4
_STORAGE = 2**30
_STORED_BLOCKS = 4
_FLAT_SEMIDEFINITE = 0.95
_FLAT = 0.7


@dataclass(frozen=True)
class Choice:
    """An estimator and why it was chosen.

    Parameters
    ----------
    method : str
        As `trace` takes it.
    reason : str
        Half a sentence.
    products : array, shape (n, p), or None
        What was spent on the choice: products with the first p probes.
    """

    method: str
    reason: str
    products: Array | None = None

    @property
    def num_products(self) -> int:
        """Return the products that the choice took."""
        return 0 if self.products is None else self.products.shape[1]


def choose(
    A: LinearOperator,
    budget: int,
    *,
    adaptive: bool,
    stream: Stream,
    probe: ProbeKind,
    block_size: int,
) -> Choice:
    """Choose an estimator for the trace.

    Parameters
    ----------
    A : LinearOperator
        Square.
    budget : int
        Products to spend, or with a tolerance the most.
    adaptive : bool
        Whether there is a tolerance.
    stream : Stream
        Where the probes come from.
    probe : {'sphere', 'normal', 'rademacher', 'steinhaus'}
        Their distribution.
    block_size : int
        Most probes per product.

    Returns
    -------
    Choice
        Method, reason, and the pilot's products.
    """
    n = A.shape[0]
    if n <= (min(_PILOT, budget) if adaptive else budget):
        return Choice("exact", f"{n} products with unit vectors give it exactly")
    pilot = min(_PILOT, budget // 4) if adaptive else budget // 4
    plain = ""
    if A.domain.sections:
        plain = "it gives the traces of all sections by the same products"
    elif is_stratified(A, None):
        plain = "a finite sum gets a fresh probe for every term"
    elif pilot < _LEAST_PILOT:
        plain = f"{budget} products are too few to look at the spectrum first"
    elif storage(A, budget) > _STORAGE:
        plain = f"others might store {storage(A, budget) / 2**30:.1f} GiB of vectors"
    if plain:
        return Choice("hutchinson", plain)
    products = multiplied(A, A.domain.probes(stream, range(pilot), probe), block_size)
    semidefinite = A.structure.positive_semidefinite and (
        probe in {"sphere", "normal"} or budget <= n // 2  # signs come to depend on each other
    )
    return _by_decay(A, products, stream, semidefinite)


def _by_decay(A: LinearOperator, products: Array, stream: Stream, semidefinite: bool) -> Choice:
    """Choose by what a few products show of the spectrum's decay."""
    pilot = products.shape[1]
    share = _Outside.of(A, products, stream).share
    shown = (
        f"{pilot} products show {share:.0%} of the squared Frobenius norm outside of their range"
    )
    if semidefinite and share < _FLAT_SEMIDEFINITE:
        return Choice("xnystrace", f"the operator is positive semidefinite, and {shown}", products)
    if not semidefinite and share < _FLAT:
        return Choice("xtrace", shown, products)
    return Choice("hutchinson", f"deflation would gain nothing: {shown}", products)


def storage(A: LinearOperator, budget: int) -> int:
    """Return the bytes that XTrace or XNysTrace would hold."""
    return _STORED_BLOCKS * budget * A.domain.local_dim * numpy_dtype(A.dtype).itemsize


def switch_to_xtrace(
    state: LeaveOneOutState, A: LinearOperator, stream: Stream, probe: ProbeKind
) -> bool:
    """Tell whether XTrace with the probes so far promises more than XNysTrace with twice as many.

    A flat end of the spectrum is no error for XTrace, whose probes see it as a multiple of the
    identity, and one that falls only slowly for XNysTrace.
    """
    space, p = A.domain, state.num_probes
    outside = _Outside.of(A, state.products, stream)
    omega = space.probes(stream, range(p), probe)
    along = np.sum(outside.directions.conj() * to_numpy(space.gram(outside.Q, omega)), axis=0)
    # Of B, A outside of the range: ‖B‖_F² and tr B, and the variance of its resphered probes.
    trace = float(np.mean(np.real(along.conj() * outside.lengths)))
    rest = outside.mean_square - trace**2 / (space.dim - p)
    promised = math.sqrt(2 * max(rest, 0.0) / p)
    return promised < state.standard_error() * outside.decay() ** 4


@dataclass(frozen=True)
class _Outside:
    """What each product adds to the span of all others."""

    Q: Array
    R: HostArray
    directions: HostArray
    lengths: HostArray

    @classmethod
    def of(cls, A: LinearOperator, products: Array, stream: Stream) -> _Outside:
        Q, R = extended_qr(A.domain, None, products, stream.for_purpose(Purpose.RESTART))
        require_finite(R, products.shape[1], A)
        directions = removed_directions(R)
        return cls(Q, R, directions, np.sum(directions.conj() * R, axis=0))

    @property
    def mean_square(self) -> float:
        """Return an estimate of ‖(I - P) A‖_F² for the range of all but one."""
        return float(np.mean(np.abs(self.lengths) ** 2))

    @property
    def share(self) -> float:
        """Return the same as a share of ‖A‖_F²."""
        total = float(np.sum(np.abs(self.R) ** 2)) / len(self.lengths)
        return self.mean_square / total if total else 0.0

    def decay(self) -> float:
        """Return by which factor directions fall within a quarter of their number."""
        sizes = np.sort(np.abs(np.diag(self.R)))[::-1] + np.finfo(float).tiny
        half, quarter = len(sizes) // 2, 3 * len(sizes) // 4
        logs = np.log(sizes)
        return float(np.exp(logs[quarter:].mean() - logs[half:quarter].mean()))
