"""The diagonal by XDiag: large eigenvalues captured, every probe used twice (Epperly et al. 2024).

m probes cost 2m products: A Ω with range Q, and A^H Q. What the range of all probes but i holds of the
diagonal is known, and probe i estimates the rest:

    d_i = diag(P_i A) + conj(ω_i) ∘ (I - P_i) A ω_i,   P_i onto the range of A Ω without ω_i.

With s_i the direction that probe i adds to the range (see `hessops.algorithms.trace.xtrace`), P_i A is
Q (I - s_i s_i^H) Q^H A and (I - P_i) A ω_i is Q s_i (s_i^H R_i): all by tall blocks times small ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hessops.agreement import together_to_host
from hessops.algorithms._common import require_product_in_range
from hessops.algorithms._one_line import one_line
from hessops.algorithms.trace._probe_blocks import doubled, multiplied
from hessops.algorithms.trace.xtrace import MOST, removed_directions
from hessops.arrays import Array, HostArray, eps, is_complex, namespace
from hessops.blocks.rounding import ROUNDINGS
from hessops.blocks.tall_qr import extended_qr
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite

__all__ = ["XDiagState", "xdiag_steps"]


@dataclass(frozen=True)
class XDiagState:
    """What a number of probes say of the diagonal.

    Parameters
    ----------
    step : int
        Steps done; each doubles the number of probes.
    num_products : int
        Products so far, two a probe.
    num_probes : int
        Probes so far.
    values : array, shape (n,)
        The estimates, unbiased.
    standard_errors : array, shape (n,)
        Of the entries: entry by entry the geometric mean of two errors, one too small and one too
        large, as in ``hessops.algorithms.trace._leave_one_out`` and no more than there; and rounding,
        32 machine epsilons of the norm of the row and of a mean row.
    norm, error_norm : float
        2-norms of the estimate and of its standard errors.
    """

    step: int
    num_products: int
    num_probes: int
    values: Array
    standard_errors: Array
    norm: float
    error_norm: float

    __repr__ = one_line


def xdiag_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    num_probes: int,
    first: int = 4,
    probe: ProbeKind = "rademacher",
    block_size: int = 32,
    known: Array | None = None,
) -> Iterator[XDiagState]:
    """Yield estimates of a diagonal with 4, 8, 16 ... probes, reusing all products.

    Stores eight blocks of `num_probes` vectors, and spends time proportional to n m² a step.

    Parameters
    ----------
    A : LinearOperator
        Square; with a product by its adjoint, unless it is self-adjoint.
    stream : Stream
        Where the probes come from.
    num_probes : int
        Where to end; at most the dimension.
    first : int
        Probes of the first step.
    probe : {'rademacher', 'steinhaus', 'normal', 'sphere'}
        Their distribution; signs (for complex operators 'steinhaus') vary least.
    block_size : int
        Most probes per product.
    known : array, shape (n, p), optional
        Products with the first p probes, which are the first step, if at hand.

    Yields
    ------
    XDiagState
        Twice the probes, or all.
    """
    space = A.domain
    back = A if A.structure.self_adjoint else A.H
    filler = stream.for_purpose(Purpose.RESTART)
    omega = image = space.zeros(0)
    Q: Array | None = None
    R = np.zeros((0, 0))
    rows = space.xp.astype(space.xp.abs(space.zeros(1)[:, 0]), space.xp.float64)
    size = 1.0  # Of A, which all that is summed is divided by: its squares may be out of range.
    counts = doubled(first if known is None else known.shape[1], num_probes)
    for step, indices in enumerate(counts, start=1):
        fresh = space.probes(stream, indices, probe)
        y = multiplied(A, fresh, block_size) if known is None else known
        known = None
        if step == 1:
            size = require_product_in_range(A, y, indices.stop) or 1.0
        y = y * (1 / size)
        judge = partial(require_finite, product=indices.stop, operator=A)
        Q, columns = extended_qr(space, Q, y, filler, judge=judge)
        R = np.concatenate([np.pad(R, ((0, len(indices)), (0, 0))), columns], axis=1)
        z = multiplied(back, Q[:, indices.start :], block_size) * (1 / size)
        omega, image = (space.xp.concat(pair, axis=1) for pair in ((omega, fresh), (image, z)))
        # E|(A ω)_i|² is the squared norm of row i; QR spreads rounding over all rows alike.
        moduli = space.xp.astype(space.xp.abs(y), space.xp.float64)
        spread = float(np.sum(np.abs(columns) ** 2)) / space.dim
        rows = rows + space.xp.sum(moduli**2, axis=1) + spread
        # What is not finite raises below; a warning of the library's would only come before.
        with np.errstate(over="ignore", invalid="ignore"):
            values, errors = _estimates(A, omega, Q, R, image)
        floor = ROUNDINGS * eps(space.xp, space.dtype) * space.xp.sqrt(rows / indices.stop)
        errors = space.xp.hypot(space.xp.astype(errors, space.xp.float64), floor) * size
        values = values * size
        blocks = (z, values[:, None], errors[:, None])
        of_z, *norms = together_to_host(space, *map(space.column_norms_squared, blocks))
        # Of one probe no error is known.
        require_finite(np.concatenate([of_z, *norms[: indices.stop]]), 2 * indices.stop, A)
        yield XDiagState(
            step,
            2 * indices.stop,
            indices.stop,
            values,
            errors,
            *(float(np.sqrt(norm[0])) for norm in norms),
        )


def _estimates(
    A: LinearOperator, omega: Array, Q: Array, R: HostArray, image: Array
) -> tuple[Array, Array]:
    """Return the mean of the leave-one-out estimates, entry by entry, and its standard error."""
    xp, space, m = A.xp, A.domain, len(R)
    seen, small = _coefficients(R)
    # One copy to the device for all.
    on_device = space.from_host(np.concatenate([*small, np.diag(seen)[None, :]]))
    S, taken, inverse, form, others = (on_device[i * m : (i + 1) * m, :] for i in range(5))
    added, added_image = Q @ S, image @ S  # Q s_i and A^H Q s_i
    whole = xp.sum(_times_conjugate(Q, image), axis=1)[:, None]
    own = _times_conjugate(added, added_image)
    mirrored = xp.conj(omega) if is_complex(xp, omega.dtype) else omega
    singles = whole - own + mirrored * (added * on_device[-1, :])
    mean = xp.sum(singles, axis=1) / m
    if m < 2:
        return mean, xp.abs(mean) * np.nan
    deleted = space.zeros(m)
    for i in range(m):
        # For every j what column j is for (s_j - s_i s_i^H s_j) / norm_j.
        second, second_image = (
            block * inverse[i, :] - block[:, i : i + 1] * taken[i, :]
            for block in (added, added_image)
        )
        outside = added[:, i : i + 1] * _python(seen[i, i]) + second * form[i, :]
        pairs = whole - own[:, i : i + 1] - _times_conjugate(second, second_image)
        deleted = deleted + (pairs + mirrored[:, i : i + 1] * outside) * others[i, :]
    deleted = deleted / (m - 1)
    scatter = xp.sqrt(xp.sum(xp.abs(singles - mean[:, None]) ** 2, axis=1) / (m * (m - 1)))
    center = (xp.sum(deleted, axis=1) / m)[:, None]
    jackknife = xp.sqrt(xp.sum(xp.abs(deleted - center) ** 2, axis=1) * ((m - 1) / m))
    between = xp.sqrt(scatter) * xp.sqrt(jackknife)
    return mean, xp.minimum(between, MOST * scatter)


def _coefficients(R: HostArray) -> tuple[HostArray, list[HostArray]]:
    """Return ``S^H R``, and S with what row i of each takes to delete every other probe beside i.

    Those are s_i^H s_j / norm_j, 1 / norm_j, what probe i sees along the second direction, and 1 but
    for i itself.
    """
    S = removed_directions(R)
    # What probe i sees outside: Q s_i s_i^H R_i; and of Q s_j, with probe j deleted, too.
    S_adjoint = S.conj().T
    seen, overlap = S_adjoint @ R, S_adjoint @ S
    norms = np.sqrt(np.maximum(1 - np.abs(overlap) ** 2, np.finfo(float).eps))
    np.fill_diagonal(norms, np.inf)  # Probe i itself is not among those deleted.
    form = (seen.T - overlap.conj() * np.diag(seen)[:, None]) / norms
    return seen, [S, overlap / norms, 1 / norms, form, 1.0 - np.eye(len(R))]


def _times_conjugate(X: Array, Y: Array) -> Array:
    xp = namespace(Y)
    product: Array = X * (xp.conj(Y) if is_complex(xp, Y.dtype) else Y)
    return product


def _python(number: Any) -> complex:
    """Return a NumPy scalar as a Python number, which keeps an array's precision."""
    return complex(number) if np.iscomplexobj(number) else float(number)
