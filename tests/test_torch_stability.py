"""Up to which curvature a step of an optimizer is stable, against what diverges."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import few_examples

from hessops_torch.training.stability import step_limits


def diverges(optimizer_of, curvature):
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = optimizer_of([weight])
    for _ in range(300):
        weight.grad = curvature * weight.detach()
        optimizer.step()
    return not abs(float(weight.detach())) < 1


@few_examples
@given(
    rate=st.floats(1e-2, 2.0),
    beta=st.sampled_from([0.0, 0.5, 0.9]),
    kind=st.sampled_from(["plain", "nesterov", "dampening"]),
)
def test_the_stability_limit_is_where_a_quadratic_begins_to_diverge(rate, beta, kind):
    options = {"momentum": beta, "nesterov": kind == "nesterov" and beta > 0}
    if kind == "dampening":
        options["dampening"] = 0.3

    def optimizer_of(parameters):
        return torch.optim.SGD(parameters, lr=rate, **options)

    limit = step_limits(optimizer_of([nn.Parameter(torch.ones(1))])).stability_limit
    assert not diverges(optimizer_of, 0.95 * limit)
    assert diverges(optimizer_of, 1.05 * limit)


def test_limits_are_unknown_where_they_are():
    parameters = [nn.Parameter(torch.ones(1))]
    assert all(map(math.isnan, step_limits()))
    adam = step_limits(torch.optim.Adam(parameters, lr=0.1))
    assert adam.two_over_learning_rate == pytest.approx(20)
    assert math.isnan(adam.stability_limit)
    assert step_limits(learning_rate=0.0).two_over_learning_rate == math.inf
    with pytest.raises(ValueError, match="learning_rate=-1"):
        step_limits(learning_rate=-1.0)
    groups = [
        {"params": [p], "lr": lr}
        for p, lr in zip([*parameters, nn.Parameter(torch.ones(1))], (0.1, 0.5), strict=True)
    ]
    assert step_limits(torch.optim.SGD(groups)).stability_limit == 4.0
