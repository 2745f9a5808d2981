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
from command_line import HESSOPS, run

pytest.importorskip("typer")
pytest.importorskip("rich")


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    return (basis * np.linspace(-1, 5, 60)) @ basis.T


def test_matrix_file_gives_its_spectrum_and_a_report(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    done = run("analyze", "a.npy", "-k", "3", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Where there is no terminal, a line for each stage that took long, and no bars.
    assert re.fullmatch(r"(hessops: [ -~]+(, done in [0-9.]+ s| s so far)\n)*", done.stderr)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    np.testing.assert_allclose(
        sorted(report["eigenpairs"]["eigenvalues"]), np.linalg.eigvalsh(matrix)[-3:], rtol=1e-9
    )
    assert report["trace"]["value"] == pytest.approx(np.trace(matrix), rel=1e-13)
    assert np.shape(report["density"]["nodes"]) == (4, 40)
    assert report["trace"]["history"]["num_products"][-1] == report["trace"]["num_products"]
    assert (tmp_path / "out" / "density.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "report.html").read_text()
    # Self-contained: the picture is in the page and nothing is loaded from elsewhere.
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert f"{report['eigenpairs']['eigenvalues'][0]:.6g}" in page
    assert report["converged"] is True
    assert "Wrote out/report.json, out/density.png and\nout/report.html: open" in done.stdout


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
    "bad.py:xyz": "did you mean operator or fails or number?",  # nothing that the file imports
    "bad.py:operator": "cannot be called with these arguments",
    "bad.py:fails": "the user's own sentence",
    "bad.py:number": "cannot make a linear operator of int",
    "syntax.py:f": "never closed",
    "notamatrix.npy": "cannot read a matrix from notamatrix.npy",
    "general.npy": "--compute trace works without",
    "rectangular.npy": "square",
    "nan.npy": "NaN",
    "no_such_module:f": "no_such_module",
}


@pytest.mark.parametrize("target", WRONG)
def test_wrong_input_is_one_clear_line(tmp_path: Path, target: str) -> None:
    (tmp_path / "bad.py").write_text(
        "from pathlib import Path\n"
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
        (["-a", "n=3"], "--arg n can do nothing for the matrix file a.npy"),
        (["--params", "w"], "--params w can do nothing for the matrix file a.npy"),
        (["--device", "cuda"], "--device cuda moves models, and a.npy is a matrix file"),
        (["--confidence", "95"], "--confidence 95.0 must be between 0 and 1"),
        (["--rtol", "-1"], "--rtol -1.0 must be positive"),
        (["--tol", "nan"], "--tol nan must be positive"),
        (["--seed", "-1"], "--seed -1 must be at least 0"),
        (["-k", "4"], "--num-eigenvalues 4 is more than the 3"),
        (["--output", "a.npy"], "is a file"),
        (["--output", "a.npy/deep/out"], "is a file"),
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


def test_long_runs_report_progress_without_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, numpy, hessops\n"
        "def apply(X):\n"
        "    time.sleep(0.05)\n"
        "    return X * numpy.arange(50.0)[:, None]\n"
        "def operator():\n"
        "    time.sleep(0.5)\n"
        "    return hessops.aslinearoperator(apply, shape=50, self_adjoint=True)\n"
    )
    often = (
        "import hessops.cli.progress as p; p._INTERVAL = 0.2; from hessops.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", often, "analyze", "slow.py:operator", "--compute", "density"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert re.fullmatch(r"hessops: loading slow.py:operator, 0 s so far", lines[0])
    form = r"hessops: density, \d+ of 160 products, \d+ s so far, \d+ s left"
    counts = [line for line in lines if re.fullmatch(form, line)]
    # 40 block products of 0.05 s, one line in 0.2 s.
    assert 2 <= len(counts) <= 40


def test_same_seed_same_report(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    values = []
    for seed in ("1", "1", "2"):
        options = ("--compute", "trace", "--trace-probes", "8", "--output", "out")
        run("analyze", "a.npy", "--seed", seed, *options, cwd=tmp_path)
        values.append(json.loads((tmp_path / "out" / "report.json").read_text())["trace"]["value"])
    assert values[0] == values[1] != values[2]


@pytest.mark.slow
def test_demo_trains_and_reports(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    done = run("demo", "--output", "out", cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    # Nothing but progress, where the machine is slow.
    form = r"( s so far(, \d+ s left)?|, done.* in \S+ s)$"
    assert all(re.search(form, line) for line in done.stderr.splitlines())
    train, test = map(float, re.findall(r"([\d.]+)% of", done.stdout))
    assert 95 < train <= 100
    assert 85 < test <= 100
    assert "open this one in a browser" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["eigenpairs"]["converged"]
    assert len(report["trace"]["sections"]) == 8
    for name in ("density.png", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000


SLOW = """
import time, hessops
def slow(X):
    time.sleep(0.2)
    return X
def operator():
    open('started', 'w').close()
    return hessops.aslinearoperator(slow, shape=1000, self_adjoint=True) \\
        + hessops.Diagonal(__import__('numpy').arange(1000.0))
"""
NETWORK = """
import torch
def operator():
    model = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.Tanh(), torch.nn.Linear(300, 9))
    data = [(torch.randn(2000, 200), torch.randint(9, (2000,))) for _ in range(8)]
    open('started', 'w').close()
    return model, torch.nn.CrossEntropyLoss(), data
"""


@pytest.mark.parametrize("seconds", [0.0, 0.7])
@pytest.mark.parametrize("program", [SLOW, NETWORK], ids=["function", "Hessian"])
def test_interrupt_ends_without_a_traceback(tmp_path: Path, program: str, seconds: float) -> None:
    if program is NETWORK:
        pytest.importorskip("torch")
    (tmp_path / "slow.py").write_text(program)
    process = subprocess.Popen(
        [*HESSOPS, "analyze", "slow.py:operator", "--compute", "density", "--density-steps", "500"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said(stderr) == ["hessops: interrupted, the report is not written"]
    assert not (tmp_path / "hessops-report").exists()


def said(stderr: str) -> list[str]:
    """Return what is no progress."""
    return [line for line in stderr.splitlines() if not re.search(r" so far|, done", line)]


LATER = """
import os, numpy as np, hessops
def operator(*, fails: bool):
    count = 0
    def apply(X):
        nonlocal count
        count += 1
        if count > 60:
            open('late', 'w').close()
            if fails:
                raise ValueError('the disk is full')
            __import__('time').sleep(0.1)
        return X * np.arange(3000.0)[:, None]
    return hessops.aslinearoperator(apply, shape=3000, self_adjoint=True)
"""


def test_what_is_done_is_kept_when_a_later_result_fails(tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text(LATER)
    done = run("analyze", "later.py:operator", "-a", "fails=true", cwd=tmp_path)
    assert done.returncode == 3
    assert said(done.stderr) == ["hessops: eigenvalues failed: the disk is full"]
    assert "MISSING: the disk is full" in done.stdout
    report = json.loads((tmp_path / "hessops-report" / "report.json").read_text())
    assert report["missing"] == {"eigenvalues": "the disk is full"}
    assert report["converged"] is False
    assert report["trace"]["converged"]
    assert report["density"]["converged"]
    assert "eigenpairs" not in report
    page = (tmp_path / "hessops-report" / "report.html").read_text()
    assert "MISSING: the disk is full" in page
    assert "data:image/png" in page
    done = run("analyze", "later.py:operator", "-a", "fails=true", "--traceback", cwd=tmp_path)
    assert "Traceback" in done.stderr


def test_what_is_done_is_kept_when_interrupted(tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text(LATER)
    process = subprocess.Popen(
        [*HESSOPS, "analyze", "later.py:operator", "-a", "fails=false"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "late").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said(stderr) == ["hessops: interrupted, the report is written without eigenvalues"]
    assert stdout.index("\nTrace\n") < stdout.index("\nSpectral density of")
    assert "MISSING: interrupted" in stdout
    report = json.loads((tmp_path / "hessops-report" / "report.json").read_text())
    assert report["missing"] == {"eigenvalues": "interrupted"}


def test_progress_says_how_many_eigenvalues_have_converged(tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text(LATER)
    often = (
        "import hessops.cli.progress as p; p._INTERVAL = 0.2; from hessops.cli import main; main()"
    )
    options = ("--compute", "eigenvalues", "--max-steps", "80", "-a", "fails=false")
    done = subprocess.run(
        [sys.executable, "-c", often, "analyze", "later.py:operator", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    number = r"\d\.\de[+-]\d\d"
    form = (
        rf"hessops: eigenvalues, \d+ products, [0-5] of 5 converged, residual norms up to {number}, "
        rf"asked for {number}, \d+ s so far"
    )
    assert any(re.fullmatch(form, line) for line in done.stderr.splitlines())
    form = r"hessops: eigenvalues, done, \d+ products in [\d.]+ s"
    assert any(re.fullmatch(form, line) for line in done.stderr.splitlines())


def test_output_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("def operator():\n    open('started', 'w').close()\n")
    (tmp_path / "out" / "report.json").mkdir(parents=True)
    done = run("analyze", "slow.py:operator", "--output", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "--output out cannot be written: out/report.json cannot be replaced" in done.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the root user may write anywhere"
)
def test_output_without_permission_is_refused(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    (tmp_path / "locked").mkdir(mode=0o500)
    done = run("analyze", "a.npy", "--output", "locked/out", cwd=tmp_path)
    assert done.returncode == 2
    assert "no permission to write" in done.stderr


def test_help_and_version(tmp_path: Path) -> None:
    assert "analyze" in run("--help", cwd=tmp_path).stdout
    described = " ".join(
        re.sub(r"[│╭╮╰╯─]", " ", run("analyze", "--help", cwd=tmp_path).stdout).split()
    )
    assert "3 if some are not" in described
    assert re.fullmatch(r"hessops \d+\.\d+\.\d+\n", run("--version", cwd=tmp_path).stdout)


@pytest.mark.parametrize("command", [["demo"], ["analyze", "slow.py:problem"]])
def test_a_device_that_is_not_there_is_refused_before_anything_runs(
    tmp_path: Path, command: list[str]
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "slow.py").write_text("def problem():\n    open('started', 'w').close()\n")
    done = run(*command, "--device", "nowhere", cwd=tmp_path)
    assert not (tmp_path / "started").exists()
    assert done.returncode == 2
    # Importing PyTorch may take long enough to be said, in lines of their own.
    *waiting, last = done.stderr.splitlines()
    assert last.startswith("hessops: --device nowhere cannot be used: ")
    assert all(line.startswith("hessops: loading ") for line in waiting)
