"""What products cost, counted in multiplications of matrices: the table of the documentation."""

from functools import partial

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hessops_torch import (
    empirical_fisher,
    fisher,
    ggn,
    gradient_covariance,
    hessian,
    jacobian,
    ntk,
    residual_curvature,
)

# In forward passes: of each column with graphs that are kept, and of building them; and of what every
# block takes besides.
COSTS = {
    "hessian": (hessian, 6, 3),
    "residual": (residual_curvature, 6, 3),
    "ggn": (ggn, 4, 3),
    "ggn by forward mode": (partial(ggn, product="forward"), 4, 1, 1),
    "ggn, batched": (partial(ggn, product="batched"), 4, 1, 1),
    "fisher": (fisher, 4, 3),
    "drawn labels": (partial(fisher, num_draws=5, rng=0), 4, 3),
    "empirical fisher": (empirical_fisher, 4, 3),
    "covariance": (gradient_covariance, 4, 3),
    "jacobian": (lambda model, _loss, data, **options: jacobian(model, data, **options), 2, 3),
    "adjoint": (lambda model, _loss, data, **options: jacobian(model, data, **options).H, 2, 1),
    "kernel": (lambda model, _loss, data, **options: ntk(model, data, **options), 4, 4),
}


class CountsMultiplications(TorchDispatchMode):
    """PyTorch's own counter does not work with torch.autograd.grad."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.count += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


def multiplications(function):
    with CountsMultiplications() as counter:
        function()
    return counter.count


@pytest.mark.parametrize("num_columns", [1, 4])
@pytest.mark.parametrize("name", COSTS)
def test_products_cost_what_the_documentation_says(name, num_columns):
    torch.manual_seed(0)
    depth, width = 12, 16
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
    model = nn.Sequential(*layers)
    data = [(torch.randn(8, width), torch.randint(width, (8,))) for _ in range(2)]
    forward = multiplications(lambda: [model(x) for x, _ in data])
    make, of_column, of_graph, *of_block = COSTS[name]
    for budget, building in ((None, 0), (0, of_graph)):
        operator = make(model, nn.CrossEntropyLoss(), data, memory_budget=budget)
        block = torch.randn(operator.shape[1], num_columns)
        # The first product also looks whether all is as it should be.
        operator @ block
        found = multiplications(lambda: operator @ block) / forward  # noqa: B023
        claimed = of_column * num_columns + building + sum(of_block)
        # A little less: no derivative by the input of the first layer is needed.
        assert claimed * (1 - 1.5 / depth) <= found <= claimed
