"""A module in two places of a network: every verb is right, and leaves its parameters there."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    Problem,
    assert_same,
    build,
    cut,
    every_device,
    integers,
    normal,
)

import hessops_torch

MODES = ("forward-over-reverse", "reverse-over-forward")


class Twice(nn.Module):
    """A convolution and a linear layer, each of them called twice under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 1, 2, padding=1)
        self.second = self.first
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.outer = nn.Sequential(self.inner[0], nn.Tanh(), self.inner[0])

    def forward(self, x):
        x = self.second(torch.tanh(self.first(x)))[:, 0, :3]
        return self.outer(self.inner(x))


def shared(device: str) -> Problem:
    model = build(Twice, 0, device)
    x, y = normal(1, 6, 1, 3, device=device), integers(2, 3, 6, device=device)
    return Problem(
        model, nn.CrossEntropyLoss(), cut([4, 2], x, y), lambda f: F.cross_entropy(f(x), y)
    )


def tensors_of(model: nn.Module) -> dict[str, tuple[int, torch.Tensor]]:
    named = dict(model.named_parameters(remove_duplicate=False))
    return {name: (id(p), p.detach().clone()) for name, p in named.items()}


def assert_untouched(model: nn.Module, before: dict[str, tuple[int, torch.Tensor]]) -> None:
    after = tensors_of(model)
    assert list(after) == list(before)
    for name, (identity, value) in before.items():
        assert after[name][0] == identity, f"{name} is another tensor"
        assert torch.equal(after[name][1], value)


@every_device
@pytest.mark.parametrize("product", [None, "backward", "forward"])
def test_gauss_newton_matrix(device, product):
    problem = shared(device)
    before = tensors_of(problem.model)
    logits = [problem.model(x).detach() for x, _ in problem.batches]
    J = hessops_torch.jacobian(problem.model, problem.batches).to_dense()
    p = torch.cat(logits).softmax(1)
    M = torch.block_diag(*(torch.diag(row) - torch.outer(row, row) for row in p))
    G = hessops_torch.ggn(*problem.arguments, product=product)
    assert_same(G.to_dense(), J.T @ M @ J / len(p))
    assert_untouched(problem.model, before)


@every_device
@pytest.mark.parametrize("product", MODES)
def test_hessian_by_function_transforms(device, product):
    problem = shared(device)
    before = tensors_of(problem.model)
    H = hessops_torch.hessian(*problem.arguments, product=product)
    assert_same(H.to_dense(), problem.dense())
    assert_untouched(problem.model, before)


@every_device
def test_trace_and_diagonal_by_gradients_of_samples(device):
    problem = shared(device)
    before = tensors_of(problem.model)
    G = hessops_torch.ggn(*problem.arguments)
    expected = torch.diagonal(G.to_dense())
    found = hessops_torch.gauss_newton_trace(G, method="exact")
    assert found.value == pytest.approx(float(expected.sum()), rel=1e-10)
    assert_same(hessops_torch.gauss_newton_diagonal(G), expected)
    hessops_torch.hessian_trace(hessops_torch.hessian(*problem.arguments), rng=0)
    assert_untouched(problem.model, before)


@every_device
def test_landscape(device):
    problem = shared(device)
    before = tensors_of(problem.model)
    for points_per_pass in (1, 3):
        hessops_torch.landscape(
            *problem.arguments,
            dimension=1,
            num_points=3,
            points_per_pass=points_per_pass,
            rng=0,
        )
        assert_untouched(problem.model, before)
