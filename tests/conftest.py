"""Settings that all tests share: how hypothesis searches, and what is skipped where it cannot run."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

DATA = Path(
    os.environ.get("HESSOPS_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)

# Derandomized by default, so that a change and not the hour decides whether the tests pass;
# HYPOTHESIS_PROFILE=search looks for new examples.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=20, database=None)
settings.register_profile(
    "search", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _has_gpu() -> bool:
    torch = pytest.importorskip("torch", reason="needs PyTorch with a CUDA device")
    return torch.cuda.is_available()


def pytest_runtest_setup(item):
    if item.get_closest_marker("data") and not DATA.is_dir():
        pytest.skip(f"needs the real data in {DATA}: set HESSOPS_DATA")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("needs a CUDA device")
