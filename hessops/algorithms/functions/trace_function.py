"""The trace of a function of a self-adjoint operator by stochastic Lanczos quadrature.

Two things go wrong independently: too few probes scatter, and too few steps bias all probes alike,
which no scatter shows. So every answer comes with a statistical interval and, apart from it, with a
bracket of the quadrature, and counts as converged only if the bracket is narrow beside the interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack

from hessops.agreement import agreed_seed, require_same_function
from hessops.algorithms._common import (
    default_block_size,
    require_options,
    require_positive,
    self_adjoint_operator,
    warn_if_failed,
)
from hessops.algorithms.functions._quadrature_verdict import allowed, enough, stop, verdict
from hessops.algorithms.functions.polynomial_control import known_power_traces
from hessops.algorithms.functions.quadrature import QuadratureState, quadrature_steps
from hessops.algorithms.trace._probe_plan import ProbePlan
from hessops.arrays import HostArray
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, RandomState, Stream
from hessops.record import Callback, run
from hessops.result import Interval
from hessops.results.functions import TraceFunctionResult
from hessops.spectral_function import FunctionName, SpectralFunction, spectral_function

__all__ = ["TraceFunctionOptions", "estrada_index", "logdet", "trace_function", "trace_inverse"]

_DEFAULT_STEPS = 64
_MOST_STEPS = 500


class TraceFunctionOptions(TypedDict, total=False):
    """The options of `trace_function` that its special cases share."""

    num_probes: int | None
    num_steps: int | None
    rtol: float | None
    atol: float | None
    confidence: float
    interval: tuple[float, float] | None
    power_traces: Sequence[float] | Literal["auto"]
    probe: ProbeKind
    block_size: int | None
    reorthogonalize: bool
    rng: RandomState
    callback: Callback | None


def trace_function(
    A: Any,
    f: FunctionName | SpectralFunction | Callable[[HostArray], HostArray],
    *,
    num_probes: int | None = None,
    num_steps: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    interval: tuple[float, float] | None = None,
    derivative_signs: tuple[int | None, int | None] | None = None,
    power_traces: Sequence[float] | Literal["auto"] = "auto",
    probe: ProbeKind = "rademacher",
    block_size: int | None = None,
    reorthogonalize: bool = False,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> TraceFunctionResult:
    """Estimate tr f(A) of a self-adjoint operator, with a bracket of the quadrature.

    Costs ``num_probes * num_steps`` products, `block_size` at a time. With `rtol` or `atol`, the
    first probes take steps until the bracket is a tenth of the tolerance wide (or of the half-width
    of their interval, where that is narrower); then Stein's two-stage procedure draws as many probes
    as bring the half-width of the interval down to the tolerance.

    Measured over 500 seeds, 95 % intervals cover 93 to 97.5 %; but about 90 % with 8 or 16 probes where
    a few eigenvectors make up most of what the polynomials leave of f(A), since the estimates of
    single probes are then skewed (32 probes: 94 %).

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    f : str, SpectralFunction or callable
        'log', 'inverse', 'exp', 'sqrt', 'inverse_sqrt', 'xlogx', 'square', 'abs' or 'sign'; a power
        by `hessops.spectral_function.power`; or a function of a float64 array, entry by entry.
    num_probes : int, optional
        Probes to use, 32 where not given; with a tolerance, the most to use, then 1000.
    num_steps : int, optional
        Lanczos steps with each probe, 64 where not given; with a tolerance, the most to take, then
        500.
    rtol, atol : float, optional
        Half-width asked for of the interval, relative and absolute; the looser one counts. The bracket
        has to be no wider.
    confidence : float
        Nominal coverage of the interval.
    interval : tuple of float, optional
        Bounds (low, high) of the spectrum that are certain; infinite where not known. They certify
        the bracket. For operators declared positive semidefinite, 0 is known.
    derivative_signs : tuple of int or None, optional
        For a callable: the signs (-1, 0, 1; None if not known) on the spectrum of all its even
        derivatives and of all its odd ones, from the second on. Without them there is no bracket.
    power_traces : 'auto' or sequence of float
        The traces tr A, tr A², ..., as many as are known: probes then only tell what polynomials of
        that degree leave of f. 'auto' takes those that the operator knows: tr A and tr A² of a
        matrix, and tr A³ and tr A⁴ too of a sparse one with short rows; () takes none.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the probes.
    block_size : int, optional
        Probes in lock-step; as many as fit a quarter of a gigabyte, at most 32, where not given.
    reorthogonalize : bool
        Keep and use the basis of every probe of a block. The quadrature does not need it.
    rng : int, numpy.random.Generator or None
        Where the randomness comes from.
    callback : callable, optional
        Called with a `QuadratureState` at checkpoints; returning True ends the run.

    Returns
    -------
    TraceFunctionResult
        Value, standard error, interval, bracket, cost.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If an option is out of range, `f` is unknown, returns NaN or another shape, or is not defined
        at a Ritz value, or a Ritz value lies outside of `interval`.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached, or the bracket is wider than the interval.

    References
    ----------
    Bai, Fahey & Golub (1996), J. Comput. Appl. Math. 74; Golub & Meurant (2010), Matrices, Moments
    and Quadrature with Applications; Ubaru, Chen & Saad (2017), SIAM J. Matrix Anal. Appl. 38(4).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = np.diag(np.linspace(1.0, 2.0, 50)) + 0.01
    >>> result = hessops.trace_function(A, "sqrt", num_steps=12, interval=(1.0, 3.0), rng=0)
    >>> exact = np.sum(np.sqrt(np.linalg.eigvalsh(A)))
    >>> bool(result.interval.low < exact < result.interval.high), result.bracket_kind
    (True, 'certified')
    """
    return _estimate(
        A,
        "trace_function",
        spectral_function(f, derivative_signs),
        num_probes=num_probes,
        num_steps=num_steps,
        rtol=rtol,
        atol=atol,
        confidence=confidence,
        interval=interval,
        power_traces=power_traces,
        probe=probe,
        block_size=block_size,
        reorthogonalize=reorthogonalize,
        rng=rng,
        callback=callback,
    )


def logdet(A: Any, **options: Unpack[TraceFunctionOptions]) -> TraceFunctionResult:
    """Estimate log det A = tr log(A) of a positive definite operator.

    Costs ``num_probes * num_steps`` products. The bracket is open until every probe has found its
    way to the smallest eigenvalue, unless ``interval=(low, high)`` gives a bound above 0.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Positive definite; it need not be declared so.
    **options : dict
        The options of `trace_function`, but for `f` and `derivative_signs`.

    Returns
    -------
    TraceFunctionResult
        Value, interval and bracket of the log-determinant.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint.
    ValueError
        If a Ritz value is not positive, or an option is out of range.

    Warns
    -----
    ConvergenceWarning
        If the bracket is wider than the interval, or a tolerance was not reached.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = np.diag([1.0, 2.0, 4.0])
    >>> bool(np.isclose(hessops.logdet(A, num_probes=4, rng=0).value, 3 * np.log(2)))
    True
    """
    require_options("logdet", options, TraceFunctionOptions)
    return _estimate(A, "logdet", spectral_function("log"), **options)


def trace_inverse(A: Any, **options: Unpack[TraceFunctionOptions]) -> TraceFunctionResult:
    """Estimate the trace of the inverse of a positive definite operator.

    Costs ``num_probes * num_steps`` products.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Positive definite; it need not be declared so.
    **options : dict
        The options of `trace_function`, but for `f` and `derivative_signs`.

    Returns
    -------
    TraceFunctionResult
        Value, interval and bracket of tr A^-1.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint.
    ValueError
        If a Ritz value is not positive, or an option is out of range.

    Warns
    -----
    ConvergenceWarning
        If the bracket is wider than the interval, or a tolerance was not reached.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> round(hessops.trace_inverse(np.diag([1.0, 2.0, 4.0]), num_probes=4, rng=0).value, 9)
    1.75
    """
    require_options("trace_inverse", options, TraceFunctionOptions)
    return _estimate(A, "trace_inverse", spectral_function("inverse"), **options)


def estrada_index(A: Any, **options: Unpack[TraceFunctionOptions]) -> TraceFunctionResult:
    """Estimate tr e^A, of an adjacency matrix the Estrada index of its graph.

    Costs ``num_probes * num_steps`` products; about as many steps as half the spectrum is wide.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    **options : dict
        The options of `trace_function`, but for `f` and `derivative_signs`.

    Returns
    -------
    TraceFunctionResult
        Value, interval and bracket of tr e^A.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint.
    ValueError
        If e^A overflows, or an option is out of range.

    Warns
    -----
    ConvergenceWarning
        If the bracket is wider than the interval, or a tolerance was not reached.

    References
    ----------
    Estrada (2000), Chem. Phys. Lett. 319.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> triangle = np.ones((3, 3)) - np.eye(3)
    >>> result = hessops.estrada_index(triangle, num_probes=100, rng=0)
    >>> bool(result.interval.low < np.exp(2) + 2 / np.e < result.interval.high)
    True
    """
    require_options("estrada_index", options, TraceFunctionOptions)
    return _estimate(A, "estrada_index", spectral_function("exp"), **options)


def _estimate(
    A: Any,
    verb: str,
    function: SpectralFunction,
    *,
    num_probes: int | None = None,
    num_steps: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    interval: tuple[float, float] | None = None,
    power_traces: Sequence[float] | Literal["auto"] = "auto",
    probe: ProbeKind = "rademacher",
    block_size: int | None = None,
    reorthogonalize: bool = False,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> TraceFunctionResult:
    operator = self_adjoint_operator(A, verb)
    require_positive(num_probes=num_probes, num_steps=num_steps, block_size=block_size)
    plan = ProbePlan[QuadratureState](num_probes, rtol, atol, confidence, operator.domain.comm)
    seed = agreed_seed(operator.domain, rng)
    require_same_function(operator.domain, function)
    states = quadrature_steps(
        operator,
        function,
        stream=Stream(seed, Purpose.FUNCTION),
        num_probes=plan.limit,
        num_steps=num_steps or (_MOST_STEPS if plan.adaptive else _DEFAULT_STEPS),
        probe=probe,
        block_size=block_size or default_block_size(operator.domain, plan.first_stage),
        known=_known(operator, interval),
        power_traces=known_power_traces(operator, power_traces),
        reorthogonalize=reorthogonalize,
        enough=lambda state: enough(plan, state),
    )
    outcome = run(
        states,
        space=operator.domain,
        stop=lambda state: stop(plan, state),
        row=lambda state: (state.estimate(), state.standard_error()),
        callback=callback,
    )
    state = outcome.state
    of_probes = _interval(state, plan.source(state), confidence)
    width = allowed(plan, state, of_probes)
    status, converged = verdict(plan, state, outcome.reason, width)
    warn_if_failed(converged, status, operator.domain.comm)
    return TraceFunctionResult(
        value=state.estimate(),
        standard_error=state.standard_error(),
        interval=of_probes,
        confidence=confidence,
        bracket=state.bracket(),
        bracket_kind=state.bracket_kind(),
        bounds=state.bounds(),
        quadrature_error=state.quadrature_error(),
        rounding_error=state.rounding_error(),
        function=function.name,
        num_probes=state.num_probes,
        num_steps=state.num_steps,
        steps_needed=state.steps_needed(width),
        control_degree=state.control.degree,
        probe=probe,
        num_products=state.num_products,
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=outcome.seconds,
    )


def _known(operator: LinearOperator, interval: tuple[float, float] | None) -> Interval:
    """Return what is certain of the spectrum: what was given, and what the structure says."""
    low, high = (-math.inf, math.inf) if interval is None else map(float, interval)
    if not low <= high:
        raise ValueError(f"interval=({low}, {high}) must be (low, high) with low at most high")
    if operator.structure.positive_semidefinite:
        low = max(low, 0.0)
    return Interval(low, high)


def _interval(state: QuadratureState, source: QuadratureState, confidence: float) -> Interval:
    """Return the interval about a state's estimate, by the spread of the probes of `source`.

    Rounding is in it, too: probes that say the same say nothing about that.
    """
    if source.num_probes < 2:
        return Interval(-math.inf, math.inf)
    error = source.probe_deviation() / math.sqrt(state.num_probes)
    half = source.quantile(confidence) * error + state.rounding_error()
    return Interval(state.estimate() - half, state.estimate() + half)
