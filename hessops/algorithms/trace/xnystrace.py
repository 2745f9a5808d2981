"""The trace of a positive semidefinite operator by XNysTrace (Epperly, Tropp & Webber 2024).

m probes cost m products, Y = A Ω, which give the Nyström approximation Â = Y (Ω^H Y)^{-1} Y^H. Its
trace is known, and every probe estimates what the approximation *by the others* misses:

    t_i = tr Â_i + ω_i^H (A - Â_i) ω_i,   Â_i by all probes but ω_i.

All Â_i come from one Cholesky factorisation by downdates. For eigenvalues α^i the error falls as α^m
with m products, twice as fast as XTrace's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from hessops.agreement import together_to_host
from hessops.algorithms._common import require_product_in_range
from hessops.algorithms._precision import half_the_digits
from hessops.algorithms.trace._leave_one_out import LeaveOneOut, LeaveOneOutState
from hessops.algorithms.trace._probe_blocks import doubled, multiplied
from hessops.arrays import Array, HostArray, eps, to_numpy
from hessops.blocks.rounding import rounding
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Stream
from hessops.record import require_finite
from hessops.space import Space

__all__ = ["xnystrace_steps"]


def xnystrace_steps(
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

    Stores three blocks of `num_probes` vectors.

    Parameters
    ----------
    A : LinearOperator
        Positive semidefinite.
    stream : Stream
        Where the probes come from.
    num_probes : int
        Where to end; at most the dimension.
    first : int
        Probes of the first step.
    probe : {'normal', 'sphere', 'rademacher', 'steinhaus'}
        Their distribution. Normal and spherical probes are given their expected length outside of
        the span of the others ("resphering").
    block_size : int
        Most probes per product.
    known : array, shape (n, p), optional
        Products with the first p probes, which are the first step, if at hand.

    Yields
    ------
    LeaveOneOutState
        Twice the probes, or all.

    Raises
    ------
    ValueError
        If a product shows that `A` has a negative eigenvalue.
    """
    space = A.domain
    if probe in {"rademacher", "steinhaus"} and num_probes > space.dim // 2:
        raise ValueError(
            f"{num_probes} probes of signs in dimension {space.dim} may depend on each other: use "
            "probe='sphere', or fewer products"
        )
    omega = products = space.zeros(0)
    counts = doubled(first if known is None else known.shape[1], num_probes)
    for step, indices in enumerate(counts, start=1):
        fresh = space.probes(stream, indices, probe)
        y = multiplied(A, fresh, block_size) if known is None else known
        known = None
        if step == 1:
            require_product_in_range(A, y, indices.stop, power=1)
        omega = space.xp.concat([omega, fresh], axis=1)
        products = space.xp.concat([products, y], axis=1)
        estimates = _estimates(A, omega, products, probe)
        yield LeaveOneOutState("xnystrace", step, indices.stop, indices.stop, estimates, products)


def _estimates(A: LinearOperator, omega: Array, products: Array, probe: ProbeKind) -> LeaveOneOut:
    space, m = A.domain, omega.shape[1]
    both = space.xp.concat([products, omega], axis=1)
    on_device = space.gram(omega, both)
    products = _scaled(space, products, on_device[:, :m])
    gram, squares = together_to_host(space, on_device, space.column_norms_squared(products))
    require_finite(gram, m, A)
    core, overlap = gram[:, :m], gram[:, m:]
    # Semidefinite, A is zero on probes without a form.
    scale = float(np.max(np.abs(np.diag(core))))
    if scale == 0:
        zero = np.zeros((m, m))
        return LeaveOneOut(zero[0], zero)
    core = (core + core.conj().T) / (2 * scale)
    _require_positive_semidefinite(A, core, overlap, scale)
    # The shift keeps the Cholesky factorisation of a nearly singular matrix stable.
    size = float(np.sqrt(np.sum(squares)))
    shift = eps(space.xp, space.dtype) * size / np.sqrt(space.dim)
    # From rank 0: rounding decides which shift is enough.
    factor, shift = space.comm.broadcast(_shifted_cholesky(core, overlap, shift))
    shifted = products + omega * space.coefficients(space.from_host(np.asarray(shift)))
    inverse = solve_triangular(factor, np.eye(m))
    root = shifted @ space.from_host(inverse)  # Â = root root^H
    inner = to_numpy(space.gram(root, root))
    singles, pairs = _downdated(
        M=inverse @ inverse.conj().T,
        K=inverse @ inner @ inverse.conj().T,
        G=np.linalg.inv(overlap) if probe in {"normal", "sphere"} else None,
        trace=float(np.trace(inner).real),
        dim=space.dim,
    )
    singles, pairs = (scale * (part - shift * space.dim) for part in (singles, pairs))
    return LeaveOneOut(
        singles, pairs, rounding=rounding(space, float(np.trace(inner).real)) * scale
    )


def _scaled(space: Space, products: Array, core: Array) -> Array:
    """Return products over the largest form, where there is one, so that squares stay within range."""
    xp = space.xp
    diagonal = xp.eye(core.shape[0], dtype=xp.bool, device=space.device)
    largest = xp.max(xp.where(diagonal, xp.abs(core), 0 * xp.abs(core)))
    divisor = xp.where(largest > 0, largest, xp.ones_like(largest))
    # Whoever reads what overflowed raises; a warning of the library's would only come before.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled: Array = products * space.coefficients(1 / divisor)
    return scaled


def _downdated(
    *, M: HostArray, K: HostArray, G: HostArray | None, trace: float, dim: int
) -> tuple[HostArray, HostArray]:
    """Return the estimates with one and with two probes left out of the approximation.

    Parameters
    ----------
    M : numpy.ndarray, shape (m, m)
        ``(Ω^H Y)^{-1}``: by Schur complements 1 / m_ii is what the others miss of probe i.
    K : numpy.ndarray, shape (m, m)
        ``M Y^H Y M``: K_ii / m_ii is the trace that probe i adds.
    G : numpy.ndarray, shape (m, m), or None
        ``(Ω^H Ω)^{-1}``: 1 / g_ii is the squared length of probe i outside of the span of the others.
    trace : float
        Of the whole approximation.
    dim : int
        The dimension.
    """
    m = len(M)
    d, k = np.real(np.diag(M)), np.real(np.diag(K))
    g = np.ones(m) if G is None else np.real(np.diag(G))
    singles = trace - k / d + (1.0 if G is None else dim - m + 1) * g / d
    determinant = np.maximum(d[:, None] * d - np.abs(M) ** 2, np.finfo(float).eps * d[:, None] * d)
    added = d * k[:, None] - 2 * np.real(M.conj() * K) + d[:, None] * k
    length = np.ones((m, m)) if G is None else g[:, None] - np.abs(G) ** 2 / g
    scale = 1.0 if G is None else dim - m + 2
    pairs = trace - added / determinant + scale * length * d / determinant
    return singles, pairs


def _shifted_cholesky(core: HostArray, overlap: HostArray, shift: float) -> tuple[HostArray, float]:
    """Return the Cholesky factor of the shifted matrix, and the shift that it took."""
    while True:
        try:
            return cholesky(core + shift * overlap), shift
        except LinAlgError:
            shift *= 10


def _require_positive_semidefinite(
    A: LinearOperator, core: HostArray, overlap: HostArray, scale: float
) -> None:
    """Raise if the projection of A onto the span of the probes has a negative eigenvalue."""
    inverse = np.linalg.inv(np.linalg.cholesky(overlap))
    values = np.linalg.eigvalsh(inverse @ core @ inverse.conj().T)
    allowed = half_the_digits(A) * float(np.max(np.abs(values)))
    if A.domain.agree(bool(values[0] < -allowed)):
        raise ValueError(
            f"XNysTrace needs a positive semidefinite operator, and {A} has an eigenvalue of at most "
            f"{scale * values[0]:.3g} (the largest seen is {scale * values[-1]:.3g}): use "
            "method='xtrace'"
        )
