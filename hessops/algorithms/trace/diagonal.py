"""The diagonal of an operator: one verb over several estimators, which it can choose among."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Literal, get_args

from hessops.agreement import agreed_seed
from hessops.algorithms._common import (
    default_block_size,
    require_positive,
    require_real,
    square_operator,
    warn_if_failed,
)
from hessops.algorithms.trace._diagonal_choice import choose_diagonal
from hessops.algorithms.trace._diagonal_estimators import DIAGONAL_ESTIMATORS, DiagonalTask
from hessops.algorithms.trace._probe_plan import ProbePlan
from hessops.algorithms.trace._terms import is_stratified
from hessops.algorithms.trace._trace_choice import Choice
from hessops.algorithms.trace._unread_options import require_read
from hessops.algorithms.trace.diagonal_control import DiagonalControl, as_diagonal_control
from hessops.algorithms.trace.hutchinson_diagonal import DiagonalState
from hessops.arrays import is_complex
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, RandomState, Stream, draw
from hessops.record import Callback
from hessops.results.diagonal import DiagonalResult

__all__ = ["DiagonalMethod", "diagonal"]

DiagonalMethod = Literal["auto", "hutchinson", "xdiag", "exact", "control"]
"""Estimators of a diagonal."""

_LEAST_FOR_CONTROL = 8


def diagonal(
    A: Any,
    *,
    method: DiagonalMethod = "auto",
    num_probes: int | None = None,
    max_products: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    probe: ProbeKind | None = None,
    stratify: bool | None = None,
    control: tuple[Any, Any] | DiagonalControl | None = None,
    block_size: int | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> DiagonalResult:
    """Estimate the diagonal of a square operator from products with random probes.

    Without a tolerance it spends `max_products` products. With `rtol` or `atol` it spends as many as it
    takes until the 2-norm of the standard errors is at most ``max(atol, rtol * norm of the diagonal)``.

    * ``hutchinson`` for flat spectra, dominant diagonals and finite sums; one product a probe.
    * ``xdiag`` for spectra that decay, two products a probe; one of them with the adjoint.
    * ``exact`` for small operators, one product a row.

    ``auto`` takes the exact one where the products suffice, Hutchinson's for finite sums and for
    operators that are not known to be self-adjoint, and otherwise lets a quarter of the products (with
    a tolerance, 16) show what part of the variance lies outside of their range. They are not lost:
    both estimators go on from them. `reason` says what was chosen and why.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Square, real or complex.
    method : str
        The estimator, as above; ``control`` is chosen by giving `control`.
    num_probes : int, optional
        Probes of Hutchinson's estimator, which it chooses where `method` is not given; with a
        tolerance, the most.
    max_products : int, optional
        Products to spend, 32 where not given; with a tolerance, the most, then 1000.
    rtol, atol : float, optional
        Error asked for of the whole vector in the 2-norm; the looser one counts.
    confidence : float
        Coverage of the intervals, entry by entry.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}, optional
        Distribution of the probes, 'rademacher' where not given: signs (for complex operators
        'steinhaus') vary least.
    stratify : bool, optional
        Use a fresh probe for every term of a finite sum (``hutchinson`` and ``control``); done where
        there is more than one term if not given.
    control : tuple or DiagonalControl, optional
        ``(B, diagonal_of_B)``: an operator that is much like `A`, and its diagonal, an array or a
        result of `diagonal` (whose errors count), or None to have it probed, too. The work is split by
        the variances that a few probes show; see
        `hessops.algorithms.trace.diagonal_control.DiagonalControl` to say what a product with B costs.
        Spends `max_products` in units of a product with `A`.
    block_size : int, optional
        Probes per product; as many as fit a quarter of a gigabyte, at most 32, where not given.
        Large blocks leave the errors of finite sums more degrees of freedom.
    rng : int, numpy.random.Generator or None
        Where the randomness comes from.
    callback : callable, optional
        Called with every state of the estimator's engine; returning True ends the run.

    Returns
    -------
    DiagonalResult
        Values, standard errors, intervals, method, cost.

    Raises
    ------
    ValueError
        If an option is out of range or does not fit the method, or `A` is rectangular.
    NotImplementedError
        If ``xdiag`` is asked for and `A` is not self-adjoint and knows no adjoint.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the tolerance takes more products than allowed.

    Notes
    -----
    `interval` is entrywise: each entry's holds with probability `confidence`, so that of 1000 entries
    some 50 lie outside. No band for all entries at once is offered.

    The intervals of ``hutchinson`` are Student's, with coverage kept by Stein's two stages where there
    is a tolerance: stopping as soon as the error happens to look small would report errors that are
    too small. Those of ``xdiag`` take the geometric mean of two errors of its leave-one-out estimates,
    one too small and one too large; they are calibrated and not a theorem: nominally 95 % held for 94
    to 99 % of the entries on the spectra tried.

    References
    ----------
    Bekas, Kokiopoulou & Saad (2007), Appl. Numer. Math. 57; Dharangutte & Musco (2023), SOSA; Epperly,
    Tropp & Webber (2024), SIAM J. Matrix Anal. Appl. 45(1); Stein (1945), Ann. Math. Stat. 16(3);
    Welch (1947), Biometrika 34.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> hessops.diagonal(np.diag([1.0, 2.0, 3.0]), num_probes=4, rng=0).values
    array([1., 2., 3.])
    >>> B = np.random.default_rng(0).standard_normal((200, 10))
    >>> estimate = hessops.diagonal(hessops.LowRank(B), max_products=64, rng=0)
    >>> estimate.method, bool(np.allclose(estimate.values, np.sum(B**2, axis=1)))
    ('xdiag', True)
    """
    clock = time.perf_counter()
    operator = square_operator(A, "diagonal")
    require_positive(num_probes=num_probes, max_products=max_products, block_size=block_size)
    tolerances = (1.0 if value is None else value for value in (rtol, atol))
    require_real(confidence=confidence, **dict(zip(("rtol", "atol"), tolerances, strict=True)))
    helper = None if control is None else as_diagonal_control(operator, control)
    if helper is not None and method == "auto":
        method = "control"
    if method == "auto" and num_probes is not None:
        method = "hutchinson"
    _require_fitting(method, operator, num_probes, max_products)
    require_read(method, stratify=stratify, probe=probe)
    if (method == "control") is (helper is None):
        raise ValueError(
            f"method={method!r} and control={control!r} do not fit: give control alone"
        )
    plan = ProbePlan[DiagonalState](
        num_probes or max_products, rtol, atol, confidence, operator.domain.comm
    )
    if method == "control" and (plan.adaptive or plan.budget < _LEAST_FOR_CONTROL):
        raise ValueError(
            f"control={control!r} spends a number of products that is known beforehand: give no rtol "
            f"or atol, and max_products={_LEAST_FOR_CONTROL} or more"
        )
    stream = Stream(agreed_seed(operator.domain, rng), Purpose.DIAGONAL)
    # Says what is wrong with the probes before the first product.
    kind = probe or "rademacher"
    draw(stream, 0, 0, 0, kind, complex_valued=is_complex(operator.xp, operator.dtype))
    size = block_size or default_block_size(operator.domain, plan.first_stage)
    choice = Choice(method, "asked for")
    stratified = is_stratified(operator, stratify)
    if method == "auto":
        choice = choose_diagonal(
            operator,
            plan.budget,
            adaptive=plan.adaptive,
            stream=stream,
            probe=kind,
            block_size=size,
            stratified=stratified,
        )
    task = DiagonalTask(operator, choice, plan, stream, kind, stratified, size, callback, helper)
    result = DIAGONAL_ESTIMATORS[choice.method](task)
    warn_if_failed(result.converged, result.status, operator.domain.comm)
    return replace(result, seconds=time.perf_counter() - clock)


def _require_fitting(
    method: str, operator: LinearOperator, num_probes: int | None, max_products: int | None
) -> None:
    """Raise if options do not fit each other or the operator."""
    if method not in get_args(DiagonalMethod):
        raise ValueError(
            f"method={method!r} is unknown; choose one of {', '.join(get_args(DiagonalMethod))}"
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
    if method == "xdiag" and max_products == 1:
        raise ValueError("method='xdiag' takes two products a probe: max_products=1 is too few")
