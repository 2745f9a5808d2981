"""Matrix files on the command line."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from command_line import run

pytest.importorskip("typer")
pytest.importorskip("rich")


@pytest.mark.parametrize(
    "kind",
    [
        "npy",
        "npz",
        "sparse npz",
        "mtx",
        "integer mtx",
        "mtx.gz",
        "mat",
        "sparse mat",
        "problem mat",
    ],
)
def test_every_matrix_format(tmp_path: Path, kind: str) -> None:
    dense = np.diag([1.0, 2.0, 4.0])
    if kind == "npy":
        np.save(tmp_path / "a.npy", dense)
    elif kind == "npz":
        np.savez(tmp_path / "a.npz", matrix=dense, names=np.array(["x", "y"]))
    elif kind == "sparse npz":
        scipy.sparse.save_npz(tmp_path / "a.npz", scipy.sparse.csr_array(dense))
    elif kind == "mat":
        scipy.io.savemat(tmp_path / "a.mat", {"M": dense, "b": np.ones((3, 1)), "name": "a"})
    elif kind == "sparse mat":
        rectangular = np.ones((4, 2))
        scipy.io.savemat(tmp_path / "a.mat", {"M": scipy.sparse.csc_array(dense), "V": rectangular})
    elif kind == "problem mat":  # as the SuiteSparse collection has it
        zeros = scipy.sparse.csc_array((3, 3))
        problem = {"title": "a", "A": scipy.sparse.csc_array(dense), "Zeros": zeros, "id": 7}
        scipy.io.savemat(tmp_path / "a.mat", {"Problem": problem})
    elif kind == "mtx.gz":
        scipy.io.mmwrite(tmp_path / "a.mtx", scipy.sparse.coo_array(dense))
        packed = gzip.compress((tmp_path / "a.mtx").read_bytes())
        (tmp_path / "a.mtx").unlink()
        (tmp_path / "a.mtx.gz").write_bytes(packed)
    else:
        values = dense.astype(int) if kind == "integer mtx" else dense
        scipy.io.mmwrite(tmp_path / "a.mtx", scipy.sparse.coo_array(values))
    name = next(tmp_path.glob("a.*")).name
    done = run("analyze", name, "--compute", "trace", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["trace"]["value"] == pytest.approx(7.0, abs=1e-12)
    assert "eigenpairs" not in report


@pytest.mark.parametrize("target", ["a.mat:N", "a.npz:N", "a.mat:part.N"])
def test_variable_of_a_file(tmp_path: Path, target: str) -> None:
    matrices = {"M": np.eye(3), "N": np.diag([2.0, 3.0])}
    scipy.io.savemat(tmp_path / "a.mat", matrices | {"part": {"N": matrices["N"]}})
    np.savez(tmp_path / "a.npz", **matrices)
    done = run("analyze", target, "--compute", "trace", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["trace"]["value"] == pytest.approx(5.0, abs=1e-12)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("two.mat", "it holds M (3x3), N (2x2 sparse); name one, as in two.mat:M"),
        ("two.mat:O", "it has no variable O, only M (3x3), N (2x2 sparse)"),
        ("two.npz", "it holds M (3x3), N (2x2); name one, as in two.npz:M"),
        ("text.mat", "it holds name (text)"),
        ("text.mat:name", "not numbers"),
        ("junk.mat", "cannot read a matrix from junk.mat"),
        ("new.mat", "MATLAB file of version 7.3; save it again with save(..., '-v7')"),
    ],
)
def test_matrix_files_that_are_not_clear_say_what_they_hold(
    tmp_path: Path, target: str, words: str
) -> None:
    sparse = scipy.sparse.csc_array(np.eye(2))
    scipy.io.savemat(tmp_path / "two.mat", {"M": np.eye(3), "N": sparse})
    np.savez(tmp_path / "two.npz", M=np.eye(3), N=np.eye(2))
    scipy.io.savemat(tmp_path / "text.mat", {"name": "x"})
    (tmp_path / "junk.mat").write_text("hello " * 100)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "new.mat").write_bytes(header.ljust(512, b"\x00"))
    done = run("analyze", target, "--output", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
