"""The trace by random probes (Girard 1989; Hutchinson 1990), with a fresh probe for every term.

E[z^H A z] = tr A for any z with E[z z^H] = I. One probe costs one product. For real symmetric A its
variance is 2 (‖A‖_F² - Σ a_ii²) with signs, 2 ‖A‖_F² with normal numbers, and
2 n / (n + 2) (‖A‖_F² - (tr A)² / n) on the sphere: prefer signs, unless the operator is nearly a
multiple of the identity in every basis.

If A is a finite sum of terms, the estimator is linear in the terms and may use a fresh probe for
each: the same cost, and the errors of the terms average out instead of adding up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from hessops.algorithms._common import (
    default_block_size,
    require_positive,
    square_operator,
    warn_if_failed,
)
from hessops.algorithms._probe_plan import ProbePlan
from hessops.arrays import HostArray, is_complex, to_numpy
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, RandomState, Stream, seed_from
from hessops.record import Callback, require_finite, run
from hessops.result import Estimate, Interval, Result
from hessops.space import Space
from hessops.statistics import MeanVariance, welch_satterthwaite

__all__ = ["HutchinsonState", "TraceResult", "has_many_terms", "hutchinson_steps", "trace"]


@dataclass(frozen=True)
class HutchinsonState:
    """What a number of probes say of the trace.

    The estimate is ``moments.mean[:, 0].sum()``: the mean over probes of the sum over terms of
    z^H A_b z.

    Parameters
    ----------
    step : int
        Blocks of probes done.
    num_products : int
        Products with the whole operator.
    moments : MeanVariance
        Over probes, of the quadratic form of each term: shape (num_terms, 1 + num_sections), the
        whole in column 0 and each section of the space in a column of its own.
    """

    step: int
    num_products: int
    moments: MeanVariance

    def estimate(self, column: int = 0) -> float:
        """Return the estimate of the trace, or of one section's."""
        return float(self.moments.mean[:, column].sum())

    def probe_variance(self, column: int = 0) -> float:
        """Return the variance of one probe (a fresh one for every term)."""
        return float(self.moments.variance[:, column].sum())

    def standard_error(self, column: int = 0) -> float:
        """Return the standard error that the probes leave."""
        return math.sqrt(self.probe_variance(column) / self.moments.count)

    def freedom(self, column: int = 0) -> float:
        """Return the degrees of freedom of the standard error."""
        if self.moments.count < 2:
            return 0.0
        variances = self.moments.variance[:, column]
        return float(welch_satterthwaite(variances, self.moments.count - 1))

    def term_scatter(self) -> float:
        """Return the standard deviation of the terms' traces, each scaled up to the whole."""
        count = len(self.moments.mean)
        if count < 2 or self.moments.count < 2:
            return math.nan
        scatter = np.var(self.moments.mean[:, 0] * count, ddof=1)
        of_probes = np.mean(self.moments.variance[:, 0]) * count**2 / self.moments.count
        return float(np.sqrt(max(scatter - of_probes, 0.0)))


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceResult(Result):
    """An estimate of a trace.

    Parameters
    ----------
    value : float
        The estimate, unbiased.
    standard_error : float
        Of the probes alone; NaN after a single probe.
    interval : Interval
        Confidence interval (low, high) by Student's t.
    confidence : float
        Its nominal coverage.
    num_probes : int
        Probes used (for every term, if stratified).
    probe : str
        Their distribution.
    num_terms : int
        Terms that had probes of their own; 1 if not stratified.
    term_scatter : float
        Standard deviation between terms of their traces, each scaled up to the whole, with the
        probes' part taken out; NaN for a single term or probe. Terms of different size (a short last
        batch, a weight decay) scatter by that alone. Not an error of this trace: divided by
        ``sqrt(num_terms)``, it is the error made in estimating the trace of a larger population of
        which the terms are a random sample.
    sections : mapping of str to Estimate
        The trace of each named section of the space (such as a layer) from the same products.
    """

    value: float
    standard_error: float
    interval: Interval
    confidence: float
    num_probes: int
    probe: str
    num_terms: int
    term_scatter: float
    sections: Mapping[str, Estimate] = field(default_factory=dict)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"trace = {self.value:.6g} ± {self.standard_error:.2g} "
            f"({self.confidence:.0%} interval [{low:.6g}, {high:.6g}]; "
            f"{self.num_probes} {self.probe} probes, {self._cost()})"
        )


def trace(
    A: Any,
    *,
    num_probes: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    probe: ProbeKind = "rademacher",
    stratify: bool | None = None,
    block_size: int | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> TraceResult:
    """Estimate the trace of a square operator from products with random probes.

    Costs `num_probes` products. With `rtol` or `atol`, Stein's two-stage procedure draws a first
    stage, reads off how many probes the tolerance takes, and draws those: the half-width of the
    interval is then at most ``max(atol, rtol * |trace|)`` and its coverage is kept
    (with `rtol`, as far as the trace stands out from its error).

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Square; if complex, self-adjoint.
    num_probes : int, optional
        Probes to use, 32 where not given; with a tolerance, the most to use, then 1000.
    rtol, atol : float, optional
        Half-width asked for of the interval, relative and absolute; the looser one counts.
    confidence : float
        Nominal coverage of the interval.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the probes; 'steinhaus' (unit complex numbers) for complex operators, where
        it has half the variance of signs.
    stratify : bool, optional
        Use a fresh probe for every term of a finite sum; done where there is more than one term if
        not given.
    block_size : int, optional
        Probes per product; as many as fit a quarter of a gigabyte, at most 32, where not given.
        Changes the speed and not the answer.
    rng : int, numpy.random.Generator or None
        Where the randomness comes from.
    callback : callable, optional
        Called with every `HutchinsonState`; returning True ends the run.

    Returns
    -------
    TraceResult
        Value, standard error, interval, between-term scatter, traces of sections, cost.

    Raises
    ------
    ValueError
        If an option is out of range, or `A` is rectangular, or complex and not self-adjoint.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the tolerance takes more probes than allowed.

    References
    ----------
    Hutchinson (1990), Commun. Stat. Simul. 19(2); Stein (1945), Ann. Math. Stat. 16(3).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = np.diag([1.0, 2.0, 3.0]) + 0.1
    >>> estimate = hessops.trace(A, num_probes=200, rng=0)
    >>> bool(estimate.interval.low < np.trace(A) < estimate.interval.high)
    True
    """
    operator = square_operator(A, "trace")
    _require_real_trace(operator)
    require_positive(num_probes=num_probes, block_size=block_size)
    plan = ProbePlan(num_probes, rtol, atol, confidence)
    seed = seed_from(rng)
    stratified = has_many_terms(operator) if stratify is None else stratify
    size = block_size or default_block_size(operator.domain, plan.first_stage)
    states = hutchinson_steps(
        operator,
        stream=Stream(seed, Purpose.TRACE),
        probe=probe,
        block_size=size,
        stratify=stratified,
        num_probes=plan.limit,
    )
    outcome = run(
        states,
        space=operator.domain,
        stop=plan.stop,
        row=lambda state: (state.estimate(), state.standard_error()),
        callback=callback,
    )
    state = outcome.state
    status, converged = plan.verdict(state, outcome.reason)
    warn_if_failed(converged, status)
    return TraceResult(
        value=state.estimate(),
        standard_error=state.standard_error(),
        interval=plan.interval(state),
        confidence=confidence,
        num_probes=state.moments.count,
        probe=probe,
        num_terms=len(state.moments.mean),
        term_scatter=state.term_scatter(),
        sections=_sections(operator, state),
        num_products=state.num_products,
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=outcome.seconds,
    )


def hutchinson_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    probe: ProbeKind = "rademacher",
    block_size: int = 1,
    stratify: bool = False,
    num_probes: int | Callable[[], int] | None = None,
) -> Iterator[HutchinsonState]:
    """Yield estimates of a trace, one block of probes after another.

    Parameters
    ----------
    A : LinearOperator
        Square.
    stream : Stream
        Where the probes come from.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Their distribution.
    block_size : int
        Probes per product.
    stratify : bool
        Use a fresh probe for every term.
    num_probes : int or callable, optional
        Where to end, or a function that is asked for that before every block; never, if not given.

    Yields
    ------
    HutchinsonState
        One block of probes further.
    """
    moments: MeanVariance | None = None
    step = done = 0
    while (end := num_probes() if callable(num_probes) else num_probes) is None or done < end:
        count = block_size if end is None else min(block_size, end - done)
        indices = range(done, done + count)
        terms = A.terms() if stratify else iter((A,))
        samples = np.stack(
            [
                _quadratic_forms(A.domain, term, stream.for_term(index), indices, probe)
                for index, term in enumerate(terms)
            ]
        )
        done += count
        step += 1
        require_finite(samples, done, A)
        block = MeanVariance.of(samples)
        moments = block if moments is None else moments.merged(block)
        yield HutchinsonState(step, done, moments)


def has_many_terms(operator: LinearOperator) -> bool:
    """Tell whether an operator is a sum of more than one term."""
    return len(list(islice(operator.terms(), 2))) > 1


def _quadratic_forms(
    space: Space, term: LinearOperator, stream: Stream, indices: range, probe: ProbeKind
) -> HostArray:
    """Return z^H A z for each probe: the whole, then each section, shape (1 + S, k)."""
    Z = space.probes(stream, indices, probe)
    forms = np.real(to_numpy(space.section_inner(Z, term.apply(Z))))
    whole = forms.sum(axis=0, keepdims=True)
    return np.concatenate([whole, forms]) if space.sections else whole


def _sections(operator: LinearOperator, state: HutchinsonState) -> dict[str, Estimate]:
    return {
        name: Estimate(
            value=state.estimate(column),
            standard_error=state.standard_error(column),
            freedom=state.freedom(column),
        )
        for column, name in enumerate(operator.domain.sections, start=1)
    }


def _require_real_trace(operator: LinearOperator) -> None:
    if is_complex(operator.xp, operator.dtype) and not operator.structure.self_adjoint:
        raise ValueError(
            f"the trace of {operator} may be complex: estimate its real part from (A + A.H) / 2 and "
            "its imaginary part from (A - A.H) / 2j"
        )
