"""An analysis on the terminal, and as a folder with JSON, a picture and one HTML page."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import hessops
from hessops.algorithms.hutchinson import TraceResult
from hessops.cli.analysis import Analysis
from hessops.density import SpectralDensity
from hessops.eigenpairs import EigenResult
from hessops.result import Estimate, Interval

__all__ = ["print_analysis", "write_report"]

Rows = tuple[list[str], list[list[str]]]


def print_analysis(console: Console, analysis: Analysis) -> None:
    """Print tables of all results, each with its error and its status."""
    for title, status, (header, rows) in _tables(analysis):
        table = Table(title=title, title_justify="left", caption=status, caption_justify="left")
        for index, column in enumerate(header):
            table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()


def write_report(folder: Path, target: str, arguments: list[str], analysis: Analysis) -> list[Path]:
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

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        If `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    document = _document(target, arguments, analysis)
    # A picture of an earlier analysis must not stand beside this one.
    (folder / "density.png").unlink(missing_ok=True)
    written = [folder / "report.json"]
    written[0].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    picture = None
    if analysis.density is not None:
        picture = _picture(analysis.density, analysis.eigenpairs)
        written.append(folder / "density.png")
        written[-1].write_bytes(picture)
    written.append(folder / "report.html")
    written[-1].write_text(_page(target, arguments, analysis, picture), encoding="utf-8")
    return written


def _tables(analysis: Analysis) -> list[tuple[str, str, Rows]]:
    tables: list[tuple[str, str, Rows]] = []
    if analysis.eigenpairs is not None:
        pairs = analysis.eigenpairs
        tables.append(("Eigenvalues", f"{pairs.status} ({_cost(pairs)})", _eigenvalue_rows(pairs)))
    if analysis.trace is not None:
        trace = analysis.trace
        tables.append(("Trace", f"{trace.status} ({_cost(trace)})", _trace_rows(trace)))
        if trace.sections:
            rows = _section_rows(trace, analysis.operator.domain)
            tables.append(("Trace by layer", "from the same products", rows))
    if analysis.density is not None:
        density = analysis.density
        status = f"{density.status} ({_cost(density)})"
        tables.append(("Spectral density", status, _density_rows(density)))
    return tables


def _eigenvalue_rows(pairs: EigenResult) -> Rows:
    columns = (pairs.eigenvalues, pairs.residual_norms, pairs.error_bounds)
    rows = [
        [f"{value:.8g}", f"{residual:.1e}", f"{bound:.1e}"]
        for value, residual, bound in zip(*columns, strict=True)
    ]
    return ["eigenvalue", "residual norm", "error bound"], rows


def _trace_rows(trace: TraceResult) -> Rows:
    low, high = trace.interval
    rows = [
        ["trace", f"{trace.value:.6g}"],
        ["standard error", f"{trace.standard_error:.2g}"],
        [f"{trace.confidence:.0%} interval", f"[{low:.6g}, {high:.6g}]"],
        ["probes", f"{trace.num_probes} ({trace.probe})"],
    ]
    if trace.num_terms > 1:
        rows.append(["terms with probes of their own", f"{trace.num_terms}"])
        if not math.isnan(trace.term_scatter):
            rows.append(["scatter between terms", f"{trace.term_scatter:.3g}"])
    return ["quantity", "value"], rows


def _section_rows(trace: TraceResult, domain: Any) -> Rows:
    rows = []
    for name, estimate in trace.sections.items():
        start, stop = domain.sections[name]
        rows.append(
            [
                name,
                f"{stop - start}",
                f"{float(estimate):.4g}",
                f"{float(estimate.standard_error):.1g}",
            ]
        )
    return ["layer", "size", "trace", "standard error"], rows


def _density_rows(density: SpectralDensity) -> Rows:
    low, high = density.support
    # Moments are exact for each probe; what depends on where a node lies is known to a bracket.
    named: dict[str, tuple[Estimate, Interval | None]] = {
        "mean eigenvalue": (density.moment(1), None),
        "mean square": (density.moment(2), None),
        "share below zero": (density.mass_below(0.0), density.cdf_bracket(0.0)),
        "median": (density.quantile(0.5), density.quantile_bracket(0.5)),
        "99 % quantile": (density.quantile(0.99), density.quantile_bracket(0.99)),
    }
    rows = []
    for name, (estimate, bracket) in named.items():
        resolved = "" if bracket is None else f"[{bracket.low:.3g}, {bracket.high:.3g}]"
        error = f"{float(estimate.standard_error):.1g}"
        rows.append([name, f"{float(estimate):.4g}", error, resolved])
    rows.append(["smallest node", f"{low:.6g}", "", ""])
    rows.append(["largest node", f"{high:.6g}", "", ""])
    return ["quantity", "value", "standard error", "resolution"], rows


def _cost(result: Any) -> str:
    return f"{result.num_products} products, {result.seconds:.3g} s"


def _document(target: str, arguments: list[str], analysis: Analysis) -> dict[str, Any]:
    results = {
        "eigenpairs": analysis.eigenpairs,
        "trace": analysis.trace,
        "density": analysis.density,
    }
    document = {
        "hessops": hessops.__version__,
        "target": target,
        "arguments": arguments,
        "operator": repr(analysis.operator),
        "settings": asdict(analysis.settings),
    }
    for name, result in results.items():
        if result is not None:
            history = {key: column.tolist() for key, column in result.history.to_dict().items()}
            document[name] = result.to_dict() | {"history": history}
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


def _picture(density: SpectralDensity, pairs: EigenResult | None) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=150, layout="constrained")
    ax = figure.subplots()
    density.plot(ax)
    if pairs is not None:
        bottom = ax.get_ylim()[0]
        low, high = ax.get_xlim()
        shown = pairs.eigenvalues[(pairs.eigenvalues >= low) & (pairs.eigenvalues <= high)]
        ax.plot(
            shown,
            np.full(len(shown), bottom),
            "^",
            color="tab:red",
            clip_on=False,
            label="eigenvalues computed",
        )
        ax.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>hessops: $target</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .9rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
p.status, p.about { color: #666; } img { max-width: 100%; } code { background: #f4f4f4; }
</style></head><body>
<h1>$target</h1>
<p class="about"><code>$operator</code><br>$arguments hessops $version, seed $seed</p>
$picture
$tables
</body></html>
""")


def _page(target: str, arguments: list[str], analysis: Analysis, picture: bytes | None) -> str:
    image = ""
    if picture is not None:
        encoded = base64.b64encode(picture).decode("ascii")
        image = (
            f'<img alt="spectral density" src="data:image/png;base64,{encoded}">'
            "<p class='status'>Mean over probes; the band is two standard errors.</p>"
        )
    tables = "\n".join(
        f"<h2>{html.escape(title)}</h2>{_html_table(*rows)}"
        f"<p class='status'>{html.escape(status)}</p>"
        for title, status, rows in _tables(analysis)
    )
    called = f"called with {html.escape(', '.join(arguments))}<br>" if arguments else ""
    return _PAGE.substitute(
        target=html.escape(target),
        operator=html.escape(repr(analysis.operator)),
        arguments=called,
        version=hessops.__version__,
        seed=analysis.settings.seed,
        picture=image,
        tables=tables,
    )


def _html_table(header: list[str], rows: list[list[str]]) -> str:
    def cells(tag: str, row: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    return f"<table>{cells('th', header)}{''.join(cells('td', row) for row in rows)}</table>"
