"""What the command line says of itself, and the threads in which its demo computes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import run

from hessops.cli.threads import one_torch_thread
from hessops.counted import counted

pytest.importorskip("typer")
pytest.importorskip("rich")


def plain(text: str) -> str:
    """Return what stands in the frames of a help page."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_without_a_command_there_is_help(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 0
    assert "[OPTIONS] COMMAND [ARGS]" in done.stdout
    assert done.stderr == ""


def test_help_says_which_eigenvalues_and_takes_flags_for_flags(tmp_path: Path) -> None:
    page = plain(run("analyze", "--help", cwd=tmp_path).stdout)
    for word in ("LM", "LA", "SA", "BE"):
        assert re.search(rf"{word} (largest|smallest|both)", page)
    assert re.search(r"--traceback +Show where", page)


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        ("*, depth: int = 3, data: str = ''", "did you mean depth?; it takes depth, data"),
        ("width", "no argument 'depht'; it takes width"),
        ("", "it takes no arguments"),
    ],
)
def test_a_wrong_argument_is_named_with_those_there_are(
    tmp_path: Path, signature: str, words: str
) -> None:
    (tmp_path / "a.py").write_text(f"def problem({signature}): ...\n")
    done = run("analyze", "a.py:problem", "--arg", "depht=20", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("hessops: --arg depht: a.py:problem has no argument 'depht'")
    assert words in done.stderr


def test_a_function_of_any_arguments_gets_them(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import numpy as np\ndef problem(**rest):\n    return np.eye(rest['n'])\n"
    )
    done = run("analyze", "a.py:problem", "-a", "n=3", "--compute", "trace", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_report_says_when_where_and_with_what(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(3))
    assert run("analyze", "a.npy", "--compute", "trace", cwd=tmp_path).returncode == 0
    made = json.loads((tmp_path / "hessops-report" / "report.json").read_text())["run"]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]", made["date"])
    assert made["seconds"] > 0
    assert made["numpy"] == np.__version__
    page = (tmp_path / "hessops-report" / "report.html").read_text()
    assert f"numpy {np.__version__}" in page
    assert made["date"] in page
    assert made["machine"] in page


def test_one_of_a_thing_is_not_several() -> None:
    assert [counted(number, "step") for number in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]


def test_the_demo_computes_in_one_thread_and_leaves_none_behind() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
