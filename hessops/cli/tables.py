"""The results of an analysis as tables of text, for the terminal and for the page."""

from __future__ import annotations

import math
from typing import Any

from hessops.cli.analysis import Analysis
from hessops.cli.density_table import density_table
from hessops.cli.result_table import ResultTable, result_table
from hessops.counted import counted
from hessops.result import Estimate
from hessops.results.eigenpairs import EigenResult
from hessops.results.numbers import (
    errors_in_column,
    estimate_cells,
    estimates_in_column,
    interval_text,
    values_in_column,
)
from hessops.results.trace import TraceResult

__all__ = ["missing_tables", "tables_of"]


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
        tables["density"] = [
            density_table(analysis.density, analysis.known_moments(), analysis.settings.confidence)
        ]
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
    return result_table("Eigenvalues", columns, note, result=pairs, marked=marked)


def _trace_table(trace: TraceResult) -> ResultTable:
    value, error = estimate_cells(trace.value, trace.standard_error)
    if trace.method == "exact":
        named = {"trace": value, "estimator": _exactly(trace)}
        note = "The sum of all eigenvalues, from the diagonal: exact to rounding."
    else:
        named = {
            "trace": value,
            "standard error": error,
            f"{trace.confidence:.0%} interval": interval_text(*trace.interval),
            "estimator": trace.method,
            "random probes": _probes(trace),
        }
        note = (
            "The sum of all eigenvalues, estimated at random; the standard error is of that "
            "randomness alone."
        )
    if trace.num_probes and trace.reason and trace.reason != "asked for":
        note += f" Why {trace.method}: {trace.reason}."
    if trace.num_terms > 1:
        named["batches, or other terms"] = f"{trace.num_terms}"
        if not math.isnan(trace.term_scatter):
            named["scatter between them"] = f"{trace.term_scatter:.2g}"
        note += " Each batch had probes of its own"
        note += (
            "."
            if math.isnan(trace.term_scatter)
            else "; the scatter between batches is a property of the data and no error of the trace."
        )
    columns = {"quantity": list(named), "value": list(named.values())}
    return result_table("Trace", columns, note, result=trace)


def _probes(trace: TraceResult) -> str:
    # A probe of all the data is a product; there are more where some were of a part of it.
    most = "up to " if trace.num_probes > trace.num_products else ""
    return f"{most}{trace.num_probes} ({trace.probe})"


def _exactly(trace: TraceResult) -> str:
    """Return how an exact trace was found: from stored entries, or by products."""
    if trace.num_probes == 0:
        return f"exact: {trace.reason}"
    return f"exact: {counted(trace.num_probes, 'product')} with unit vectors"


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
    return result_table("Trace by layer", columns, note)


def _estimates(estimates: list[Estimate]) -> tuple[list[str], list[str]]:
    return estimates_in_column(
        [float(one) for one in estimates], [float(one.standard_error) for one in estimates]
    )
