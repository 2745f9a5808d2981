"""A table of text with what has to be said of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hessops.counted import counted
from hessops.result import Result

__all__ = ["ResultTable", "result_table"]


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


def result_table(
    title: str,
    columns: dict[str, list[str]],
    *notes: str,
    result: Result | None = None,
    marked: list[bool] | None = None,
) -> ResultTable:
    """Return a table of columns, with the status and the cost of the result it shows.

    Parameters
    ----------
    title : str
        Of the table.
    columns : dict of str to list of str
        The cells below each header.
    *notes : str
        How to read it.
    result : Result, optional
        Whose status is told.
    marked : list of bool, optional
        Which rows are not as accurate as was asked for; none where not given.

    Returns
    -------
    ResultTable
        The table.
    """
    rows = tuple(zip(*columns.values(), strict=True))
    said, failure = list(notes), ""
    if result is not None:
        cost = f"{counted(result.num_products, 'product')}, {result.seconds:.3g} s"
        if result.converged:
            status = _with_options(result.status)
            said.append(f"{status[0].upper()}{status[1:]} ({cost}).")
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
