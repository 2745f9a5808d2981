"""Hundreds of operators, built, used and dropped, and everything left as it was to the last bit."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from test_torch_hygiene import Fails, in_a_mixed_state, nothing_changes
from torch_problems import every_device, some_problems

import hessops
from hessops_torch import (
    density_sampling_error,
    eigenvalue_sampling_error,
    hessian,
    trace_sampling_error,
)

STATM = Path("/proc/self/statm")
# Memory counts from where the allocator has what it needs for one operator after the other.
PROGRAM = """
import os, torch
from pathlib import Path
from torch import nn
import hessops
from hessops_torch import hessian

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 10))
batches = [(torch.randn(64, 20), torch.randint(10, (64,))) for _ in range(4)]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def use(index):
    H = hessian(model, nn.CrossEntropyLoss(), batches)
    hessops.trace(H, num_probes=2, rng=index)
    hessops.lanczos(H, num_steps=4, rng=index)
    for term in H.terms():
        term @ torch.ones(H.shape[0])

for index in range(30):
    use(index)
before = resident()
for index in range(300):
    use(index)
print(before, resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="needs /proc/self/statm")
def test_three_hundred_operators_take_no_memory():
    """In an interpreter of their own, whose memory nothing else changes."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=280
    )
    assert ran.returncode == 0, ran.stderr
    before, after = map(int, ran.stdout.split())
    assert after < 1.05 * before


def every_verb(arguments):
    H = hessian(*arguments, params="*")
    for verb in (hessops.trace, trace_sampling_error):
        verb(H, num_probes=2, rng=0)
    hessops.eigsh(H, 1, tol=1e-2, rng=0)
    eigenvalue_sampling_error(H, 1, tol=1e-2, rng=0)
    hessops.spectral_density(H, num_probes=2, num_steps=4, rng=0)
    density_sampling_error(H, num_probes=2, num_steps=4, rng=0)


@every_device
@pytest.mark.slow
@some_problems
def test_every_bit_is_as_it_was(device, make_problem):
    problem = make_problem(device)
    model = in_a_mixed_state(problem.model)
    with nothing_changes(model):
        every_verb((model, *problem.arguments[1:]))


@every_device
@some_problems
@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), RuntimeError("stop")])
def test_every_bit_is_as_it_was_when_it_is_stopped(device, make_problem, error):
    """As Ctrl-C in a forward pass does, in the middle of a run that rebuilds its graphs."""
    problem = make_problem(device)
    model = in_a_mixed_state(Fails(problem.model, 0, error))
    operator = hessian(model, *problem.arguments[1:], params="*", memory_budget=0)
    model.at = 12
    with nothing_changes(model), pytest.raises(type(error), match="stop"):
        hessops.trace(operator, num_probes=20, method="hutchinson", block_size=1, rng=0)
    model.at = 0
    vector = torch.ones(operator.shape[0], dtype=operator.dtype, device=device)
    assert (operator @ vector).isfinite().all()
