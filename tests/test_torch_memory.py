"""Operators give all memory back, at once and without the garbage collector."""

import gc
import weakref
from functools import partial
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

from hessops_torch import SplitLoss, ggn, hessian
from hessops_torch.graphs.nodes import Lasting, bytes_behind, largest_behind

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
    assert bytes_behind([pooled], Lasting([weight])) == 2 * of_states + 8 * 3


class Through(nn.Module):
    """A loss of what a module of its own makes of outputs and targets."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, outputs, batch):
        *layers, criterion = self.module
        for layer in layers:
            outputs = layer(outputs)
        return criterion(outputs, batch[1]), 1.0


class Pooled(nn.Module):
    """A head on the first token of a network that is not trained."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(3, 50).requires_grad_(False)
        self.head = nn.Linear(50, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.tokens(x))[:, 0])


@every_device
@pytest.mark.parametrize("make", [hessian, ggn])
def test_a_part_of_what_has_no_gradient_keeps_the_whole(device, make):
    x, y = normal(1, 4, 100, 3, device=device), normal(2, 4, 2, device=device)
    A = make(build(Pooled, 0, device), nn.MSELoss(), (x, y))
    A @ torch.ones(A.shape[0], dtype=torch.float64, device=device)
    of_tokens = 8 * 4 * 100 * 50
    assert of_tokens <= A.graphs.num_bytes < 1.1 * of_tokens


OF_GRAPHS = [hessian, *(partial(ggn, product=p) for p in ("backward", "forward", "batched"))]


@every_device
@pytest.mark.parametrize("make", OF_GRAPHS)
@pytest.mark.parametrize("how", ["frozen", "left out", "in the loss"])
def test_weights_that_stay_as_they_are_take_no_memory_of_graphs(device, make, how):
    """Each micro-batch would count them anew."""
    inner = build(lambda: nn.Linear(200, 200), 0, device).requires_grad_(how == "left out")
    first, last = (build(lambda n=n: nn.Linear(*n), 1, device) for n in ((3, 200), (200, 2)))
    params = None
    if how == "in the loss":
        model = nn.Sequential(first, nn.Tanh())
        head = nn.Sequential(inner, last.requires_grad_(False), nn.MSELoss())
        loss = SplitLoss(lambda model, batch: model(batch[0]), Through(head))
    else:
        model = nn.Sequential(first, nn.Tanh(), inner, last)
        loss, params = nn.MSELoss(), "0.*"
    x, y = normal(1, 6, 3, device=device), normal(2, 6, 2, device=device)
    A = make(model, loss, list(zip(x.split(1), y.split(1), strict=True)), params=params)
    A @ torch.ones(A.shape[0], dtype=torch.float64, device=device)
    assert len(A.graphs) == 6
    assert 0 < A.graphs.num_bytes < 8 * 200 * 200


@pytest.mark.parametrize("count", [2, 50])
def test_the_largest_tensor_is_of_a_batch_not_of_the_data_it_was_cut_from(count):
    weight = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    batch = torch.ones(50, 3, dtype=torch.float64)[:count]
    assert largest_behind([batch @ weight], Lasting([weight])) == 8 * count * 4


@every_device
@pytest.mark.parametrize("make", [hessian, ggn])
@few_examples
@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 2), seeds)
def test_overlapping_data_counts_no_more_than_copies(device, make, count, rows, columns, seed):
    table = normal(seed, 9, 9, device=device)
    inputs = table.as_strided((count, 3), (rows, columns))
    targets = normal(seed, 1, 2, device=device).expand(count, 2)
    found = graphs_of(make, device, [(inputs, targets)])
    copies = graphs_of(make, device, [(inputs.clone(), targets.clone())])
    assert 0 < found.num_bytes <= copies.num_bytes


class Neighbours(nn.Module):
    """A graph network, by a sparse matrix."""

    def __init__(self, layout):
        super().__init__()
        self.adjacency = (torch.eye(4) + torch.ones(4, 4).triu()).to_sparse(layout=layout).double()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.outer(torch.tanh(torch.sparse.mm(self.adjacency, self.inner(x))))


@pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC) tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("make", [hessian, ggn])
def test_graphs_with_sparse_matrices(make, layout):
    model = build(lambda: Neighbours(layout), 0, "cpu")
    batch = normal(1, 4, 3, device="cpu"), normal(2, 4, 2, device="cpu")
    kept, rebuilt = (make(model, nn.MSELoss(), batch, memory_budget=b) for b in (None, 0))
    torch.testing.assert_close(kept.to_dense(), rebuilt.to_dense(), rtol=1e-12, atol=1e-14)
    assert kept.graphs.num_bytes > 4 * 3 * 8


class MeanOfEach(nn.Module):
    """A network for samples of different lengths."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.outer(torch.stack([torch.tanh(self.inner(row)).mean(0) for row in x.unbind()]))


@pytest.mark.parametrize("make", OF_GRAPHS)
def test_graphs_with_jagged_batches(make):
    """Their memory is that of the tensors that they are made of."""
    rows = [normal(length, length, 3, device="cpu") for length in (2, 4)]
    jagged = torch.nested.nested_tensor(rows, layout=torch.jagged), normal(1, 2, 2, device="cpu")
    model = build(MeanOfEach, 0, "cpu")
    kept, rebuilt = (make(model, nn.MSELoss(), jagged, memory_budget=b) for b in (None, 0))
    torch.testing.assert_close(kept.to_dense(), rebuilt.to_dense(), rtol=1e-12, atol=1e-14)
    assert kept.graphs.num_bytes > 6 * 4 * 8
