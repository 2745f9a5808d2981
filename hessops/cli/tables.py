"""The results of an analysis as tables of text, for the terminal and for the page."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from hessops.cli.analysis import Analysis
from hessops.results.numbers import (
    errors_in_column,
    estimates_in_column,
    interval_text,
    values_in_column,
)
from hessops.density.spectral_density import SpectralDensity
from hessops.result import Estimate, Interval, Result
from hessops.results.eigenpairs import EigenResult
from hessops.results.trace import TraceResult

__all__ = ["ResultTable", "missing_tables", "tables_of"]


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """One table, and what has to be said of it.

    Parameters
    ----------
    title : str
        Of the table.
    header : tuple of str
        One for each column.
    rows : tuple of tuple of str
        The cells; numbers are padded so that their points are below each other.
    marked : tuple of bool
        Which rows are not as accurate as was asked for.
    failure : str
        What was not reached and what to try next; empty where all was.
    notes : tuple of str
        How to read it and what it cost, a sentence each.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: tuple[bool, ...]
    failure: str = ""
    notes: tuple[str, ...] = ()


def tables_of(analysis: Analysis, name: str | None = None) -> list[ResultTable]:
    """Return the tables of all results, or of one.

    Parameters
    ----------
    analysis : Analysis
        The results.
    name : str, optional
        Of the one result whose tables are wanted.

    Returns
    -------
    list of ResultTable
        In the order in which they were computed.
    """
    tables: dict[str, list[ResultTable]] = {}
    if analysis.trace is not None:
        tables["trace"] = [_trace_table(analysis.trace)]
        if analysis.trace.sections:
            tables["trace"].append(_layer_table(analysis.trace, analysis.operator.domain))
    if analysis.density is not None:
        tables["density"] = [_density_table(analysis.density)]
    if analysis.eigenpairs is not None and analysis.reached is not None:
        reached = [bool(one) for one in analysis.reached]
        tables["eigenvalues"] = [_eigenvalue_table(analysis.eigenpairs, reached)]
    return tables[name] if name else [table for several in tables.values() for table in several]


def missing_tables(analysis: Analysis) -> list[ResultTable]:
    """Return, as tables without rows, what was asked for and is not there."""
    return [
        ResultTable(
            title=name.capitalize(), header=(), rows=(), marked=(), failure=f"MISSING: {reason}"
        )
        for name, reason in analysis.missing.items()
    ]


def _table(
    title: str,
    columns: dict[str, list[str]],
    *notes: str,
    result: Result | None = None,
    marked: list[bool] | None = None,
) -> ResultTable:
    rows = tuple(zip(*columns.values(), strict=True))
    said, failure = list(notes), ""
    if result is not None:
        cost = f"{result.num_products} products, {result.seconds:.3g} s"
        if result.converged:
            said.append(f"{result.status[0].upper()}{result.status[1:]} ({cost}).")
        else:
            failure = f"NOT CONVERGED: {_with_options(result.status)}"
            said.append(f"Cost: {cost}.")
    return ResultTable(
        title=title,
        header=tuple(columns),
        rows=rows,
        marked=tuple(marked or [False] * len(rows)),
        failure=failure,
        notes=tuple(said),
    )


def _with_options(status: str) -> str:
    """Name the options of the command line where a status names those of the functions."""
    words = status.replace("rtol or atol", "rtol")
    return re.sub(r"\b(" + "|".join(_OPTIONS) + r")\b", lambda found: _OPTIONS[found[0]], words)


_OPTIONS = {
    "max_steps": "--max-steps",
    "tol": "--tol",
    "rtol": "--rtol",
    "num_probes": "--trace-probes",
    "max_products": "--trace-probes",
}


def _eigenvalue_table(pairs: EigenResult, reached: list[bool]) -> ResultTable:
    columns = {
        "eigenvalue": values_in_column(list(pairs.eigenvalues), list(pairs.error_bounds)),
        "residual norm": errors_in_column(list(pairs.residual_norms)),
        "error bound": errors_in_column(list(pairs.error_bounds)),
        "converged": ["yes" if one else "NO" for one in reached],
    }
    note = (
        "Within its residual norm of each value there is an eigenvalue. The error bound is sharper "
        "where the gap to the next value is known, 2 (residual norm)² / gap, if no eigenvalue in the "
        "gap was missed; it is never below rounding. Only digits that it supports are printed."
    )
    marked = [not one for one in reached]
    return _table("Eigenvalues", columns, note, result=pairs, marked=marked)


def _trace_table(trace: TraceResult) -> ResultTable:
    low, high = trace.interval
    (value,), (error,) = estimates_in_column([trace.value], [trace.standard_error])
    ends = estimates_in_column([low, high], [trace.standard_error] * 2)[0]
    exact = trace.method == "exact"
    named = {
        "trace": value,
        "standard error": error,
        f"{trace.confidence:.0%} interval": f"[{ends[0].strip()}, {ends[1].strip()}]",
        "estimator": trace.method,
        "unit vectors" if exact else "random probes": f"{trace.num_probes} ({trace.probe})",
    }
    if exact:
        named["unit vectors"] = f"{trace.num_probes}"
        note = "The sum of all eigenvalues, from the diagonal: exact to rounding."
    else:
        note = (
            "The sum of all eigenvalues, estimated from random probe vectors; the standard error is "
            "of these probes alone."
        )
    if trace.reason and trace.reason != "asked for":
        note += f" Why {trace.method}: {trace.reason}."
    if trace.num_terms > 1:
        named["batches, or other terms"] = f"{trace.num_terms}"
        if not math.isnan(trace.term_scatter):
            named["scatter between them"] = f"{trace.term_scatter:.2g}"
        note += (
            " Each batch had probes of its own; the scatter between batches is a property of the "
            "data and no error of the trace."
        )
    columns = {"quantity": list(named), "value": list(named.values())}
    return _table("Trace", columns, note, result=trace)


def _layer_table(trace: TraceResult, domain: Any) -> ResultTable:
    estimates = [trace.sections[name] for name in trace.sections]
    spans = [domain.sections[name] for name in trace.sections]
    values, errors = _estimates(estimates)
    columns = {
        "layer": list(trace.sections),
        "parameters": [f"{stop - start}" for start, stop in spans],
        "trace": values,
        "standard error": errors,
    }
    note = "From the same products: the traces of the diagonal blocks, which add up to the whole."
    return _table("Trace by layer", columns, note)


def _density_table(density: SpectralDensity) -> ResultTable:
    # Moments are exact for each probe; what depends on where a node lies is known to a bracket.
    named: dict[str, tuple[Estimate, Interval | None]] = {
        "mean eigenvalue": (density.moment(1), None),
        "mean square": (density.moment(2), None),
        "share below zero": (density.mass_below(0.0), density.cdf_bracket(0.0)),
        "median": (density.quantile(0.5), density.quantile_bracket(0.5)),
        "99 % quantile": (density.quantile(0.99), density.quantile_bracket(0.99)),
    }
    values, errors = _estimates([estimate for estimate, _ in named.values()])
    columns = {
        "quantity": list(named),
        "value": values,
        "standard error": errors,
        "resolved to": [
            "" if bracket is None else interval_text(bracket.low, bracket.high)
            for _, bracket in named.values()
        ],
    }
    low, high = density.support
    probes, steps = density.nodes.shape
    return _table(
        f"Spectral density of {density.dim:,} eigenvalues",
        columns,
        f"{probes} probes x {steps} Lanczos steps, nodes from {low:.6g} to {high:.6g}. The standard "
        "error is of the probes; more steps would narrow what the last column shows.",
        result=density,
    )


def _estimates(estimates: list[Estimate]) -> tuple[list[str], list[str]]:
    return estimates_in_column(
        [float(one) for one in estimates], [float(one.standard_error) for one in estimates]
    )
