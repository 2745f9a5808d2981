"""Batches of classes of one's own, and of sparse tensors, are read as closely as tuples of tensors."""

from dataclasses import dataclass

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    assert_is_hessian,
    every_device,
    few_examples,
    regression,
    ways_to_compute,
)

from hessops_torch import hessian


@dataclass(frozen=True)
class Pair:
    x: torch.Tensor
    y: torch.Tensor


class Plain:
    def __init__(self, x, y):
        self.x, self.y = x, y


def squares(model, batch):
    # Moved, as a batch of an unknown class is given as it is.
    x, y = (t.to(next(model.parameters()).device) for t in (batch.x, batch.y))
    return F.mse_loss(model(x), y, reduction="sum"), y.numel()


class Shuffled:
    """Batches in another order of samples in every pass."""

    def __init__(self, kind, x, y):
        self.kind, self.x, self.y, self.passes = kind, x, y, 0

    def __iter__(self):
        self.passes += 1
        generator = torch.Generator().manual_seed(self.passes)
        order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
        return (self.kind(self.x[part], self.y[part]) for part in order.split(3))


@every_device
@pytest.mark.parametrize("kind", [Pair, Plain])
def test_shuffling_is_noticed(device, kind):
    problem = regression(device, sizes=(8,))
    with pytest.raises(ValueError, match=r"two passes over the data differ.*list\(loader\)"):
        hessian(problem.model, squares, Shuffled(kind, *problem.batches[0]))


@every_device
@given(options=ways_to_compute())
@few_examples
def test_dataclasses_are_cut_like_tuples(device, options):
    problem = regression(device)
    batches = [Pair(*batch) for batch in problem.batches]
    assert_is_hessian(hessian(problem.model, squares, batches, **options), problem.dense())


@every_device
def test_writing_into_a_dataclass_is_noticed(device):
    problem = regression(device)
    batches = [Pair(x.clone(), y) for x, y in problem.batches]
    H = hessian(problem.model, squares, batches)
    batches[1].x.add_(1.0)
    with pytest.raises(ValueError, match="micro-batch 1 was written to"):
        H.to_dense()


def densified(model, batch):
    x, y = batch
    return F.mse_loss(model(x.to_dense()), y, reduction="sum"), y.numel()


CONVERSIONS = {
    "coo": torch.Tensor.to_sparse,
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
}


@every_device
@pytest.mark.filterwarnings("ignore:.*Sparse.*beta state")
@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS.keys())
def test_sparse_inputs(device, convert):
    problem = regression(device)
    batches = [(convert(x), y) for x, y in problem.batches]
    for memory_budget in (None, 0):
        H = hessian(problem.model, densified, batches, memory_budget=memory_budget)
        assert_is_hessian(H, problem.dense())
    changing = [batches, [(convert(2 * x), y) for x, y in problem.batches]]

    class Changing:
        def __iter__(self):
            return iter(changing.pop())

    with pytest.raises(ValueError, match="two passes over the data differ"):
        hessian(problem.model, densified, Changing())
    with pytest.raises(ValueError, match="sparse or nested tensors; leave micro_batch_size out"):
        hessian(problem.model, densified, batches, micro_batch_size=2)


@every_device
def test_conjugated_inputs(device):
    problem = regression(device)
    batches = [(torch.complex(x, -x).conj(), y) for x, y in problem.batches]

    def loss(model, batch):
        return F.mse_loss(model(batch[0].real), batch[1], reduction="sum"), batch[1].numel()

    assert_is_hessian(hessian(problem.model, loss, batches), problem.dense())


@every_device
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
def test_data_without_values_or_samples_is_refused(device):
    problem = regression(device)
    x, y = problem.batches[0]
    with pytest.raises(ValueError, match=r"shape \(3, 3\) is on the meta device.*give the data"):
        hessian(problem.model, problem.loss, [(x.to("meta"), y)])
    with pytest.raises(TypeError, match=r"nested tensor.*list of tensors"):
        hessian(problem.model, densified, [(torch.nested.nested_tensor(list(x)), y)])
