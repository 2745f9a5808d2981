"""The documentation runs: its code as written, its list of public names as exported."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from figures import same_figures

import hessops
import hessops.gallery

DOCS = Path(__file__).resolve().parents[1] / "docs"
FENCE = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_MPI = importlib.util.find_spec("mpi4py") is not None


def sections(page: Path) -> list[str]:
    """Cut a page at its second-level headings."""
    return re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def programs() -> list[pytest.param]:
    """Return the code of every section that has any: a section is one program."""
    found = []
    for page in sorted(DOCS.glob("*.md")):
        for section in sections(page):
            blocks = FENCE.findall(section)
            title = section.partition("\n")[0].strip("# ")
            if blocks:
                found.append(pytest.param(page.name, blocks, id=f"{page.stem}: {title}"))
    return found


@pytest.mark.parametrize(("page", "blocks"), programs())
def test_docs_program(page, blocks, monkeypatch, tmp_path):
    if not HAS_TORCH and any("torch" in code for _, code in blocks):
        pytest.skip("PyTorch is not installed")
    if not HAS_MPI and any("hessops_mpi" in code for _, code in blocks):
        pytest.skip("mpi4py is not installed")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": f"docs_{page.removesuffix('.md')}"}
    for kind, code in blocks:
        if kind == "python":
            exec(compile(code, page, "exec"), names)
        else:
            run_session(code, names, page)


class SameFigures(doctest.OutputChecker):
    """Readers see figures as they were printed once; elsewhere they come out a little otherwise."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        return same_figures(want, got)


def test_figures_of_the_docs_may_not_be_far_off():
    checker = SameFigures()
    assert checker.check_output("9.28 (68 products, 1.2 s)", "9.281 (68 products, 0.1 s)", FLAGS)
    assert checker.check_output("9.28 (... products)", "9.28 (67 products)", FLAGS)
    assert checker.check_output("-5.3e-14", "-8e-15", FLAGS)
    assert checker.check_output("9.28 (68 products)", "9.28 (67 products)", FLAGS)
    assert not checker.check_output("9.28 (68 products)", "9.28 (60 products)", FLAGS)
    assert not checker.check_output("3 pairs", "4 pairs", FLAGS)
    assert not checker.check_output("-5.3e-14", "5.3e-14", FLAGS)
    assert not checker.check_output("5.3e-14", "5.3e-12", FLAGS)
    assert not checker.check_output("5.3e-14", "5.1e-15", FLAGS)
    assert not checker.check_output("9.28", "9.5", FLAGS)
    assert not checker.check_output("9.28 products", "9.28 steps", FLAGS)


def run_session(code: str, names: dict, page: str) -> None:
    """Run an interactive session in a namespace and hold its output against what is printed."""
    session = doctest.DocTestParser().get_doctest(code, {}, page, page, 0)
    session.globs = names
    report: list[str] = []
    runner = doctest.DocTestRunner(SameFigures(), optionflags=FLAGS, verbose=False)
    failed, _attempted = runner.run(session, out=report.append, clear_globs=False)
    assert not failed, "".join(report)


def listed(package: str) -> set[str]:
    """Return the names of a package that the reference lists."""
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    return set(re.findall(rf"^ +~{package}\.(\w+)$", text, flags=re.MULTILINE))


def test_docs_reference_lists_what_is_public():
    assert listed("hessops") == set(hessops.__all__)


def test_docs_reference_lists_the_gallery():
    assert listed("hessops.gallery") == set(hessops.gallery.__all__)


def test_docs_reference_lists_every_state_that_users_may_be_handed():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^ +~(hessops\.[\w.]+State)$", text, flags=re.MULTILINE))
    states = {"hessops.record.State"}
    for module in pkgutil.walk_packages(hessops.algorithms.__path__, "hessops.algorithms."):
        for name, kind in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(kind) and kind.__module__ == module.name
            # Protocols say what several states have in common.
            if own and name.endswith("State") and not is_protocol(kind):
                states.add(f"{module.name}.{name}")
    assert rows == states


def is_protocol(kind: type) -> bool:
    return getattr(kind, "_is_protocol", False)


def test_docs_reference_lists_what_the_torch_backend_exports():
    pytest.importorskip("torch")
    hessops_torch = importlib.import_module("hessops_torch")
    assert listed("hessops_torch") == set(hessops_torch.__all__)


@pytest.mark.parametrize("backend", ["hessops_cupy", "hessops_mpi"])
def test_docs_reference_lists_what_the_backend_exports(backend):
    # Read, not imported, which would need CuPy, or MPI.
    package = Path(importlib.util.find_spec(backend).origin)
    exported = re.search(r"^__all__ = (\[.*?\])$", package.read_text(encoding="utf-8"), re.M | re.S)
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| `{backend}\.(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted(ast.literal_eval(exported[1]))


def test_docs_list_the_options_of_analyze():
    typer = pytest.importorskip("typer")
    from hessops.cli.app import app

    analyze = typer.main.get_command(app).commands["analyze"]
    options = {name for parameter in analyze.params for name in parameter.opts if "-" in name}
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`-.*?) \|", text, flags=re.MULTILINE)
    assert set(re.findall(r"`(-[\w-]+)`", " ".join(rows))) == options
