"""The command line, run from outside as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

pytest.importorskip("typer")
pytest.importorskip("rich")

HESSOPS = [sys.executable, "-c", "from hessops.cli import main; main()"]


def run(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HESSOPS, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "MPLBACKEND": "agg"},
    )


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    return (basis * np.linspace(-1, 5, 60)) @ basis.T


def test_matrix_file_gives_its_spectrum_and_a_report(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    done = run("analyze", "a.npy", "-k", "3", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress noise where there is no terminal
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    np.testing.assert_allclose(
        sorted(report["eigenpairs"]["eigenvalues"]), np.linalg.eigvalsh(matrix)[-3:], rtol=1e-9
    )
    low, high = report["trace"]["interval"]["low"], report["trace"]["interval"]["high"]
    assert low < report["trace"]["value"] < high
    assert np.shape(report["density"]["nodes"]) == (4, 40)
    assert report["trace"]["history"]["num_products"][-1] == report["trace"]["num_products"]
    assert (tmp_path / "out" / "density.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "report.html").read_text()
    # Self-contained: the picture is in the page and nothing is loaded from elsewhere.
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert f"{report['eigenpairs']['eigenvalues'][0]:.8g}" in page


@pytest.mark.parametrize("kind", ["npy", "npz", "sparse npz", "mtx", "integer mtx"])
def test_every_matrix_format(tmp_path: Path, kind: str) -> None:
    dense = np.diag([1.0, 2.0, 4.0])
    if kind == "npy":
        np.save(tmp_path / "a.npy", dense)
    elif kind == "npz":
        np.savez(tmp_path / "a.npz", matrix=dense, names=np.array(["x", "y"]))
    elif kind == "sparse npz":
        scipy.sparse.save_npz(tmp_path / "a.npz", scipy.sparse.csr_array(dense))
    else:
        values = dense.astype(int) if kind == "integer mtx" else dense
        scipy.io.mmwrite(tmp_path / "a.mtx", scipy.sparse.coo_array(values))
    name = next(tmp_path.glob("a.*")).name
    done = run("analyze", name, "--compute", "trace", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["trace"]["value"] == pytest.approx(7.0, abs=1e-12)
    assert "eigenpairs" not in report


def test_function_target_with_arguments_and_siblings(tmp_path: Path) -> None:
    (tmp_path / "sibling.py").write_text("SCALE = 2.0\n")
    (tmp_path / "problem.py").write_text(
        "import numpy as np\n"
        "def operator(*, n: int, flip: bool = True):\n"
        "    from sibling import SCALE\n"
        "    assert flip is False\n"
        "    return SCALE * np.eye(n)\n"
    )
    arguments = ("-a", "n=7", "-a", "flip=false", "--compute", "trace", "--output", "out")
    done = run("analyze", "problem.py:operator", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["trace"]["value"] == pytest.approx(14.0)
    assert report["arguments"] == ["n=7", "flip=false"]


def test_model_target_takes_params(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def problem():\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))\n"
        "    return model, torch.nn.MSELoss(), [(torch.randn(8, 4), torch.randn(8, 2))]\n"
    )
    options = ("--params", "0.weight", "--compute", "trace", "--output", "out")
    done = run("analyze", "net.py:problem", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["trace"]["sections"]) == ["0.weight"]
    assert "12x12" in report["operator"]


WRONG = {
    "nosuch": "expected file.py:function",
    "missing.py:f": "there is no file missing.py",
    "missing.npy": "there is no matrix file missing.npy",
    "bad.py:operatr": "did you mean operator",
    "bad.py:operator": "cannot be called with these arguments",
    "bad.py:fails": "the user's own sentence",
    "bad.py:number": "cannot make a linear operator of int",
    "syntax.py:f": "never closed",
    "notamatrix.npy": "cannot read a matrix from notamatrix.npy",
    "general.npy": "self-adjoint",
    "rectangular.npy": "square",
    "nan.npy": "NaN",
    "no_such_module:f": "no_such_module",
}


@pytest.mark.parametrize("target", WRONG)
def test_wrong_input_is_one_clear_line(tmp_path: Path, target: str) -> None:
    (tmp_path / "bad.py").write_text(
        "def operator(n): ...\n"
        "def fails(): raise RuntimeError('the user\\'s own sentence')\n"
        "def number(): return 3\n"
    )
    (tmp_path / "syntax.py").write_text("def f(:\n    (\n")
    (tmp_path / "notamatrix.npy").write_text("hello")
    np.save(tmp_path / "general.npy", np.triu(np.ones((4, 4))))
    np.save(tmp_path / "rectangular.npy", np.ones((4, 3)))
    np.save(tmp_path / "nan.npy", np.full((3, 3), np.nan))
    done = run("analyze", target, "--output", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    if target != "syntax.py:f":  # the words of a syntax error differ between Python versions
        assert WRONG[target] in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--compute", "everything"], "cannot compute everything"),
        (["--which", "XX"], "--which XX is unknown"),
        (["-a", "n"], "expected name=value"),
        (["-a", "n=3"], "mean nothing to the matrix file"),
        (["--device", "cuda"], "mean nothing to the matrix file"),
        (["--confidence", "95"], "confidence=95"),
        (["--rtol", "-1"], "rtol=-1"),
        (["--output", "a.npy"], "is a file"),
        (["--trace-probes", "0"], "trace-probes"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: list[str], words: str) -> None:
    np.save(tmp_path / "a.npy", np.eye(3))
    done = run("analyze", "a.npy", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_traceback_on_request(tmp_path: Path) -> None:
    done = run("analyze", "nosuch", "--traceback", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_unconverged_results_are_said(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    done = run("analyze", "a.npy", "--compute", "eigenvalues", "--max-steps", "6", cwd=tmp_path)
    assert done.returncode == 0
    assert "raise max_steps or tol" in done.stdout
    report = json.loads((tmp_path / "hessops-report" / "report.json").read_text())
    assert report["eigenpairs"]["converged"] is False


def test_same_seed_same_report(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    values = []
    for seed in ("1", "1", "2"):
        run("analyze", "a.npy", "--seed", seed, "--output", "out", cwd=tmp_path)
        values.append(json.loads((tmp_path / "out" / "report.json").read_text())["trace"]["value"])
    assert values[0] == values[1] != values[2]


def test_demo_trains_and_reports(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    done = run("demo", "--output", "out", cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["eigenpairs"]["converged"]
    assert len(report["trace"]["sections"]) == 8
    for name in ("density.png", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000


def test_interrupt_ends_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, hessops\n"
        "def slow(X):\n"
        "    time.sleep(0.2)\n"
        "    return X\n"
        "def operator():\n"
        "    open('started', 'w').close()\n"
        "    return hessops.aslinearoperator(slow, shape=1000, self_adjoint=True) \\\n"
        "        + hessops.Diagonal(__import__('numpy').arange(1000.0))\n"
    )
    process = subprocess.Popen(
        [*HESSOPS, "analyze", "slow.py:operator"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "hessops: interrupted\n"


def test_help_and_version(tmp_path: Path) -> None:
    assert "analyze" in run("--help", cwd=tmp_path).stdout
    assert re.fullmatch(r"hessops \d+\.\d+\.\d+\n", run("--version", cwd=tmp_path).stdout)
