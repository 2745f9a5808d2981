"""Functions of an operator: f(A) v and tr f(A), with errors of different kind apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hessops.arrays import Array, HostArray
from hessops.counted import counted
from hessops.result import Interval, Result
from hessops.results.numbers import interval_text
from hessops.results.quadrature_text import headline, is_resolved, statistics_text

__all__ = ["LOWER_BOUND", "MatrixFunctionResult", "TraceFunctionResult"]

LOWER_BOUND = (
    "a lower bound of the spectrum, interval=(low, high): a shift that was added to a positive "
    "semidefinite operator, or what hessops.eigsh(A, 1, which='SA') shows, its eigenvalue less its "
    "error bound"
)
"""How to find what keeps the spectrum away from where a function is singular."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceFunctionResult(Result):
    """An estimate of tr f(A) by stochastic Lanczos quadrature.

    Two errors of different kind: how far the probes scatter (`interval`), and how far the quadrature
    may be off for these very probes (`bracket`). The interval covers the true trace at its nominal
    rate only where the bracket is narrower.

    Parameters
    ----------
    value : float
        The mean over probes of the Gauss quadrature, less what the control variates show of its error.
    standard_error : float
        Of the probes alone; NaN after a single probe.
    interval : Interval
        Confidence interval (low, high) by Student's t over probes, wider by `rounding_error`.
    confidence : float
        Its nominal coverage.
    bracket : Interval
        Between which the value would lie with the exact z^H f(A) z of these probes, by Gauss and
        Gauss-Radau rules; infinite where there is no bound. It holds up to `rounding_error`.
    bracket_kind : {'certified', 'estimated', 'probable', 'open', 'none'}
        'certified': by mathematics and by bounds of the spectrum that were given; 'estimated': an end
        rests on a bound of the spectrum read off the Ritz values; 'probable', of `spectrum` alone: on
        one that fails with a known probability; 'open': an end is infinite; 'none': the signs of the
        derivatives of f are not known.
    bounds : Interval
        Bounds of the spectrum that the bracket uses.
    quadrature_error : float
        Width of the bracket; where there is none, how much the value changed over the last quarter
        of the steps, which bounds nothing.
    rounding_error : float
        About what rounding of the products in the operator's precision may do to the value.
    function : str
        The name of f.
    num_probes : int
        Probes used.
    num_steps : int
        Lanczos steps taken with each, at most.
    steps_needed : float
        Where the bracket is too wide, about how many steps would do, by the decay over the last
        quarter of the steps; infinite where that cannot be told, `num_steps` where it is narrow.
    probe : str
        Distribution of the probes.
    control_degree : int
        Degree of the polynomials with known traces that were control variates; 0 without.
    """

    value: float
    standard_error: float
    interval: Interval
    confidence: float
    bracket: Interval
    bracket_kind: str
    bounds: Interval
    quadrature_error: float
    rounding_error: float
    function: str
    num_probes: int
    num_steps: int
    steps_needed: float
    probe: str
    control_degree: int = 0

    def __str__(self) -> str:
        name, resolved = f"tr {self.function}(A)", self.resolved
        probes = counted(self.num_probes, f"{self.probe} probe")
        said = statistics_text(self.interval, self.confidence, resolved=resolved)
        return (
            f"{headline(name, self.value, self.standard_error, resolved=resolved)} "
            f"({said} between {interval_text(*self.bracket)}, {self.bracket_kind}; {probes}, "
            f"{counted(self.num_steps, 'step')}, {self._cost()}){self._advice()}"
        )

    @property
    def resolved(self) -> bool:
        """Return whether the quadrature leaves no more open than the probes do."""
        return is_resolved(self.interval, self.bracket, converged=self.converged)

    def _advice(self) -> str:
        """Return, in a line of its own, what to do about a value that is not as asked for."""
        if self.converged:
            return ""
        if not self.resolved and self.bracket_kind == "open":
            return f"\n    give {LOWER_BOUND}"
        return f"\n    {self.status}"


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixFunctionResult(Result):
    """The product f(A) v.

    Parameters
    ----------
    value : array, shape (n,) or (n, m)
        Like v, in the operator's library.
    errors : numpy.ndarray, shape (m,)
        An estimate of the error of each column; what kind is said by `error_kind`.
    error_kind : {'residual', 'difference'}
        'residual': ‖v - A x‖, for the inverse, exact but for rounding; the error of x is at most that
        over the smallest eigenvalue. 'difference': d / (1 - q), with the change d of x over the last
        quarter of the steps, and its ratio q to the change over the quarter before: the error if
        convergence keeps its rate, and no bound.
    num_steps : int
        Lanczos steps taken.
    function : str
        The name of f.
    """

    value: Array = field(metadata={"long": True}, repr=False)
    errors: HostArray
    error_kind: str
    num_steps: int
    function: str

    def __str__(self) -> str:
        return (
            f"{self.function}(A) v of shape {tuple(self.value.shape)}: largest {self.error_kind} "
            f"{np.max(self.errors):.2g} after {counted(self.num_steps, 'step')} ({self._cost()})"
        )
