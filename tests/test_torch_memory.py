"""Operators give all memory back, at once and without the garbage collector."""

import gc
import weakref
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_problems import (
    build,
    every_device,
    few_examples,
    mlp,
    normal,
    regression,
    seeds,
    some_problems,
)

from hessops_torch import ggn, hessian
from hessops_torch.graphs.nodes import bytes_behind, largest_behind

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


def graphs_of(make, device, data, **options):
    operator = make(build(lambda: mlp(20), 0, device), nn.MSELoss(), data, **options)
    operator @ torch.ones(operator.shape[0], dtype=torch.float64, device=device)
    return operator.graphs


@every_device
@pytest.mark.parametrize("make", [hessian, ggn])
@few_examples
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), seeds)
def test_batches_cut_from_one_tensor_hold_what_copies_hold(device, make, sizes, seed):
    inputs, targets = (normal(seed, sum(sizes), n, device=device) for n in (3, 2))
    cut = list(zip(inputs.split(sizes), targets.split(sizes), strict=True))
    copies = [(x.clone(), y.clone()) for x, y in cut]
    expected = graphs_of(make, device, copies)
    found = graphs_of(make, device, cut)
    assert found.num_bytes == expected.num_bytes > 0
    # What is said to be enough for copies is enough for cuts.
    assert len(graphs_of(make, device, cut, memory_budget=expected.num_bytes)) == len(sizes)


def test_a_result_of_which_a_part_is_held_counts_as_a_whole():
    """A pooled token, say, keeps the states of all tokens."""
    weight = torch.ones(3, 3, dtype=torch.float64, requires_grad=True)
    states = torch.ones(7, 3, dtype=torch.float64) @ weight
    pooled = states[0] ** 2
    of_states = 8 * 7 * 3
    assert bytes_behind([pooled], [weight]) == 2 * of_states + 8 * 3


@pytest.mark.parametrize("count", [2, 50])
def test_the_largest_tensor_is_of_a_batch_not_of_the_data_it_was_cut_from(count):
    weight = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    batch = torch.ones(50, 3, dtype=torch.float64)[:count]
    assert largest_behind([batch @ weight], [weight]) == 8 * count * 4
