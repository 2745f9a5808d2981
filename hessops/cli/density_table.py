"""The table of a spectral density: moments, shares and quantiles, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hessops.cli.result_table import ResultTable, result_table
from hessops.counted import counted
from hessops.density.spectral_density import SpectralDensity
from hessops.result import Estimate, Interval
from hessops.results.numbers import estimates_in_column, interval_text

__all__ = ["density_table"]


def density_table(
    density: SpectralDensity, known: Mapping[str, float], confidence: float
) -> ResultTable:
    """Return the table of a spectral density.

    Parameters
    ----------
    density : SpectralDensity
        What was computed.
    known : mapping of str to float
        Moments that need no estimate, by the name of their row.
    confidence : float
        Coverage of the intervals.

    Returns
    -------
    ResultTable
        One row for each quantity.
    """
    # Moments are exact for each probe; what depends on where a node lies is known to a bracket.
    named: dict[str, tuple[Estimate, Interval | None]] = {
        "mean eigenvalue": (density.moment(1), None),
        "mean square": (density.moment(2), None),
        "share below zero": (density.mass_below(0.0), density.cdf_bracket(0.0)),
        "median": (density.quantile(0.5), density.quantile_bracket(0.5)),
        "99 % quantile": (density.quantile(0.99), density.quantile_bracket(0.99)),
    }
    intervals = {name: replace(e, confidence=confidence).interval for name, (e, _) in named.items()}
    intervals["share below zero"] = density.cdf_interval(0.0, confidence)
    for name, q in (("median", 0.5), ("99 % quantile", 0.99)):
        intervals[name] = density.quantile_interval(q, confidence)
    exact = [name in known for name in named]
    values, halves = estimates_in_column(
        [known.get(name, float(estimate)) for name, (estimate, _) in named.items()],
        [
            0.0 if name in known else _half_width(estimate, intervals[name])
            for name, (estimate, _) in named.items()
        ],
    )
    columns = {
        "quantity": list(named),
        "value": values,
        f"± ({confidence:.0%} interval)": [
            "exact" if certain else half for certain, half in zip(exact, halves, strict=True)
        ],
        "resolved to": [
            "" if bracket is None else interval_text(bracket.low, bracket.high)
            for _, bracket in named.values()
        ],
    }
    title = f"Spectral density of {density.dim:,} eigenvalues"
    return result_table(title, columns, _note(density, known), result=density)


def _half_width(estimate: Estimate, interval: Interval) -> float:
    """Return half of an interval: of so few probes, far more than two standard errors."""
    return max(float(interval.high) - float(estimate), float(estimate) - float(interval.low))


def _note(density: SpectralDensity, known: Mapping[str, float]) -> str:
    low, high = density.support
    probes, steps = density.nodes.shape
    note = (
        f"{counted(probes, 'probe')} x {counted(steps, 'Lanczos step')}, nodes from {low:.6g} to "
        f"{high:.6g}. Intervals are of the probes, by Student's t; those of shares and quantiles hold "
        "what is not resolved, too: the last column, which more steps would narrow."
    )
    if known:
        return f"{note} What is exact comes from the entries of the matrix."
    return (
        f"{note} The mean eigenvalue times n is another estimate of the trace, from other probes."
    )
