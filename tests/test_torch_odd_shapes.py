"""Parameters without axes or entries, blocks without columns, targets that are a column of a table."""

from functools import partial

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    Problem,
    assert_is_hessian,
    assert_same,
    build,
    cut,
    every_device,
    mlp,
    normal,
)

import hessops_torch


class Scaled(nn.Module):
    """A network times a learned number, with a parameter that has no entry."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0, 2))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.net = mlp()

    def forward(self, x):
        return self.net(x) * self.scale.exp() + self.nothing.sum()


def scaled(device: str, sizes=(4, 1)) -> Problem:
    model = build(Scaled, 0, device)
    x, y = (normal(i, sum(sizes), width, device=device) for i, width in ((1, 3), (2, 2)))
    return Problem(model, nn.MSELoss(), cut(sizes, x, y), lambda f: F.mse_loss(f(x), y))


@every_device
def test_parameters_without_axes_or_entries(device):
    problem = scaled(device)
    H = hessops_torch.hessian(*problem.arguments)
    assert_is_hessian(H, problem.dense())
    G = hessops_torch.ggn(*problem.arguments)
    expected = torch.diagonal(G.to_dense())
    found = hessops_torch.gauss_newton_trace(G, method="exact")
    assert found.value == pytest.approx(float(expected.sum()), rel=1e-10)
    assert_same(hessops_torch.gauss_newton_diagonal(G), expected)
    trace = hessops_torch.hessian_trace(H, max_products=100, sections=True, rng=0)
    assert list(trace.sections) == [name for name, _ in problem.model.named_parameters()]
    assert trace.sections["nothing"].value == 0


OF_LOSSES = [
    *(
        partial(hessops_torch.hessian, product=p)
        for p in ("backward", "forward-over-reverse", "auto")
    ),
    *(partial(hessops_torch.ggn, product=p) for p in ("backward", "forward", "batched", "auto")),
    hessops_torch.fisher,
    hessops_torch.empirical_fisher,
    hessops_torch.gradient_covariance,
    hessops_torch.residual_curvature,
]


@every_device
@pytest.mark.parametrize("make", OF_LOSSES)
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_blocks_without_columns(device, make, memory_budget):
    problem = scaled(device)
    A, other = (make(*problem.arguments, memory_budget=memory_budget) for _ in range(2))
    n = A.shape[0]
    assert (A @ normal(0, n, 0, device=device)).shape == (n, 0)
    # Nor does such a block leave anything behind that other products are wrong by.
    assert_same(A.to_dense(), other.to_dense())


@every_device
def test_blocks_without_columns_of_a_jacobian(device):
    problem = scaled(device)
    J = hessops_torch.jacobian(problem.model, problem.batches)
    assert (J @ normal(0, J.shape[1], 0, device=device)).shape == (J.shape[0], 0)
    assert (J.H @ normal(0, J.shape[0], 0, device=device)).shape == (J.shape[1], 0)


@every_device
def test_a_last_batch_of_one_from_a_column_of_a_table(device):
    # One entry of a strided tensor counts as contiguous, and has no bytes to take a checksum of.
    model = build(lambda: mlp(outputs=1), 0, device)
    x, table = (normal(i, 5, 3, device=device) for i in (1, 2))
    loss = hessops_torch.SplitLoss(
        lambda model, batch: model(batch[0]).flatten(), nn.MSELoss(), target=lambda batch: batch[1]
    )
    H = hessops_torch.hessian(model, loss, cut([4, 1], x, table[:, 0]))
    expected = Problem(model, loss, [], lambda f: F.mse_loss(f(x).flatten(), table[:, 0])).dense()
    assert_is_hessian(H, expected)
