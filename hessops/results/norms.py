"""What norms, counts of eigenvalues and condition numbers come with.

A random estimate has a `standard_error` and an `interval`; what follows from products alone is a bound
without a probability; what holds but for unlucky start vectors says how unlikely those are.
"""

from __future__ import annotations

from dataclasses import dataclass

from hessops.result import Interval, Result

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
        low, high = self.interval
        return (
            f"Frobenius norm = {self.value:.6g} ± {self.standard_error:.2g} "
            f"({self.confidence:.0%} interval [{low:.6g}, {high:.6g}]; "
            f"{self.num_probes} {self.probe} probes, {self._cost()})"
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
        low, high = self.interval
        bracket = f"[{self.bracket.low:.6g}, {self.bracket.high:.6g}]"
        trust = "" if self.converged else "; not to be trusted"
        return (
            f"{_norm_name(self.p)} = {self.value:.6g} ± {self.standard_error:.2g} "
            f"({self.confidence:.0%} interval [{low:.6g}, {high:.6g}]; quadrature between {bracket}, "
            f"{self.bracket_kind}; {self.num_probes} {self.probe} probes, {self.num_steps} steps, "
            f"{self._cost()}){trust}"
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
            f"spectral norm = {self.value:.8g} (certified at least {self.lower_bound:.8g}, at most "
            f"{self.upper_bound:.8g} with probability {1 - self.failure:.6g}; {self._cost()})"
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
        return (
            f"condition number = {self.value:.6g} (certified at least {self.lower_bound:.6g}, at most "
            f"{self.upper_bound:.6g} with probability {1 - self.failure:.6g}; {self._cost()})"
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
        low, high = self.interval
        bracket = f"[{self.bracket.low:.4g}, {self.bracket.high:.4g}]"
        trust = "" if self.converged else "; not to be trusted"
        return (
            f"{self.value:.6g} ± {self.standard_error:.2g} of {self.dim} ({self.confidence:.0%} "
            f"interval [{low:.6g}, {high:.6g}]; quadrature between {bracket}; {self.num_probes} "
            f"{self.probe} probes, {self.num_steps} steps, {self._cost()}){trust}"
        )


def _norm_name(p: float) -> str:
    return "nuclear norm" if p == 1 else f"Schatten {p:g}-norm"
