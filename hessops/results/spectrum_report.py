"""The page that `print` shows of a spectrum: every number, its error, and what both rest on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from hessops.arrays import HostArray
from hessops.density.deflated_density import DeflatedDensity
from hessops.density.deflation import Deflation
from hessops.result import Estimate, Interval
from hessops.results.functions import LOWER_BOUND, TraceFunctionResult
from hessops.results.norms import (
    ConditionNumberResult,
    EigenvalueCountResult,
    FrobeniusNormResult,
    SpectralNormResult,
)
from hessops.results.numbers import (
    at_least_text,
    at_most_text,
    estimate_cells,
    interval_text,
    number_text,
)

__all__ = ["Finding", "findings", "written"]

# Beside the largest eigenvalue in modulus: what is worth more products.
_UNCONVERGED = 1e-3
_SCATTERED = 0.05


class _Numbers(Protocol):
    """What the page is made of: a `Spectrum`, which imports this file."""

    @property
    def eigenvalues(self) -> HostArray: ...
    @property
    def residual_norms(self) -> HostArray: ...
    @property
    def error_bounds(self) -> HostArray: ...
    @property
    def dim(self) -> int: ...
    @property
    def num_probes(self) -> int: ...
    @property
    def semidefinite(self) -> bool: ...
    @property
    def filled(self) -> bool: ...
    @property
    def rounding(self) -> float: ...
    @property
    def failure(self) -> float: ...
    @property
    def bounds(self) -> Interval: ...
    @property
    def trace(self) -> Estimate: ...
    @property
    def mean(self) -> Estimate: ...
    @property
    def stable_rank(self) -> Estimate: ...
    @property
    def density(self) -> DeflatedDensity: ...
    @property
    def deflation(self) -> Deflation: ...
    @property
    def frobenius_norm(self) -> FrobeniusNormResult: ...
    @property
    def spectral_norm(self) -> SpectralNormResult: ...
    @property
    def condition_number(self) -> ConditionNumberResult | None: ...
    @property
    def log_determinant(self) -> TraceFunctionResult | None: ...

    def count_below(self, x: float = 0.0) -> EigenvalueCountResult: ...


class Finding(NamedTuple):
    """A number, its error, what kind of error that is, and what would improve it.

    Parameters
    ----------
    quantity : str
        What it is.
    value : str
        Written out.
    error : str
        An interval or a distance.
    kind : str
        What the error is and rests on.
    advice : str
        What more products would do; empty where there is nothing to gain.
    """

    quantity: str
    value: str
    error: str
    kind: str
    advice: str = ""


def findings(spectrum: _Numbers) -> list[Finding]:
    """Return what a spectrum shows, the most important first."""
    return [
        *_eigenvalues(spectrum),
        _bounds(spectrum),
        _norm(spectrum),
        _trace(spectrum),
        *_moments(spectrum),
        _log_determinant(spectrum),
        _condition(spectrum),
        _negative(spectrum),
    ]


def written(title: str, rows: list[Finding]) -> str:
    """Return the page."""
    table = [Finding("", "value", "error", "which is"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [
        "  ".join(
            [*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row.kind]
        )
        for row in table
    ]
    advice = list(dict.fromkeys(row.advice for row in rows if row.advice))
    if advice:
        lines += ["More products:", *(f"- {sentence}" for sentence in advice)]
    return "\n".join([title, *(line.rstrip() for line in lines)])


def _eigenvalues(spectrum: _Numbers) -> Iterator[Finding]:
    values, residuals = spectrum.eigenvalues, spectrum.residual_norms
    bounds, allowed = spectrum.error_bounds, _UNCONVERGED * spectrum.spectral_norm.value
    # Of all eigenvalues, none is at the other end.
    lowest = 0 if len(values) == spectrum.dim else len(values) // 2
    order = [*range(len(values) - 1, lowest - 1, -1), *range(lowest)]
    for place in order:
        low = place < lowest
        number = place + 1 if low else len(values) - place
        end = "smallest" if low else "largest"
        name = f"{end} eigenvalue" if number == 1 else f"  {end}, no. {number}"
        sharper = bounds[place] < residuals[place]
        kind = "residual norm: an eigenvalue is that near"
        if sharper:
            kind = "residual² / gap: holds if none was missed"
        advice = ""
        if number == 1 and residuals[place] > allowed:
            advice = f"the {end} eigenvalue has a residual norm of {residuals[place]:.1g}"
        # What is rounding is not written out.
        value = values[place] if abs(values[place]) > spectrum.rounding else 0.0
        shown, error = estimate_cells(float(value), float(bounds[place]), digits=1)
        yield Finding(name, shown, f"± {error}", kind, advice)


def _bounds(spectrum: _Numbers) -> Finding:
    low, high = spectrum.bounds
    if spectrum.filled:
        kind = "certified: the basis is complete"
        return Finding("all eigenvalues in", f"[{number_text(low)}, {number_text(high)}]", "", kind)
    kind = f"probable: fails by a chance of {spectrum.failure:g}"
    return Finding("all eigenvalues in", f"[{at_least_text(low)}, {at_most_text(high)}]", "", kind)


def _norm(spectrum: _Numbers) -> Finding:
    norm = spectrum.spectral_norm
    within = interval_text(norm.lower_bound, norm.upper_bound)
    value = estimate_cells(norm.value, norm.upper_bound - norm.lower_bound)[0]
    return Finding("spectral norm", value, within, "certified low, probable high")


def _trace(spectrum: _Numbers) -> Finding:
    trace = spectrum.trace
    half = float(trace.interval.high - trace.interval.low) / 2
    advice = ""
    size = spectrum.dim * float(spectrum.density.mean_of(abs)) or math.inf
    if math.isinf(half):
        advice = "one probe gives no interval: a second one does"
    elif half > _SCATTERED * size:
        advice = f"the interval of the trace is ± {half / size:.0%} of Σ|λ|: more probes narrow it"
    return Finding("trace", *_estimated(trace), _scatter(spectrum), advice)


def _moments(spectrum: _Numbers) -> Iterator[Finding]:
    mean = spectrum.mean
    low, high = (float(end) / spectrum.dim for end in spectrum.trace.interval)
    yield Finding(
        "mean eigenvalue",
        estimate_cells(float(mean), float(spectrum.trace.standard_error) / spectrum.dim)[0],
        interval_text(low, high),
        "interval of the trace, divided by n",
    )
    norm = spectrum.frobenius_norm
    yield Finding(
        "Frobenius norm",
        estimate_cells(norm.value, norm.standard_error)[0],
        interval_text(*norm.interval),
        _scatter(spectrum),
    )
    yield Finding(
        "effective rank",
        *_estimated(spectrum.stable_rank),
        "interval of ‖A‖_F² / ‖A‖², for the ‖A‖ above",
    )


def _log_determinant(spectrum: _Numbers) -> Finding:
    result = spectrum.log_determinant
    if result is None:
        return Finding("log-determinant", "none", "", "not positive definite to rounding")
    value = estimate_cells(result.value, result.standard_error)[0]
    if not result.converged:
        return Finding("log-determinant", f"about {value}", *_unresolved(result))
    kind = f"95 % interval; quadrature within {result.quadrature_error:.1g}, {result.bracket_kind}"
    return Finding("log-determinant", value, interval_text(*result.interval), kind)


def _unresolved(result: TraceFunctionResult) -> tuple[str, str, str]:
    """Return, in place of an interval that would not hold, what is wrong and what helps."""
    kind = f"quadrature may be off by {result.quadrature_error:.1g}, more than the probes scatter"
    advice = "the log-determinant is not to be trusted: more steps"
    if math.isinf(result.quadrature_error):
        kind = "quadrature may be off by any amount: 0 is not excluded"
        advice = f"the log-determinant is not to be trusted: more steps, or {LOWER_BOUND}"
    return "not resolved", kind, advice


def _condition(spectrum: _Numbers) -> Finding:
    result = spectrum.condition_number
    if result is None:
        return Finding("condition number", "none", "", "not definite, or zero")
    if math.isinf(result.upper_bound):
        kind, advice = "certified: a lower bound, there is no upper one", ""
        if math.isfinite(result.value):
            advice = "nothing excludes the eigenvalue 0 yet, which the condition number needs"
        value = f">= {at_least_text(result.lower_bound)}"
        return Finding("condition number", value, "", kind, advice)
    return Finding(
        "condition number",
        estimate_cells(result.value, result.upper_bound - result.lower_bound)[0],
        interval_text(result.lower_bound, result.upper_bound),
        "certified low, probable high",
    )


def _negative(spectrum: _Numbers) -> Finding:
    if spectrum.semidefinite:
        return Finding(
            "eigenvalues below 0", "none", "", "declared positive semidefinite, not computed"
        )
    count = spectrum.count_below(0.0)
    low, high = count.bracket
    kind = f"95 % interval; the steps taken leave {interval_text(low, high)} open"
    advice = ""
    if not count.converged:
        advice = f"on which side of 0 {high - low:.3g} eigenvalues are takes more steps"
    return Finding(
        "eigenvalues below 0",
        estimate_cells(count.value, count.standard_error)[0],
        interval_text(*count.interval),
        kind,
        advice,
    )


def _estimated(estimate: Estimate) -> tuple[str, str]:
    value = estimate_cells(float(estimate), float(estimate.standard_error))[0]
    return value, interval_text(*map(float, estimate.interval))


def _scatter(spectrum: _Numbers) -> str:
    if spectrum.filled:
        return "exact to rounding: all eigenvalues are known"
    settled = len(spectrum.deflation.nodes)
    taken = f"; {settled} settled eigenvalues need none" if settled else ""
    if spectrum.num_probes < 2:
        return "one probe"
    return f"95 % interval of {spectrum.num_probes} probes{taken}"
