"""Ways to compute products are timed side by side, by a clock that tests set: the fastest is taken."""

import logging

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import build, every_device, mlp, normal

from hessops_torch import ggn, hessian
from hessops_torch.products import trial

HESSIAN_MODES = ("backward", "forward-over-reverse", "reverse-over-forward")
JACOBIAN_MODES = ("backward", "forward", "batched")
# What else would be tried has a compiler, which tests of it wait for.
on_cpu = pytest.mark.parametrize(
    ("make", "modes", "fastest"),
    [
        (make, modes, fastest)
        for make, modes in ((hessian, HESSIAN_MODES), (ggn, JACOBIAN_MODES))
        for fastest in modes
    ],
)


class Clock:
    """Tells what a mode takes, and nine seconds more in the last of its rounds."""

    def __init__(self, modes, fastest, unit):
        self.seconds = [unit if mode == fastest else 2 * unit for mode in modes]
        self.busy = 9.0
        self.calls = 0

    def __call__(self, function, device):
        function()
        mode, turn = divmod(self.calls, trial._ROUNDS)
        self.calls += 1
        return self.seconds[mode] + (self.busy if turn == trial._ROUNDS - 1 else 0.0)


def problem(device="cpu"):
    model = build(lambda: mlp(3), 0, device)
    x, y = (normal(seed, 5, size, device=device) for seed, size in ((1, 3), (2, 2)))
    return model, nn.MSELoss(), list(zip(x.split(3), y.split(3), strict=True))


@on_cpu
@pytest.mark.parametrize("budget", [None, 0])
def test_the_fastest_is_taken(make, modes, fastest, budget, monkeypatch, caplog):
    clock = Clock(modes, fastest, 0.1)
    monkeypatch.setattr(trial, "seconds_of", clock)
    A = make(*problem(), product="auto", memory_budget=budget)
    assert A.product_found == "auto"
    with caplog.at_level(logging.INFO, "hessops"):
        found = A.to_dense()
    assert A.product_found == fastest
    assert f"{fastest} 0.1 s" in caplog.text
    assert clock.calls == len(modes) * trial._ROUNDS
    expected = make(*problem(), product="backward").to_dense()
    assert torch.linalg.norm(found - expected) <= 1e-12 * torch.linalg.norm(expected)


@on_cpu
def test_what_takes_long_is_timed_once(make, modes, fastest, monkeypatch):
    """By noise of milliseconds it is not misjudged, and further rounds would take long, too."""
    calls = []

    def seconds_of(function, device):
        function()
        calls.append(device)
        return 20.0 if modes[len(calls) - 1] == fastest else 30.0

    monkeypatch.setattr(trial, "seconds_of", seconds_of)
    A = make(*problem(), product="auto")
    A @ torch.ones(A.shape[0], dtype=torch.float64)
    assert A.product_found == fastest
    assert len(calls) == len(modes)


@pytest.mark.parametrize("make", [hessian, ggn])
def test_a_trial_that_is_interrupted_is_made_again(make, monkeypatch):
    def interrupted(function, device):
        raise KeyboardInterrupt

    A = make(*problem(), product="auto")
    v = torch.ones(A.shape[0], dtype=torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(trial, "seconds_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            A @ v
    assert A.product_found == "auto"
    expected = make(*problem(), product="backward") @ v
    torch.testing.assert_close(A @ v, expected, rtol=1e-12, atol=1e-14)
    assert A.product_found != "auto"


@every_device
@pytest.mark.parametrize("make", [hessian, ggn])
@pytest.mark.parametrize("width", [1, 4])
def test_the_clock_is_for_the_block_that_is_asked_for(device, make, width, caplog):
    A = make(*problem(device), product="auto")
    with caplog.at_level(logging.INFO, "hessops"):
        A @ torch.ones(A.shape[0], width, dtype=torch.float64, device=device)
    assert f"of {width} column{'s' if width > 1 else ''}: backward " in caplog.text


@pytest.mark.parametrize("make", [hessian, ggn])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory left"), RuntimeError("no")])
def test_a_way_that_fails_with_all_columns_is_not_taken(make, error, monkeypatch, caplog):
    """It is looked at with two of them, and more at a time take more memory."""
    calls = []

    def seconds_of(function, device):
        calls.append(function)
        if len(calls) > trial._ROUNDS:
            raise error
        function()
        return 0.1

    monkeypatch.setattr(trial, "seconds_of", seconds_of)
    A = make(*problem(), product="auto")
    with caplog.at_level(logging.INFO, "hessops"):
        found = A.to_dense()
    assert A.product_found == "backward"
    assert f"fails ({type(error).__name__}: {error})" in caplog.text
    assert len(calls) == trial._ROUNDS + 2
    expected = make(*problem(), product="backward").to_dense()
    assert torch.linalg.norm(found - expected) <= 1e-12 * torch.linalg.norm(expected)
