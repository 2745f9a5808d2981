"""The first verb to call: everything about a spectrum from one budget of products.

Random probes are multiplied together, step by step, in one block Krylov space. Its Ritz pairs are the
extreme eigenvalues; quadrature in it gives x^H f(A) x for every probe x and any f, and so trace,
density and log-determinant; and how little the probes can have missed gives bounds of the spectrum.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from hessops.agreement import agreed_seed
from hessops.algorithms._common import require_positive, self_adjoint_operator, warn_if_failed
from hessops.algorithms._precision import widened
from hessops.algorithms.spectrum._spectrum_goal import SpectrumGoal
from hessops.algorithms.spectrum.spectrum_steps import (
    SpectrumState,
    block_spectrum_steps,
    lock_step_spectrum_steps,
)
from hessops.arrays import Array, HostArray, eps, is_complex, numpy_dtype
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream
from hessops.record import Callback, run
from hessops.results.eigenpairs import error_bounds
from hessops.results.spectrum import Spectrum
from hessops.space import Space, rows_here

__all__ = ["spectrum"]

_BASIS_BYTES = 2**30
_LEAST_BASIS, _MOST_BASIS = 32, 1000


def spectrum(
    A: Any,
    *,
    budget: int | None = None,
    accuracy: float | None = None,
    num_probes: int | None = None,
    num_extremes: int = 3,
    max_basis: int | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> Spectrum:
    """Estimate everything about the spectrum of a self-adjoint operator by one block Krylov run.

    Extreme eigenvalues with residual norms, bounds of the spectrum, trace, norms, density, moments,
    log-determinant, condition number and the number of negative eigenvalues, all from the same
    products. Costs at most `budget` products, as many vectors of memory, and their orthogonalisation.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    budget : int, optional
        Most products, counted as columns; 200 where neither it nor `accuracy` is given, and 2000 with
        `accuracy` alone. The last few are left where no further block fits.
    accuracy : float, optional
        Stop as soon as this is reached: residual norms of the extreme eigenvalues up to `accuracy`
        times ‖A‖, and an interval of the trace of half-width up to `accuracy` times Σ|λ|.
    num_probes : int, optional
        Vectors to multiply at once: more of them narrow the intervals, fewer take more steps, which
        bring the extreme eigenvalues closer. Where not given, about the root of a third of the budget
        (8 for 200), or 8 with `accuracy`, which may add as many again.
    num_extremes : int
        Eigenvalues to report from each end.
    max_basis : int, optional
        Most vectors to keep; as many as fit a gigabyte, from 32 to 1000, where not given. A larger
        budget is spent by Lanczos on single probes, which keeps none: then there are no eigenvectors,
        a multiple eigenvalue appears once, and fewer digits are known of everything.
    rng : int, numpy.random.Generator or None
        Where the probes come from.
    callback : callable, optional
        Called with a `SpectrumState` at checkpoints; returning True ends the run.

    Returns
    -------
    Spectrum
        Prints as a page; has everything as attributes, `function(f)` for any other trace, and `plot()`.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If an option is out of range.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If `accuracy` was not reached, or the budget leaves a single probe, which gives no intervals.

    References
    ----------
    Golub & Underwood (1977), in Mathematical Software III; Golub & Meurant (2010), Matrices, Moments
    and Quadrature with Applications; Zimmerling, Druskin & Simoncini (2025), J. Sci. Comput.;
    Epperly, Tropp & Webber (2024), SIAM J. Matrix Anal. Appl. 45(1); Van Dorsselaer, Hochstenbach &
    van der Vorst (2000), SIAM J. Matrix Anal. Appl. 22(3).

    Examples
    --------
    >>> import hessops, hessops.gallery
    >>> problem = hessops.gallery.laplacian_2d(30)
    >>> result = hessops.spectrum(problem.operator, budget=200, rng=0)
    >>> bool(result.trace.interval.low < 3600 < result.trace.interval.high)
    True
    >>> bool(result.bounds.low < problem.eigenvalues[0] < problem.eigenvalues[-1] < result.bounds.high)
    True
    """
    operator = self_adjoint_operator(A, "spectrum")
    space = operator.domain
    require_positive(budget=budget, num_probes=num_probes, max_basis=max_basis)
    require_positive(num_extremes=num_extremes)
    goal = SpectrumGoal(budget, accuracy, num_probes, num_extremes, space.dim)
    seed = agreed_seed(space, rng)
    limit = _basis_limit(space, max_basis, goal.num_probes)
    clock = time.perf_counter()
    outcome = run(
        _states(operator, goal, limit, Stream(seed, Purpose.SPECTRUM)),
        space=space,
        stop=lambda _: None,
        row=lambda state: state.trace(),
        callback=callback,
    )
    state = outcome.state
    status, converged = goal.verdict(state, outcome.reason, limit)
    warn_if_failed(converged, status, space.comm)
    columns = [
        (c.nodes, c.probes, c.couplings, c.residual_norms, c.steps, c.breadth)
        for c in state.compressions
    ]
    nodes, probes, couplings, node_errors, node_steps, breadths = zip(*columns, strict=True)
    values, residuals, bounds, vectors = _extremes(operator, state, num_extremes)
    return Spectrum(
        eigenvalues=values,
        residual_norms=residuals,
        error_bounds=bounds,
        eigenvectors=vectors,
        dim=space.dim,
        num_probes=state.num_probes,
        num_deciding=state.num_deciding,
        num_steps=state.num_steps,
        semidefinite=operator.structure.positive_semidefinite,
        complex_valued=is_complex(space.xp, space.dtype),
        filled=state.filled,
        nodes=nodes,
        probes=probes,
        couplings=couplings,
        node_errors=node_errors,
        node_steps=node_steps,
        breadths=breadths,
        rounding=max(c.rounding for c in state.compressions),
        num_products=state.num_products,
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
        rows_here=rows_here(space),
    )


def _states(
    operator: LinearOperator, goal: SpectrumGoal, limit: int, stream: Stream
) -> Iterator[SpectrumState]:
    if goal.accuracy is None and min(goal.budget, operator.domain.dim) > limit:
        return lock_step_spectrum_steps(
            operator,
            stream=stream,
            num_probes=goal.num_probes,
            num_steps=goal.budget // goal.num_probes,
        )
    return block_spectrum_steps(
        operator,
        stream=stream,
        num_probes=goal.num_probes,
        max_products=goal.budget,
        max_basis=limit,
        enough=goal.enough,
        more=goal.spaces_wanted,
    )


def _basis_limit(space: Space, max_basis: int | None, num_probes: int) -> int:
    """Return how many basis vectors to keep, or say that they are too few."""
    if max_basis is not None:
        if max_basis < num_probes:
            raise ValueError(
                f"max_basis={max_basis} has no room for a block of {num_probes} probes; give at least "
                "that, or fewer by num_probes"
            )
        return max_basis
    vector_bytes = max(space.local_dim, 1) * numpy_dtype(space.dtype).itemsize
    fitting = min(max(_BASIS_BYTES // vector_bytes, _LEAST_BASIS, num_probes), _MOST_BASIS)
    # The ranks may hold different numbers of rows.
    return space.comm.broadcast(fitting)


def _extremes(
    operator: LinearOperator, state: SpectrumState, count: int
) -> tuple[HostArray, HostArray, HostArray, Array | None]:
    """Return the outermost Ritz pairs: values, residual norms, error bounds and vectors."""
    values, residuals = state.ritz()
    chosen = np.arange(len(values))
    if len(values) > 2 * count:
        chosen = np.concatenate([chosen[:count], chosen[-count:]])
    bounds = error_bounds(
        values[chosen],
        residuals[chosen],
        np.delete(values, chosen),
        np.delete(residuals, chosen),
        eps(operator.xp, operator.dtype),
    )
    vectors = None if state.block is None else state.block.vectors(chosen)
    bounds = widened(bounds, operator, float(np.max(np.abs(values))))
    return values[chosen], residuals[chosen], bounds, vectors
