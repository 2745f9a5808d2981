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

import hessops
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
    operator = hessian(
        model, lambda model, batch: (total(model, batch), model[0].weight.square().sum()), batch
    )
    with pytest.raises(
        ValueError, match="count that the loss function returned depends on the param"
    ):
        operator.to_dense()


@every_device
def test_nan_in_a_later_batch_is_named_by_the_verb(device):
    model, (x, y) = example(device)
    broken = torch.full_like(x, float("nan"))
    operator = hessian(model, SQUARES, [(x, y), (broken, y)])
    with pytest.raises(hessops.NonFiniteError, match=r"product 1 .*NaN or infinity"):
        hessops.eigsh(operator, 1, rng=0)


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
