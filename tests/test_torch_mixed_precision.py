"""Products have the precision of the model, whatever autocast is on around them."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import assert_same, build, every_device, images, mlp, normal

import hessops_torch


class Cast(nn.Module):
    """A network that computes in half precision by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.net(x)


@every_device
@pytest.mark.parametrize("product", ["backward", "forward-over-reverse"])
def test_autocast_around_products_changes_nothing(device, product):
    problem = images(device)
    model = problem.model.float()
    batches = [(x.float(), y) for x, y in problem.batches]

    def dense():
        H = hessops_torch.hessian(model, problem.loss, batches, product=product)
        return H.to_dense(), hessops_torch.ggn(model, problem.loss, batches).to_dense()

    expected = dense()
    with torch.autocast(device, dtype=torch.bfloat16):
        found = dense()
        assert torch.is_autocast_enabled(device)
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b, tolerance=1e-5)


@every_device
def test_half_precision_inside_is_refused(device):
    model = build(Cast, 0, device, torch.float32)
    x, y = (
        normal(i, 4, width, device=device, dtype=torch.float32) for i, width in ((1, 3), (2, 2))
    )
    for make in (hessops_torch.hessian, hessops_torch.ggn, hessops_torch.empirical_fisher):
        with pytest.raises(ValueError, match=r"the loss is torch.bfloat16.*autocast inside"):
            make(model, nn.MSELoss(), (x, y.bfloat16()))
