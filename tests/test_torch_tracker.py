"""Curvature during a training: the training never notices, and what is written survives."""

import copy
import csv
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch_problems import every_device, normal, regression

import hessops
from hessops.results.numbers import estimate_text
from hessops_torch import CurvatureTracker, hessian
from hessops_torch.training.time_budget import TimeBudget


class Noisy(nn.Module):
    """Dropout, batch norm, and numbers drawn by NumPy while it is trained."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 2)
        )

    def forward(self, x):
        scale = 1 + 0.1 * np.random.standard_normal() if self.training else 1.0  # noqa: NPY002
        return scale * self.body(x)


def loaders(device):
    """Return shuffled training data, and data to measure on, that share one generator."""
    generator = torch.Generator().manual_seed(3)
    x, y = normal(1, 40, 3, device=device), normal(2, 40, 2, device=device)
    shuffled = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, generator=generator)
    fixed = DataLoader(TensorDataset(x[:20], y[:20]), batch_size=7, generator=generator)
    return shuffled, fixed


def train(device, make_optimizer, track, num_epochs=3, num_probes=2):
    """Return everything that a training leaves behind."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    model = Noisy().to(device, torch.float64)
    optimizer = make_optimizer(model.parameters())
    shuffled, fixed = loaders(device)
    tracker = None
    if track:
        tracker = CurvatureTracker(
            model, nn.MSELoss(), fixed, every=3, k=2, num_probes=num_probes, density_every=9,
            optimizer=optimizer, max_share=None, rng=0, memory_budget=track.get("memory_budget"),
        )  # fmt: skip
        tracker.measure()
    losses = []
    for _ in range(num_epochs):
        for x, y in shuffled:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if tracker is not None:
                tracker.step()
    states = [value for group in optimizer.state.values() for value in group.values()]
    found = [*model.state_dict().values(), *(p.grad for p in model.parameters()), *losses]
    found += [torch.as_tensor(value) for value in states if value is not None]
    found += [torch.get_rng_state(), torch.tensor(np.random.standard_normal(3))]  # noqa: NPY002
    found += [shuffled.generator.get_state()]
    if device == "cuda":
        found.append(torch.cuda.get_rng_state())
    return [tensor.clone() for tensor in found], model.training, tracker


def with_momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def with_adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


@every_device
@pytest.mark.parametrize(
    ("make_optimizer", "memory_budget"),
    [(with_momentum, None), (with_momentum, 0), (with_adam, None)],
)
def test_a_training_is_the_same_bit_for_bit(device, make_optimizer, memory_budget):
    alone, training_alone, _ = train(device, make_optimizer, None)
    tracked, training, tracker = train(device, make_optimizer, {"memory_budget": memory_budget})
    assert training is training_alone is True
    assert len(alone) == len(tracked)
    for a, b in zip(alone, tracked, strict=True):
        assert torch.equal(a, b)
    assert [record.step for record in tracker.records] == [0, 3, 6, 9, 12, 15]
    assert sorted(tracker.densities) == [9]
    assert not len(tracker._meter.operator.graphs)


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_it_is_so_where_the_trace_comes_of_gradients_of_samples(device, memory_budget):
    alone, _, _ = train(device, with_momentum, None)
    options = {"memory_budget": memory_budget}
    tracked, training, tracker = train(device, with_momentum, options, num_probes=8)
    assert training is True
    assert len(alone) == len(tracked)
    for a, b in zip(alone, tracked, strict=True):
        assert torch.equal(a, b)
    # 'gauss-newton' or 'stratified', as variances and costs have it.
    assert all(" gradients (" in record.status for record in tracker.records)
    assert not len(tracker._meter.operator.graphs)
    assert not any(
        module._forward_hooks for module in tracker._meter.operator.objective.model.modules()
    )


@every_device
def test_records_are_right(device):
    """Warm-started values are eigenvalues within their bounds, of the weights of that moment."""
    problem = regression(device, sizes=(20, 10))
    model = problem.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker = CurvatureTracker(
        *problem.arguments, every=4, k=2, tol=1e-6, num_probes=4, optimizer=optimizer,
        max_share=None, rng=0,
    )  # fmt: skip
    inside = 0
    for _ in range(80):
        optimizer.zero_grad()
        problem.total_loss(model).backward()
        optimizer.step()
        record = tracker.step()
        if record is None:
            continue
        exact = torch.linalg.eigvalsh(problem.dense()).cpu().numpy()
        error = np.abs(exact[::-1][:2] - record.eigenvalues)
        assert np.all(error <= np.array(record.error_bounds) + 1e-12)
        assert np.all(np.array(record.residual_norms) <= 1e-6 * np.abs(exact).max() * 1.01)
        inside += record.trace_low <= exact.sum() <= record.trace_high
        assert record.two_over_learning_rate == record.stability_limit == 20.0
        assert record.status.startswith("eigenvalues converged")
    assert len(tracker.records) == 20
    # Of 20 intervals at 95 %, fewer than 16 would hold by chance once in 400.
    assert inside >= 16


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@given(
    share=st.floats(0.01, 1.0),
    costs=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30),
    pause=st.floats(0.01, 50.0),
)
def test_work_keeps_to_its_share(share, costs, pause):
    """As long as none takes longer than was expected."""
    clock = Clock()
    budget = TimeBudget(share, clock)
    expected = 10.0
    for cost in costs:
        clock.now += pause
        if budget.affords("work", unknown=10.0):
            with budget.working("work"):
                clock.now += min(cost, 1.2 * expected)
            expected = max(budget._costs["work"])
            assert budget.share <= share * (1 + 1e-9)
    clock.now += 20 * 12 / share
    assert budget.affords("work", unknown=10.0)


def test_a_small_share_leaves_measurements_out_and_says_so(monkeypatch):
    tracker = CurvatureTracker(*regression("cpu").arguments, every=2, k=1, num_probes=2, rng=0)
    clock = Clock()
    tracker.budget = TimeBudget(0.1, clock)
    measure_pairs = tracker._meter.pairs

    def pairs(*arguments):
        clock.now += 15.0
        return measure_pairs(*arguments)

    monkeypatch.setattr(tracker._meter, "pairs", pairs)
    monkeypatch.setattr(tracker._meter, "product_seconds", 1.0)
    for _ in range(100):
        clock.now += 10.0
        tracker.step()
    assert 4 <= len(tracker.records) <= 7
    assert tracker.records[0].num_skipped > 0
    for record in tracker.records:
        assert record.share <= 0.1
        said = f"{record.num_skipped} due before left out, to keep to 10% of the time"
        assert (said in record.status) is (record.num_skipped > 0)
    last = tracker.records[-1].step
    assert sum(record.num_skipped + 1 for record in tracker.records) == last // 2


@every_device
def test_nan_in_a_training_is_recorded_and_the_training_goes_on(device, tmp_path):
    problem = regression(device)
    model = problem.model
    tracker = CurvatureTracker(
        *problem.arguments, every=1, k=2, max_share=None, rng=0, csv=tmp_path / "c.csv"
    )
    before = copy.deepcopy(model.state_dict())
    tracker.step()
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.nan
    failed = tracker.step()
    assert all(map(math.isnan, (*failed.eigenvalues, *failed.residual_norms, failed.trace)))
    assert "NonFiniteError" in failed.status
    assert tracker.density() is None
    model.load_state_dict(before)
    last = tracker.step()
    assert last.eigenvalues == pytest.approx(tracker.records[0].eigenvalues, rel=1e-2)
    assert tracker._file.read()[1].status == failed.status
    # An infinite loss in single precision is no product that can be squared.
    model.load_state_dict({name: 1e200 * value for name, value in before.items()})
    assert "failed" in tracker.step().status


def same(a, b):
    return repr(a) == repr(b)  # NaN differs from itself


def test_a_file_of_records_is_appended_to_and_read_again(tmp_path):
    problem = regression("cpu")
    options = {
        "every": 1,
        "k": 2,
        "num_probes": 0,
        "max_share": None,
        "csv": tmp_path / "new" / "c.csv",
    }
    first = CurvatureTracker(*problem.arguments, rng=0, **options)
    for _ in range(3):
        first.step()
    # A kill cuts the last line off.
    content = options["csv"].read_bytes()
    options["csv"].write_bytes(content[:-20])
    second = CurvatureTracker(*problem.arguments, rng=0, **options)
    assert same(second.records, first.records[:2])
    second.step(2)
    second.step(3)
    assert [record.step for record in second.records] == [1, 2, 3]
    third = CurvatureTracker(*problem.arguments, rng=0, **options)
    assert same(third.records, second.records)
    with options["csv"].open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "2", "3"]
    with pytest.raises(ValueError, match=r"c\.csv has other columns"):
        CurvatureTracker(*problem.arguments, **{**options, "k": 1})
    options["csv"].write_bytes(options["csv"].read_bytes() + b"a,b\n")
    with pytest.raises(ValueError, match=r"line 6 of .*c\.csv is no record"):
        CurvatureTracker(*problem.arguments, **options)


PROGRAM = """
import sys, torch
from hessops_torch import CurvatureTracker
model = torch.nn.Linear(2, 1)
data = [(torch.eye(2), torch.ones(2, 1))]
options = dict(every=1, k=1, max_share=None, csv=sys.argv[1])
tracker = CurvatureTracker(model, torch.nn.MSELoss(), data, **options)
for _ in range(3):
    tracker.step()
print("here", flush=True)
while True:
    pass
"""


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
def test_records_survive_a_kill(tmp_path):
    target = tmp_path / "c.csv"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, target], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    assert len(target.read_text().splitlines()) == 4


def test_densities_are_saved_beside_the_file(tmp_path):
    problem = regression("cpu")
    tracker = CurvatureTracker(*problem.arguments, k=1, csv=tmp_path / "c.csv", rng=0)
    density = tracker.density(7, num_probes=2, num_steps=8)
    loaded = hessops.load(tmp_path / "c.density-7.npz")
    assert np.array_equal(loaded.nodes, density.nodes)
    assert tracker.densities == {7: density}


def test_a_tracker_goes_on_from_a_checkpoint():
    problem = regression("cpu", sizes=(20, 10))
    first = CurvatureTracker(*problem.arguments, every=1, k=2, num_probes=0, max_share=None, rng=0)
    cold = first.step()
    state = copy.deepcopy(first.state_dict())
    second = CurvatureTracker(*problem.arguments, every=1, k=2, num_probes=0, max_share=None, rng=1)
    second.load_state_dict(state)
    warm = second.step()
    assert warm.step == 2
    assert warm.num_products < cold.num_products
    second.load_state_dict({"num_steps": 5, "eigenvectors": torch.ones(3, 2)})
    assert second._meter.eigenvectors is None


def test_options_that_make_no_sense_are_refused():
    arguments = regression("cpu").arguments
    for options, message in (
        ({"every": 0}, "every=0"),
        ({"k": 100}, "k=100 eigenvalues asked of 20 parameters"),
        ({"max_share": 0.0}, "max_share=0.0 must be above 0"),
        ({"max_share": 2}, "max_share=2 must be above 0"),
        ({"num_probes": -1}, "num_probes=-1"),
        ({"which": "XX"}, "which='XX' is unknown"),
        ({"tol": 0.0}, "tol=0.0 must be positive"),
        ({"weight_decay": math.nan}, "weight_decay=nan"),
    ):
        with pytest.raises(ValueError, match=message):
            CurvatureTracker(*arguments, **options)
    with pytest.raises(TypeError, match="neither a folder nor"):
        CurvatureTracker(*arguments, tensorboard=3)
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).double()
    with pytest.raises(ValueError, match="dropout"):
        CurvatureTracker(model, *arguments[1:], mode="train")


def test_tensorboard_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="needs the extra 'tensorboard'"):
        CurvatureTracker(*regression("cpu").arguments, tensorboard=tmp_path)


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="needs TensorBoard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = CurvatureTracker(
        *regression("cpu").arguments, every=1, k=2, max_share=None, tensorboard=tmp_path, rng=0
    )
    records = [tracker.step(), tracker.step()]
    tracker.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    for name, value in records[1].numbers().items():
        if name != "step" and math.isfinite(value):
            found = events.Scalars(f"curvature/{name}")
            assert [scalar.step for scalar in found] == [1, 2]
            assert found[1].value == pytest.approx(value)


def test_the_picture_shows_what_was_recorded():
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    problem = regression("cpu")
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.5, momentum=0.9)
    tracker = CurvatureTracker(
        *problem.arguments, every=1, k=2, max_share=None, optimizer=optimizer, rng=0
    )
    with pytest.raises(ValueError, match="no record to draw"):
        tracker.plot()
    for _ in range(3):
        tracker.step()
    with torch.no_grad():
        problem.model[0].weight.fill_(math.nan)
    tracker.step()
    upper, lower = tracker.plot()
    labels = upper.get_legend_handles_labels()[1]
    assert any(label.startswith("2 / learning rate") for label in labels)
    assert any(label.startswith("limit with momentum") for label in labels)
    assert "could not be measured" in labels
    drawn = upper.containers[0].lines[0].get_ydata()
    assert np.array_equal(drawn[:3], [record.eigenvalues[0] for record in tracker.records[:3]])
    assert lower.get_xlabel() == "step"
    plt.close(upper.figure)


def test_the_picture_of_one_record_shows_its_interval():
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    tracker = CurvatureTracker(*regression("cpu").arguments, k=1, max_share=None, rng=0)
    record = tracker.measure()
    _, lower = tracker.plot()
    (bar,) = [bar for c in lower.collections for bar in getattr(c, "get_segments", list)()]
    assert bar[:, 1].tolist() == pytest.approx([record.trace_low, record.trace_high])
    plt.close(lower.figure)


def test_a_tracker_says_how_far_it_is_and_what_it_left_out():
    tracker = CurvatureTracker(*regression("cpu").arguments, every=2, k=1, max_share=1e-9, rng=0)
    assert repr(tracker) == "CurvatureTracker(0 records, now at step 0)"
    tracker.measure()
    for _ in range(5):
        tracker.step()
    assert repr(tracker).startswith(
        "CurvatureTracker(1 record, the last at step 0, now at step 5, 2 due since then left out"
    )


def test_a_record_reads_like_a_sentence():
    tracker = CurvatureTracker(*regression("cpu").arguments, k=1, max_share=None, rng=0)
    text = str(tracker.measure(learning_rate=0.1))
    assert text.startswith("step 0: eigenvalue ")
    assert "2/lr 20," in text
    assert "momentum" not in text
    assert "95% interval" in text


def test_a_record_tells_all_eigenvalues_and_what_momentum_allows():
    problem = regression("cpu")
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1, momentum=0.9)
    tracker = CurvatureTracker(*problem.arguments, optimizer=optimizer, k=2, max_share=None, rng=0)
    record = tracker.measure()
    text = str(record)
    first, second = map(estimate_text, record.eigenvalues, record.error_bounds)
    assert text.startswith(
        f"step 0: eigenvalues {first}, {second}, 2/lr 20, limit with momentum 38,"
    )


def test_hessian_of_the_tracker_is_that_of_the_options():
    """Parameters, mode and weight decay go where they go for `hessian`."""
    problem = regression("cpu")
    options = {"params": "2.*", "weight_decay": 0.7}
    tracker = CurvatureTracker(*problem.arguments, k=1, micro_batch_size=2, **options)
    expected = hessian(*problem.arguments, **options).to_dense()
    assert torch.allclose(tracker._meter.operator.to_dense(), expected, rtol=1e-10)
