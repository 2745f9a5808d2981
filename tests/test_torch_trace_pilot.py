"""With the smallest budget, strata of few samples are looked at by more probes, within that budget."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import build, every_device, mlp, normal

from hessops_torch import hessian, hessian_trace

LEAST = 8


@every_device
@pytest.mark.parametrize("certain", [4, 12, 28])
def test_small_strata_have_more_probes_and_the_budget_holds(device, certain):
    model = build(lambda: mlp(outputs=3), 0, device)
    x = normal(1, 32, 3, device=device)
    with torch.no_grad():
        model[2].weight.mul_(10.0)
        labels = model(x).argmax(1)
        # Some samples are all but certain, and so in strata of their own.
        model[2].weight.mul_(3.0)
    labels[certain:] = (labels[certain:] + 1) % 3
    H = hessian(model, nn.CrossEntropyLoss(), (x, labels))
    for seed in range(5):
        found = hessian_trace(H, max_products=LEAST, rng=seed)
        assert "strata" in found.reason
        assert found.num_probes > 4
        assert found.num_gradients <= 2 * LEAST + 2
