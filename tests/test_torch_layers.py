"""The curvature of a network's layers against the blocks of dense matrices, within its errors."""

import functools
import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import (
    every_device,
    few_examples,
    images,
    language,
    names_of,
    regression,
    rows_of,
    seeds,
)

import hessops
from hessops_torch import block_diagonal, hessian, layer_curvature

NUM_PROBES = 400


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


def test_the_model_is_left_as_it_was():
    problem = images("cpu", train=True)
    state = {name: t.clone() for name, t in problem.model.state_dict().items()}
    operator = hessian(*problem.arguments)
    layer_curvature(operator, num_probes=2, num_eigenvalues=1, rng=0)
    block_diagonal(operator).to_dense()
    assert problem.model.training
    assert all(p.grad is None and p.requires_grad for p in problem.model.parameters())
    assert all(torch.equal(state[name], t) for name, t in problem.model.state_dict().items())


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
