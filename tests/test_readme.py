"""The README's programs run as they stand, and stay as short as it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from figures import same_figures

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL)


def test_there_is_a_program_for_each_kind_of_user() -> None:
    assert len(PROGRAMS) == len(re.findall("```python", TEXT)) == 3


@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=["operator", "network", "course"])
def test_readme_program_prints_what_stands_below_it(
    program: str, printed: str, tmp_path: Path
) -> None:
    if "torch" in program:
        pytest.importorskip("torch")
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) <= 18
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    # Training magnifies rounding, and processors differ in it.
    assert same_figures(printed, done.stdout, rel_tol=0.1 if "torch" in program else 0.02), (
        done.stdout
    )


def test_readme_links_point_at_files() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    missing = [target for target in targets if not (README.parent / target).exists()]
    assert not missing
