"""The commands and their options."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

import hessops
from hessops.cli.analysis import Analysis, Settings, analyze_operator
from hessops.cli.interrupt import end_interrupted
from hessops.cli.progress import Progress
from hessops.cli.ranks import (
    end_together,
    launched_rank,
    launched_ranks,
    one_speaks,
    wait_for_the_others,
)
from hessops.cli.report import print_tables, require_writable, write_report
from hessops.cli.sentence import sentence_of
from hessops.cli.tables import missing_tables, tables_of
from hessops.cli.target import load_target, on_device, on_ranks, parse_arguments, require_device
from hessops.cli.threads import one_torch_thread
from hessops.comm import Communicator, SerialComm
from hessops.errors import ConvergenceWarning
from hessops.operator import LinearOperator
from hessops.wrap import aslinearoperator

__all__ = ["app"]

# Of Typer's own copy of Click, or of Click itself: what is wrong with the words of the command line.
_WrongWords: type[Exception] = typer.BadParameter.__mro__[1]


class _OneComplains(TyperGroup):
    """The commands; of words that all ranks were given, one says that they are wrong."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _one_complains():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _one_complains():
            return super().invoke(ctx)


@contextmanager
def _one_complains() -> Iterator[None]:
    try:
        yield
    except _WrongWords as error:
        if launched_rank() == 0:
            raise
        wait_for_the_others()
        raise typer.Exit(2) from error


app = typer.Typer(
    cls=_OneComplains,
    help="The spectrum of any operator you can multiply with.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_NOT_REACHED, _INTERRUPTED = 3, 130
_EXIT_CODES = (
    "Exit code: 0 if all results are as accurate as was asked for, 3 if some are not, or are missing "
    "(what there is is printed, marked and written all the same), 2 after wrong input, 130 when "
    "interrupted (what is complete is written)."
)

Output = Annotated[Path, typer.Option(help="Folder for report.json, density.png, report.html.")]
Seed = Annotated[int, typer.Option(help="Seed of all random probes; repeats a run.")]
Device = Annotated[str | None, typer.Option(help="Device to move a model to, such as cuda.")]
Traceback = Annotated[
    bool, typer.Option("--traceback", metavar="", help="Show where an error came from.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hessops {hessops.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog=_EXIT_CODES)
def demo(
    output: Output = Path("hessops-demo"),
    seed: Seed = 0,
    device: Device = None,
    traceback: Traceback = False,
) -> None:
    """Train a small network on handwritten digits and print the spectrum of its Hessian."""
    settings = Settings(seed=seed, density_probes=6, density_steps=48)
    with _one_line_errors(traceback) as comm:
        console, progress = _console(comm), Progress()
        settings.require_sound()
        _require_writable(comm, output)
        require_device(device)
        with progress.busy("loading PyTorch"):
            demonstration = importlib.import_module("hessops_torch.demo")
        with one_torch_thread():
            with progress.busy("training a small network"):
                trained = demonstration.train_on_digits()
            console.print(f"{trained.story}\n", markup=False)
            problem = on_device((trained.model, trained.loss, trained.data), device)
            operator = on_ranks(aslinearoperator(problem), comm)
            title = "Hessian of a network trained on handwritten digits"
            _report(
                console, progress, operator, settings, output, "hessops demo", [], title, traceback
            )


@app.command(epilog=_EXIT_CODES)
def analyze(
    target: Annotated[
        str,
        typer.Argument(
            help="file.py:function or module:function that returns an operator, a matrix or "
            "(model, loss, data); or a matrix file (.npy, .npz, .mtx, .mtx.gz, .mat; one of several "
            "variables as file.mat:variable)."
        ),
    ],
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", help="name=value for the function; may be repeated."),
    ] = None,
    compute: Annotated[
        str, typer.Option(help="What to compute, separated by commas.")
    ] = "trace,density,eigenvalues",
    params: Annotated[
        list[str] | None,
        typer.Option(help="Parameters of a model to differentiate by: names or patterns."),
    ] = None,
    num_eigenvalues: Annotated[
        int | None,
        typer.Option("--num-eigenvalues", "-k", help="How many; 5 where not given.", min=1),
    ] = None,
    which: Annotated[
        str,
        typer.Option(
            help="Which eigenvalues: LM largest in modulus, LA largest, SA smallest, BE both ends."
        ),
    ] = "LM",
    tol: Annotated[
        float | None, typer.Option(help="Residual norm of eigenpairs, relative to the largest.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Most Lanczos steps for eigenpairs.", min=1)
    ] = None,
    trace_probes: Annotated[
        int | None, typer.Option(help="Probes for the trace; with --rtol, the most.", min=1)
    ] = None,
    rtol: Annotated[
        float | None, typer.Option(help="Relative half-width asked for of the trace's interval.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Coverage of intervals.")] = 0.95,
    density_probes: Annotated[int, typer.Option(help="Probes for the density.", min=1)] = 4,
    density_steps: Annotated[int, typer.Option(help="Lanczos steps for the density.", min=1)] = 40,
    seed: Seed = 0,
    device: Device = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder to keep products in: killed, the same command goes on there."),
    ] = None,
    output: Output = Path("hessops-report"),
    title: Annotated[
        str | None, typer.Option(help="Title of the report; TARGET's file if not given.")
    ] = None,
    traceback: Traceback = False,
) -> None:
    """Compute eigenvalues, trace and spectral density of TARGET, with errors, and write a report."""
    with _one_line_errors(traceback) as comm:
        settings = Settings.parse(
            compute,
            which,
            num_eigenvalues=num_eigenvalues,
            tol=tol,
            max_steps=max_steps,
            trace_probes=trace_probes,
            rtol=rtol,
            confidence=confidence,
            density_probes=density_probes,
            density_steps=density_steps,
            seed=seed,
        )
        _require_writable(comm, output)
        console, progress = _console(comm), Progress()
        given = parse_arguments(arg or [])
        with progress.busy(f"loading {target}"):
            operator = load_target(target, given, params=params or [], device=device, comm=comm)
            if checkpoint is not None:
                operator = hessops.checkpointed(operator, checkpoint)
        _report(console, progress, operator, settings, output, target, arg or [], title, traceback)


def _require_writable(comm: Communicator, output: Path) -> None:
    """Raise on the rank that writes if it could not."""
    if comm.rank == 0:
        require_writable(output)


def _console(comm: Communicator) -> Console:
    # A launcher gives its ranks a terminal, and may write to a file itself what they print.
    plain = comm.size > 1 and "FORCE_COLOR" not in os.environ
    return Console(soft_wrap=True, highlight=False, force_terminal=False if plain else None)


def _report(
    console: Console,
    progress: Progress,
    operator: LinearOperator,
    settings: Settings,
    output: Path,
    target: str,
    arguments: list[str],
    title: str | None,
    traceback: bool,
) -> None:
    """Analyse, print and write; end with another exit code than 0 if not all is as asked for."""
    size = operator.domain.comm.size
    console.print(f"{operator!r}{f', on {size} ranks' if size > 1 else ''}\n", markup=False)
    with warnings.catch_warnings():
        # The report prints the status of every result, converged or not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        analysis = analyze_operator(
            operator,
            settings,
            progress,
            lambda so_far, latest: print_tables(console, tables_of(so_far, latest)),
            raising=traceback,
        )
    print_tables(console, missing_tables(analysis))
    if operator.domain.comm.rank > 0:
        # The launcher would end rank 0 while it writes, if others ended with another code than 0.
        return
    with progress.busy("writing the report"):
        *others, page = write_report(output, target, arguments, analysis, title)
    console.print(f"Wrote {', '.join(map(str, others))} and", markup=False)
    console.print(f"{page}: open this one in a browser.", markup=False)
    _end(analysis)


def _end(analysis: Analysis) -> None:
    """Say what is not as asked for, and end with the exit code for that."""
    missed, missing = analysis.missed(), analysis.missing
    if missed:
        sys.stderr.write(
            f"hessops: not as accurate as asked for: {', '.join(missed)}; see NOT CONVERGED above\n"
        )
    if analysis.interrupted:
        sys.stderr.write(
            f"hessops: interrupted, the report is written without {', '.join(missing)}\n"
        )
        raise typer.Exit(_INTERRUPTED)
    for name, reason in missing.items():
        sys.stderr.write(f"hessops: {name} failed: {reason}\n")
    if missed or missing:
        raise typer.Exit(_NOT_REACHED)


@contextmanager
def _one_line_errors(traceback: bool) -> Iterator[Communicator]:
    """End with one line and exit code 2 instead of a traceback; yield the ranks that were started."""
    comm: Communicator = SerialComm()
    try:
        comm = launched_ranks()
        with one_speaks(comm):
            yield comm
    except KeyboardInterrupt:
        # Typer would make "Aborted." and exit code 1 of it.
        end_interrupted()
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if traceback:
            raise
        end_together(comm, error, sentence_of(error), 2)
        raise typer.Exit(2) from None
