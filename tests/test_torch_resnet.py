"""The spectrum of a trained ResNet-20, against figures of independent code."""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch_problems import every_device

import hessops
from hessops_torch import hessian

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HESSOPS_DATA") or ROOT.parent / "shared" / "data")
EXAMPLE = ROOT / "examples" / "resnet_cifar"

LARGEST = [39.1002, 16.1462, 10.6326, 8.7929, 4.7528]


@pytest.fixture
def make_problem(monkeypatch):
    """Import the example as the command line does, and forget its plain module names."""
    monkeypatch.syspath_prepend(EXAMPLE)
    siblings = {path.stem for path in EXAMPLE.glob("*.py")}
    for name in siblings:
        monkeypatch.delitem(importlib.sys.modules, name, raising=False)
    yield importlib.import_module("problem").problem
    for name in siblings:
        importlib.sys.modules.pop(name, None)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@every_device
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("two_threads")
def test_five_largest_eigenvalues(device, make_problem, monkeypatch):
    weights = DATA / "resnet_cifar10" / "resnet20-12fca82f.th"
    if not weights.exists():
        pytest.skip(f"needs the trained weights {weights.name} in {DATA}: set HESSOPS_DATA")
    # TF32 keeps three digits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, loss, batches = make_problem(data=DATA / "cifar10.npz", weights=weights, num_images=256)
    operator = hessian(model.to(device), loss, batches)
    result = hessops.eigsh(operator, 5, which="LM", tol=2e-5, rng=0)
    np.testing.assert_allclose(result.eigenvalues, LARGEST, rtol=1e-4)
    assert result.residual_norms.max() < 1e-3
    assert result.num_products <= 25
    assert result.converged
