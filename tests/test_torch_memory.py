"""Operators give all memory back, at once and without the garbage collector."""

import gc
import weakref
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch_problems import (
    build,
    every_device,
    mlp,
    normal,
    regression,
    some_problems,
)

from hessops_torch import hessian

STATM = Path("/proc/self/statm")


def live_tensors():
    return sum(issubclass(type(obj), Tensor) for obj in gc.get_objects())


@every_device
@some_problems
def test_operators_leave_no_tensors_behind(device, make_problem):
    problem = make_problem(device)
    block = None

    def use():
        operator = hessian(*problem.arguments)
        operator @ block
        assert len(operator.graphs) == len(problem.batches)

    n = sum(p.numel() for p in problem.model.parameters())
    block = torch.ones(n, 2, dtype=torch.float64, device=device)
    use()
    gc.collect()
    before = live_tensors()
    gc.disable()
    try:
        for _ in range(100):
            use()
        # Reference counts alone let go of everything: there are no cycles to collect.
        assert live_tensors() == before
    finally:
        gc.enable()


@every_device
def test_an_operator_dies_with_its_last_reference(device):
    problem = regression(device)
    operator = hessian(*problem.arguments)
    operator.to_dense()
    graph = operator.graphs.get(0)
    observed = [weakref.ref(operator), weakref.ref(graph), weakref.ref(operator.graphs)]
    gc.disable()
    try:
        del operator, graph
        assert all(reference() is None for reference in observed)
    finally:
        gc.enable()


def memory_in_use(device):
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    if not STATM.exists():
        pytest.skip("reads the resident memory of the process from /proc")
    return int(STATM.read_text().split()[1]) * 4096


@every_device
def test_hundreds_of_operators_take_no_more_memory_than_a_few(device):
    """A leak of the graphs would take about a gigabyte; a twentieth of it is allowed."""
    model = build(lambda: mlp(400), 0, device)
    batch = normal(1, 600, 3, device=device), normal(2, 600, 2, device=device)
    vector = torch.ones(
        sum(p.numel() for p in model.parameters()), dtype=torch.float64, device=device
    )

    def use():
        operator = hessian(model, nn.MSELoss(), batch)
        operator @ vector
        return operator.graphs.num_bytes

    of_one = [use() for _ in range(20)][-1]
    before = memory_in_use(device)
    for _ in range(200):
        use()
    assert memory_in_use(device) - before < 0.05 * 200 * of_one
    assert 200 * of_one > 500e6


@every_device
def test_products_take_no_more_memory_than_the_first(device):
    model = build(lambda: mlp(400), 0, device)
    batch = normal(1, 600, 3, device=device), normal(2, 600, 2, device=device)
    operator = hessian(model, nn.MSELoss(), [batch, batch])
    vector = torch.ones(operator.shape[0], dtype=torch.float64, device=device)
    for _ in range(20):
        operator @ vector
    before = memory_in_use(device)
    for _ in range(200):
        operator @ vector
    assert memory_in_use(device) - before < 0.05 * 200 * operator.graphs.num_bytes
