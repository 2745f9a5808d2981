"""Data that cannot be read, or is not the same in every pass, each with a sentence of its own."""

import random

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch_problems import (
    every_device,
    regression,
    seeded,
)

from hessops_torch import hessian
from hessops_torch.data.micro_batches import MicroBatches

SQUARES = nn.MSELoss()


def example(device, count=8):
    """Return a model and one batch of data."""
    problem = regression(device, sizes=(count,))
    return problem.model, problem.batches[0]


class Augmented(Dataset):
    """Items with noise from one of the global generators."""

    def __init__(self, batch, draw):
        self.x, self.y = batch
        self.draw = draw

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + self.draw(), self.y[index]


DRAWS = {
    "torch": lambda: torch.randn(()).item(),
    "numpy": np.random.rand,
    "python": random.random,
}


@every_device
def test_a_loader_that_shuffles(device):
    model, batch = example(device)
    loader = DataLoader(TensorDataset(*batch), batch_size=3, shuffle=True)
    with (
        seeded(0),
        pytest.raises(
            ValueError, match=r"passes over the data differ.*shuffle=False.*list\(loader"
        ),
    ):
        hessian(model, SQUARES, loader)
    # What the sentence says to do works.
    assert hessian(model, SQUARES, list(loader)).to_dense().isfinite().all()


@every_device
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_data_that_is_augmented_at_random(device, wrapped, draw):
    model, batch = example(device)
    data = Augmented(batch, draw)
    source = DataLoader(data, batch_size=3) if wrapped else data
    with pytest.raises(
        ValueError, match=r"passes over the data differ, first in batch 0.*augmentation"
    ):
        hessian(model, SQUARES, source)


class Shrinking:
    """One batch fewer, or more, in every pass."""

    def __init__(self, batches, by):
        self.batches = batches
        self.count = 2
        self.by = by

    def __iter__(self):
        yield from self.batches[: self.count]
        self.count += self.by


@every_device
@pytest.mark.parametrize("by", [-1, 1])
def test_data_of_another_length_in_every_pass(device, by):
    problem = regression(device)
    first = 1 if by < 0 else 2
    with pytest.raises(ValueError, match=f"differ, first in batch {first}"):
        hessian(problem.model, SQUARES, Shrinking(problem.batches, by))


class ChangesLater:
    """The same in so many passes, and then not."""

    def __init__(self, batch, passes):
        self.batch = batch
        self.left = passes

    def __iter__(self):
        self.left -= 1
        x, y = self.batch
        yield (x, y) if self.left >= 0 else (x + 1, y)


@every_device
def test_data_that_changes_later_and_is_not_resident(device):
    _, batch = example(device)
    batches = MicroBatches(
        ChangesLater(batch, passes=3), torch.device(device), None, memory_budget=0
    )
    assert len(list(batches)) == 1
    with pytest.raises(ValueError, match="differ, first in batch 0"):
        list(batches)


NO_DATA = {
    "iterator": (iter, TypeError, r"iterator can be read once.*list\(\.\.\.\)"),
    "generator": (lambda b: (x for x in b), TypeError, "generator can be read once"),
    "zip": (lambda b: zip(*b, strict=True), TypeError, "zip can be read once"),
    "empty list": (lambda _: [], ValueError, "data is empty"),
    "empty tuple": (lambda _: (), ValueError, "data is empty"),
    "empty loader": (
        lambda b: DataLoader(TensorDataset(b[0][0][:0]), shuffle=False), ValueError, "data is empty",
    ),
    "empty data set": (
        lambda b: TensorDataset(*(t[:0] for t in b[0])), ValueError, "data set is empty",
    ),
    "nothing": (lambda _: None, TypeError, "cannot read batches from NoneType; pass a DataLoader"),
    "number": (lambda _: 3, TypeError, "cannot read batches from int"),
    "text": (lambda _: "data", TypeError, "cannot read batches from str"),
    "inputs alone": (lambda b: b[0][0], TypeError, "cannot read batches from Tensor"),
    "one dict": (lambda b: {"x": b[0][0]}, TypeError, r"dict is one batch.*pass \[batch\]"),
}  # fmt: skip


@every_device
@pytest.mark.parametrize("name", NO_DATA)
def test_sources_that_cannot_be_read(device, name):
    make, error, sentence = NO_DATA[name]
    problem = regression(device)
    with pytest.raises(error, match=sentence):
        hessian(problem.model, SQUARES, make(problem.batches))


BATCHES = {
    "one tensor": (lambda x, _: x, "batches \\(input, target\\), got a tensor of shape \\(8, 3\\)"),
    "three": (lambda x, y: (x, y, y), "got a tuple of 3"),
    "dict": (lambda x, y: {"x": x, "y": y}, "got a dict; pass a function"),
    "nothing": (lambda x, y: None, "got a NoneType"),
}


@every_device
@pytest.mark.parametrize("name", BATCHES)
def test_batches_that_a_criterion_does_not_take(device, name):
    make, sentence = BATCHES[name]
    model, batch = example(device)
    with pytest.raises(TypeError, match=sentence):
        hessian(model, SQUARES, [make(*batch)])


@every_device
def test_batches_that_cannot_be_split(device):
    model, (x, y) = example(device)
    with pytest.raises(ValueError, match=r"cannot split a batch.*lengths \[7, 8\]"):
        hessian(model, SQUARES, [(x, y[:7])], micro_batch_size=2)
    with pytest.raises(ValueError, match=r"cannot split a batch.*lengths \[0, 8\]"):
        hessian(model, SQUARES, [(x, {"y": y, "n": torch.tensor(8)})], micro_batch_size=2)


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_data_that_is_written_to_afterwards(device, memory_budget):
    model, batch = example(device)
    operator = hessian(model, SQUARES, batch, memory_budget=memory_budget)
    operator.to_dense()
    batches = operator.objective.batches
    next(iter(batches))[0].add_(1)
    with pytest.raises(ValueError, match="micro-batch 0 was written to since the operator was"):
        operator.to_dense()


class InPlace(nn.Linear):
    def forward(self, x):
        return super().forward(x.mul_(0.5))


@every_device
def test_a_model_that_writes_into_its_input(device):
    _, batch = example(device)
    model = InPlace(3, 2).to(device, torch.float64)
    with pytest.raises(ValueError, match=r"writes into its batch.*x.clone\(\)"):
        hessian(model, SQUARES, batch)


@every_device
@pytest.mark.parametrize("form", [np.asarray, list, str, float])
def test_what_is_no_tensor_may_not_change_between_passes(device, form):
    model, (x, y) = example(device)

    class Growing:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield {
                "x": x,
                "y": y,
                "note": form({np.asarray: [self.passes]}.get(form, str(self.passes))),
            }

    def loss(model, batch):
        return ((model(batch["x"]) - batch["y"]) ** 2).sum(), len(batch["x"])

    with pytest.raises(ValueError, match="passes over the data differ"):
        hessian(model, loss, Growing())
