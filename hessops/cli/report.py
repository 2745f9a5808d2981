"""An analysis on the terminal, and as a folder with JSON, a picture and one HTML page."""

from __future__ import annotations

import base64
import html
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from string import Template
from textwrap import fill
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

import hessops
from hessops.cli.analysis import Analysis
from hessops.cli.picture import density_picture
from hessops.cli.provenance import provenance, provenance_text
from hessops.cli.result_table import ResultTable
from hessops.cli.tables import missing_tables, tables_of

__all__ = ["print_tables", "require_writable", "write_report"]

_WIDEST = 1000
_TEXT_WIDTH = 96


def print_tables(console: Console, tables: list[ResultTable]) -> None:
    """Print tables of results, each with its error, its status and how to read it."""
    for result in tables:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        header, *rows = _padded(result)
        for column in header:
            table.add_column(column, no_wrap=True)
        for row, marked in zip(rows, result.marked, strict=True):
            table.add_row(*map(escape, row), style="bold red" if marked else None)
        console.print(result.title, style="bold", markup=False)
        # A name of a layer that does not fit would end in dots where there is no terminal.
        widest = Measurement.get(console, console.options.update(max_width=_WIDEST), table)
        if result.rows:
            console.print(table, width=max(console.width, widest.maximum), crop=False)
        width = min(console.width, _TEXT_WIDTH)
        if result.failure:
            console.print(fill(result.failure, width), style="bold red", markup=False)
        for note in result.notes:
            console.print(fill(note, width), markup=False)
        console.print()
    # What is behind a pipe may wait for it.
    console.file.flush()


def _padded(result: ResultTable) -> list[tuple[str, ...]]:
    """Return header and rows with all columns but the first to the right.

    Rich would cut the spaces at the end of cells, which keep points below each other.
    """
    lines = [result.header, *result.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        tuple(
            cell.rjust(width) if index else cell
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def require_writable(folder: Path) -> None:
    """Raise if a report could not be written to a folder, before anything is computed for it.

    Parameters
    ----------
    folder : Path
        It may be missing, and is not made.

    Raises
    ------
    ValueError
        If it, or one of its files, cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file; name a folder")
    existing = next(place for place in [folder, *folder.absolute().parents] if place.exists())
    if not existing.is_dir():
        raise ValueError(f"--output {folder} cannot be made: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--output {folder} cannot be written: no permission to write {existing}")
    for name in ("report.json", "density.png", "report.html"):
        file = folder / name
        if file.exists() and not (file.is_file() and os.access(file, os.W_OK)):
            raise ValueError(f"--output {folder} cannot be written: {file} cannot be replaced")


def write_report(
    folder: Path, target: str, arguments: list[str], analysis: Analysis, title: str | None = None
) -> list[Path]:
    """Write report.json, report.html and, if there is a density, density.png.

    Parameters
    ----------
    folder : Path
        Made if missing; files of these names in it are replaced.
    target : str
        What was analysed.
    arguments : list of str
        The name=value pairs it was called with.
    analysis : Analysis
        The results.
    title : str, optional
        What to call it on the page and above the picture; the target's file where not given.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        If `folder` cannot be written.
    """
    require_writable(folder)
    # The whole command stands below the title.
    title = title or Path(target).name
    folder.mkdir(parents=True, exist_ok=True)
    run = provenance(analysis.seconds)
    document = _document(target, arguments, analysis) | {"run": run}
    # A picture of an earlier analysis must not stand beside this one.
    (folder / "density.png").unlink(missing_ok=True)
    written = [folder / "report.json"]
    written[0].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    picture = None
    if analysis.density is not None:
        picture = density_picture(analysis.density, analysis.reached_eigenvalues(), title)
        written.append(folder / "density.png")
        written[-1].write_bytes(picture)
    written.append(folder / "report.html")
    called = f"{_called(target, arguments, analysis)}\n{provenance_text(run)}"
    written[-1].write_text(_page(title, called, analysis, picture), encoding="utf-8")
    return written


def _document(target: str, arguments: list[str], analysis: Analysis) -> dict[str, Any]:
    results = {
        "eigenpairs": analysis.eigenpairs,
        "trace": analysis.trace,
        "density": analysis.density,
    }
    document: dict[str, Any] = {
        "hessops": hessops.__version__,
        "target": target,
        "arguments": arguments,
        "operator": repr(analysis.operator),
        "settings": asdict(analysis.settings),
        "converged": not analysis.missed() and not analysis.missing,
        "missing": dict(analysis.missing),
        # Exact, where the density only estimates them.
        "known": analysis.known_moments(),
    }
    for name, result in results.items():
        if result is not None:
            history = {key: column.tolist() for key, column in result.history.to_dict().items()}
            document[name] = result.to_dict() | {"history": history}
    if analysis.reached is not None:
        document["eigenpairs"]["reached"] = analysis.reached.tolist()
    cleaned: dict[str, Any] = _without_nan(document)
    return cleaned


def _without_nan(value: Any) -> Any:
    """Return the document with null for what is unknown: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>hessops: $title</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { margin-top: 2rem; font-size: 1.2rem; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { padding: .15rem .9rem; text-align: right; border-bottom: 1px solid #ddd; }
td { font: 14px/1.5 ui-monospace, monospace; white-space: pre; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.missed td, p.missed { color: #b00020; font-weight: bold; }
p.note, p.about { color: #555; margin: .3rem 0; } img { max-width: 100%; }
code { background: #f4f4f4; }
</style></head><body>
<h1>$title</h1>
<p class="about"><code>$operator</code><br>$called</p>
$picture
$tables
</body></html>
""")


def _called(target: str, arguments: list[str], analysis: Analysis) -> str:
    given = f" with {', '.join(arguments)}" if arguments else ""
    return f"{target}{given}; hessops {hessops.__version__}, seed {analysis.settings.seed}"


def _page(title: str, called: str, analysis: Analysis, picture: bytes | None) -> str:
    image = ""
    if picture is not None:
        encoded = base64.b64encode(picture).decode("ascii")
        image = (
            f'<img alt="spectral density" src="data:image/png;base64,{encoded}">'
            "<p class='note'>The mean over probes; the band is two standard errors. Where no width "
            "is given, each node is drawn as wide as it is resolved.</p>"
        )
    return _PAGE.substitute(
        title=html.escape(title),
        operator=html.escape(repr(analysis.operator)),
        called=html.escape(called).replace("\n", "<br>"),
        picture=image,
        tables="\n".join(map(_section, [*tables_of(analysis), *missing_tables(analysis)])),
    )


def _section(table: ResultTable) -> str:
    parts = [f"<h2>{html.escape(table.title)}</h2>", _html_table(table) if table.rows else ""]
    if table.failure:
        parts.append(f"<p class='missed'>{html.escape(table.failure)}</p>")
    parts += [f"<p class='note'>{html.escape(note)}</p>" for note in table.notes]
    return "".join(parts)


def _html_table(table: ResultTable) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    body = "".join(
        f"<tr{' class=missed' if marked else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row, marked in zip(table.rows, table.marked, strict=True)
    )
    return f"<table><tr>{head}</tr>{body}</table>"
