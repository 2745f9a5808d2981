"""Functions of an operator: f(A) v and tr f(A), with errors of different kind apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hessops.arrays import Array, HostArray
from hessops.result import Interval, Result

__all__ = ["MatrixFunctionResult", "TraceFunctionResult"]


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
        low, high = self.interval
        bracket = f"[{self.bracket.low:.6g}, {self.bracket.high:.6g}]"
        trust = "" if self.converged else "; not to be trusted"
        return (
            f"tr {self.function}(A) = {self.value:.6g} ± {self.standard_error:.2g} "
            f"({self.confidence:.0%} interval [{low:.6g}, {high:.6g}]; quadrature between {bracket}, "
            f"{self.bracket_kind}; {self.num_probes} {self.probe} probes, {self.num_steps} steps, "
            f"{self._cost()}){trust}"
        )


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
            f"{np.max(self.errors):.2g} after {self.num_steps} steps ({self._cost()})"
        )
