"""Real kills, at random moments: SIGKILL, of which no process hears before it is dead."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import HESSOPS, run

from hessops.archive import read_archive

KILLER = Path(__file__).with_name("killer.py")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

MATRIX = """
import time
import numpy as np
import hessops

rng = np.random.default_rng(0)
basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
matrix = (basis * np.linspace(-1, 4, 60) ** 3) @ basis.T

def slow(X):
    time.sleep(0.002)
    return matrix @ X

def operator():
    return hessops.aslinearoperator(slow, shape=60, self_adjoint=True)
"""
NETWORK = """
import sympy  # torch imports it with the first derivative, in every fork anew
import torch
import hessops_torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
data = [(torch.randn(16, 6), torch.randint(3, (16,))) for _ in range(3)]

def operator():
    torch.set_num_threads(1)
    return hessops_torch.hessian(model, torch.nn.CrossEntropyLoss(), data)
"""
RUN = """
from pathlib import Path
import hessops

def run(folder):
    home = Path(folder)
    A = operator() if home.name == "plain" else hessops.checkpointed(operator(), home)
    top = hessops.eigsh(A, 3, rng=0)
    trace = hessops.trace(A, num_probes=12, block_size=2, rng=1)
    density = hessops.spectral_density(A, num_probes=2, num_steps=8, rng=2)
    for name, result in {"top": top, "trace": trace, "density": density}.items():
        result.save(home.parent / f"{home.name}-{name}")
"""


def killed(folder, kills):
    """Return what was recorded at each kill of ``program.py`` in a folder."""
    done = subprocess.run(
        [sys.executable, KILLER, "program.py", str(kills)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def saved(path):
    """Return what a result's file holds, without seconds."""
    with path.open("rb") as file:
        document, arrays = read_archive(file)
    del document["fields"]["seconds"], arrays["history.seconds"]
    # As bytes, so that NaN equals NaN.
    return document, {name: (array.dtype, array.tobytes()) for name, array in arrays.items()}


@needs_fork
@pytest.mark.parametrize(
    ("program", "kills"), [(MATRIX, 20), (NETWORK, 3)], ids=["matrix", "network"]
)
def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_is_not(tmp_path, program, kills):
    if program is NETWORK:
        pytest.importorskip("torch")
    (tmp_path / "program.py").write_text(program + RUN)
    held = killed(tmp_path, kills)
    assert len(held) >= 3
    # It was killed while it worked, and never left anything but whole products in a row.
    counts = [sum(bool(re.fullmatch(r"\d+\.npz", name)) for name in names) for names in held]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    for name in ("top", "trace", "density"):
        found, expected = (saved(tmp_path / f"{kind}-{name}.npz") for kind in ("killed", "plain"))
        assert found == expected


SLOW = """
import time, numpy, hessops
def apply(X):
    time.sleep(0.02)
    return X * numpy.arange(1.0, 101.0)[:, None]
def operator():
    return hessops.aslinearoperator(apply, shape=100, self_adjoint=True)
"""


def test_a_killed_analysis_goes_on(tmp_path):
    pytest.importorskip("typer")
    (tmp_path / "slow.py").write_text(SLOW)
    arguments = ["analyze", "slow.py:operator", "--compute", "eigenvalues,trace", "--seed", "3"]
    first = subprocess.Popen([*HESSOPS, *arguments, "--checkpoint", "run"], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "00000004.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait(timeout=30) == -signal.SIGKILL
    resumed = run(*arguments, "--checkpoint", "run", "--output", "resumed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    run(*arguments, "--output", "plain", cwd=tmp_path)
    ours, theirs = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("resumed", "plain")
    )
    for name in ("eigenpairs", "trace"):
        for report in (ours, theirs):
            del report[name]["seconds"], report[name]["history"]["seconds"]
        assert ours[name] == theirs[name]
