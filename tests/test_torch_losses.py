"""Losses over ragged batches against the same loss over all the data, dense and to 1e-10."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    assert_is_hessian,
    batch_sizes,
    build,
    cut,
    dense_hessian,
    every_device,
    few_examples,
    integers,
    language,
    mlp,
    normal,
    seeds,
    token_loss,
    ways_to_compute,
)

from hessops_torch import hessian


def labels_of(seed, count, device):
    """Return labels of which at least one is 1."""
    labels = integers(seed, 4, count, device=device)
    labels[0] = 1
    return labels


def labels_with_holes(seed, count, device):
    """Return labels of which a third are to be ignored, and not the first."""
    holes = integers(seed + 1, 3, count, device=device) == 0
    holes[0] = False
    return labels_of(seed, count, device).masked_fill(holes, -100)


def probabilities(seed, count, device):
    return normal(seed, count, 4, device=device).softmax(1)


def real_targets(seed, count, device):
    return normal(seed, count, 4, device=device)


def in_unit_interval(seed, count, device):
    return torch.sigmoid(real_targets(seed, count, device))


def signs(seed, count, device):
    return 2.0 * integers(seed, 2, count, 4, device=device) - 1


WEIGHTS = [0.5, 2.0, 1.0, 3.0]
LOSSES = {
    "cross-entropy": (nn.CrossEntropyLoss, {}, labels_of),
    "ignored labels": (nn.CrossEntropyLoss, {}, labels_with_holes),
    "another ignored label": (nn.CrossEntropyLoss, {"ignore_index": 2}, labels_of),
    "class weights": (nn.CrossEntropyLoss, {"weight": WEIGHTS}, labels_with_holes),
    "label smoothing": (nn.CrossEntropyLoss, {"label_smoothing": 0.1}, labels_with_holes),
    "weights and smoothing": (
        nn.CrossEntropyLoss, {"weight": WEIGHTS, "label_smoothing": 0.2}, labels_with_holes,
    ),
    "probability targets": (nn.CrossEntropyLoss, {"label_smoothing": 0.1}, probabilities),
    "weighted probabilities": (nn.CrossEntropyLoss, {"weight": WEIGHTS}, probabilities),
    "squares": (nn.MSELoss, {}, real_targets),
    "Huber": (nn.HuberLoss, {"delta": 0.7}, real_targets),
    "smooth L1": (nn.SmoothL1Loss, {}, real_targets),
    "L1": (nn.L1Loss, {}, real_targets),
    "binary": (nn.BCEWithLogitsLoss, {}, in_unit_interval),
    "weighted binary": (
        nn.BCEWithLogitsLoss, {"weight": WEIGHTS, "pos_weight": WEIGHTS}, in_unit_interval,
    ),
    "Poisson": (nn.PoissonNLLLoss, {}, in_unit_interval),
    "soft margin": (nn.SoftMarginLoss, {}, signs),
    "many labels": (nn.MultiLabelSoftMarginLoss, {}, in_unit_interval),
}  # fmt: skip


def criterion_of(kind, options, reduction, device):
    tensors = {
        name: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
        for name, value in options.items()
    }
    return kind(**tensors, reduction=reduction).to(device)


@every_device
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
@few_examples
@given(batch_sizes, ways_to_compute(), seeds)
def test_criteria(device, name, reduction, sizes, ways, seed):
    kind, options, make_targets = LOSSES[name]
    criterion = criterion_of(kind, options, reduction, device)
    model = build(lambda: mlp(outputs=4, width=2), seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    y = make_targets(seed + 2, sum(sizes), device)
    operator = hessian(model, criterion, cut(sizes, x, y), **ways)
    assert_is_hessian(operator, dense_hessian(model, lambda f: criterion(f(x), y)))


@every_device
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
@given(batch_sizes, ways_to_compute(), seeds)
def test_criteria_of_log_probabilities(device, reduction, sizes, ways, seed):
    model = build(lambda: nn.Sequential(mlp(outputs=4), nn.LogSoftmax(1)), seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    if reduction == "batchmean":
        criterion, y = nn.KLDivLoss(reduction=reduction), probabilities(seed, sum(sizes), device)
    else:
        weight = torch.tensor(WEIGHTS, dtype=torch.float64, device=device)
        criterion, y = nn.NLLLoss(weight, reduction=reduction), labels_of(seed, sum(sizes), device)
    operator = hessian(model, criterion, cut(sizes, x, y), **ways)
    assert_is_hessian(operator, dense_hessian(model, lambda f: criterion(f(x), y)))


@every_device
@few_examples
@given(batch_sizes, st.none() | st.integers(1, 3), seeds)
def test_labels_of_every_position(device, sizes, micro_batch_size, seed):
    model = build(lambda: nn.Conv1d(2, 4, 2), seed, device)
    x = normal(seed + 1, sum(sizes), 2, 4, device=device)
    y = labels_with_holes(seed + 2, 3 * sum(sizes), device).reshape(-1, 3)
    operator = hessian(
        model, nn.CrossEntropyLoss(), cut(sizes, x, y), micro_batch_size=micro_batch_size
    )
    assert_is_hessian(operator, dense_hessian(model, lambda f: F.cross_entropy(f(x), y)))


FUNCTIONAL = {
    F.cross_entropy: labels_of,
    F.mse_loss: real_targets,
    F.l1_loss: real_targets,
    F.smooth_l1_loss: real_targets,
    F.huber_loss: real_targets,
    F.binary_cross_entropy_with_logits: in_unit_interval,
}


@every_device
@pytest.mark.parametrize("function", FUNCTIONAL, ids=lambda function: function.__name__)
def test_functional_losses_are_means(device, function):
    model = build(lambda: mlp(outputs=4), 0, device)
    x, y = normal(1, 5, 3, device=device), FUNCTIONAL[function](2, 5, device)
    operator = hessian(model, function, cut([3, 2], x, y))
    assert_is_hessian(operator, dense_hessian(model, lambda f: function(f(x), y)))


@every_device
@pytest.mark.parametrize("function", [F.nll_loss, F.binary_cross_entropy])
def test_functional_losses_of_probabilities(device, function):
    last = nn.LogSoftmax(1) if function is F.nll_loss else nn.Sigmoid()
    model = build(lambda: nn.Sequential(mlp(outputs=4), last), 0, device)
    make_targets = labels_of if function is F.nll_loss else in_unit_interval
    x, y = normal(1, 5, 3, device=device), make_targets(2, 5, device)
    operator = hessian(model, function, cut([3, 2], x, y))
    assert_is_hessian(operator, dense_hessian(model, lambda f: function(f(x), y)))


@every_device
@pytest.mark.parametrize("as_number", [False, True])
@few_examples
@given(batch_sizes, ways_to_compute(), st.integers(1, 4), seeds)
def test_a_loss_over_the_tokens_that_count(device, as_number, sizes, ways, length, seed):
    """A mean of batch means would weigh a token by how few others its batch holds."""
    problem = language(device, sizes, seed, length=length)

    def loss(model, batch):
        total, count = token_loss(model, batch)
        return total, float(count) if as_number else count

    operator = hessian(problem.model, loss, problem.batches, **ways)
    assert_is_hessian(operator, problem.dense())
