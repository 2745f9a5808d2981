"""The command line under mpirun: it prints once, writes once, and ends together."""

import json
import sys

import numpy as np
import pytest
import scipy.sparse
from mpi_launch import needs_mpi, run

pytest.importorskip("typer", reason="needs the extra 'cli'")
pytestmark = needs_mpi

HESSOPS = [sys.executable, "-c", "from hessops.cli import main; main()"]
QUICK = ["--compute", "trace,eigenvalues", "--trace-probes", "8", "-k", "2"]
PROBLEM = """
import numpy as np, scipy.sparse
from hessops import FiniteSum, aslinearoperator
def operator():
    print("loading")
    return scipy.sparse.diags_array(np.arange(1.0, 51.0)).tocsr()
def slow():
    import time
    time.sleep(1.5)
    return operator()
def unseeded():
    return scipy.sparse.diags_array(np.random.default_rng().uniform(1.0, 2.0, 50)).tocsr()
def broken():
    import os
    if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) == "1":
        raise ValueError("what rank 1 has to say")
    return operator()
"""


@pytest.fixture
def analyze(tmp_path):
    (tmp_path / "problem.py").write_text(PROBLEM, encoding="utf-8")
    matrix = scipy.sparse.diags_array(
        [-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(60, 60), format="csr"
    )
    scipy.sparse.save_npz(tmp_path / "laplacian.npz", matrix)

    def with_ranks(size, target, *options, folder="report"):
        target = str(tmp_path / target)
        output = ["--output", tmp_path / folder]
        ended = run(size, *HESSOPS, "analyze", target, *QUICK, *options, *output, MPLBACKEND="agg")
        report = tmp_path / folder / "report.json"
        return ended, json.loads(report.read_text(encoding="utf-8")) if report.exists() else None

    return with_ranks


def test_a_matrix_file_is_analysed_once(analyze, tmp_path):
    folder = ["--checkpoint", tmp_path / "products"]
    ended, report = analyze(3, "laplacian.npz", *folder)
    assert ended.code == 0, ended.err
    assert ended.out.count("Eigenvalues") == 1
    assert ended.out.count("Wrote") == 1
    # No colours, which a file would keep.
    assert "\x1b" not in ended.out
    assert ended.out.splitlines()[0].endswith(", on 3 ranks")
    assert ended.err.count("writing the report") <= 2
    # And goes on with another number of ranks: all products are there already.
    alone, again = analyze(1, "laplacian.npz", *folder, folder="alone")
    assert alone.code == 0, alone.err
    values = [document["eigenpairs"]["eigenvalues"] for document in (report, again)]
    exact = 2 - 2 * np.cos(np.pi * np.array([60, 59]) / 61)
    assert values[0] == values[1]
    assert values[0] == pytest.approx(exact, rel=1e-10)


def test_ranks_that_make_different_operators_are_refused(analyze):
    ended, report = analyze(2, "problem.py:unseeded")
    assert ended.code == 2
    assert ended.err.count("give what is random in it a seed") == 1
    assert report is None


def test_progress_is_shown_once(analyze):
    ended, _ = analyze(3, "problem.py:slow", "--compute", "trace")
    assert ended.code == 0, ended.err
    assert ended.err.count("problem.py:slow, done in") == 1


def test_a_function_prints_once_and_an_error_of_one_rank_ends_all(analyze):
    ended, report = analyze(2, "problem.py:operator", "--max-steps", "2")
    assert ended.code == 3
    assert ended.out.count("loading") == 1
    assert ended.err.count("not as accurate as asked for") == 1
    assert report["converged"] is False
    ended, report = analyze(2, "problem.py:broken", folder="none")
    assert ended.code == 2
    assert ended.err.count("what rank 1 has to say") == 1
    assert report is None


@pytest.mark.parametrize("words", [
    ["--bogus"], ["analyze", "--bogus"], ["analyze", "x.npz", "-k", "two"],
])  # fmt: skip
def test_words_that_are_wrong_are_said_to_be_so_once(words):
    ended = run(3, *HESSOPS, *words, MPLBACKEND="agg")
    assert ended.code == 2
    assert ended.words.count("Usage:") == 1
