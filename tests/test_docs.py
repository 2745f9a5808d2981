"""The documentation runs: its code as written, its list of public names as exported."""

import ast
import doctest
import importlib
import importlib.util
import math
import re
from pathlib import Path

import pytest

import hessops

DOCS = Path(__file__).resolve().parents[1] / "docs"
FENCE = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
SECONDS = re.compile(r"[\d.e+-]+(?= s\b)")
HAS_TORCH = importlib.util.find_spec("torch") is not None


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
    monkeypatch.chdir(tmp_path)
    names = {"__name__": f"docs_{page.removesuffix('.md')}"}
    for kind, code in blocks:
        if kind == "python":
            exec(compile(code, page, "exec"), names)
        else:
            run_session(code, names, page)


class SameFigures(doctest.OutputChecker):
    """Readers see figures as they were printed once; elsewhere they come out a little otherwise.

    Figures below 1e-4 are rounding and seconds are the machine's; all others have to agree to 2 %,
    and all words exactly.
    """

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        printed, found = (SECONDS.sub("0", " ".join(text.split())) for text in (want, got))
        if NUMBER.sub("#", printed) != NUMBER.sub("#", found):
            return False
        pairs = zip(NUMBER.findall(printed), NUMBER.findall(found), strict=True)
        return all(math.isclose(float(a), float(b), rel_tol=0.02, abs_tol=1e-4) for a, b in pairs)


def test_figures_of_the_docs_may_not_be_far_off():
    checker = SameFigures()
    assert checker.check_output("9.28 (68 products, 1.2 s)", "9.281 (67 products, 0.1 s)", FLAGS)
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


def test_docs_reference_lists_what_the_torch_backend_exports():
    pytest.importorskip("torch")
    hessops_torch = importlib.import_module("hessops_torch")
    assert listed("hessops_torch") == set(hessops_torch.__all__)


def test_docs_reference_lists_what_the_cupy_backend_exports():
    # Read, not imported, which would need CuPy.
    package = Path(importlib.util.find_spec("hessops_cupy").origin)
    exported = re.search(r"^__all__ = (\[.*?\])$", package.read_text(encoding="utf-8"), re.M | re.S)
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `hessops_cupy\.(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted(ast.literal_eval(exported[1]))


def test_docs_list_the_options_of_analyze():
    typer = pytest.importorskip("typer")
    from hessops.cli.app import app

    analyze = typer.main.get_command(app).commands["analyze"]
    options = {name for parameter in analyze.params for name in parameter.opts if "-" in name}
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`-.*?) \|", text, flags=re.MULTILINE)
    assert set(re.findall(r"`(-[\w-]+)`", " ".join(rows))) == options
