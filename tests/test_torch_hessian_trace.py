"""Traces of networks' Hessians: no bias, honest intervals, much to gain and little to lose."""

import warnings
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import (
    cut,
    dense_hessian,
    few_examples,
    images,
    integers,
    language,
    normal,
    regression,
    seeded,
    seeds,
)

import hessops
from hessops import ConvergenceWarning, NonFiniteError
from hessops_torch import SplitLoss, ggn, hessian, hessian_trace
from hessops_torch.graphs.curvature_graph import CurvatureGraph
from hessops_torch.traces.allocation import Part, Way, allocate
from hessops_torch.traces.strata import strata_of

COUNT = 64


def labels_of(x):
    return (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


@cache
def classifier(num_steps, batch_size=16):
    """A small network, trained by so many steps of Adam, and the trace of its dense Hessian."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = normal(1, COUNT, 4, device="cpu")
    y, loss = labels_of(x), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    operator = hessian(model, loss, cut([batch_size] * (COUNT // batch_size), x, y))
    return operator, dense_hessian(model, lambda f: loss(f(x), y))


UNTRAINED, HALF, TRAINED = 0, 150, 800


def runs(operator, count, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [hessian_trace(operator, rng=seed, **options) for seed in range(count)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("num_steps", [UNTRAINED, HALF, TRAINED])
@pytest.mark.parametrize(
    "options",
    [{"rtol": 0.1}, {"rtol": 0.03, "max_products": 4000}, {"max_products": 24}],
    ids=["loose", "tight", "budget"],
)
def test_no_bias_and_coverage(num_steps, options):
    """400 seeds: a bias of 4.5 standard errors is a false alarm of 7e-6."""
    if num_steps == UNTRAINED and options.get("rtol") == 0.03:
        pytest.skip("takes thousands of products")
    operator, dense = classifier(num_steps)
    truth = float(dense.trace())
    results = runs(operator, 400, **options)
    values = np.array([result.value for result in results])
    assert abs(values.mean() - truth) < 4.5 * values.std() / 20
    held = np.mean([result.interval.low <= truth <= result.interval.high for result in results])
    assert 0.93 <= held <= 0.975


@pytest.mark.slow
def test_it_pays_in_a_trained_network():
    """Standard deviations of 60 runs are known to 9 %."""
    operator, _ = classifier(TRAINED)
    found = runs(operator, 60, max_products=32)
    plain = [hessops.trace(operator, num_probes=32, rng=seed).value for seed in range(60)]
    assert all(result.num_gradients <= 64 for result in found)
    assert np.std([result.value for result in found]) < 0.15 * np.std(plain)


@pytest.mark.slow
def test_an_untrained_network_costs_no_more_than_plain_probes():
    """At the same cost, the deviation of 200 runs, known to 5 %, is at most a tenth larger."""
    operator, _ = classifier(UNTRAINED)
    found = runs(operator, 200, max_products=32)
    plain = [hessops.trace(operator, num_probes=32, rng=seed).value for seed in range(200)]
    assert max(result.num_gradients for result in found) <= 66
    assert np.std([result.value for result in found]) < 1.15 * np.std(plain)


@pytest.mark.parametrize("num_steps", [UNTRAINED, HALF, TRAINED])
def test_sections_add_up_and_are_right(num_steps):
    operator, dense = classifier(num_steps)
    result = hessian_trace(operator, max_products=100, sections=True, rng=0)
    assert list(result.sections) == list(operator.space.sections)
    total = sum(part.value for part in result.sections.values())
    assert total == pytest.approx(result.value, rel=1e-10)
    for name, part in result.sections.items():
        truth = float(dense.diagonal()[operator.space.section(name)].sum())
        assert abs(part.value - truth) < 5 * part.standard_error + 1e-10 * abs(truth)
    assert hessian_trace(operator, rng=0).sections == {}


@given(seeds)
@few_examples
def test_forms_are_those_of_both_matrices(seed):
    problem = images("cpu", (3,), seed)
    H, G = hessian(*problem.arguments), ggn(*problem.arguments)
    rows = normal(seed + 5, 2, H.shape[0], device="cpu")
    with H.objective.ready():
        (batch,) = H.objective.batches
        graph = CurvatureGraph(
            problem.model, G.loss, batch, list(H.objective.parameters.values()), "the batch"
        )
        residual, forms, whole = graph.products(rows, whole=True)
    of_hessian, of_control = 3 * H.apply(rows.T).T, 3 * G.apply(rows.T).T
    torch.testing.assert_close(whole, of_control, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(residual + whole, of_hessian, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(forms, (rows * of_control).sum(1), rtol=1e-9, atol=1e-10)


def test_strata_hold_every_sample_once_and_add_up_to_the_operator():
    operator, dense = classifier(TRAINED)
    objective = operator.objective
    with objective.ready():
        strata = strata_of(objective, objective.loss, separate=True)
        batches = [batch for s in strata.strata for _, batch in strata.batches(s)]
        numbers = [number for s in strata.strata for number, _ in strata.batches(s)]
    assert len(strata.strata) > 1
    assert numbers == list(range(len(batches)))
    assert all(len(x) <= 16 for x, _ in batches)
    assert sum(s.num_samples for s in strata.strata) == COUNT
    assert sum(s.share for s in strata.strata) == pytest.approx(1)
    found = hessian(objective.model, nn.CrossEntropyLoss(), batches).to_dense()
    torch.testing.assert_close(found, dense, rtol=1e-8, atol=1e-11)


def test_batches_of_several_lengths_are_not_joined():
    """Sequences, of which longer ones are in batches of their own."""
    with seeded(0):
        model = nn.Linear(2, 3).double()
    batches = [
        {
            "x": 9 * normal(i, 4, length, 2, device="cpu"),
            "y": integers(i, 3, 4, length, device="cpu"),
        }
        for i, length in enumerate([2, 3, 2])
    ]
    split = SplitLoss(
        lambda f, b: f(b["x"]).transpose(1, 2),
        lambda z, b: (nn.functional.cross_entropy(z, b["y"], reduction="sum"), b["y"].numel()),
    )
    operator = hessian(model, split, batches)
    truth = float(operator.to_dense().trace())
    result = hessian_trace(operator, rtol=0.01, rng=0)
    # Linear in its parameters: H = G, and the trace is exact.
    assert result.value == pytest.approx(truth, rel=1e-9)


CASES = {
    "regression": lambda: regression("cpu", (8, 8)),
    "images": lambda: images("cpu", (6, 5)),
    "images in train mode": lambda: images("cpu", (6, 5), train=True),
    "a loss that does not show its outputs": lambda: language("cpu"),
}


@pytest.mark.parametrize("name", CASES)
def test_problems(name):
    problem = CASES[name]()
    operator = hessian(*problem.arguments, weight_decay=0.5)
    truth = float(problem.dense().trace()) + 0.5 * operator.shape[0]
    result = hessian_trace(operator, max_products=64, rng=1)
    assert abs(result.value - truth) < 5 * result.standard_error
    assert result.interval.low < result.value < result.interval.high
    assert 0 < result.num_gradients <= 130
    if "outputs" in name:
        assert "does not show the outputs" in result.reason
    if "train mode" in name:
        assert "one function of all its samples" in result.reason


def test_a_concave_loss_has_plain_probes():
    problem = regression("cpu")
    concave = SplitLoss(lambda f, b: f(b[0]), lambda z, b: (-z.square().sum(), len(z)))
    operator = hessian(problem.model, concave, problem.batches)
    result = hessian_trace(operator, max_products=64, rng=0)
    assert result.method == "stratified"
    assert abs(result.value - float(operator.to_dense().trace())) < 5 * result.standard_error


def test_a_loss_may_write_into_the_outputs():
    problem = regression("cpu")
    split = SplitLoss(lambda f, b: f(b[0]), lambda z, b: (z.sub_(b[1]).square().sum(), z.numel()))
    operator = hessian(problem.model, split, problem.batches)
    result = hessian_trace(operator, max_products=64, rng=0)
    assert abs(result.value - float(operator.to_dense().trace())) < 5 * result.standard_error


def test_a_loss_that_turns_concave_in_a_later_batch_has_plain_probes():
    problem = regression("cpu", (4, 4))
    problem.batches[1] = (*problem.batches[1], -torch.ones(4, 1, dtype=torch.float64))
    problem.batches[0] = (*problem.batches[0], torch.ones(4, 1, dtype=torch.float64))
    split = SplitLoss(
        lambda f, b: f(b[0]), lambda z, b: (((z - b[1]).square() * b[2]).sum(), len(z))
    )
    operator = hessian(problem.model, split, problem.batches)
    result = hessian_trace(operator, max_products=64, rng=0)
    assert result.method == "stratified"
    assert abs(result.value - float(operator.to_dense().trace())) < 5 * result.standard_error


def test_the_same_seed_gives_the_same_answer_whatever_is_kept():
    problem = images("cpu", (6, 5))
    kept, rebuilt = (hessian(*problem.arguments, memory_budget=m) for m in (None, 0))
    first, second = (hessian_trace(H, rtol=0.2, rng=3) for H in (kept, rebuilt))
    assert first.value == pytest.approx(second.value, rel=1e-9)
    assert first.num_gradients < second.num_gradients
    assert hessian_trace(kept, rtol=0.2, rng=4).value != first.value


def test_the_result_says_what_was_done_and_can_be_saved(tmp_path):
    operator, _ = classifier(TRAINED)
    result = hessian_trace(operator, rtol=0.05, rng=0)
    assert result.converged
    assert "tolerance reached" in result.status
    assert "strata by how much samples bend the loss" in result.reason
    assert "gradients in all" in str(result)
    half = (result.interval.high - result.interval.low) / 2
    assert half <= 0.05 * abs(result.value)
    loaded = hessops.load(result.save(tmp_path / "trace"))
    assert loaded.value == result.value
    assert loaded.num_gradients == result.num_gradients


def test_a_callback_ends_the_run():
    operator, _ = classifier(TRAINED)
    states = []
    with pytest.warns(ConvergenceWarning, match="stopped by the callback"):
        result = hessian_trace(
            operator, rtol=0.001, rng=0, callback=lambda state: states.append(state) or True
        )
    assert len(states) == 1
    assert not result.converged


def test_what_is_out_of_reach_is_said():
    operator, _ = classifier(UNTRAINED)
    with pytest.warns(ConvergenceWarning, match="used the budget: .* raise max_products"):
        result = hessian_trace(operator, rtol=1e-4, max_products=20, rng=0)
    assert not result.converged
    assert result.num_gradients <= 42


def test_the_model_is_left_as_it_was():
    problem = images("cpu", (6, 5))
    operator = hessian(*problem.arguments)
    before = {key: value.clone() for key, value in problem.model.state_dict().items()}
    state = torch.get_rng_state()
    hessian_trace(operator, rtol=0.3, rng=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in problem.model.state_dict().items())
    assert all(parameter.grad is None for parameter in problem.model.parameters())
    assert not any(module._forward_hooks for module in problem.model.modules())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rtol": 0}, "rtol=0 must be positive and finite"),
        ({"atol": np.inf}, "atol=inf must be positive and finite"),
        ({"confidence": 1.5}, "must lie between 0 and 1"),
        ({"max_products": 3}, "max_products=3 does not pay for a pilot: give 8 or more"),
        ({"max_products": 0}, "must be a positive integer"),
    ],
)
def test_bad_options(options, sentence):
    operator, _ = classifier(UNTRAINED)
    with pytest.raises(ValueError, match=sentence):
        hessian_trace(operator, **options)


def test_other_operators_are_refused():
    with pytest.raises(TypeError, match=r"takes what hessops_torch\.hessian makes, got ndarray"):
        hessian_trace(np.eye(3))


def test_a_sample_that_is_not_finite_is_named():
    problem = regression("cpu")
    problem.batches[1][1][0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="micro-batch 1"):
        hessian_trace(hessian(*problem.arguments), rng=0)


parts = st.builds(
    Part, st.floats(0.0, 10.0), st.floats(0.1, 10.0), st.integers(1, 4), st.integers(0, 8)
)
ways = st.builds(Way, st.just(""), st.lists(parts, min_size=1, max_size=2).map(tuple),
                 st.floats(0.0, 50.0))  # fmt: skip


@given(
    st.lists(st.lists(ways, min_size=1, max_size=3), min_size=1, max_size=4), st.floats(0.01, 10)
)
def test_allocations_keep_to_the_variance_and_to_the_budget(strata, wanted):
    found = allocate(strata, variance=wanted)
    assert found.variance <= wanted * (1 + 1e-9)
    for way, counts in zip(found.ways, found.counts, strict=True):
        assert all(n >= max(p.least, p.done) for p, n in zip(way.parts, counts, strict=True))
    least = sum(min(w.spent([max(p.least, p.done) for p in w.parts]) for w in s) for s in strata)
    bounded = allocate(strata, budget=least + 20)
    assert bounded.cost <= least + 20 + 1e-6
    assert allocate(strata, variance=wanted, budget=found.cost).cost <= found.cost + 1e-6


def test_allocation_is_neymans():
    """Numbers of probes go as deviation by root of cost, and that is cheapest."""
    strata = [[Way("", (Part(deviation, cost),))] for deviation, cost in ((30, 1), (3, 4), (9, 9))]
    counts = np.array([n for (n,) in allocate(strata, variance=0.1).counts])
    np.testing.assert_allclose(counts / counts[0], [1, 0.05, 0.1], rtol=0.01)


def test_the_cheapest_way_is_taken():
    plain = Way("plain", (Part(10.0, 1.0),))
    helped = Way("exact", (Part(1.0, 1.0),), fixed=50.0)
    assert allocate([[plain, helped]], variance=10.0).ways[0] is plain
    assert allocate([[plain, helped]], variance=0.1).ways[0] is helped
