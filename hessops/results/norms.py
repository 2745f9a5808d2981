"""What norms, counts of eigenvalues and condition numbers come with.

A random estimate has a `standard_error` and an `interval`; what follows from products alone is a bound
without a probability; what holds but for unlucky start vectors says how unlikely those are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hessops.counted import counted
from hessops.result import Interval, Result
from hessops.results.numbers import (
    at_least_text,
    at_most_text,
    estimate_cells,
    estimate_text,
    interval_text,
)
from hessops.results.quadrature_text import headline, is_resolved, statistics_text

__all__ = [
    "ConditionNumberResult",
    "EigenvalueCountResult",
    "FrobeniusNormResult",
    "SchattenNormResult",
    "SpectralNormResult",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrobeniusNormResult(Result):
    """An estimate of a Frobenius norm from random probes.

    Parameters
    ----------
    value : float
        The root of an unbiased estimate of the square. Roots are concave, so its mean is a little
        low: by about ``standard_error**2 / (2 * value)``.
    standard_error : float
        Of the probes alone, to first order; NaN after a single probe.
    interval : Interval
        Confidence interval (low, high): the roots of Student's interval for the square.
    confidence : float
        Its nominal coverage.
    num_probes : int
        Probes used.
    probe : str
        Their distribution.
    """

    value: float
    standard_error: float
    interval: Interval
    confidence: float
    num_probes: int
    probe: str

    def __str__(self) -> str:
        return (
            f"Frobenius norm = {estimate_text(self.value, self.standard_error)} "
            f"({self.confidence:.0%} interval {interval_text(*self.interval)}; "
            f"{counted(self.num_probes, f'{self.probe} probe')}, {self._cost()})"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SchattenNormResult(Result):
    """An estimate of a Schatten norm by stochastic Lanczos quadrature.

    Two errors of different kind, as for `TraceFunctionResult`: the scatter of the probes (`interval`)
    and how far the quadrature may be off for these very probes (`bracket`).

    Parameters
    ----------
    value : float
        The p-th root of the estimate of Σ σ^p.
    standard_error : float
        Of the probes alone, to first order; NaN after a single probe.
    interval : Interval
        Confidence interval (low, high): the roots of Student's interval for Σ σ^p.
    confidence : float
        Its nominal coverage.
    p : float
        The exponent of the norm.
    num_probes : int
        Probes used.
    probe : str
        Their distribution.
    bracket : Interval
        Roots of the bounds between which the mean of the exact quadratic forms of these probes lies.
    bracket_kind : {'certified', 'estimated', 'open', 'none'}
        How far to trust it; see `TraceFunctionResult`.
    rounding_error : float
        About what rounding of the products may do to the value, to first order.
    num_steps : int
        Lanczos steps taken with each probe, at most.
    """

    value: float
    standard_error: float
    interval: Interval
    confidence: float
    p: float
    num_probes: int
    probe: str
    bracket: Interval
    bracket_kind: str
    rounding_error: float
    num_steps: int

    def __str__(self) -> str:
        resolved = is_resolved(self.interval, self.bracket, converged=self.converged)
        name, probes = _norm_name(self.p), counted(self.num_probes, f"{self.probe} probe")
        said = statistics_text(self.interval, self.confidence, resolved=resolved)
        failure = "" if self.converged else f"\n    {self.status}"
        return (
            f"{headline(name, self.value, self.standard_error, resolved=resolved)} "
            f"({said} between {interval_text(*self.bracket)}, {self.bracket_kind}; {probes}, "
            f"{counted(self.num_steps, 'step')}, {self._cost()}){failure}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralNormResult(Result):
    """The spectral norm between a certified lower bound and a probable upper bound.

    Parameters
    ----------
    value : float
        ‖A x‖ / ‖x‖ for the Ritz vector x: at most the norm, but for rounding.
    lower_bound : float
        `value` less what rounding may have added. It holds without a probability.
    upper_bound : float
        At least the norm, unless the start vector was among the unlucky ones.
    failure : float
        Probability over start vectors, fixed beforehand, that `upper_bound` is too low.
    num_steps : int
        Lanczos steps.
    """

    value: float
    lower_bound: float
    upper_bound: float
    failure: float
    num_steps: int

    def __str__(self) -> str:
        return (
            f"spectral norm = {estimate_cells(self.value, self.upper_bound - self.lower_bound)[0]} "
            f"(certified at least {at_least_text(self.lower_bound)}, at most "
            f"{at_most_text(self.upper_bound)} with probability {1 - self.failure:.6g}; "
            f"{self._cost()})"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionNumberResult(Result):
    """A condition number between a certified lower bound and a probable upper bound.

    Parameters
    ----------
    value : float
        Quotient of the extreme Rayleigh quotients; infinite where the smallest is zero to rounding.
    lower_bound : float
        At most the condition number of a definite operator, whatever the start vector.
    upper_bound : float
        At least the condition number, unless the start vector was among the unlucky ones; infinite
        where nothing keeps the smallest eigenvalue away from zero.
    failure : float
        Probability over start vectors, fixed beforehand, that `upper_bound` is too low.
    largest, smallest : float
        The Rayleigh quotients of largest and smallest modulus: the largest eigenvalue is at least
        as large in modulus, the smallest at most.
    rounding : float
        What is rounding in both, in the operator's precision.
    num_steps : int
        Lanczos steps.
    """

    value: float
    lower_bound: float
    upper_bound: float
    failure: float
    largest: float
    smallest: float
    rounding: float
    num_steps: int

    def __str__(self) -> str:
        if math.isinf(self.upper_bound):
            return (
                f"condition number >= {at_least_text(self.lower_bound)} (certified; nothing excludes "
                f"the eigenvalue 0, so there is no upper bound; {self._cost()})"
            )
        return (
            f"condition number = {estimate_cells(self.value, self.upper_bound - self.lower_bound)[0]} "
            f"(certified at least {at_least_text(self.lower_bound)}, at most "
            f"{at_most_text(self.upper_bound)} with probability {1 - self.failure:.6g}; "
            f"{self._cost()})"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class EigenvalueCountResult(Result):
    """An estimate of how many eigenvalues or singular values lie where they were asked for.

    Two errors of different kind: what so few Lanczos steps leave open (`bracket`), and the scatter of
    the probes. The `interval` goes as far beyond both ends of the bracket as the probes scatter.

    Parameters
    ----------
    value : float
        The mean over probes of the middle of their brackets; no whole number.
    standard_error : float
        Of the probes alone; NaN after a single probe.
    interval : Interval
        Confidence interval (low, high): the bracket, and on each side of it the half-width of Student's
        t over probes; cut to [0, n].
    confidence : float
        Its nominal coverage.
    bracket : Interval
        Between which the exact mean of these probes lies, whatever the number of steps, for an end of
        the range that no eigenvalue is close to by rounding.
    rounding : float
        How far from the ends of the range eigenvalues may be counted on the wrong side, in the
        operator's precision (for a rank: in units of the tolerance).
    dim : int
        The number n of all of them.
    num_probes : int
        Probes used.
    num_steps : int
        Lanczos steps taken with each, at most.
    probe : str
        Distribution of the probes.
    """

    value: float
    standard_error: float
    interval: Interval
    confidence: float
    bracket: Interval
    rounding: float
    dim: int
    num_probes: int
    num_steps: int
    probe: str

    def __str__(self) -> str:
        resolved = is_resolved(self.interval, self.bracket, converged=self.converged)
        probes = counted(self.num_probes, f"{self.probe} probe")
        said = statistics_text(self.interval, self.confidence, resolved=resolved)
        failure = "" if self.converged else f"\n    {self.status}"
        return (
            f"{headline('', self.value, self.standard_error, resolved=resolved)} of {self.dim} "
            f"({said} between {interval_text(*self.bracket)}; {probes}, "
            f"{counted(self.num_steps, 'step')}, {self._cost()}){failure}"
        )


def _norm_name(p: float) -> str:
    return "nuclear norm" if p == 1 else f"Schatten {p:g}-norm"
