"""Which estimator of a trace to take: what the structure allows and a few products show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hessops.algorithms.trace._outliers import Outliers
from hessops.algorithms.trace._probe_blocks import multiplied
from hessops.algorithms.trace._terms import is_stratified
from hessops.algorithms.trace.xtrace import removed_directions
from hessops.arrays import Array, numpy_dtype
from hessops.blocks.tall_qr import extended_qr
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite

__all__ = ["LEAST_PILOT", "PILOT", "STORAGE", "Choice", "choose", "storage"]

PILOT = 16
LEAST_PILOT = 4
STORAGE = 2**30
_STORED_BLOCKS = 4
_FLAT_SEMIDEFINITE = 0.97
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
    stratify: bool | None = None,
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
    stratify : bool, optional
        Whether terms get probes of their own; where there are several, if not given.

    Returns
    -------
    Choice
        Method, reason, and the pilot's products.
    """
    n = A.shape[0]
    if n <= (min(PILOT, budget) if adaptive else budget):
        return Choice("exact", f"{n} products with unit vectors give it exactly")
    pilot = min(PILOT, budget // 4) if adaptive else budget // 4
    plain = ""
    if A.domain.sections:
        plain = "it gives the traces of all sections by the same products"
    elif is_stratified(A, stratify):
        return _of_sum(A, budget, adaptive=adaptive, stream=stream, block_size=block_size)
    elif pilot < LEAST_PILOT:
        plain = f"{budget} products are too few to look at the spectrum first"
    elif storage(A, budget) > STORAGE:
        plain = f"others might store {storage(A, budget) / 2**30:.1f} GiB of vectors"
    if plain:
        return Choice("hutchinson", plain)
    products = multiplied(A, A.domain.probes(stream, range(pilot), probe), block_size)
    semidefinite = A.structure.positive_semidefinite and (
        probe in {"sphere", "normal"} or budget <= n // 2  # signs come to depend on each other
    )
    return _by_decay(A, products, stream, semidefinite)


def _of_sum(
    A: LinearOperator, budget: int, *, adaptive: bool, stream: Stream, block_size: int
) -> Choice:
    """Choose between fresh probes for every term, and those outside of the outliers."""
    fresh = "a finite sum gets a fresh probe for every term"
    pilot = min(PILOT, budget // 6) if adaptive else budget // 6
    if pilot < LEAST_PILOT or storage(A, 2 * pilot) > STORAGE:
        return Choice("hutchinson", fresh)
    outliers = Outliers.of(A, pilot, stream=stream, probe="rademacher", block_size=block_size)
    shown = f"{pilot} products show that deflation would leave {outliers.share:.0%} of the variance"
    method = "hutchpp" if outliers.worth_deflating(budget) else "hutchinson"
    return Choice(method, f"{fresh}, and {shown}", outliers.products)


def _by_decay(A: LinearOperator, products: Array, stream: Stream, semidefinite: bool) -> Choice:
    """Choose by what a few products show of the spectrum's decay."""
    pilot = products.shape[1]
    share = A.domain.comm.broadcast(_share_outside(A, products, stream))
    shown = (
        f"{pilot} products leave {share:.0%} of what they would leave of a flat spectrum's squared "
        "Frobenius norm"
    )
    if semidefinite and share < _FLAT_SEMIDEFINITE:
        return Choice("xnystrace", f"the operator is positive semidefinite, and {shown}", products)
    if not semidefinite and share < _FLAT:
        return Choice("xtrace", shown, products)
    return Choice("hutchinson", f"deflation would gain nothing: {shown}", products)


def storage(A: LinearOperator, budget: int) -> int:
    """Return the bytes that XTrace or XNysTrace would hold."""
    return _STORED_BLOCKS * budget * A.domain.local_dim * numpy_dtype(A.dtype).itemsize


def _share_outside(A: LinearOperator, products: Array, stream: Stream) -> float:
    """Return which share of ‖A‖_F² lies outside of the range of all but one of some products.

    1 stands for what a multiple of the identity, of which no direction is worth more, would leave.
    """
    count = products.shape[1]
    _Q, R = extended_qr(A.domain, None, products, stream.for_purpose(Purpose.RESTART))
    require_finite(R, count, A)
    size = float(np.max(np.abs(R))) or 1.0
    # What each product adds to the span of all others.
    added = np.sum(removed_directions(R).conj() * (R / size), axis=0)
    outside, total = (float(np.sum(np.abs(part) ** 2)) for part in (added, R / size))
    return outside / total / (1 - (count - 1) / A.domain.dim) if total else 0.0
