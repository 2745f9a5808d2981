"""The trace of an operator: one verb over several estimators, which it can choose among."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Literal, get_args

from hessops.agreement import agreed_seed
from hessops.algorithms._common import (
    default_block_size,
    require_positive,
    square_operator,
    warn_if_failed,
)
from hessops.algorithms.trace._deflation import Deflation, as_deflation
from hessops.algorithms.trace._probe_plan import ProbePlan
from hessops.algorithms.trace._terms import is_stratified
from hessops.algorithms.trace._trace_choice import Choice, choose
from hessops.algorithms.trace._trace_estimators import ESTIMATORS, Task
from hessops.algorithms.trace._unread_options import require_read
from hessops.algorithms.trace.control_variate import Control, as_control
from hessops.algorithms.trace.hutchinson import HutchinsonState
from hessops.arrays import is_complex
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, RandomState, Stream, draw
from hessops.record import Callback
from hessops.results.trace import TraceResult

__all__ = ["Method", "trace"]

Method = Literal[
    "auto", "hutchinson", "hutchpp", "na-hutchpp", "xtrace", "xnystrace", "exact", "control"
]
"""Estimators of a trace."""

_FIXED = ("na-hutchpp", "control")
_LEAST_FIXED = 8


def trace(
    A: Any,
    *,
    method: Method = "auto",
    num_probes: int | None = None,
    max_products: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    probe: ProbeKind | None = None,
    stratify: bool | None = None,
    control: tuple[Any, Any] | Control | None = None,
    deflate: Any = None,
    block_size: int | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> TraceResult:
    """Estimate the trace of a square operator from products with random probes.

    Without a tolerance it spends `max_products` products. With `rtol` or `atol` it spends as many as
    the half-width of the interval takes to be at most ``max(atol, rtol * |trace|)``.

    * ``hutchinson`` for flat spectra and finite sums; the error falls as 1/√m with m products.
    * ``hutchpp`` for outliers, also of finite sums; for eigenvalues α^i the error falls as α^(m/3).
    * ``na-hutchpp``, the same by one block of products; α^(m/4).
    * ``xtrace`` for spectra that decay, two products a probe; α^(m/2).
    * ``xnystrace`` for positive semidefinite spectra that decay, one product a probe; α^m.
    * ``exact`` for small operators, one product a row.

    ``auto`` takes Hutchinson's estimator for spaces with sections. Of finite sums a sixth of the
    products show whether outliers dominate, so that Hutch++ pays. Otherwise it lets a quarter of them
    (with a tolerance, 16) show how fast the spectrum decays: they are not lost, as XTrace and
    XNysTrace go on from them. `reason` says what was chosen and why.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Square; if complex, self-adjoint.
    method : str
        The estimator, as above. ``xnystrace`` needs a positive semidefinite operator,
        ``na-hutchpp`` a self-adjoint one, and ``control`` is chosen by giving `control`.
    num_probes : int, optional
        Probes of Hutchinson's estimator, which it chooses where `method` is not given; with a
        tolerance, the most.
    max_products : int, optional
        Products to spend, 32 where not given; with a tolerance, the most, then 1000.
    rtol, atol : float, optional
        Half-width asked for of the interval, relative and absolute; the looser one counts.
    confidence : float
        Nominal coverage of the interval.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}, optional
        Distribution of the probes: where not given, 'sphere' for ``xtrace`` and ``xnystrace`` and
        'rademacher' for all others; 'steinhaus' (unit complex numbers) for complex operators has
        half the variance of signs.
    stratify : bool, optional
        Use a fresh probe for every term of a finite sum (``hutchinson``, ``hutchpp`` and ``control``);
        done where there is more than one term if not given.
    control : tuple or Control, optional
        ``(B, trace_of_B)``: an operator that is much like `A`, and its trace, a number or a result of
        `trace` (whose error counts), or None to have it probed, too. The work is split by the
        variances that a few probes show; see `hessops.algorithms.trace.control_variate.Control` to say
        what a product with B costs. Spends `max_products` in units of a product with `A`.
    deflate : EigenResult or array of shape (n, r), optional
        Eigenpairs of `A` that were found before, as `eigsh` returns them, or orthonormal columns (at a
        product each): Hutchinson's probes, which are then taken, see what is left. Outliers that are
        known anyway cost no product and add no variance.
    block_size : int, optional
        Probes per product; as many as fit a quarter of a gigabyte, at most 32, where not given.
        Changes the speed and not the answer.
    rng : int, numpy.random.Generator or None
        Where the randomness comes from.
    callback : callable, optional
        Called with every state of the estimator's engine; returning True ends the run.

    Returns
    -------
    TraceResult
        Value, standard error, interval, method, between-term scatter, traces of sections, cost.

    Raises
    ------
    ValueError
        If an option is out of range or does not fit the method, or `A` is rectangular, complex and
        not self-adjoint, or not semidefinite where that is needed.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the tolerance takes more products than allowed.

    Notes
    -----
    The interval of ``hutchinson`` and ``hutchpp`` is Student's, with coverage kept by Stein's two
    stages where there is a tolerance. Where one eigenvalue makes nearly all of the trace, probes are as
    skewed as a squared normal number: for eigenvalues 1/i² and a relative tolerance of 5 %, 89 ± 1 % of
    the intervals of ``hutchinson`` held. That of ``xtrace`` and ``xnystrace`` takes the geometric mean
    of two errors of their leave-one-out estimates, one too small and one too large (see
    ``hessops.algorithms.trace._leave_one_out``); it is calibrated and not a theorem: coverage of
    nominally 95 % intervals was between 93 and 100 % on the spectra tried, but 88 to 94 % for a single
    eigenvalue far above a flat rest (100 and 39 times 0.1), which leaves skewed estimates, too.

    References
    ----------
    Hutchinson (1990), Commun. Stat. Simul. 19(2); Stein (1945), Ann. Math. Stat. 16(3); Meyer, Musco,
    Musco & Woodruff (2021), SOSA; Epperly, Tropp & Webber (2024), SIAM J. Matrix Anal. Appl. 45(1).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = hessops.Diagonal(0.9 ** np.arange(1000))
    >>> estimate = hessops.trace(A, max_products=128, rng=0)
    >>> estimate.method, bool(abs(estimate.value - 10) < 1e-3)
    ('xnystrace', True)
    """
    clock = time.perf_counter()
    operator = square_operator(A, "trace")
    _require_real_trace(operator)
    require_positive(num_probes=num_probes, max_products=max_products, block_size=block_size)
    helper = None if control is None else as_control(operator, control)
    if helper is not None and method == "auto":
        method = "control"
    deflation = None if deflate is None else as_deflation(operator, deflate)
    if method == "auto" and (num_probes is not None or deflation is not None):
        method = "hutchinson"
    _require_fitting(method, operator, num_probes, max_products)
    require_read(method, stratify=stratify, probe=probe)
    if (method == "control") is (helper is None):
        raise ValueError(
            f"method={method!r} and control={control!r} do not fit: give control alone"
        )
    if deflation is not None and method != "hutchinson":
        raise ValueError(
            f"deflate goes with method='hutchinson', not with {method!r}: leave it out"
        )
    plan = ProbePlan[HutchinsonState](
        num_probes or max_products, rtol, atol, confidence, operator.domain.comm
    )
    if method in _FIXED and (plan.adaptive or plan.budget < _LEAST_FIXED):
        raise ValueError(
            f"method={method!r} spends a number of products that is known beforehand: give no rtol or "
            f"atol, and max_products={_LEAST_FIXED} or more"
        )
    seed = agreed_seed(operator.domain, rng)
    stream = Stream(seed, Purpose.TRACE)
    size = block_size or default_block_size(operator.domain, plan.budget)
    if probe is not None:  # Says what is wrong with it before the first product.
        draw(stream, 0, 0, 0, probe, complex_valued=is_complex(operator.xp, operator.dtype))
    choice = Choice(method, "asked for")
    if deflation is not None:
        _require_probes_left(plan.budget, deflation, operator)
        choice = Choice(
            method, f"deflated of {deflation.basis.shape[1]} directions that were given"
        )
    if method == "auto":
        choice = choose(
            operator,
            plan.budget,
            adaptive=plan.adaptive,
            stream=stream,
            probe=probe or "sphere",
            block_size=size,
            stratify=stratify,
        )
    task = Task(
        operator,
        choice,
        plan,
        stream,
        probe,
        is_stratified(operator, stratify),
        size,
        callback,
        helper,
        deflation,
    )
    result = ESTIMATORS[choice.method](task)
    warn_if_failed(result.converged, result.status, operator.domain.comm)
    return replace(result, seconds=time.perf_counter() - clock)


def _require_fitting(
    method: str, operator: LinearOperator, num_probes: int | None, max_products: int | None
) -> None:
    """Raise if options do not fit each other or the operator."""
    if method not in get_args(Method):
        raise ValueError(
            f"method={method!r} is unknown; choose one of {', '.join(get_args(Method))}"
        )
    if num_probes is not None and method != "hutchinson":
        raise ValueError(
            f"num_probes={num_probes} counts the probes of method='hutchinson'; for {method!r} give "
            "max_products"
        )
    if num_probes is not None and max_products is not None:
        raise ValueError(
            f"num_probes={num_probes} and max_products={max_products} say the same: give one"
        )
    if method == "exact" and max_products is not None and max_products < operator.shape[0]:
        raise ValueError(
            f"method='exact' takes {operator.shape[0]} products, one per row, and max_products="
            f"{max_products}: raise it, or choose another method"
        )
    if method == "xtrace" and max_products == 1:
        raise ValueError("method='xtrace' takes two products a probe: max_products=1 is too few")
    if method == "xnystrace" and not operator.structure.positive_semidefinite:
        raise ValueError(
            f"method='xnystrace' needs a positive semidefinite operator, and {operator} is not known "
            "to be: if it is, say aslinearoperator(..., positive_semidefinite=True); if not, take "
            "method='xtrace'"
        )
    if method == "na-hutchpp" and not operator.structure.self_adjoint:
        raise ValueError(
            f"method='na-hutchpp' needs a self-adjoint operator, and {operator} is not known to be: "
            "take method='hutchpp'"
        )


def _require_probes_left(budget: int, deflation: Deflation, operator: LinearOperator) -> None:
    """Raise if the products with given directions leave none for probes."""
    if budget <= deflation.cost(operator):
        raise ValueError(
            f"max_products={budget} is spent on {deflation.cost(operator)} products with the "
            "directions to deflate: raise it, or deflate fewer"
        )


def _require_real_trace(operator: LinearOperator) -> None:
    if is_complex(operator.xp, operator.dtype) and not operator.structure.self_adjoint:
        raise ValueError(
            f"the trace of {operator} may be complex: estimate its real part from (A + A.H) / 2 and "
            "its imaginary part from (A - A.H) / 2j"
        )
