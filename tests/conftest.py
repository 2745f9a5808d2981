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
# For a second interpreter, where the first has searched.
settings.register_profile("quick", settings.get_profile("ci"), max_examples=5)
settings.register_profile(
    "search", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _has_gpu(library) -> bool:
    if library == "cupy":
        cupy = pytest.importorskip("cupy", reason="needs CuPy with a CUDA device")
        try:
            return cupy.cuda.runtime.getDeviceCount() > 0
        except cupy.cuda.runtime.CUDARuntimeError:  # no driver
            return False
    torch = pytest.importorskip("torch", reason="needs PyTorch with a CUDA device")
    return torch.cuda.is_available()


def pytest_runtest_setup(item):
    if item.get_closest_marker("data") and not DATA.is_dir():
        pytest.skip(f"needs the real data in {DATA}: set HESSOPS_DATA")
    # @pytest.mark.gpu asks for PyTorch's, @pytest.mark.gpu("cupy") for CuPy's.
    marker = item.get_closest_marker("gpu")
    if marker and not _has_gpu(*marker.args or ["torch"]):
        pytest.skip("needs a CUDA device")
