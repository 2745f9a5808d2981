"""Every program of the pages on ranks runs by itself under mpirun, and prints once."""

import re
import sys
from pathlib import Path

import pytest
from mpi_launch import needs_mpi, run

pytestmark = needs_mpi
DOCS = Path(__file__).resolve().parents[1] / "docs"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def programs():
    return [
        pytest.param(code, id=f"{page} {index}")
        for page in ("clusters", "sharded")
        for index, code in enumerate(FENCE.findall((DOCS / f"{page}.md").read_text("utf-8")))
        # The others are for torchrun.
        if "hessops_mpi.world()" in code
    ]


@pytest.mark.parametrize("code", programs())
def test_a_program_runs_by_itself_on_two_ranks(code, tmp_path):
    if "torch" in code:
        pytest.importorskip("torch")
    program = tmp_path / "program.py"
    program.write_text(code, encoding="utf-8")
    ended = run(2, sys.executable, program)
    assert ended.code == 0, ended.words
    assert len(re.findall(r"of 2\b", ended.out)) == 1
