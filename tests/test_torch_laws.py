"""Laws of every Hessian: linear, symmetric, the sum of its micro-batches, never out of date."""

import copy
import weakref
from functools import reduce
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    PROBLEMS,
    assert_is_hessian,
    assert_same,
    build,
    every_device,
    every_problem,
    few_examples,
    mlp,
    normal,
    regression,
    seeds,
    some_problems,
)

from hessops import check_operator
from hessops_torch import hessian
from hessops_torch.data.batch import map_tensors
from hessops_torch.graphs.gradient_graph import GradientGraph

ROUNDING = 1e-12


@every_device
@every_problem
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_linear_symmetric_and_deterministic(device, make_problem, memory_budget):
    operator = hessian(*make_problem(device).arguments, memory_budget=memory_budget)
    assert operator.structure.self_adjoint
    assert not operator.structure.positive_semidefinite
    check_operator(operator, rng=0).raise_if_failed()


@every_device
@every_problem
def test_terms_are_linear_and_symmetric(device, make_problem):
    for term in hessian(*make_problem(device).arguments).terms():
        check_operator(term, rng=0).raise_if_failed()


@every_device
@every_problem
@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_terms_sum_to_the_whole(device, make_problem, weight_decay, memory_budget):
    problem = make_problem(device)
    options = {"weight_decay": weight_decay, "memory_budget": memory_budget}
    # Before any product, so that the terms have to find their common count themselves.
    terms = list(hessian(*problem.arguments, **options).terms())
    whole = hessian(*problem.arguments, **options).to_dense()
    assert len(terms) == len(problem.batches) + (weight_decay > 0)
    assert_same(reduce(add, [term.to_dense() for term in terms]), whole, ROUNDING)


@every_device
def test_terms_of_a_sum_are_the_hessians_of_the_batches(device):
    problem = regression(device)
    loss = nn.MSELoss(reduction="sum")
    terms = list(hessian(problem.model, loss, problem.batches).terms())
    assert len(terms) == len(problem.batches)
    for term, batch in zip(terms, problem.batches, strict=True):
        assert_same(term.to_dense(), hessian(problem.model, loss, batch).to_dense(), ROUNDING)


@every_device
@some_problems
@few_examples
@given(st.data(), seeds)
def test_the_same_however_the_data_falls_into_batches(device, make_problem, data, seed):
    count = 7
    whole = make_problem(device, sizes=(count,), seed=seed)
    cuts = data.draw(st.lists(st.integers(1, count - 1), unique=True).map(sorted))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
    parts = make_problem(device, sizes=sizes, seed=seed)
    micro_batch_size = data.draw(st.none() | st.integers(1, count + 1))
    operator = hessian(*parts.arguments, micro_batch_size=micro_batch_size)
    assert_same(operator.to_dense(), hessian(*whole.arguments).to_dense(), ROUNDING)


@every_device
@given(st.integers(1, 5), st.integers(1, 9), seeds)
def test_number_of_micro_batches(device, micro_batch_size, count, seed):
    problem = regression(device, sizes=(count, 2), seed=seed)
    operator = hessian(*problem.arguments, micro_batch_size=micro_batch_size)
    expected = -(-count // micro_batch_size) + -(-2 // micro_batch_size)
    assert len(operator.objective.batches) == expected == len(list(operator.terms()))


@every_device
@every_problem
def test_kept_graphs_change_nothing(device, make_problem):
    problem = make_problem(device)
    kept, rebuilt = (hessian(*problem.arguments, memory_budget=b) for b in (None, 0))
    block = normal(5, kept.shape[0], 3, device=device)
    expected = rebuilt @ block
    # The first product builds the graphs, the later ones find them.
    for _ in range(3):
        assert_same(kept @ block, expected, ROUNDING)
    assert len(kept.graphs) == len(problem.batches)
    assert len(rebuilt.graphs) == 0


@every_device
@every_problem
def test_terms_and_the_whole_share_their_graphs(device, make_problem):
    problem = make_problem(device)
    operator = hessian(*problem.arguments)
    vector = normal(5, operator.shape[0], device=device)
    by_terms = reduce(add, [term @ vector for term in operator.terms()])
    graphs = [operator.graphs.get(index) for index in range(len(problem.batches))]
    assert None not in graphs
    assert_same(operator @ vector, by_terms, ROUNDING)
    assert [operator.graphs.get(index) for index in range(len(graphs))] == graphs


@every_device
@every_problem
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_a_block_is_its_columns(device, make_problem, memory_budget):
    operator = hessian(*make_problem(device).arguments, memory_budget=memory_budget)
    block = normal(5, operator.shape[0], 3, device=device)
    columns = torch.stack([operator @ block[:, j] for j in range(3)], dim=1)
    assert_same(operator @ block, columns, ROUNDING)
    # However the caller stores the block.
    assert_same(operator @ block.T.contiguous().T, columns, ROUNDING)
    assert_same(operator @ torch.cat([block, block], 1)[:, ::2], columns[:, [0, 2, 1]], ROUNDING)


@every_device
def test_the_block_is_left_as_it_was(device):
    operator = hessian(*regression(device).arguments, weight_decay=0.1)
    block = normal(5, operator.shape[0], 2, device=device)
    before = block.clone()
    first = operator @ block
    again = first.clone()
    assert torch.equal(block, before)
    operator @ block
    assert torch.equal(first, again)


@every_device
def test_products_carry_no_gradient_graph(device):
    operator = hessian(*regression(device).arguments, weight_decay=0.1)
    vector = normal(5, operator.shape[0], device=device).requires_grad_()
    assert not (operator @ vector).requires_grad
    assert not any((term @ vector).requires_grad for term in list(operator.terms())[:-1])


class Saved:
    """What a graph keeps for one backward formula; gone when the graph is."""

    def __init__(self, tensor):
        self.tensor = tensor


def memory_of_saved_tensors(alive, parameters):
    storages = {
        box.tensor.untyped_storage().data_ptr(): box.tensor.untyped_storage().nbytes()
        for box in alive
    }
    for parameter in parameters:
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(storages.values())


@every_device
@every_problem
def test_memory_of_a_graph_is_what_autograd_saved_for_it(device, make_problem):
    """Counted a second time by hooks on everything that autograd saves."""
    problem = make_problem(device)
    operator = hessian(*problem.arguments, memory_budget=0)
    parameters = list(operator.objective.parameters.values())
    # Of a batch that is cut from the data, the rest of the data would count.
    batch = map_tensors(torch.clone, problem.batches[0])
    alive = weakref.WeakSet()

    def pack(tensor):
        box = Saved(tensor)
        alive.add(box)
        return box

    with operator.objective.ready(), saved_tensors_hooks(pack, lambda box: box.tensor):
        graph = GradientGraph(problem.model, operator.objective.loss, batch, parameters)
    saved = memory_of_saved_tensors(alive, parameters)
    gradients = sum(p.numel() * p.element_size() for p in parameters)
    assert saved > 0
    assert saved <= graph.num_bytes() <= saved + gradients


@every_device
def test_memory_of_a_graph_grows_with_the_batch_and_with_the_parameters(device):
    def num_bytes(width, count):
        model = build(lambda: mlp(width), 0, device)
        batch = normal(1, count, 3, device=device), normal(2, count, 2, device=device)
        operator = hessian(model, nn.MSELoss(), batch)
        operator @ torch.zeros(operator.shape[0], dtype=torch.float64, device=device)
        return operator.graphs.num_bytes

    activations = 8 * 1000 * 100
    assert num_bytes(100, 2000) - num_bytes(100, 1000) >= activations
    # The gradients themselves are kept, too.
    parameters = 8 * 5 * 10_000
    assert num_bytes(20_000, 1) - num_bytes(10_000, 1) >= parameters


@every_device
@every_problem
@few_examples
@given(st.floats(0.0, 1.2), seeds)
def test_the_cache_respects_its_budget(device, make_problem, share, seed):
    problem = make_problem(device)
    everything = hessian(*problem.arguments)
    block = normal(seed, everything.shape[0], 2, device=device)
    expected = everything @ block
    budget = int(share * everything.graphs.num_bytes)
    operator = hessian(*problem.arguments, memory_budget=budget)
    for _ in range(2):
        assert_same(operator @ block, expected, ROUNDING)
        assert operator.graphs.num_bytes <= budget
        kept = [operator.graphs.get(index) for index in range(len(problem.batches))]
        held = sum(graph.num_bytes() for graph in kept if graph is not None)
        assert held == operator.graphs.num_bytes
    if share >= 1:
        assert len(operator.graphs) == len(problem.batches)


@every_device
def test_two_operators_of_one_model_know_nothing_of_each_other(device):
    """Gradients that accumulate on the model would make the second the sum of both."""
    problem = regression(device)
    other = [(x + 1, y) for x, y in problem.batches]
    expected, of_other = (
        hessian(copy.deepcopy(problem.model), problem.loss, data).to_dense()
        for data in (problem.batches, other)
    )
    first = hessian(*problem.arguments)
    second = hessian(problem.model, problem.loss, other)
    assert_same(second.to_dense(), of_other, ROUNDING)
    assert_same(first.to_dense(), expected, ROUNDING)
    assert_same(second.to_dense(), of_other, ROUNDING)


@every_device
def test_the_scale_of_the_loss_is_the_scale_of_the_hessian(device):
    problem = regression(device)
    expected = problem.dense()
    for scale in (1e-12, 1e12):

        def loss(model, batch, scale=scale):
            x, y = batch
            return scale * F.mse_loss(model(x), y, reduction="sum"), y.numel()

        assert_is_hessian(hessian(problem.model, loss, problem.batches), scale * expected)


def test_the_problems_are_indefinite():
    """Else a product with a definite part, such as the Gauss-Newton matrix, would pass."""
    for make_problem in PROBLEMS.values():
        eigenvalues = torch.linalg.eigvalsh(make_problem("cpu").dense())
        assert eigenvalues[0] < -1e-2 * eigenvalues[-1]
