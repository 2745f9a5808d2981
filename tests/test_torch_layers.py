"""Blocks of network operators against the blocks of dense matrices, within their stated errors."""

import csv
import functools
import importlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import (
    assert_same,
    batch_sizes,
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
from hessops_torch import Hessian, block_diagonal, hessian, layer_curvature
from hessops_torch.model.parameter_blocks import parameter_blocks

NUM_PROBES = 400
# Normal tails: 2e-9 for every comparison.
Z = 6.0


def names_of(model):
    return [name for name, _ in model.named_parameters()]


def only_blocks(model, dense, blocks):
    """Return a dense matrix without what couples its blocks."""
    expected = torch.zeros_like(dense)
    for names in blocks.values():
        rows = rows_of(model, names).to(dense.device)
        expected[rows[:, None], rows] = dense[rows[:, None], rows]
    return expected


@every_device
@pytest.mark.parametrize("make_problem", [regression, images, language])
def test_traces_and_diagonals_are_those_of_the_dense_blocks(device, make_problem):
    """At most 5 blocks with 3 intervals that miss with probability 2e-9 each."""
    problem = make_problem(device)
    dense = problem.dense()
    operator = hessian(*problem.arguments)
    found = layer_curvature(operator, num_probes=NUM_PROBES, confidence=1 - 2e-9, rng=0)
    whole = float(torch.trace(dense))
    rounding = 1e-12 * float(torch.linalg.norm(dense))
    assert found.trace.interval.low <= whole <= found.trace.interval.high
    assert set(found.blocks) == {name.rpartition(".")[0] for name in names_of(problem.model)}
    for block, names in found.blocks.items():
        entries = torch.diagonal(dense)[rows_of(problem.model, names).to(device)]
        assert found.sizes[block] == len(entries)
        exact = float(entries.sum())
        trace, (_, share), (_, rms) = (
            table[block] for table in (found.traces, found.shares, found.rms_diagonals)
        )
        assert trace.interval.low - rounding <= exact <= trace.interval.high + rounding
        assert share.low - 1e-12 <= exact / whole <= share.high + 1e-12
        assert rms.low - rounding <= float((entries**2).mean().sqrt()) <= rms.high + rounding
        assert trace.standard_error < 0.2 * float(torch.linalg.norm(dense))
        assert rms.high < float(torch.linalg.norm(dense))
        mean = found.trace_per_parameter(block)
        assert float(mean) == float(trace) / len(entries)


@every_device
def test_traces_are_those_of_the_core(device):
    """The same probes for the same micro-batches, added up by block."""
    operator = hessian(*images(device).arguments)
    found = layer_curvature(operator, num_probes=16, rng=3, block_size=5)
    trace = hessops.trace(operator, num_probes=16, rng=3, block_size=5)
    assert found.num_products == 16
    assert found.num_terms == trace.num_terms == 2
    assert float(found.trace) == pytest.approx(trace.value, rel=1e-12)
    assert found.trace.standard_error == pytest.approx(trace.standard_error, rel=1e-12)
    assert tuple(found.trace.interval) == pytest.approx(tuple(trace.interval), rel=1e-12)
    by_tensor = layer_curvature(operator, num_probes=16, rng=3, each="tensor", block_size=5)
    for name, section in trace.sections.items():
        assert float(by_tensor.traces[name]) == pytest.approx(section.value, rel=1e-12)
        assert by_tensor.traces[name].standard_error == pytest.approx(section.standard_error)


@given(seeds, st.integers(3, 20), st.integers(1, 20), st.booleans())
@few_examples
def test_no_result_depends_on_the_width_of_products(seed, num_probes, block_size, stratify):
    operator = hessian(*regression("cpu", (2, 3)).arguments)
    options = {"num_probes": num_probes, "rng": seed, "stratify": stratify}
    one, other = (layer_curvature(operator, block_size=size, **options) for size in (1, block_size))
    for name, estimate in one.traces.items():
        again = other.traces[name]
        assert again.value == pytest.approx(estimate.value, rel=1e-9, abs=1e-12)
        assert again.standard_error == pytest.approx(estimate.standard_error, rel=1e-6, abs=1e-9)
        (share, of_share), (rms, of_rms) = one.shares[name], one.rms_diagonals[name]
        assert other.shares[name][0] == pytest.approx(share, rel=1e-6)
        assert other.shares[name][1].high == pytest.approx(of_share.high, rel=1e-4)
        assert other.rms_diagonals[name][0] == pytest.approx(rms, rel=1e-6, abs=1e-8)
        assert other.rms_diagonals[name][1].high == pytest.approx(of_rms.high, rel=1e-6, abs=1e-8)


@every_device
@pytest.mark.parametrize("make_problem", [regression, images, language])
def test_eigenvalues_are_those_of_the_dense_blocks(device, make_problem):
    problem = make_problem(device)
    dense = problem.dense()
    found = layer_curvature(
        hessian(*problem.arguments, weight_decay=0.1),
        {"all but the first": names_of(problem.model)[1:], "first": names_of(problem.model)[0]},
        num_probes=2, num_eigenvalues=2, tol=1e-8, num_density_steps=80, num_density_probes=2, rng=0,
    )  # fmt: skip
    assert found.converged
    for block, names in found.blocks.items():
        rows = rows_of(problem.model, names).to(device)
        exact = torch.linalg.eigvalsh(dense[rows[:, None], rows]).cpu().numpy() + 0.1
        largest = exact[np.argsort(-np.abs(exact))[:2]]
        pairs = found.eigenpairs[block]
        np.testing.assert_allclose(pairs.eigenvalues, largest, atol=1e-8 * abs(largest[0]))
        assert np.all(np.abs(pairs.eigenvalues - largest) <= pairs.error_bounds + 1e-12)
        assert found.top_eigenvalue(block) == pairs.eigenvalues[0]
        density = found.densities[block]
        assert density.dim == len(rows)
        moment = density.moment(1)
        assert abs(moment.value - exact.mean()) <= 40 * moment.standard_error + 1e-10
        low, high = density.support
        assert exact.min() - 1e-9 <= low
        assert high <= exact.max() + 1e-9
    parts = [*found.eigenpairs.values(), *found.densities.values()]
    assert found.num_block_products == sum(part.num_products for part in parts)


@every_device
@given(batch_sizes, ways_to_compute(), st.sampled_from([0.0, 0.3]), st.integers(1, 40), seeds)
@few_examples
def test_block_diagonal_of_mlps(device, sizes, ways, decay, block_size, seed):
    problem = regression(device, sizes, seed)
    operator = block_diagonal(hessian(*problem.arguments, weight_decay=decay, **ways))
    dense = problem.dense()
    dense += decay * torch.eye(len(dense), device=device, dtype=dense.dtype)
    expected = only_blocks(problem.model, dense, operator.blocks)
    assert_same(operator.to_dense(block_size=block_size), expected)
    assert_same(sum(term.to_dense() for term in operator.terms()), expected)


@every_device
@pytest.mark.parametrize("make_problem", [regression, images, language])
@pytest.mark.parametrize("general", [False, True])
def test_block_diagonal(device, make_problem, general, monkeypatch):
    """By one graph for all blocks, as Hessians do it, and by products with the whole."""
    if general:
        monkeypatch.delattr(Hessian, "_add_block_products")
    problem = make_problem(device)
    whole = hessian(*problem.arguments)
    dense = problem.dense()
    X = normal(0, len(dense), 3, device=device)
    for each in ("module", "tensor"):
        operator = block_diagonal(whole, each=each)
        assert operator.structure == whole.structure
        expected = only_blocks(problem.model, dense, operator.blocks) @ X
        assert_same(operator @ X, expected)
        # Once more by the graphs that were kept, which the whole uses too.
        assert len(operator.graphs) == len(whole.graphs) == len(problem.batches)
        assert_same(operator @ X, expected)
    assert_same(whole @ X, dense @ X)


def test_block_diagonal_of_some_parameters_acts_on_them_alone():
    problem = images("cpu")
    whole = hessian(*problem.arguments)
    operator = block_diagonal(whole, {"head": "6", "norms": ["1", "3.inner.1"]})
    dense = problem.dense()
    names = list(operator.domain.sections)
    rows = rows_of(problem.model, names)
    expected = only_blocks(problem.model, dense, operator.blocks)[rows[:, None], rows]
    assert_same(operator.to_dense(), expected)
    part = operator.restricted(["6.weight", "1"])
    rows = rows_of(problem.model, list(part.domain.sections))
    kept = {"head": ["6.weight"], "norms": ["1.weight", "1.bias"]}
    expected = only_blocks(problem.model, dense, kept)[rows[:, None], rows]
    assert_same(part.to_dense(), expected)
    with pytest.raises(ValueError, match=r"does not act on 0\.weight"):
        operator.restricted("0.weight")


def test_block_diagonals_have_less_noisy_layers():
    """Each probe's deviation is that of the block alone, and not of the rows that it lies in."""
    operator = hessian(*images("cpu").arguments)
    whole = layer_curvature(operator, num_probes=200, rng=0)
    alone = layer_curvature(block_diagonal(operator), num_probes=200, rng=0)
    for block in whole.blocks:
        difference = float(whole.traces[block]) - float(alone.traces[block])
        errors = [one.traces[block].standard_error for one in (whole, alone)]
        assert abs(difference) <= Z * np.hypot(*errors)
        assert errors[1] < errors[0]


@every_device
def test_restricted_operators_are_diagonal_blocks(device):
    problem = images(device)
    operator = hessian(*problem.arguments, weight_decay=0.2)
    operator.to_dense()
    block = operator.restricted("3.*")
    assert isinstance(block, Hessian)
    rows = rows_of(problem.model, list(block.domain.sections)).to(device)
    expected = problem.dense()[rows[:, None], rows]
    expected += 0.2 * torch.eye(len(rows), device=device, dtype=expected.dtype)
    assert_same(block.to_dense(), expected)
    assert_same(sum(term.to_dense() for term in block.terms()), expected)
    # What the whole keeps is not there for the block.
    assert block.graphs.memory_budget == operator.graphs.memory_budget - operator.graphs.num_bytes


def test_the_model_is_left_as_it_was():
    problem = images("cpu", train=True)
    state = {name: t.clone() for name, t in problem.model.state_dict().items()}
    operator = hessian(*problem.arguments)
    layer_curvature(operator, num_probes=2, num_eigenvalues=1, rng=0)
    block_diagonal(operator).to_dense()
    assert problem.model.training
    assert all(p.grad is None and p.requires_grad for p in problem.model.parameters())
    assert all(torch.equal(state[name], t) for name, t in problem.model.state_dict().items())


MODEL = nn.Sequential(mlp(), nn.Tanh(), nn.Linear(2, 2), nn.ParameterList([torch.zeros(2)]))
NAMES = names_of(MODEL)


def test_blocks_are_modules_or_tensors_where_none_are_given():
    assert parameter_blocks(MODEL, NAMES) == {
        "0.0": ("0.0.weight", "0.0.bias"),
        "0.2": ("0.2.weight", "0.2.bias"),
        "2": ("2.weight", "2.bias"),
        "3": ("3.0",),
    }
    assert parameter_blocks(MODEL, NAMES, each="tensor") == {name: (name,) for name in NAMES}
    assert parameter_blocks(nn.Linear(2, 2), ["weight", "bias"]) == {"(model)": ("weight", "bias")}


def test_blocks_are_chosen_by_all_that_chooses_parameters():
    blocks = ["*.bias", re.compile(r"^0.*weight"), MODEL[2].weight, MODEL[3]]
    assert parameter_blocks(MODEL, NAMES, blocks) == {
        "*.bias": ("0.0.bias", "0.2.bias", "2.bias"),
        "^0.*weight": ("0.0.weight", "0.2.weight"),
        "2.weight": ("2.weight",),
        "3": ("3.0",),
    }
    assert parameter_blocks(MODEL, NAMES, "0") == {"0": tuple(NAMES[:4])}
    # Of a module, what the operator acts on.
    weights = [name for name in NAMES if name.endswith("weight")]
    assert parameter_blocks(MODEL, weights, [MODEL[0]]) == {"0": ("0.0.weight", "0.2.weight")}


@pytest.mark.parametrize(
    ("blocks", "options", "error", "words"),
    [
        (["0", "*.bias"], {}, ValueError, r"'0' and '\*.bias' both hold 0.0.bias"),
        ({"a": "0.0", "b": ["2", MODEL[0]]}, {}, ValueError, "'a' and 'b' both hold 0.0.weight"),
        (["2", "2"], {}, ValueError, "two blocks are called '2'"),
        (["0.3"], {}, ValueError, "block '0.3': no parameter fits '0.3'"),
        ({"tanh": MODEL[1]}, {}, ValueError, "block 'tanh': the Tanh in params has no parameters"),
        ([nn.Linear(2, 2)], {}, ValueError, "block 'Linear': .*not of this model"),
        ({}, {}, ValueError, "blocks is empty"),
        (["2.bias"], {}, ValueError, "acts on no parameter of it"),
        ({"a": None}, {}, TypeError, "block 'a' is None"),
        (3, {}, TypeError, "blocks=3 names no blocks"),
        ([3], {}, TypeError, "block 'int': params=3 names no parameters"),
        (None, {"each": "layer"}, ValueError, "each='layer' is unknown"),
        (None, {"num_probes": 0}, ValueError, "num_probes=0 must be a positive integer"),
        (None, {"num_eigenvalues": -1}, ValueError, "num_eigenvalues=-1 must not be negative"),
        (None, {"num_density_steps": 1.5}, ValueError, "num_density_steps=1.5 must not be neg"),
        (None, {"confidence": 1.0}, ValueError, "confidence=1.0 must lie between 0 and 1"),
        (None, {"probe": "cauchy"}, ValueError, "probe='cauchy' is unknown"),
    ],
)
def test_bad_blocks_and_options_are_named(blocks, options, error, words):
    data = [(torch.randn(4, 3), torch.randn(4, 2))]
    model = nn.Sequential(*MODEL[:3])
    names = [name for name in NAMES[:6] if name != "2.bias"]
    operator = hessian(model, nn.MSELoss(), data, params=names)
    with pytest.raises(error, match=words):
        layer_curvature(operator, blocks, **options)


def test_operators_without_layers_are_refused():
    plain = hessops.aslinearoperator(np.eye(3), self_adjoint=True)
    with pytest.raises(TypeError, match="without sections"):
        layer_curvature(plain)
    with pytest.raises(ValueError, match="is complex"):
        layer_curvature(1j * np.eye(3))
    with pytest.raises(TypeError, match="needs an operator over a network's data"):
        block_diagonal(plain)
    operator = hessian(*regression("cpu").arguments)
    twice = 2 * operator
    found = layer_curvature(twice, num_probes=4, rng=0)
    assert list(found.blocks) == list(operator.domain.sections)
    with pytest.raises(TypeError, match="knows none"):
        layer_curvature(twice, ["0"])
    with pytest.raises(TypeError, match="cannot be divided"):
        layer_curvature(twice, num_eigenvalues=1)


@pytest.fixture(scope="module")
def found():
    operator = hessian(*images("cpu").arguments)
    return layer_curvature(operator, num_probes=16, num_eigenvalues=1, num_density_steps=4, rng=0)


def test_results_are_ranked(found):
    for by, key in (
        ("trace per parameter", lambda block: float(found.trace_per_parameter(block))),
        ("trace", lambda block: float(found.traces[block])),
        ("top eigenvalue", lambda block: abs(found.top_eigenvalue(block))),
    ):
        assert found.ranking(by) == sorted(found.blocks, key=key, reverse=True)
        lines = found.table(by).splitlines()
        assert [line.split()[1] for line in lines[1:]] == found.ranking(by)
        assert all(line.count("±") == 2 for line in lines[1:])
        assert lines[0].split()[-3:] == ["error", "bound", "residual"]
    assert found.table() in str(found)
    with pytest.raises(ValueError, match="by='name' is unknown"):
        found.ranking("name")
    with pytest.raises(KeyError, match="no block '9'"):
        found.trace_per_parameter("9")
    bare = layer_curvature(hessian(*regression("cpu").arguments), num_probes=2, rng=0)
    with pytest.raises(ValueError, match="give num_eigenvalues=1"):
        bare.table("top eigenvalue")
    with pytest.raises(KeyError, match="give num_eigenvalues=1"):
        bare.top_eigenvalue("0")


def test_results_are_saved_whole(found, tmp_path):
    again = hessops.load(found.save(tmp_path / "layers"))
    assert str(again) == str(found)
    assert again.blocks == found.blocks
    for block in found.blocks:
        assert np.array_equal(again.densities[block].nodes, found.densities[block].nodes)
        assert again.eigenpairs[block].status == found.eigenpairs[block].status
        assert torch.equal(
            torch.as_tensor(again.eigenpairs[block].eigenvectors),
            found.eigenpairs[block].eigenvectors,
        )
    report = found.to_dict()
    assert report["traces"]["6"]["value"] == float(found.traces["6"])
    assert "eigenvectors" not in report["eigenpairs"]["6"]


def test_tables_are_written_with_all_digits(found, tmp_path):
    path = found.to_csv(tmp_path / "layers.csv", by="trace")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["block"] for row in rows] == found.ranking("trace")
    for row in rows:
        block = row["block"]
        assert int(row["parameters"]) == found.sizes[block]
        assert float(row["trace"]) == float(found.traces[block])
        assert float(row["trace_low"]) == found.traces[block].interval.low
        assert float(row["share"]) == found.shares[block][0]
        assert float(row["share_low"]) == found.shares[block][1].low
        assert float(row["eigenvalue"]) == found.top_eigenvalue(block)
        value, (low, high) = found.rms_diagonals[block]
        assert (float(row["rms_diagonal"]), float(row["rms_diagonal_high"])) == (value, high)
        assert low <= value <= high


@pytest.mark.parametrize("by", ["trace per parameter", "trace", "top eigenvalue"])
def test_results_are_drawn(found, by):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = found.plot(by=by)
    assert [label.get_text() for label in ax.get_yticklabels()] == found.ranking(by)
    assert ax.get_xlabel() == by
    assert found.plot(ax, by=by) is ax
    pyplot.close(ax.figure)


def test_errors_that_are_unknown_are_said():
    operator = hessian(*regression("cpu").arguments)
    one = layer_curvature(operator, num_probes=1, rng=0)
    assert "one probe gives no error" in one.status
    assert str(one).count("unknown") >= 3 * len(one.blocks)
    assert all(np.isinf(estimate.interval.high) for estimate in one.traces.values())
    # Of a whole that may be zero there are no shares.
    data = [(torch.eye(2), torch.zeros(2, 1))]
    zero = hessian(nn.Linear(2, 1, bias=False), nn.MSELoss(), data, weight_decay=-1.0)
    balanced = layer_curvature(zero, num_probes=4, rng=0)
    assert float(balanced.trace) == 0.0
    share, interval = balanced.shares["(model)"]
    assert np.isnan(share)
    assert np.isinf(interval.high)


def test_a_sweep_can_be_ended_by_a_callback():
    operator = hessian(*regression("cpu").arguments)
    seen = []

    def stop(state):
        seen.append(repr(state))
        return state.num_products >= 6

    found = layer_curvature(operator, num_probes=20, block_size=3, rng=0, callback=stop)
    assert found.num_products == found.num_probes == 6
    assert "stopped by the callback" in found.status
    assert len(seen) == len(found.history) == 2
    exact = layer_curvature(operator, num_probes=6, rng=0)
    for name, (value, interval) in exact.rms_diagonals.items():
        assert found.rms_diagonals[name] == (pytest.approx(value), pytest.approx(interval))


def test_few_vectors_are_kept_of_long_ones(monkeypatch):
    module = importlib.import_module("hessops_torch.layers.sweep")
    operator = hessian(*regression("cpu").arguments)
    states = []
    monkeypatch.setattr(module, "_GROUP_BYTES", 5 * 20 * 8)
    few = layer_curvature(operator, num_probes=64, rng=0, callback=states.append)
    assert states[-1].groups.shape == (20, 5)
    many = layer_curvature(operator, num_probes=2, rng=0, callback=states.append)
    assert states[-1].groups.shape == (20, 2)
    assert all(np.isinf(interval.high) for _, interval in many.rms_diagonals.values())
    assert all(np.isfinite(interval.high) for _, interval in few.rms_diagonals.values())


def test_models_with_data_are_made_operators():
    model, loss, data = regression("cpu").arguments
    found = layer_curvature((model, loss, data), num_probes=2, rng=0)
    assert list(found.blocks) == ["0", "2"]


def test_missed_eigenvalues_are_named(monkeypatch):
    module = importlib.import_module("hessops_torch.layers.layer_curvature")
    monkeypatch.setattr(module, "eigsh", functools.partial(hessops.eigsh, max_steps=2))
    operator = hessian(*images("cpu").arguments)
    with pytest.warns(hessops.ConvergenceWarning, match="eigenvalues of .*6.* did not converge"):
        found = layer_curvature(operator, num_probes=2, num_eigenvalues=1, rng=0)
    assert not found.converged
