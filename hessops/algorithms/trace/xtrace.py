"""The trace by XTrace: the exchangeable form of Hutch++ (Epperly, Tropp & Webber 2024).

m probes cost 2m products: A Ω, whose range Q captures the large eigenvalues, and A Q. The trace on the
range is known exactly, and every probe estimates what lies outside of the range *of the others*:

    t_i = tr(P_i A P_i) + ω_i^H (I - P_i) A (I - P_i) ω_i,   P_i onto the range of A Ω without ω_i.

All P_i come from one QR factorisation by downdates. For eigenvalues α^i the error falls as α^m,
where Hutchinson's falls as 1/√m.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from scipy.linalg import solve_triangular

from hessops.algorithms._common import require_product_in_range
from hessops.algorithms.trace._leave_one_out import LeaveOneOut, LeaveOneOutState
from hessops.algorithms.trace._probe_blocks import doubled, multiplied
from hessops.arrays import Array, HostArray, to_numpy
from hessops.blocks.rounding import rounding
from hessops.blocks.tall_qr import extended_qr
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite

__all__ = ["MOST", "removed_directions", "xtrace_steps"]

# On the spectra tried the error of the mean was hardly ever more than this many times the scatter.
MOST = 1.5


def xtrace_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    num_probes: int,
    first: int = 4,
    probe: ProbeKind = "sphere",
    block_size: int = 32,
    known: Array | None = None,
) -> Iterator[LeaveOneOutState]:
    """Yield estimates of a trace with 4, 8, 16 ... probes, reusing all products.

    Stores four blocks of `num_probes` vectors.

    Parameters
    ----------
    A : LinearOperator
        Square.
    stream : Stream
        Where the probes come from.
    num_probes : int
        Where to end; at most the dimension.
    first : int
        Probes of the first step.
    probe : {'normal', 'sphere', 'rademacher', 'steinhaus'}
        Their distribution. Normal and spherical probes are invariant under rotations, so that what
        is left of one outside of the range can be given its expected length ("resphering").
    block_size : int
        Most probes per product.
    known : array, shape (n, p), optional
        Products with the first p probes, which are the first step, if at hand.

    Yields
    ------
    LeaveOneOutState
        Twice the probes, or all.
    """
    space = A.domain
    filler = stream.for_purpose(Purpose.RESTART)
    omega = products = image = space.zeros(0)
    Q: Array | None = None
    R = np.zeros((0, 0))
    counts = doubled(first if known is None else known.shape[1], num_probes)
    for step, indices in enumerate(counts, start=1):
        fresh = space.probes(stream, indices, probe)
        y = multiplied(A, fresh, block_size) if known is None else known
        known = None
        if step == 1:
            require_product_in_range(A, y, indices.stop, power=1)
        judge = partial(require_finite, product=indices.stop, operator=A)
        Q, columns = extended_qr(space, Q, y, filler, judge=judge)
        R = np.concatenate([np.pad(R, ((0, len(indices)), (0, 0))), columns], axis=1)
        z = multiplied(A, Q[:, indices.start :], block_size)
        omega, products, image = (
            space.xp.concat(pair, axis=1) for pair in ((omega, fresh), (products, y), (image, z))
        )
        estimates = _estimates(A, omega, products, Q, R, image, probe)
        yield LeaveOneOutState("xtrace", step, 2 * indices.stop, indices.stop, estimates, products)


def _estimates(
    A: LinearOperator,
    omega: Array,
    products: Array,
    Q: Array,
    R: HostArray,
    image: Array,
    probe: ProbeKind,
) -> LeaveOneOut:
    space = A.domain
    # Everything n-dimensional in one reduction.
    stacked = space.gram(
        space.xp.concat([Q, image, omega], axis=1),
        space.xp.concat([image, omega, products], axis=1),
    )
    gram, m = to_numpy(stacked), R.shape[1]
    q, z, o = (slice(i * m, (i + 1) * m) for i in range(3))
    H, W, ZO = gram[q, q], gram[q, z], gram[z, z]
    # What is nowhere used, z^H z among it, may overflow.
    require_finite(np.stack([H, ZO]), 2 * m, A)
    forms = np.real(np.diag(gram[o, o]))
    lengths = np.real(np.diag(gram[o, z]))
    return _Downdates(H, W, R + ZO, R, forms, lengths).leave_one_out(
        dim=space.dim,
        resphered=probe in {"normal", "sphere"},
        rounding=rounding(space, float(np.sum(np.abs(np.diag(H))))),
    )


class _Downdates:
    """The estimates with one or two probes left out, from small matrices.

    Leaving probe i out of the range takes a unit direction ``s_i`` off it: the normalised column i of
    ``R^{-H}``, the only one that is orthogonal to all other columns of R.

    Parameters
    ----------
    H : numpy.ndarray, shape (m, m)
        ``Q^H A Q``.
    W, T : numpy.ndarray, shape (m, m)
        ``Q^H Ω`` and ``Q^H (A + A^H) Ω``.
    R : numpy.ndarray, shape (m, m)
        ``A Ω = Q R``.
    forms, lengths : numpy.ndarray, shape (m,)
        ``ω_i^H A ω_i`` (its real part) and ``‖ω_i‖²``.
    """

    def __init__(
        self,
        H: HostArray,
        W: HostArray,
        T: HostArray,
        R: HostArray,
        forms: HostArray,
        lengths: HostArray,
    ) -> None:
        core = (H + H.conj().T) / 2
        S = removed_directions(R)
        S_adjoint = S.conj().T
        self.trace = float(np.trace(core).real)
        image = core @ W
        # ω^H (I - P) A (I - P) ω for the range of all probes, and what is outside of ω.
        self.forms = forms - _columnwise(W, T) + _columnwise(W, image)
        self.lengths = lengths - _columnwise(W, W)
        self.SW, self.ST, self.SHW = (S_adjoint @ block for block in (W, T, image))
        self.SHS, self.SS = S_adjoint @ core @ S, S_adjoint @ S

    def leave_one_out(self, *, dim: int, resphered: bool, rounding: float) -> LeaveOneOut:
        """Return all estimates."""
        m = len(self.forms)
        own = [np.diag(block)[:, None] for block in (self.SW, self.ST, self.SHW, self.SHS)]
        w1, t1, h1, ss = own
        form1 = self.forms[:, None] + _added(w1, t1, h1) + np.abs(w1) ** 2 * ss.real
        length1 = self.lengths[:, None] + np.abs(w1) ** 2
        singles = self.trace - ss.real + _scaled(form1, length1, dim - m + 1, resphered)
        # The second direction, made orthogonal to the first: v = (s_j - s_i s_i^H s_j) / |...|.
        overlap = self.SS
        # Parallel to rounding, the second removes nothing that is known.
        norm = np.sqrt(np.maximum(1 - np.abs(overlap) ** 2, np.finfo(float).eps))
        w2, t2, h2 = (
            (block.T - overlap.conj() * mine) / norm
            for block, mine in zip((self.SW, self.ST, self.SHW), own, strict=False)
        )
        cross = (self.SHS - overlap * ss) / norm
        square = (
            np.diag(self.SHS)[None, :] - 2 * np.real(overlap.conj() * self.SHS)
            + np.abs(overlap) ** 2 * ss
        ).real / norm**2  # fmt: skip
        form2 = form1 + _added(w2, t2, h2) + np.abs(w2) ** 2 * square
        form2 = form2 + 2 * np.real(w1.conj() * w2 * cross)
        length2 = length1 + np.abs(w2) ** 2
        pairs = self.trace - ss.real - square + _scaled(form2, length2, dim - m + 2, resphered)
        return LeaveOneOut(singles[:, 0], pairs, rounding=rounding, most=MOST)


def _added(w: HostArray, t: HostArray, h: HostArray) -> HostArray:
    """Return what putting a direction back outside of the range adds, but for its own square."""
    added: HostArray = np.real(w.conj() * (t - 2 * h))
    return added


def _scaled(forms: HostArray, lengths: HostArray, dim: int, resphered: bool) -> HostArray:
    """Return quadratic forms of vectors in `dim` dimensions, given their expected length."""
    return forms * (dim / lengths) if resphered else forms


def _columnwise(X: HostArray, Y: HostArray) -> HostArray:
    products: HostArray = np.real(np.sum(X.conj() * Y, axis=0))
    return products


def removed_directions(R: HostArray) -> HostArray:
    """Return the unit vectors s_i with ``s_i^H R_j = 0`` for all j but i, as columns.

    Parameters
    ----------
    R : numpy.ndarray, shape (m, m)
        Upper triangular.

    Returns
    -------
    numpy.ndarray, shape (m, m)
        Column i is what column i of R adds to the span of the others.
    """
    size = float(np.max(np.abs(R))) or 1.0
    factor = R / size
    # A column that depends on the others has its own direction of the basis, by a zero on the
    # diagonal: what is tiny stands for it.
    diagonal = np.diag(factor)
    tiny = np.finfo(float).eps * len(R)
    factor = factor + np.diag(np.where(np.abs(diagonal) < tiny, tiny - diagonal, 0.0))
    inverse = solve_triangular(factor, np.eye(len(R)), trans="C")
    directions: HostArray = inverse / np.linalg.norm(inverse, axis=0)
    return directions
