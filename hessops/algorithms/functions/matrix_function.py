"""The product f(A) v of a function of a self-adjoint operator with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hessops.agreement import require_same_call, require_same_function, require_same_vectors
from hessops.algorithms._common import (
    require_positive,
    require_tolerance,
    self_adjoint_operator,
    warn_if_failed,
)
from hessops.algorithms._precision import product_precision
from hessops.algorithms.functions.lanczos_fa import LanczosFAState, lanczos_fa_steps
from hessops.algorithms.functions.quadrature import checkpoint
from hessops.arrays import Array, HostArray, is_array
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.record import Callback, run
from hessops.results.functions import MatrixFunctionResult
from hessops.space import rows_here
from hessops.spectral_function import FunctionName, SpectralFunction, spectral_function

__all__ = ["matrix_function"]

_DEFAULT_STEPS = 200
_CAPACITY = 32
# Before that, f(A) v that does not move says nothing.
_FEWEST_STEPS = 4


def matrix_function(
    A: Any,
    f: FunctionName | SpectralFunction | Callable[[HostArray], HostArray],
    v: Array,
    *,
    tol: float | None = None,
    max_steps: int | None = None,
    two_pass: bool = False,
    callback: Callback | None = None,
) -> MatrixFunctionResult:
    """Multiply vectors by a function of a self-adjoint operator.

    Costs one product per column and step. The basis is kept, ``num_steps`` vectors per column, and
    every vector orthogonalised against all before. With `two_pass`, a first pass finds the
    coefficients and a second one the same vectors again: twice the products, seven blocks of memory.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    f : str, SpectralFunction or callable
        As for `trace_function`.
    v : array, shape (n,) or (n, m)
        What to multiply.
    tol : float, optional
        Stop where the estimated error of every column is below `tol`, relative to ‖v‖ for the
        inverse, whose residual norm it is, and to ‖f(A) v‖ for others; the root of the precision where
        not given.
    max_steps : int, optional
        Most steps to take, 200 where not given.
    two_pass : bool
        Keep no basis.
    callback : callable, optional
        Called with the `LanczosFAState` of each step at which the error is estimated: the
        first eight, then ever fewer, and the last; returning True ends the run.

    Returns
    -------
    MatrixFunctionResult
        The product, an estimate of its error, cost.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If an option is out of range, `v` has the wrong shape, or `f` is unknown, returns NaN or
        another shape, or is not defined at a Ritz value.
    TypeError
        If `v` is no array of the operator's library.
    NonFiniteError
        If `v` or a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If `max_steps` were not enough.

    References
    ----------
    Saad (1992), SIAM J. Numer. Anal. 29(1); Druskin & Knizhnerman (1989), USSR Comput. Math. Math.
    Phys. 29(6); Frommer & Simoncini (2008), in: Model Order Reduction (two passes).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> hessops.matrix_function(np.diag([1.0, 4.0, 9.0]), "sqrt", np.ones(3)).value.round(9)
    array([1., 2., 3.])
    """
    operator = self_adjoint_operator(A, "matrix_function")
    require_same_call(operator.domain)
    function = spectral_function(f)
    require_same_function(operator.domain, function)
    require_positive(max_steps=max_steps)
    limit = _tolerance(tol, product_precision(operator))
    most = max_steps or _DEFAULT_STEPS
    states = lanczos_fa_steps(
        operator,
        function,
        _block(operator, v),
        keep_basis=not two_pass,
        capacity=min(most, _CAPACITY, operator.domain.dim),
    )
    outcome = run(
        (s for s in states if s.exact or s.step == most or checkpoint(s.step)),
        space=operator.domain,
        stop=lambda state: "converged" if _converged(state, limit) else None,
        row=lambda state: (float(state.sizes.max()), float(state.errors.max())),
        max_steps=most,
        callback=callback,
    )
    state = outcome.state
    value = state.vectors()
    converged = _converged(state, limit)
    status = _status(state, outcome.reason, limit)
    warn_if_failed(converged, status, operator.domain.comm)
    return MatrixFunctionResult(
        value=value[:, 0] if v.ndim == 1 else value,
        errors=state.errors,
        error_kind=state.error_kind,
        num_steps=state.step,
        function=function.name,
        num_products=state.num_products + (state.step - 1) * len(state.norms) * two_pass,
        status=status,
        converged=converged,
        history=outcome.history,
        seed=None,
        seconds=outcome.seconds,
        rows_here=rows_here(operator.domain),
    )


def _tolerance(tol: float | None, precision: float) -> float:
    if tol is None:
        return math.sqrt(precision)
    require_tolerance(tol=tol)
    return tol


def _block(operator: LinearOperator, v: Array) -> Array:
    if not is_array(v):
        raise TypeError(f"v must be an array, got {type(v).__name__}; wrap it, e.g. np.asarray(v)")
    if v.ndim not in {1, 2} or (v.ndim == 2 and v.shape[1] == 0):
        raise ValueError(f"v must have shape (n,) or (n, m) with m at least 1, got {v.shape}")
    block = operator.domain.validate(v[:, None] if v.ndim == 1 else v)
    require_same_vectors(operator.domain, block, "v")
    return block


def _converged(state: LanczosFAState, limit: float) -> bool:
    # A residual says what it says after any number of steps.
    early = state.error_kind == "difference" and state.step < _FEWEST_STEPS
    return state.exact or (not early and state.relative_error() <= limit)


def _status(state: LanczosFAState, reason: str | None, limit: float) -> str:
    error, kind, steps = state.relative_error(), state.error_kind, state.step
    if state.exact:
        return f"the Krylov spaces are exhausted after {counted(steps, 'step')}: exact to rounding"
    if _converged(state, limit):
        return f"converged in {counted(steps, 'step')}: relative {kind} {error:.2g}"
    before = f"{reason} after" if reason else "not converged in"
    return (
        f"{before} {counted(steps, 'step')}: the relative {kind} is {error:.2g}, above "
        f"tol={limit:.2g}; raise max_steps or tol"
    )
