"""Jacobians of outputs and neural tangent kernels against dense ones, and what belongs to them."""

import re
from functools import reduce
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch_outputs import dense_jacobian
from torch_problems import (
    Encoder,
    assert_same,
    batch_sizes,
    build,
    convolutional,
    cut,
    every_device,
    few_examples,
    images,
    language,
    mlp,
    normal,
    regression,
    rows_of,
    seeds,
    ways_to_compute,
)

import hessops
from hessops import check_operator
from hessops_torch import ggn, jacobian, ntk

ROUNDING = 1e-12


def assert_is_jacobian(operator, expected, block_size=256):
    assert operator.shape == tuple(expected.shape)
    assert_same(operator.to_dense(block_size=block_size), expected)
    assert_same(operator.H.to_dense(block_size=block_size), expected.T)
    terms = list(operator.terms())
    assert_same(reduce(add, [term.to_dense() for term in terms]), expected)
    assert_same(reduce(add, [term.H.to_dense() for term in terms]), expected.T)
    # Each time all rows but a micro-batch's own are zero.
    for index, term in enumerate(terms):
        others = term.to_dense()
        others[operator.rows(index)] = 0
        assert torch.count_nonzero(others) == 0


@every_device
@few_examples
@given(batch_sizes, st.integers(1, 40), ways_to_compute(), seeds)
def test_mlp(device, sizes, block_size, ways, seed):
    model = build(mlp, seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    expected = dense_jacobian(model, lambda f: f(x))
    assert_is_jacobian(jacobian(model, cut(sizes, x), **ways), expected, block_size)
    kernel = ntk(model, list(x.split(sizes)), **ways)
    assert kernel.structure.positive_semidefinite
    assert_same(kernel.to_dense(block_size=block_size), expected @ expected.T)


@every_device
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_convolutions_with_batch_norm(device, train, memory_budget):
    problem = images(device, train=train)
    expected = dense_jacobian(
        problem.model, lambda f: torch.cat([f(x) for x, _ in problem.batches])
    )
    operator = jacobian(problem.model, problem.batches, memory_budget=memory_budget)
    for _ in range(2):
        assert_is_jacobian(operator, expected)


@every_device
def test_outputs_of_any_shape_in_dict_batches(device):
    problem = language(device, factory=Encoder)
    tokens = torch.cat([batch["tokens"] for batch in problem.batches])
    expected = dense_jacobian(problem.model, lambda f: f(tokens))

    def forward(model, batch):
        return model(batch["tokens"])

    operator = jacobian(problem.model, problem.batches, forward=forward)
    assert operator.shapes == ((2, 3, 4), (3, 3, 4))
    assert_is_jacobian(operator, expected)
    first = jacobian(
        problem.model, problem.batches, forward=lambda f, b: forward(f, b)[0, 0, 0], params="head"
    )
    rows = rows_of(problem.model, ["head.weight", "head.bias"]).to(device)
    assert_same(first.to_dense(), expected[[0, 24]][:, rows])
    assert_same(first.H.to_dense(), expected[[0, 24]][:, rows].T)


@every_device
@pytest.mark.parametrize("params", ["0", ["3.inner.0.weight", "*.bias"], re.compile("6")])
def test_selected_parameters_have_their_columns(device, params):
    problem = images(device)
    x = torch.cat([batch[0] for batch in problem.batches])
    operator = jacobian(problem.model, problem.batches, params=params)
    columns = rows_of(problem.model, list(operator.space.shapes)).to(device)
    assert_is_jacobian(operator, dense_jacobian(problem.model, lambda f: f(x))[:, columns])


SOURCES = {
    "inputs": lambda x: list(x.split([3, 4])),
    "tuples": lambda x: [(part,) for part in x.split([3, 4])],
    "inputs and targets": lambda x: [(part, part + 1) for part in x.split([3, 4])],
    "one batch": lambda x: (x, x),
    "data set": TensorDataset,
    "loader": lambda x: DataLoader(TensorDataset(x), batch_size=3),
}


@every_device
@pytest.mark.parametrize("name", SOURCES)
def test_sources_of_data(device, name):
    model = build(mlp, 0, device)
    x = normal(1, 7, 3, device=device)
    operator = jacobian(model, SOURCES[name](x))
    assert_same(operator.to_dense(), dense_jacobian(model, lambda f: f(x)))


@every_device
def test_a_squared_error_has_twice_the_gram_matrix(device):
    problem = regression(device)
    J = jacobian(problem.model, problem.batches)
    G = ggn(problem.model, nn.MSELoss(reduction="sum"), problem.batches)
    assert_same((2 * J.H @ J).to_dense(), G.to_dense())
    assert (J.H @ J).structure.positive_semidefinite


@every_device
def test_singular_values_and_eigenvalues(device):
    problem = regression(device)
    J = jacobian(problem.model, problem.batches)
    dense = J.to_dense()
    expected = torch.linalg.svdvals(dense)[:3].tolist()
    assert hessops.svds(J, 3, rng=0).singular_values == pytest.approx(expected, rel=1e-8)
    K = ntk(problem.model, problem.batches)
    squares = [value**2 for value in expected]
    assert hessops.eigsh(K, 3, rng=0).eigenvalues == pytest.approx(squares, rel=1e-8)
    G = ggn(problem.model, nn.MSELoss(reduction="sum"), problem.batches)
    doubled = [2 * value for value in squares]
    assert hessops.eigsh(G, 3, rng=0).eigenvalues == pytest.approx(doubled, rel=1e-8)
    trace = hessops.trace(K, num_probes=32, rng=0)
    error = float(trace.standard_error)
    assert abs(trace.value - float(dense.square().sum())) <= 5 * error


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_linear_adjoint_and_deterministic(device, memory_budget):
    problem = images(device)
    operator = jacobian(problem.model, problem.batches, memory_budget=memory_budget)
    check_operator(operator, rng=0).raise_if_failed()
    for term in operator.terms():
        check_operator(term, rng=0).raise_if_failed()
    check_operator(ntk(problem.model, problem.batches), rng=0).raise_if_failed()


@every_device
@pytest.mark.parametrize("adjoint_first", [False, True])
@few_examples
@given(st.floats(0.0, 1.2), seeds)
def test_the_cache_respects_its_budget(device, adjoint_first, share, seed):
    problem = images(device)
    everything = jacobian(problem.model, problem.batches)
    pushed = everything @ normal(seed, everything.shape[1], 2, device=device)
    pulled = everything.H @ pushed
    budget = int(share * everything.graphs.num_bytes)
    operator = jacobian(problem.model, problem.batches, memory_budget=budget)
    if adjoint_first:
        assert_same(operator.H @ pushed, pulled, ROUNDING)
    assert_same(operator @ normal(seed, operator.shape[1], 2, device=device), pushed, ROUNDING)
    assert_same(operator.H @ pushed, pulled, ROUNDING)
    assert operator.graphs.num_bytes <= budget
    kept = [operator.graphs.get(index) for index in range(len(problem.batches))]
    assert sum(g.num_bytes() for g in kept if g is not None) == operator.graphs.num_bytes
    if share >= 1:
        assert None not in kept


@every_device
def test_single_precision_stays_single(device):
    problem = images(device)
    expected = jacobian(problem.model, problem.batches).to_dense().float()
    problem.model.float()
    batches = [(x.float(), y) for x, y in problem.batches]
    operator = jacobian(problem.model, batches)
    assert_same(operator.to_dense(), expected, 1e-5)
    assert_same(operator.H.to_dense(), expected.T, 1e-5)


@every_device
def test_outputs_that_change_their_shape(device):
    model = build(lambda: convolutional(outputs=3), 0, device).eval()
    x = normal(1, 2, 1, 4, 4, device=device)
    operator = jacobian(model, [x])
    model[6] = nn.Linear(2, 4).to(device, torch.float64)
    other = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64, device=device))
    with pytest.raises(ValueError, match="make the operator again"):
        operator.to_dense()
    model[6] = nn.Linear(2, 3).to(device, torch.float64)
    model[6].weight = other
    model.append(nn.Flatten(0))
    with pytest.raises(ValueError, match=r"had the shape \(2, 3\) .* have \(6,\) now"):
        operator.to_dense()


def test_batches_that_do_not_say_what_the_input_is():
    model = build(mlp, 0, "cpu")
    with pytest.raises(TypeError, match="pass forward, a function of"):
        jacobian(model, [{"x": normal(1, 2, 3, device="cpu")}])
    with pytest.raises(TypeError, match="pass forward, a function of"):
        jacobian(model, [()])


def test_outputs_that_are_no_tensor():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(x), x

    model, x = build(Pair, 0, "cpu"), normal(1, 2, 3, device="cpu")
    with pytest.raises(TypeError, match="returned a tuple of 2, not a tensor"):
        jacobian(model, [x])
    operator = jacobian(model, [x], forward=lambda f, b: f(b)[0])
    assert_same(operator.to_dense(), jacobian(model.linear, [x]).to_dense())


def test_a_model_whose_outputs_do_not_depend_on_its_parameters():
    model = nn.Linear(3, 2).double()
    model.forward = lambda x: x.square()
    with pytest.raises(ValueError, match="does not depend on the parameters"):
        jacobian(model, [normal(1, 2, 3, device="cpu")])


@pytest.mark.parametrize("memory_budget", [None, 0])
def test_a_batch_whose_outputs_do_not_depend_on_the_parameters_has_rows_of_zeros(memory_budget):
    model, x = build(mlp, 0, "cpu"), normal(1, 5, 3, device="cpu")

    def forward(model, batch):
        return model(batch) if len(batch) == 3 else batch[:, :2]

    operator = jacobian(model, [x[:3], x[3:]], forward=forward, memory_budget=memory_budget)
    of_first = jacobian(model, [x[:3]]).to_dense()
    rows_of_zeros = torch.zeros(4, of_first.shape[1], dtype=of_first.dtype)
    assert_is_jacobian(operator, torch.cat([of_first, rows_of_zeros]))
