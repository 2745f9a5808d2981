"""Operators in a diagonal metric, and the metrics that optimizers keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import (
    assert_same,
    every_device,
    images,
    normal,
    regression,
    seeds,
    ways_to_compute,
)

import hessops
from hessops import check_operator
from hessops_torch import (
    ggn,
    hessian,
    jacobian,
    optimizer_metric,
    preconditioned,
    residual_curvature,
)


def assert_in_metric(operator, original, diagonal):
    scale = diagonal.rsqrt()
    assert_same(operator.to_dense(), scale[:, None] * original.to_dense() * scale)
    assert operator.structure == original.structure
    for term, of in zip(operator.terms(), original.terms(), strict=True):
        assert_same(term.to_dense(), scale[:, None] * of.to_dense() * scale)
        assert term.num_samples == of.num_samples


@every_device
@pytest.mark.parametrize("function", [hessian, ggn, residual_curvature])
@given(ways_to_compute(), seeds)
def test_a_flat_vector(device, function, ways, seed):
    problem = regression(device, seed=seed)
    original = function(*problem.arguments, **ways)
    diagonal = normal(seed, original.shape[0], device=device).exp()
    operator = preconditioned(original, diagonal)
    assert operator.domain is original.domain
    assert_in_metric(operator, original, diagonal)
    check_operator(operator, rng=0).raise_if_failed()


@every_device
def test_named_tensors_in_any_order_and_precision(device):
    problem = images(device)
    original = hessian(*problem.arguments, params="0", weight_decay=0.5)
    named = {name: p.detach().abs() + 1 for name, p in problem.model.named_parameters()}
    backwards = {name: named[name].float() for name in reversed(named)}
    diagonal = original.space.flatten(backwards).double()
    assert_in_metric(preconditioned(original, backwards), original, diagonal)


OPTIMIZERS = {
    "Adam": (torch.optim.Adam, {"eps": 1e-3}),
    "Adam with the largest moment": (torch.optim.Adam, {"amsgrad": True, "betas": (0.8, 0.5)}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.0}),
    "Adamax": (torch.optim.Adamax, {}),
    "RMSprop": (torch.optim.RMSprop, {"eps": 1e-4}),
    "RMSprop, centred": (torch.optim.RMSprop, {"centered": True, "eps": 1e-2}),
    "Adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
}


def trained(device, kind, options, steps=4):
    problem = regression(device)
    optimizer = kind(problem.model.parameters(), lr=0.05, **options)
    for step in range(steps):
        optimizer.zero_grad()
        (problem.total_loss(problem.model) * (steps - step)).backward()
        before = [p.detach().clone() for p in problem.model.parameters()]
        optimizer.step()
    moved = [p.detach() - b for p, b in zip(problem.model.parameters(), before, strict=True)]
    return problem, optimizer, moved


@every_device
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_the_averaged_gradient_in_the_metric(device, name):
    problem, optimizer, moved = trained(device, *OPTIMIZERS[name])
    metric = optimizer_metric(optimizer, problem.model)
    assert list(metric) == [name for name, _ in problem.model.named_parameters()]
    for (key, parameter), step in zip(problem.model.named_parameters(), moved, strict=True):
        state, averaged = optimizer.state[parameter], parameter.grad
        if "exp_avg" in state:
            averaged = state["exp_avg"] / (1 - optimizer.defaults["betas"][0] ** 4)
        assert_same(step, -0.05 * averaged / metric[key], 1e-10)


@every_device
def test_nadam_has_the_metric_of_adam(device):
    metrics = []
    for kind in (torch.optim.Adam, torch.optim.NAdam):
        problem, optimizer, _ = trained(device, kind, {}, steps=1)
        metrics.append(optimizer_metric(optimizer, problem.model))
    for name, expected in metrics[0].items():
        assert_same(metrics[1][name], expected)


@every_device
def test_an_optimizer_as_it_stands(device):
    problem, optimizer, _ = trained(device, torch.optim.Adam, {})
    original = hessian(*problem.arguments)
    metric = optimizer_metric(optimizer, problem.model)
    diagonal = original.space.flatten(metric)
    operator = preconditioned(original, optimizer)
    assert_in_metric(operator, original, diagonal)
    twice = preconditioned(2 * original + ggn(*problem.arguments), optimizer)
    assert_in_metric(twice, 2 * original + ggn(*problem.arguments), diagonal)
    # Later steps change the model, which the operator follows, and not its metric.
    before = operator.scale.clone()
    optimizer.step()
    assert torch.equal(operator.scale, before)
    assert_in_metric(operator, hessian(*problem.arguments), diagonal)


@every_device
def test_its_eigenvalues_tell_where_gradient_descent_is_stable(device):
    model = nn.Linear(3, 1, bias=False).to(device, torch.float64)
    x, y = normal(1, 8, 3, device=device), normal(2, 8, 1, device=device)
    diagonal = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64, device=device)
    operator = preconditioned(hessian(model, nn.MSELoss(), (x, y)), diagonal)
    top = float(hessops.eigsh(operator, 1, rng=0).eigenvalues[0])
    H = hessian(model, nn.MSELoss(), (x, y)).to_dense()
    for factor, stable in ((0.95, True), (1.05, False)):
        step = torch.eye(3, dtype=H.dtype, device=device) - factor * 2 / top * H / diagonal[:, None]
        radius = float(torch.linalg.eigvals(step).abs().max())
        assert (radius < 1) == stable


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_entries_that_are_no_scale(value):
    operator = hessian(*regression("cpu").arguments)
    diagonal = torch.ones(operator.shape[0], dtype=torch.float64)
    diagonal[3] = value
    with pytest.raises(ValueError, match="1 of 20 entries of the metric are not positive"):
        preconditioned(operator, diagonal)


def test_metrics_that_do_not_fit():
    problem = regression("cpu")
    operator = hessian(*problem.arguments)
    with pytest.raises(ValueError, match=r"shape \(3,\), and there are 20 parameters"):
        preconditioned(operator, torch.ones(3))
    with pytest.raises(ValueError, match=r"nothing of parameter '0.bias' \(3 of 4"):
        preconditioned(operator, {"0.weight": torch.ones(3, 3)})
    with pytest.raises(TypeError, match="got a float"):
        preconditioned(operator, 2.0)


def test_operators_that_do_not_act_on_parameters():
    problem = regression("cpu")
    for operator in (hessops.Identity(3), jacobian(problem.model, problem.batches)):
        with pytest.raises(TypeError, match="does not act on the parameters of a model"):
            preconditioned(operator, torch.ones(3))
    with pytest.raises(TypeError, match="3 does not act on the parameters of a model"):
        preconditioned(3, torch.ones(2))


def test_optimizers_without_a_metric():
    problem = regression("cpu")
    operator = hessian(*problem.arguments)
    with pytest.raises(TypeError, match="SGD has no diagonal metric that is known here"):
        preconditioned(operator, torch.optim.SGD(problem.model.parameters(), lr=0.1))
    for kind in (torch.optim.Adam, torch.optim.Adagrad):
        with pytest.raises(ValueError, match=f"the {kind.__name__} has not stepped a parameter"):
            preconditioned(operator, kind(problem.model.parameters()))


def test_parameters_that_the_optimizer_does_not_train():
    problem = regression("cpu")
    optimizer = torch.optim.Adam(problem.model[2].parameters())
    problem.total_loss(problem.model).backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"'0.weight' \(2 of 4 are missing\): an optimizer knows"):
        preconditioned(hessian(*problem.arguments), optimizer)
    part = preconditioned(hessian(*problem.arguments, params="2"), optimizer)
    assert part.shape == (8, 8)


def test_an_operator_that_does_not_know_its_model():
    problem, optimizer, _ = trained("cpu", torch.optim.Adam, {})
    original = hessian(*problem.arguments)
    term = next(original.terms())
    with pytest.raises(TypeError, match="pass model="):
        preconditioned(term, optimizer)
    operator = preconditioned(term, optimizer, model=problem.model)
    assert_same(operator.to_dense(), next(preconditioned(original, optimizer).terms()).to_dense())


@st.composite
def sums(draw):
    return draw(st.lists(st.floats(-2, 2).filter(bool), min_size=1, max_size=3))


@given(sums())
def test_sums_keep_their_terms(factors):
    problem = regression("cpu")
    original = sum(factor * hessian(*problem.arguments) for factor in factors)
    diagonal = torch.linspace(0.5, 2, original.shape[0], dtype=torch.float64)
    operator = preconditioned(original, diagonal)
    assert len(list(operator.terms())) == len(factors) * len(problem.batches)
    scale = diagonal.rsqrt()
    expected = scale[:, None] * original.to_dense() * scale
    deviation = torch.stack([term.to_dense() for term in operator.terms()]).sum(0) - expected
    assert torch.linalg.norm(deviation) <= 1e-10
