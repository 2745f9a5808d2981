"""The spectral density by stochastic Lanczos quadrature (SLQ).

A random vector z sees the spectrum of A through its own measure, whose mean over z is the density of
eigenvalues. k Lanczos steps give the k-point Gauss rule of that measure: the Ritz values are the
nodes and the squared first components of T's eigenvectors the weights (Golub & Meurant 2010). All
probes run in lock-step, one wide product a step, and nothing of the basis is kept: rounding makes
copies of nodes that share a weight and leaves the measure alone (Greenbaum 1989; Knizhnerman 1996).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.agreement import agreed_seed
from hessops.algorithms._common import require_count, self_adjoint_operator
from hessops.algorithms.krylov.lanczos import LanczosState, lanczos_steps
from hessops.counted import counted
from hessops.density.spectral_density import SpectralDensity
from hessops.random import ProbeKind, Purpose, RandomState, Stream
from hessops.record import Callback, run

__all__ = ["spectral_density"]


def spectral_density(
    A: Any,
    *,
    num_probes: int = 8,
    num_steps: int = 64,
    probe: ProbeKind = "rademacher",
    reorthogonalize: bool = False,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> SpectralDensity:
    """Estimate the density of eigenvalues of a self-adjoint operator.

    Costs ``num_probes * num_steps`` products, `num_probes` at a time, and the memory of three blocks
    of `num_probes` vectors, besides what the operator takes; of four, if its products are not in
    memory of their own (`returns_own_memory`). More steps resolve more detail; more probes lower the
    statistical error.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    num_probes : int
        Random start vectors; from two on, errors are known.
    num_steps : int
        Lanczos steps: nodes per probe.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the start vectors.
    reorthogonalize : bool
        Keep and use the basis of every probe, ``num_probes * num_steps`` vectors. Needed for no
        quantity of the density; it removes copies of nodes.
    rng : int, numpy.random.Generator or None
        Where the randomness comes from.
    callback : callable, optional
        Called with every `LanczosState`; returning True ends the run.

    Returns
    -------
    SpectralDensity
        Nodes and weights per probe, and densities, moments, quantiles with errors from them.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If an option is out of range.
    NonFiniteError
        If a product holds NaN or infinity.

    References
    ----------
    Ubaru, Chen & Saad (2017), SIAM J. Matrix Anal. Appl. 38(4); Chen, Trogdon & Ubaru (2021), ICML.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> density = hessops.spectral_density(np.diag([0.0, 0.0, 1.0, 3.0]), num_probes=4, rng=0)
    >>> round(float(density.moment(1)), 12)
    1.0
    """
    operator = self_adjoint_operator(A, "spectral_density")
    require_count(num_probes=num_probes, num_steps=num_steps)
    seed = agreed_seed(operator.domain, rng)
    space = operator.domain
    outcome = run(
        lanczos_steps(
            operator,
            space.probes(Stream(seed, Purpose.DENSITY), range(num_probes), probe),
            reorthogonalize=reorthogonalize,
            capacity=min(num_steps, space.dim),
        ),
        space=space,
        stop=lambda _: None,
        max_steps=num_steps,
        callback=callback,
        row=lambda state: (float(np.mean(state.alphas[0])), _standard_error(state.alphas[0])),
    )
    state = outcome.state
    nodes, weights, node_errors = _gauss_rules(state, num_steps)
    status = (
        outcome.reason or f"took {counted(state.step, 'step')} with {counted(num_probes, 'probe')}"
    )
    if not state.alive.any():
        status = (
            f"the Krylov spaces of all probes are exhausted after {counted(state.step, 'step')}: the "
            "nodes are eigenvalues"
        )
    return SpectralDensity(
        nodes=nodes,
        weights=weights,
        node_errors=node_errors,
        rounding=state.rounding,
        dim=space.dim,
        num_products=state.num_products,
        status=status,
        converged=True,
        history=outcome.history,
        seed=seed,
        seconds=outcome.seconds,
    )


def _gauss_rules(state: LanczosState, num_steps: int) -> tuple[Any, Any, Any]:
    """Return nodes, weights and residual norms per probe, filled up with nodes of weight 0."""
    count = state.alphas.shape[1]
    nodes, weights, errors = (np.zeros((count, num_steps)) for _ in range(3))
    for column in range(count):
        diagonal, off_diagonal = state.tridiagonal(column)
        # Scaled, so that tiny or huge operators do not under- or overflow in LAPACK's squares.
        scale = float(max(np.max(np.abs(diagonal)), np.max(off_diagonal, initial=0.0))) or 1.0
        values, vectors = eigh_tridiagonal(diagonal / scale, off_diagonal / scale)
        length = len(values)
        nodes[column, :length] = scale * values
        nodes[column, length:] = nodes[column, length - 1]
        weights[column, :length] = vectors[0] ** 2 / np.sum(vectors[0] ** 2)
        errors[column, :length] = state.residual_norm(column) * np.abs(vectors[-1])
    return nodes, weights, errors


def _standard_error(samples: Any) -> float:
    return float(np.std(samples, ddof=1) / np.sqrt(len(samples))) if len(samples) > 1 else np.nan
