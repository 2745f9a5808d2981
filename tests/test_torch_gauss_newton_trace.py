"""Traces and diagonals of Gauss-Newton matrices from gradients of samples, against dense ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import (
    Attention,
    batch_sizes,
    build,
    cut,
    every_device,
    few_examples,
    images,
    integers,
    mlp,
    normal,
    regression,
    seeds,
)

import hessops
from hessops_torch import SplitLoss, gauss_newton_diagonal, gauss_newton_trace, ggn, hessian
from hessops_torch.losses.output_factor import output_factor
from hessops_torch.losses.output_hessian import output_hessian
from hessops_torch.traces.sample_gradients import HookedGradients, MappedGradients, WholeGradients
from hessops_torch.traces.squared_gradients import SquaredGradients


def assert_exact(G, kind=None):
    dense = G.to_dense()
    with G.objective.ready():
        squares = SquaredGradients(G.objective, G.loss)
    assert squares.separate
    if kind is not None:
        assert squares.kind is kind
    found = gauss_newton_trace(G)
    truth = float(dense.trace())
    assert found.method == "exact"
    assert found.standard_error == 0
    assert found.value == pytest.approx(truth, rel=1e-10)
    assert sum(part.value for part in found.sections.values()) == pytest.approx(truth, rel=1e-10)
    for name, part in found.sections.items():
        rows = G.space.section(name)
        expected = float(dense.diagonal()[rows].sum())
        assert part.value == pytest.approx(expected, rel=1e-10, abs=1e-12 * abs(truth))
    torch.testing.assert_close(gauss_newton_diagonal(G), dense.diagonal(), rtol=1e-9, atol=1e-12)


CRITERIA = {
    "cross-entropy": (nn.CrossEntropyLoss(), "labels"),
    "weighted, smoothed": (
        nn.CrossEntropyLoss(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), label_smoothing=0.1),
        "labels",
    ),
    "sum of probabilities": (nn.CrossEntropyLoss(reduction="sum"), "probabilities"),
    "ignored": (nn.CrossEntropyLoss(ignore_index=1), "labels"),
    "squared": (nn.MSELoss(), "numbers"),
    "binary": (nn.BCEWithLogitsLoss(), "binary"),
    "huber": (nn.HuberLoss(delta=5.0), "numbers"),
    "split": (SplitLoss(lambda f, b: f(b[0]), lambda z, b: ((z.exp() - b[1]).square().sum(), len(z))),
              "numbers"),
}  # fmt: skip


def targets(kind, seed, count):
    labels = integers(seed, 3, count, device="cpu")
    labels[0] = 0  # Not all are ignored.
    return {
        "labels": labels,
        "probabilities": normal(seed, count, 3, device="cpu").softmax(1),
        "numbers": -normal(seed, count, 3, device="cpu").abs(),
        "binary": (normal(seed, count, 3, device="cpu") > 0).double(),
    }[kind]


@pytest.mark.parametrize("name", CRITERIA)
@few_examples
@given(batch_sizes, seeds, st.sampled_from([0.0, 0.3]))
def test_criteria(name, sizes, seed, decay):
    loss, kind = CRITERIA[name]
    model = build(lambda: mlp(outputs=3), seed, "cpu")
    x, y = normal(seed + 1, sum(sizes), 3, device="cpu"), targets(kind, seed + 2, sum(sizes))
    assert_exact(ggn(model, loss, cut(sizes, x, y), weight_decay=decay), HookedGradients)


@every_device
@few_examples
@given(
    batch_sizes, seeds,
    st.sampled_from([nn.BatchNorm2d, lambda n: nn.GroupNorm(1, n), nn.InstanceNorm2d]),
    st.sampled_from([nn.Tanh, lambda: nn.ReLU(inplace=True)]),
)  # fmt: skip
def test_convolutions(device, sizes, seed, norm, activation):
    problem = images(device, sizes, seed, norm=norm, activation=activation)
    assert_exact(ggn(*problem.arguments), HookedGradients)


class Twice(nn.Module):
    """One layer that is called twice, and one of no known kind."""

    def __init__(self, *, unknown: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3)) if unknown else 1.0

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x))) * self.scale


@pytest.mark.parametrize("unknown", [False, True])
def test_layers_called_twice_and_parameters_of_modules_of_no_known_kind(unknown):
    model = build(lambda: Twice(unknown=unknown), 0, "cpu")
    x, y = normal(1, 5, 3, device="cpu"), integers(2, 3, 5, device="cpu")
    kind = MappedGradients if unknown else HookedGradients
    assert_exact(ggn(model, nn.CrossEntropyLoss(), cut([3, 2], x, y)), kind)


def test_the_target_of_a_split_loss_is_where_its_function_finds_it():
    """And not the second item of a batch, which is the input here."""
    model = build(lambda: mlp(outputs=3), 0, "cpu")
    x, y = normal(1, 6, 3, device="cpu"), integers(2, 3, 6, device="cpu")
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    split = SplitLoss(lambda f, b: f(b[1]), nn.CrossEntropyLoss(weight), target=lambda b: b[0])
    assert_exact(ggn(model, split, cut([4, 2], y, x)), HookedGradients)


@pytest.mark.parametrize("tied", [False, True])
def test_tokens_embeddings_and_tied_weights(tied):
    """Of tied weights the hooks see both uses."""
    model = build(lambda: Attention(tied=tied), 0, "cpu")
    tokens, labels = (integers(i, 4, 3, 3, device="cpu") for i in (1, 2))
    split = SplitLoss(
        lambda f, b: f(b["x"]).transpose(1, 2),
        lambda z, b: (nn.functional.cross_entropy(z, b["y"], reduction="sum"), b["y"].numel()),
    )
    G = ggn(model, split, [{"x": tokens[:2], "y": labels[:2]}, {"x": tokens[2:], "y": labels[2:]}])
    assert_exact(G, HookedGradients)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Conv1d(2, 4, 2, stride=2, padding=1, dilation=2, groups=2),
        lambda: nn.Sequential(
            nn.Unflatten(2, (2, 3)), nn.Conv2d(2, 4, 2, groups=2, padding=(0, 1))
        ),
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3, padding="same"), nn.BatchNorm1d(4)),
        lambda: nn.LayerNorm((2, 6)),
    ],
    ids=["grouped, dilated", "two-dimensional", "padded by name", "layer norm"],
)
def test_kinds_of_layers(layer):
    model = build(lambda: nn.Sequential(layer(), nn.Tanh(), nn.Flatten()), 0, "cpu").eval()
    x = normal(1, 4, 2, 6, device="cpu")
    y = normal(2, *model(x).shape, device="cpu")
    assert_exact(ggn(model, nn.MSELoss(), [(x[:3], y[:3]), (x[3:], y[3:])]))


@given(seeds, st.integers(2, 5), st.integers(0, 2))
def test_columns_of_the_root_make_up_the_output_hessian(seed, classes, positions):
    shape = (3, classes, *([2] * positions))
    outputs = 3 * normal(seed, *shape, device="cpu")
    y = integers(seed + 1, classes, 3, *shape[2:], device="cpu")
    G = ggn(nn.Linear(1, 1), nn.CrossEntropyLoss(), [(torch.ones(1, 1), torch.tensor([0]))])
    factor = output_factor(G.loss, outputs, (None, y))
    metric = output_hessian(G.loss, outputs, (None, y))
    columns = torch.stack([factor.column(j) for j in range(factor.num_columns)])
    S = columns.reshape(len(columns), 3, -1)
    units = torch.eye(outputs[0].numel(), dtype=outputs.dtype)
    M = torch.stack([metric(u.expand(3, -1).reshape(1, *shape))[0].reshape(3, -1) for u in units])
    torch.testing.assert_close(torch.einsum("jbk,jbl->kbl", S, S), M, rtol=1e-9, atol=1e-12)
    mixed = torch.stack(
        [factor.mixed(u.expand(3, -1).reshape(shape)).reshape(3, -1) for u in units]
    )
    torch.testing.assert_close(torch.einsum("jbk,jbl->kbl", mixed, mixed), M, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(factor.sizes(), torch.einsum("kbk->b", M))


def test_a_network_that_is_certain_loses_nothing_to_rounding():
    outputs = torch.tensor([[800.0, 0.0, -800.0], [0.0, 0.0, 40.0]], dtype=torch.float64)
    G = ggn(nn.Linear(1, 1), nn.CrossEntropyLoss(), [(torch.ones(1, 1), torch.tensor([0]))])
    factor = output_factor(G.loss, outputs, (None, torch.tensor([0, 1])))
    S = torch.stack([factor.column(j) for j in range(2)])
    assert bool(torch.isfinite(S).all())
    p = outputs[1].softmax(0)
    # The diagonal by the other entries, as p - p² loses all digits where p is near 1.
    others = torch.outer(p, p).fill_diagonal_(0)
    expected = torch.diag(others.sum(1)) - others
    torch.testing.assert_close(
        torch.einsum("jk,jl->kl", S[:, 1], S[:, 1]), expected, rtol=1e-6, atol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_sampled_traces_are_right_on_average_and_know_their_error(train):
    """400 seeds: coverage of a true 95 % lies within 91.7 and 98.3 by three deviations."""
    problem = images("cpu", (4, 3, 4), train=train)
    G = ggn(*problem.arguments)
    truth = float(G.to_dense().trace())
    runs = [gauss_newton_trace(G, method="sampled", num_seeds=16, rng=i) for i in range(400)]
    values = np.array([run.value for run in runs])
    assert abs(values.mean() - truth) < 4.5 * values.std() / 20
    held = np.mean([run.interval.low <= truth <= run.interval.high for run in runs])
    assert 0.93 <= held <= 0.975
    claimed = np.sqrt(np.mean([run.standard_error**2 for run in runs]))
    assert claimed == pytest.approx(values.std(), rel=0.12)


def test_memory_bounds_the_samples_that_are_looked_at_at_once(monkeypatch):
    problem = images("cpu", (7, 2))
    G = ggn(*problem.arguments)
    whole = gauss_newton_trace(G).value, gauss_newton_trace(G, num_seeds=3, rng=0).value
    monkeypatch.setattr("hessops_torch.traces.squared_gradients._BYTES", 1)
    parts = gauss_newton_trace(G).value, gauss_newton_trace(G, num_seeds=3, rng=0).value
    assert parts == pytest.approx(whole, rel=1e-12)


def test_the_diagonal_is_a_control_for_that_of_the_hessian():
    problem = regression("cpu", (8, 8))
    H, G = hessian(*problem.arguments), ggn(*problem.arguments)
    plain = hessops.diagonal(H, num_probes=32, rng=0)
    found = hessops.diagonal(H, control=(G, gauss_newton_diagonal(G)), max_products=64, rng=0)
    truth = problem.dense().diagonal()
    assert float((found.values - truth).norm()) < float(truth.norm())
    assert found.norm_error < plain.norm_error


def test_samples_that_are_joined_have_no_gradients_of_their_own():
    problem = images("cpu", train=True)
    G = ggn(*problem.arguments)
    with pytest.raises(ValueError, match="joins the samples of a batch"):
        gauss_newton_trace(G, method="exact")
    with pytest.raises(ValueError, match="joins the samples of a batch"):
        gauss_newton_diagonal(G)
    assert gauss_newton_trace(G, rng=0).method == "sampled"


class Centred(nn.Module):
    """Joins samples without any batch norm."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        y = self.layer(x).tanh()
        return y - y.mean(0)


def test_samples_that_are_joined_in_secret_are_noticed():
    x = normal(0, 6, 3, device="cpu")
    G = ggn(Centred().double(), nn.MSELoss(), [(x, x[:, :2])])
    with G.objective.ready():
        assert SquaredGradients(G.objective, G.loss).kind is WholeGradients
    with pytest.raises(ValueError, match="joins the samples"):
        gauss_newton_trace(G, method="exact")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "magic"}, "method='magic' is unknown; choose one of auto, exact, sampled"),
        ({"num_seeds": 1}, "num_seeds=1 goes with method='sampled', and is 2 or more"),
        ({"num_seeds": 4, "method": "exact"}, "goes with method='sampled'"),
        ({"confidence": 2}, "must lie between 0 and 1"),
    ],
)
def test_bad_options(options, sentence):
    problem = regression("cpu")
    with pytest.raises(ValueError, match=sentence):
        gauss_newton_trace(ggn(*problem.arguments), **options)


def test_other_operators_and_losses_are_refused():
    problem = regression("cpu")
    with pytest.raises(TypeError, match=r"takes what hessops_torch\.ggn makes, got Hessian"):
        gauss_newton_trace(hessian(*problem.arguments))
    with pytest.raises(TypeError, match=r"takes what hessops_torch\.ggn makes, got int"):
        gauss_newton_diagonal(3)
    concave = SplitLoss(lambda f, b: f(b[0]), lambda z, b: (-z.square().sum(), len(z)))
    with pytest.raises(ValueError, match="no square root of its second derivative is known"):
        gauss_newton_trace(ggn(problem.model, concave, problem.batches))


def test_the_model_is_left_as_it_was():
    problem = images("cpu")
    before = {key: value.clone() for key, value in problem.model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in problem.model.modules()]
    gauss_newton_trace(ggn(*problem.arguments))
    after = problem.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [len(module._forward_hooks) for module in problem.model.modules()] == hooks
    assert all(parameter.grad is None for parameter in problem.model.parameters())
