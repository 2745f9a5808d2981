"""Losses that are none, or do not say how they average, each with a sentence of its own."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    assert_is_hessian,
    build,
    dense_hessian,
    every_device,
    regression,
)

from hessops_torch import hessian

SQUARES = nn.MSELoss()


def example(device, count=8):
    """Return a model and one batch of data."""
    problem = regression(device, sizes=(count,))
    return problem.model, problem.batches[0]


def total(model, batch):
    x, y = batch
    return F.mse_loss(model(x), y, reduction="sum")


RETURNED = {
    "scalar alone": (
        lambda total: total, TypeError, r"returned a tensor of shape \(\).*must return \(sum, count\)",
    ),
    "number alone": (float, TypeError, "returned a float"),
    "nothing": (lambda total: None, TypeError, "returned a NoneType"),
    "three": (lambda total: (total, 1, 2), TypeError, "returned a tuple of 3"),
    "vector": (
        lambda total: (total.repeat(3), 1), ValueError, r"must be a scalar tensor.*of shape \(3,\)",
    ),
    "one-element vector": (lambda total: (total[None], 1), ValueError, r"of shape \(1,\)"),
    "sum that is a number": (lambda total: (float(total), 1), ValueError, "scalar tensor, got a float"),
    "integer": (lambda total: (total.long(), 1), ValueError, "must be a real floating number.*int64"),
    "complex": (lambda total: (total * 1j, 1), ValueError, "must be a real floating number.*complex"),
    "NaN": (lambda total: (total * float("nan"), 1), ValueError, "loss of the first batch is nan"),
    "infinity": (lambda total: (total * float("inf"), 1), ValueError, "loss of the first batch is inf"),
    "negative count": (lambda total: (total, -1), ValueError, "count -1; it must not be negative"),
    "infinite count": (lambda total: (total, float("inf")), ValueError, "count inf"),
}  # fmt: skip


@every_device
@pytest.mark.parametrize("name", RETURNED)
def test_what_a_loss_function_returns(device, name):
    change, error, sentence = RETURNED[name]
    model, batch = example(device)
    with pytest.raises(error, match=sentence):
        hessian(model, lambda model, batch: change(total(model, batch)), batch)


@every_device
@pytest.mark.parametrize(
    "count", [0, 0.0, torch.tensor(0), torch.tensor(-2.0), torch.tensor(np.nan)]
)
def test_counts_that_add_up_to_nothing(device, count):
    model, batch = example(device)
    operator = hessian(model, lambda model, batch: (total(model, batch), count), batch)
    with pytest.raises(ValueError, match=r"counts of all batches add up to .*nothing to average"):
        operator.to_dense()
    with pytest.raises(ValueError, match="nothing to average"):
        next(operator.terms())


@every_device
def test_labels_that_are_all_ignored(device):
    model, (x, _) = example(device)
    labels = torch.full((8,), -100, device=device)
    operator = hessian(model, nn.CrossEntropyLoss(), (x, labels))
    with pytest.raises(ValueError, match="add up to 0: nothing to average"):
        operator.to_dense()


@every_device
def test_a_count_that_depends_on_the_parameters(device):
    model, batch = example(device)
    with pytest.raises(
        ValueError, match="count that the loss function returned depends on the param"
    ):
        hessian(
            model, lambda model, batch: (total(model, batch), model[0].weight.square().sum()), batch
        )


@every_device
def test_nan_in_the_parameters(device):
    model, batch = example(device)
    nn.init.constant_(model[0].bias, float("nan"))
    with pytest.raises(ValueError, match="loss of the first batch is nan"):
        hessian(model, SQUARES, batch)


class AveragesOverClasses(nn.Module):
    """A mean of class means: of another count than the number of its values."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, output, target):
        values = F.cross_entropy(output, target, reduction="none")
        if self.reduction == "none":
            return values
        means = [values[target == label].mean() for label in target.unique()]
        return torch.stack(means).mean()


class AveragesAlways(nn.Module):
    """Says that it has a reduction, and does not look at it."""

    reduction = "mean"

    def forward(self, output, target):
        return (output - target).square().mean()


@every_device
def test_criteria_that_average_in_a_way_of_their_own(device):
    model, (x, y) = example(device)
    labels = torch.tensor([0, 1, 1, 1, 0, 1, 1, 1], device=device)
    with pytest.raises(
        ValueError, match=r"AveragesOverClasses with reduction='mean'.*way of its own"
    ):
        hessian(model, AveragesOverClasses(), (x, labels))
    with pytest.raises(ValueError, match=r"ignores reduction='none'.*way of its own"):
        hessian(model, AveragesAlways(), [(x, y), (x[:2], y[:2])])
    # Of a single class, the mean of class means is the mean.
    of_one_class = torch.ones_like(labels)
    operator = hessian(model, AveragesOverClasses(), (x, of_one_class))
    expected = dense_hessian(model, lambda f: F.cross_entropy(f(x), of_one_class))
    assert_is_hessian(operator, expected)


@every_device
def test_a_criterion_that_ignores_its_reduction_for_single_outputs(device):
    """Batches of unequal length would give a mean of batch means."""
    model = build(lambda: nn.Sequential(nn.Linear(3, 1), nn.Tanh(), nn.Flatten(0)), 0, device)
    _, (x, y) = example(device)
    with pytest.raises(ValueError, match=r"ignores reduction='none'.*way of its own"):
        hessian(model, AveragesAlways(), [(x, y[:, 0]), (x[:2], y[:2, 0])])
    # Of one example without a batch axis there is nothing to average.
    one = hessian(model, AveragesAlways(), [(x[:1], y[0, 0]), (x[1:2], y[1, 0])])
    expected = dense_hessian(model, lambda f: F.mse_loss(f(x[:2]), y[:2, 0]))
    assert_is_hessian(one, expected)


class Squares(nn.Module):
    """A criterion of one's own."""

    def __init__(self):
        super().__init__()
        self.reduction = "mean"

    def forward(self, output, target):
        values = (output - target).square()
        return values if self.reduction == "none" else values.mean()


@every_device
@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), Squares()])
def test_outputs_and_targets_that_are_broadcast_against_each_other(device, criterion):
    model = build(lambda: nn.Sequential(nn.Linear(3, 1), nn.Tanh()), 0, device)
    _, (x, y) = example(device)
    sentence = r"output of shape \(8, 1\) and the target of shape \(8,\) to \(8, 8\): give both one"
    with pytest.raises(ValueError, match=sentence):
        hessian(model, criterion, (x, y[:, 0]))
    assert hessian(model, criterion, (x, y[:, :1])).to_dense().isfinite().all()
    flat = nn.Sequential(model, nn.Flatten(0))
    with pytest.raises(ValueError, match=r"shape \(8,\) and the target of shape \(8, 1\)"):
        hessian(flat, criterion, (x, y[:, :1]))
    # A target for all samples is no pair that nobody meant.
    shared = hessian(model, criterion, (x, y[:1, :1]))
    of_each = hessian(model, criterion, (x, y[:1, :1].expand(8, 1)))
    assert torch.equal(shared.to_dense(), of_each.to_dense())


@every_device
@pytest.mark.parametrize("probabilities", [True, False])
def test_an_example_without_a_batch_axis(device, probabilities):
    model, (x, y) = example(device)
    target = y[0].softmax(0) if probabilities else torch.ones((), dtype=torch.long, device=device)
    expected = dense_hessian(model, lambda f: F.cross_entropy(f(x[0]), target))
    assert_is_hessian(hessian(model, nn.CrossEntropyLoss(), [(x[0], target)]), expected)


@every_device
def test_a_criterion_is_looked_at_in_the_first_batch_that_has_a_mean(device):
    class Doubled(nn.CrossEntropyLoss):
        def forward(self, output, target):
            return super().forward(output, target) * (1 if self.reduction == "none" else 2)

    model, (x, _) = example(device)
    labels = torch.ones(8, dtype=torch.long, device=device)
    operator = hessian(model, Doubled(), [(x, labels * -100), (x, labels)])
    with pytest.raises(ValueError, match=r"Doubled with reduction='mean'.*way of its own"):
        operator.to_dense()


NO_LOSSES = {
    "reduction none": (
        nn.MSELoss(reduction="none"),
        ValueError,
        "MSELoss has reduction='none'; use",
    ),
    "module": (nn.Identity(), TypeError, "Identity has no 'reduction'.*function of"),
    "nothing": (None, TypeError, "must be a criterion or a function, got NoneType"),
    "name": ("mse", TypeError, "must be a criterion or a function, got str"),
}


@every_device
@pytest.mark.parametrize("name", NO_LOSSES)
def test_losses_that_are_none(device, name):
    loss, error, sentence = NO_LOSSES[name]
    model, batch = example(device)
    with pytest.raises(error, match=sentence):
        hessian(model, loss, batch)


@every_device
def test_a_model_that_returns_no_tensor(device):
    class Returns(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x)}

    model = build(lambda: Returns(3, 2), 0, device)
    _, batch = example(device)
    with pytest.raises(TypeError, match=r"model returned a dict, not a tensor.*pass a function"):
        hessian(model, SQUARES, batch)
