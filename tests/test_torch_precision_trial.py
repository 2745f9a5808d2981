"""When products in a lower precision are held against others: once, on all ranks, and by parts."""

import copy

import pytest

pytest.importorskip("torch")

import torch
from doubles import run_on_ranks
from torch import nn
from torch_problems import build, cut, integers, mlp, normal

import hessops_torch
from hessops_torch import Work


class Cancelling(nn.Module):
    """Loses the digits that bfloat16 has."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))

    def forward(self, x):
        large = 1e4 * x
        return ((large + x) @ self.weight) - large @ self.weight


def classification():
    model = build(lambda: mlp(8, outputs=3), 0, "cpu", torch.float32).eval()
    x, y = normal(1, 12, 3, device="cpu").float(), integers(2, 3, 12, device="cpu")
    return model, nn.CrossEntropyLoss(), cut([5, 4, 3], x, y)


def test_an_interrupted_trial_is_made_again():
    model, _, batches = classification()
    interrupts = []

    def loss(model, batch):
        if interrupts:
            raise interrupts.pop()
        outputs = model(batch[0])
        return nn.functional.cross_entropy(outputs, batch[1], reduction="sum"), len(outputs)

    H = hessops_torch.hessian(model, loss, batches, precision="bf16")
    interrupts.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        _ = H.product_error
    assert H.product_error > 0


def test_blocks_are_of_the_whole_in_full_precision():
    arguments = classification()
    H = hessops_torch.hessian(*arguments, precision="bf16")
    rounded = hessops_torch.block_diagonal(H)
    expected = hessops_torch.block_diagonal(hessops_torch.hessian(*arguments)).to_dense()
    found = rounded.in_full_precision()
    assert found.product_error == 0 < rounded.product_error
    assert found.precision is None
    assert torch.equal(found.to_dense(), expected)
    assert not torch.equal(rounded.to_dense(), expected)


@pytest.mark.parametrize("centred", [True, False])
def test_ranks_find_together_what_a_trial_takes(centred):
    model, loss, batches = classification()

    def program(comm):
        operator = hessops_torch.gradient_covariance(
            copy.deepcopy(model),
            loss,
            hessops_torch.shard(batches, comm),
            centred=centred,
            precision="bf16",
            comm=comm,
        )
        return operator.product_error, operator.to_dense()

    (error, found), (other, _) = run_on_ranks(program, 2)
    exact = hessops_torch.gradient_covariance(model, loss, batches, centred=centred).to_dense()
    assert 0 < error == other
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.1


def test_plans_are_of_the_precision_that_is_computed_in():
    model, loss, batches = classification()
    H = hessops_torch.hessian(nn.Sequential(Cancelling(), model), loss, batches, precision="bf16")
    with pytest.warns(RuntimeWarning, match=r"'bf16' .*float32 instead"):
        hessops_torch.plan(H, num_products=2)
    assert H.precision is None


def test_plans_refuse_what_the_verb_refuses():
    H = hessops_torch.hessian(*classification(), precision="bf16")
    with pytest.raises(ValueError, match=r"hessian_trace knows no error .*'bf16'"):
        hessops_torch.plan(H, Work.hessian_trace(H.space))
