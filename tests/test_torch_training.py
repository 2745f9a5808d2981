"""In the middle of a training: neither disturbs the other."""

import copy

import pytest

pytest.importorskip("torch")

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    assert_is_hessian,
    assert_same,
    every_device,
    regression,
    some_problems,
)

import hessops
from hessops_torch import hessian


@every_device
@some_problems
def test_training_goes_on_as_if_nothing_had_been(device, make_problem):
    def train(model, problem, analyse):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        operator = hessian(model, problem.loss, problem.batches, mode="eval") if analyse else None
        for _ in range(3):
            if operator is not None:
                hessops.trace(operator, num_probes=2, rng=0)
            optimizer.zero_grad()
            problem.total_loss(model).backward()
            if operator is not None:
                operator.to_dense()
            optimizer.step()
        return model.state_dict()

    problem = make_problem(device)
    alone = train(copy.deepcopy(problem.model), problem, analyse=False)
    analysed = train(problem.model, problem, analyse=True)
    for name, value in alone.items():
        assert torch.allclose(analysed[name], value, rtol=1e-12, atol=1e-12), name
    operator = hessian(problem.model.eval(), problem.loss, problem.batches)
    assert_is_hessian(operator, problem.dense())


@every_device
def test_gradients_on_the_model_do_not_enter_the_hessian(device):
    """PyTorch adds to `.grad`: a product that read it there would hold old gradients, too."""
    problem = regression(device)
    F.mse_loss(problem.model(problem.batches[0][0]), problem.batches[0][1]).backward()
    before = {name: p.grad.clone() for name, p in problem.model.named_parameters()}
    assert_is_hessian(hessian(*problem.arguments), problem.dense())
    for name, parameter in problem.model.named_parameters():
        assert torch.equal(parameter.grad, before[name])


def gradients_of(problem):
    total = problem.total_loss(problem.model)
    return torch.autograd.grad(total, list(problem.model.parameters()))


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_hooks_on_gradients_stay_out_of_the_hessian_and_in_their_place(device, memory_budget):
    """Clipping belongs to the training loop, and not to the loss."""
    problem = regression(device)
    expected, plain = problem.dense(), gradients_of(problem)
    operator = hessian(*problem.arguments, memory_budget=memory_budget)
    operator.to_dense()
    layer = problem.model[2]
    handles = [
        layer.weight.register_hook(lambda gradient: 3 * gradient),
        layer.register_full_backward_pre_hook(lambda _, grads: tuple(5 * g for g in grads)),
    ]
    assert_is_hessian(operator, expected)
    assert_is_hessian(hessian(*problem.arguments, memory_budget=memory_budget), expected)
    hooked = gradients_of(problem)
    assert_same(hooked[2], 15 * plain[2])
    assert_same(hooked[3], 5 * plain[3])
    for handle in handles:
        handle.remove()
    for now, before in zip(gradients_of(problem), plain, strict=True):
        assert torch.equal(now, before)
