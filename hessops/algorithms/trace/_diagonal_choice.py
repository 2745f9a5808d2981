"""Which estimator of a diagonal to take: what the structure allows and a few products show."""

from __future__ import annotations

import numpy as np

from hessops.algorithms.trace._entry_moments import entry_samples
from hessops.algorithms.trace._probe_blocks import multiplied
from hessops.algorithms.trace._trace_choice import LEAST_PILOT, PILOT, STORAGE, Choice, storage
from hessops.algorithms.trace.xtrace import removed_directions
from hessops.arrays import Array, to_numpy
from hessops.blocks.tall_qr import extended_qr
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite

__all__ = ["choose_diagonal"]

# XDiag has half as many probes.
_WORTH = 0.5


def choose_diagonal(
    A: LinearOperator,
    budget: int,
    *,
    adaptive: bool,
    stream: Stream,
    probe: ProbeKind,
    block_size: int,
    stratified: bool,
) -> Choice:
    """Choose an estimator for the diagonal.

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
    probe : {'rademacher', 'steinhaus', 'normal', 'sphere'}
        Their distribution.
    block_size : int
        Most probes per product.
    stratified : bool
        Whether terms get probes of their own.

    Returns
    -------
    Choice
        Method, reason, and the pilot's products, which both estimators go on from.
    """
    n = A.shape[0]
    if n <= (min(PILOT, budget) if adaptive else budget):
        return Choice("exact", f"{n} products with unit vectors give it exactly")
    pilot = min(PILOT, budget // 4) if adaptive else budget // 4
    plain = ""
    if stratified:
        plain = "a finite sum gets a fresh probe for every term"
    elif not A.structure.self_adjoint:
        plain = "XDiag would need products with the adjoint, which are asked for by its name alone"
    elif pilot < LEAST_PILOT:
        plain = f"{budget} products are too few to look at the spectrum first"
    elif storage(A, budget) > STORAGE:
        plain = f"XDiag might store {storage(A, budget) / 2**30:.1f} GiB of vectors"
    if plain:
        return Choice("hutchinson", plain)
    omega = A.domain.probes(stream, range(pilot), probe)
    products = multiplied(A, omega, block_size)
    left = A.domain.comm.broadcast(_variance_left(A, omega, products, stream))
    shown = f"{pilot} products leave {left:.0%} of a plain probe's variance"
    if left < _WORTH:
        return Choice("xdiag", shown, products)
    return Choice("hutchinson", f"deflation would not make up for its products: {shown}", products)


def _variance_left(A: LinearOperator, omega: Array, products: Array, stream: Stream) -> float:
    """Return the variance of probes outside of the range of the others, as a share of that of all."""
    space, count = A.domain, products.shape[1]
    Q, R = extended_qr(space, None, products, stream.for_purpose(Purpose.RESTART))
    require_finite(R, count, A)
    size = float(np.max(np.abs(R))) or 1.0
    S = removed_directions(R)
    lengths = np.sum(S.conj() * (R / size), axis=0)
    outside = Q @ space.from_host(S * lengths)  # (I - P_i) A ω_i
    variances = []
    for block in (outside, products * (1 / size)):
        samples = entry_samples(space, omega, block)
        center = (space.xp.sum(samples, axis=1) / count)[:, None]
        variances.append(float(np.sum(to_numpy(space.column_norms_squared(samples - center)))))
    left, whole = variances
    return left / whole if whole else 1.0
