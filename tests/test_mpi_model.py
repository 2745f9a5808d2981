"""The model of steps on many ranks: its fit, and what the documentation says that it predicts."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpi4py")
pytest.importorskip("typer")

from benchmarks import mpi_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sharded.md"


def test_a_line_is_fitted_to_relative_errors():
    sizes = [8, 512, 32768, 262144]
    line = mpi_model.Line.fit(sizes, [3e-6 + 2e-10 * size for size in sizes])
    assert line.alpha == pytest.approx(3e-6, rel=1e-9)
    assert line.beta == pytest.approx(2e-10, rel=1e-9)
    noisy = mpi_model.Line.fit([1.0, 2.0], [1.0, 0.5])
    assert min(noisy.alpha, noisy.beta) >= 0


def test_work_is_interpolated_between_what_was_measured():
    work = mpi_model.Work([100, 400], [1e-3, 8e-3])
    assert [work(100), work(400)] == pytest.approx([1e-3, 8e-3])
    assert work(200) == pytest.approx(200 * 1.5e-5)
    # Beyond, a number takes what it took last.
    assert [work(10), work(4000)] == pytest.approx([1e-4, 8e-2])


def test_one_rank_sends_nothing():
    line = mpi_model.Line(1e-3, 1e-9)
    model = mpi_model.Model(line, line, 1.0, {2: mpi_model.Line(0.5, 1e-3)})
    assert model.step(100, 2, 1) == pytest.approx(0.6)
    halo, sums = 10 * 2 * 8, 4 * 2 * 8
    messages = line(halo) + line(sums) + 2
    assert model.step(100, 2, 2) == pytest.approx(0.55 + messages)
    assert model.step(100, 2, 4) == pytest.approx(0.525 + messages + 1e-9 * halo)


def test_the_page_says_what_the_model_predicts():
    rows = re.findall(r"^\| ([\d,]+) \| (\S+) (h|min) \| (\S+) % \| (\S+) (h|min) \| (\S+) % \|$",
                      PAGE.read_text(encoding="utf-8"), re.M)  # fmt: skip
    assert len(rows) == 5
    machine = mpi_model.Machine()
    for ranks, *said in rows:
        for task, (time, unit, share) in zip(mpi_model.TASKS, (said[:3], said[3:]), strict=True):
            work, messages = task.block(machine, int(ranks.replace(",", "")))
            seconds = task.steps * (work + messages)
            per_unit = {"h": 3600, "min": 60}[unit]
            assert float(time) == pytest.approx(seconds / per_unit, rel=0.03)
            found = 100 * messages / (work + messages)
            assert float(share) == pytest.approx(found, rel=0.1, abs=0.05)
    assert np.isclose(mpi_model.TASKS[1].memory(8)[0], 234.5e9)
