"""Traces of layers to a tolerance, by plain probes and with the Gauss-Newton part taken apart."""

import warnings

import numpy as np
import pytest

pytest.importorskip("torch")

import problems
import torch
from test_torch_hessian_trace import HALF, TRAINED, UNTRAINED, classifier
from test_torch_layer_coverage import Stored
from torch import nn
from torch_problems import images, language, regression

import hessops
from hessops import ConvergenceWarning
from hessops_torch import ggn, hessian, hessian_trace, layer_curvature, residual_curvature
from hessops_torch.traces.goals import block_scales

SEEDS = 500
OPTIONS = {
    "module": {},
    "tensor": {"each": "tensor"},
    "some": {"blocks": {"first": "0.*", "last bias": "2.bias"}},
}


def exact_traces(operator, dense, blocks):
    diagonal = dense.diagonal()
    return {
        block: sum(float(diagonal[operator.space.section(name)].sum()) for name in names)
        for block, names in blocks.items()
    }


def quietly(operator, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return layer_curvature(operator, **options)


def half_width(estimate):
    low, high = estimate.interval
    return (high - low) / 2


def as_good_as_asked(found, rtol):
    traces = np.array([estimate.value for estimate in found.traces.values()])
    halves = np.array([half_width(estimate) for estimate in found.traces.values()])
    return np.all(halves <= rtol * block_scales(traces) * (1 + 1e-12))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("num_steps", [UNTRAINED, HALF, TRAINED])
def test_blocks_are_right_and_add_up(num_steps, options):
    """Five standard errors; root mean squares within intervals that miss once in a billion."""
    operator, dense = classifier(num_steps)
    found = quietly(operator, max_products=100, confidence=1 - 1e-9, rng=0, **options)
    assert found.method in ("gauss-newton", "stratified")
    exact = exact_traces(operator, dense, found.blocks)
    whole = float(dense.trace())
    assert abs(found.trace.value - whole) <= 5 * found.trace.standard_error + 1e-10 * whole
    for block, names in found.blocks.items():
        trace = found.traces[block]
        assert abs(trace.value - exact[block]) <= 5 * trace.standard_error + 1e-10 * whole
        share, (low, high) = found.shares[block]
        assert share == pytest.approx(trace.value / found.trace.value)
        assert low - 1e-9 <= exact[block] / whole <= high + 1e-9
        entries = torch.cat([dense.diagonal()[operator.space.section(name)] for name in names])
        rms, (low, high) = found.rms_diagonals[block]
        # No less than the mean, as that of no numbers is.
        assert rms >= abs(trace.value) / len(entries)
        assert low <= rms <= high
        assert low >= max(0.0, trace.interval.low, -trace.interval.high) / len(entries)
        assert low - 1e-12 <= float(entries.square().mean().sqrt()) <= high + 1e-12
        assert found.sizes[block] == len(entries)
    if "blocks" not in options:
        total = sum(estimate.value for estimate in found.traces.values())
        assert total == pytest.approx(found.trace.value, rel=1e-10)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("num_steps", "options"),
    [
        (TRAINED, {"rtol": 0.2, "max_products": 4000}),
        (TRAINED, {"max_products": 24}),
        (HALF, {"rtol": 0.3, "max_products": 4000}),
        (UNTRAINED, {"max_products": 24}),
    ],
)
def test_intervals_hold_as_often_as_they_say(num_steps, options):
    """On average as promised, and for single blocks no less often than is documented."""
    operator, dense = classifier(num_steps)
    held, values = {}, {}
    for seed in range(SEEDS):
        found = quietly(operator, each="tensor", rng=seed, **options)
        exact = exact_traces(operator, dense, found.blocks)
        whole = float(dense.trace())
        for block, estimate in found.traces.items():
            low, high = found.traces[block].interval
            held.setdefault(("trace", block), []).append(low <= exact[block] <= high)
            low, high = found.shares[block][1]
            if np.isfinite(high):
                held.setdefault(("share", block), []).append(low <= exact[block] / whole <= high)
            values.setdefault(block, []).append(estimate.value - exact[block])
    for what in ("trace", "share"):
        rates = {block: np.mean(hits) for (one, block), hits in held.items() if one == what}
        counts = {block: len(hits) for (one, block), hits in held.items() if one == what}
        for block, rate in rates.items():
            assert rate >= problems.coverage_band(0.91, counts[block])[0], (what, rates)
        assert problems.COVERED[0] <= np.mean(list(rates.values())) <= problems.COVERED[1], rates
    for errors in values.values():
        assert abs(np.mean(errors)) < 4.5 * np.std(errors) / np.sqrt(SEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regression", "images"])
def test_intervals_of_plain_probes_to_a_tolerance(name):
    """With the matrices of micro-batches stored, which is the same operator, faster."""
    problem = {"regression": regression("cpu", (8, 8, 8, 5)), "images": images("cpu", (6, 5))}[name]
    whole = hessian(*problem.arguments)
    matrices = [term.to_dense() for term in whole.terms()]
    operator, dense = Stored(whole, matrices), sum(matrices)
    held, reached = {}, []
    for seed in range(SEEDS):
        found = quietly(operator, rtol=0.3, max_products=4000, rng=seed)
        assert found.method == "probes"
        reached.append(found.converged)
        assert found.converged == as_good_as_asked(found, 0.3)
        exact = exact_traces(whole, dense, found.blocks)
        for block, estimate in found.traces.items():
            low, high = estimate.interval
            held.setdefault(block, []).append(low <= exact[block] <= high)
    rates = {block: np.mean(hits) for block, hits in held.items()}
    low, high = problems.coverage_band(0.95, SEEDS)
    assert all(low <= rate <= high for rate in rates.values()), rates
    assert problems.COVERED[0] <= np.mean(list(rates.values())) <= problems.COVERED[1], rates
    assert np.mean(reached) > 0.99


@pytest.mark.parametrize("num_steps", [HALF, TRAINED])
@pytest.mark.parametrize("each", ["module", "tensor"])
def test_a_tolerance_is_kept(num_steps, each):
    operator, _ = classifier(num_steps)
    found = layer_curvature(operator, each=each, rtol=0.1, max_products=10_000, rng=0)
    assert found.converged
    assert "tolerance reached" in found.status
    assert as_good_as_asked(found, 0.1)
    loose = layer_curvature(operator, each=each, rtol=0.5, max_products=10_000, rng=0)
    assert loose.num_gradients < found.num_gradients


def test_a_tolerance_that_is_out_of_reach_is_said():
    operator, _ = classifier(UNTRAINED)
    with pytest.warns(
        ConvergenceWarning, match="worst block is .* rtol allows: raise max_products"
    ):
        found = layer_curvature(operator, rtol=1e-4, max_products=20, rng=0)
    assert not found.converged
    assert found.num_gradients <= 43
    with pytest.warns(ConvergenceWarning, match="used all 20 probes .* raise max_products"):
        plain = layer_curvature(operator, method="probes", rtol=1e-4, max_products=20, rng=0)
    assert (plain.num_probes, plain.method) == (20, "probes")
    assert np.isnan(plain.num_gradients)


@pytest.mark.slow
def test_it_pays_in_a_trained_network():
    """Deviations of 60 runs at the same cost in gradients, known to 9 % each."""
    operator, dense = classifier(TRAINED)
    errors = {}
    for seed in range(60):
        runs = {
            "engine": quietly(operator, max_products=32, rng=seed),
            "plain": quietly(operator, num_probes=32, rng=seed),
        }
        assert runs["engine"].num_gradients <= 64
        for way, found in runs.items():
            exact = exact_traces(operator, dense, found.blocks)
            for block, estimate in found.traces.items():
                errors.setdefault((way, block), []).append(float(estimate) - exact[block])
    for block in found.blocks:
        by_engine, plain = (np.std(errors[way, block]) for way in ("engine", "plain"))
        assert by_engine < 0.3 * plain


@pytest.mark.slow
def test_little_is_lost_in_an_untrained_network():
    """A third more for a probe: deviations of 200 runs, known to 5 %, are at most a quarter larger."""
    operator, dense = classifier(UNTRAINED)
    errors = {}
    for seed in range(200):
        runs = {
            "engine": quietly(operator, max_products=32, rng=seed),
            "plain": quietly(operator, num_probes=32, rng=seed),
        }
        assert runs["engine"].num_gradients <= 67
        for way, found in runs.items():
            exact = exact_traces(operator, dense, found.blocks)
            for block, estimate in found.traces.items():
                errors.setdefault((way, block), []).append(float(estimate) - exact[block])
    for block in found.blocks:
        by_engine, plain = (np.std(errors[way, block]) for way in ("engine", "plain"))
        assert by_engine < 1.3 * plain


def test_the_whole_is_that_of_hessian_trace_within_errors():
    operator, _ = classifier(TRAINED)
    found = layer_curvature(operator, max_products=60, rng=0)
    trace = hessian_trace(operator, max_products=60, rng=1)
    error = np.hypot(found.trace.standard_error, trace.standard_error)
    assert abs(found.trace.value - trace.value) < 5 * error
    assert "strata by how much samples bend the loss" in found.reason
    assert "gradients in all" in str(found)


CASES = {
    "regression": lambda: hessian(*regression("cpu", (8, 8)).arguments, weight_decay=0.5),
    "images in train mode": lambda: hessian(*images("cpu", (6, 5), train=True).arguments),
    "a loss that does not show its outputs": lambda: hessian(*language("cpu").arguments),
    "gauss-newton": lambda: ggn(*images("cpu").arguments),
    "residual": lambda: residual_curvature(*images("cpu").arguments),
}


@pytest.mark.parametrize("name", CASES)
def test_operators(name):
    operator = CASES[name]()
    diagonal = operator.to_dense().diagonal()
    found = quietly(operator, max_products=64, rng=1)
    assert (found.method == "probes") == (name not in ("regression", "images in train mode"))
    for block, names in found.blocks.items():
        exact = sum(float(diagonal[operator.space.section(one)].sum()) for one in names)
        trace = found.traces[block]
        assert abs(trace.value - exact) < 5 * trace.standard_error + 1e-10 * abs(exact)


def test_options_of_probes_have_probes():
    operator, _ = classifier(TRAINED)
    for options in (
        {"num_probes": 4}, {"block_size": 2}, {"stratify": False}, {"probe": "normal"},
        {"method": "probes"}, {"max_products": 7},
    ):  # fmt: skip
        assert layer_curvature(operator, rng=0, **options).method == "probes"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "exact"}, ValueError, "method='exact' is unknown; choose one of auto, probes"),
        ({"rtol": 0}, ValueError, "rtol=0 must be positive and finite"),
        ({"rtol": float("nan")}, ValueError, "rtol=nan must be positive and finite"),
        ({"max_products": 0}, ValueError, "max_products=0 must be a positive integer"),
        ({"max_products": 9, "num_probes": 9}, ValueError, "num_probes=9 counts the probes of"),
        ({"method": "gauss-newton", "num_probes": 9}, ValueError, "give max_products alone"),
        ({"method": "gauss-newton", "max_products": 7}, ValueError, "does not pay for a pilot"),
        ({"method": "gauss-newton", "block_size": 2}, ValueError, "chooses its own probes"),
    ],
)
def test_bad_options(options, error, words):
    operator, _ = classifier(UNTRAINED)
    with pytest.raises(error, match=words):
        layer_curvature(operator, **options)


def test_what_shows_no_gauss_newton_matrix_is_refused():
    for operator in (
        CASES["gauss-newton"](),
        CASES["residual"](),
        hessian(*language("cpu").arguments),
    ):
        with pytest.raises(TypeError, match="method='gauss-newton' is for what"):
            layer_curvature(operator, method="gauss-newton")
    with pytest.raises(
        TypeError, match=r"got ResidualCurvature: for any other operator use hessops\.trace"
    ):
        hessian_trace(CASES["residual"]())


def test_a_callback_ends_the_sweep():
    operator, _ = classifier(TRAINED)
    seen = []
    found = quietly(operator, rtol=1e-3, rng=0, callback=lambda state: seen.append(state) or True)
    assert len(seen) == 1
    assert "stopped by the callback" in found.status
    assert not found.converged


def test_the_same_seed_gives_the_same_table_and_can_be_saved(tmp_path):
    operator, _ = classifier(TRAINED)
    first, second = (quietly(operator, max_products=40, rng=3) for _ in range(2))
    assert first.table() == second.table()
    again = hessops.load(first.save(tmp_path / "layers"))
    assert str(again) == str(first)
    assert (again.method, again.num_gradients) == (first.method, first.num_gradients)


def test_a_block_without_curvature_is_known_exactly():
    """A linear model's bias in a loss that does not use it: its trace is zero, and so is its error."""

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Linear(3, 2).double()
            self.idle = nn.Parameter(torch.zeros(4, dtype=torch.float64))

        def forward(self, x):
            return self.used(x) + 0.0 * self.idle.sum()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = [(torch.randn(8, 3).double(), torch.randint(2, (8,))) for _ in range(2)]
        operator = hessian(Idle(), nn.CrossEntropyLoss(), data)
    found = layer_curvature(operator, rtol=0.1, rng=0)
    assert found.converged
    assert float(found.traces["(model)"]) == 0.0
    assert found.traces["(model)"].standard_error == 0.0
