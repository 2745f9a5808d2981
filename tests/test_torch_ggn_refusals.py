"""What no Gauss-Newton matrix is made of, and what looks like it and is."""

import pytest

pytest.importorskip("torch")

import torch
from test_torch_ggn import assert_is_ggn
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import assert_same, build, integers, mlp, normal, regression

from hessops_torch import SplitLoss, ggn


def test_a_function_of_model_and_batch_is_refused():
    problem = regression("cpu")

    def loss(model, batch):
        return F.mse_loss(model(batch[0]), batch[1], reduction="sum"), batch[1].numel()

    with pytest.raises(TypeError, match=r"GaussNewton needs the model's outputs .*SplitLoss"):
        ggn(problem.model, loss, problem.batches)


def test_a_loss_that_is_linear_in_the_outputs_is_refused():
    model = build(lambda: nn.Sequential(mlp(outputs=4), nn.LogSoftmax(1)), 0, "cpu")
    batch = normal(1, 5, 3, device="cpu"), integers(2, 4, 5, device="cpu")
    for loss in (nn.NLLLoss(), SplitLoss(lambda f, b: f(b[0]), lambda z, b: (z[:, 0].sum(), 1))):
        with pytest.raises(ValueError, match=r"linear in the model's outputs.*CrossEntropyLoss"):
            ggn(model, loss, batch)


def test_a_loss_that_is_linear_in_pieces_is_not():
    """It has no curvature here, and may have some when the model is trained."""
    model = nn.Linear(3, 1).double()
    x, y = normal(1, 4, 3, device="cpu"), torch.full((4, 1), 100.0, dtype=torch.float64)
    operator = ggn(model, nn.HuberLoss(), [(x, y)])
    assert torch.count_nonzero(operator.to_dense()) == 0
    with torch.no_grad():
        model.bias.fill_(100.0)
        model.weight.mul_(1e-3)
    assert torch.count_nonzero(operator.to_dense()) > 0


def test_a_loss_with_curvature_in_a_later_batch_only():
    model = nn.Linear(3, 1).double()
    x, y = normal(1, 4, 3, device="cpu"), torch.full((4, 1), 100.0, dtype=torch.float64)
    near = model(x[:2]).detach()
    operator = ggn(model, nn.HuberLoss(), [(x[2:], y[2:]), (x[:2], near)])
    J = torch.cat([x[:2], torch.ones_like(x[:2, :1])], dim=1)
    assert_is_ggn(operator, J.T @ J / 4)


@pytest.mark.parametrize("weight_decay", [float("nan"), "1", True])
def test_a_weight_decay_that_is_none(weight_decay):
    with pytest.raises(ValueError, match="weight_decay="):
        ggn(*regression("cpu").arguments, weight_decay=weight_decay)


def test_targets_and_criteria_belong_together():
    def forward(model, batch):
        return model(batch[0])

    with pytest.raises(TypeError, match="only a criterion takes one"):
        SplitLoss(forward, lambda outputs, batch: (outputs.sum(), 1), lambda batch: batch[1])
    with pytest.raises(TypeError, match="only a criterion takes one"):
        SplitLoss(forward, nn.MSELoss, lambda batch: batch[1])
    with pytest.raises(TypeError, match="needs to know its target"):
        SplitLoss(forward, nn.MSELoss())


def test_outputs_that_are_no_tensor():
    class Dictionary(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return {"logits": self.linear(x)}

    model = build(Dictionary, 0, "cpu")
    batch = normal(1, 5, 3, device="cpu"), normal(2, 5, 2, device="cpu")
    with pytest.raises(TypeError, match="returned a dict, not a tensor"):
        ggn(model, nn.MSELoss(), batch)
    loss = SplitLoss(lambda f, b: f(b[0])["logits"], nn.MSELoss(), lambda b: b[1])
    expected = ggn(model.linear, nn.MSELoss(), batch).to_dense()
    assert_same(ggn(model, loss, batch).to_dense(), expected)
