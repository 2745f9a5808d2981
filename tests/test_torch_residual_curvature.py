"""The Hessian minus the Gauss-Newton matrix, term by term, against the difference of dense ones."""

import pytest
from hypothesis import given

pytest.importorskip("torch")

import torch
from test_torch_ggn import masked_labels, split
from test_torch_losses import LOSSES, criterion_of
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    assert_same,
    batch_sizes,
    build,
    cut,
    every_device,
    few_examples,
    images,
    language,
    mlp,
    normal,
    regression,
    seeds,
    ways_to_compute,
)

import hessops
from hessops import check_operator
from hessops_torch import (
    EmpiricalFisher,
    Fisher,
    GaussNewton,
    GradientCovariance,
    Hessian,
    Jacobian,
    Objective,
    ResidualCurvature,
    SplitLoss,
    ggn,
    hessian,
    residual_curvature,
)


def assert_is_difference(arguments, ways=None, **options):
    """Compare with H - G, of which the whole and every term is known by other tests."""
    H, G = (function(*arguments, **options) for function in (hessian, ggn))
    R = residual_curvature(*arguments, **options, **(ways or {}))
    assert R.structure.self_adjoint
    assert not R.structure.positive_semidefinite
    size = torch.linalg.norm(H.to_dense()) + torch.linalg.norm(G.to_dense())
    whole = R.to_dense()
    assert torch.linalg.norm(whole - (H.to_dense() - G.to_dense())) <= 1e-10 * size
    by_terms = torch.stack([term.to_dense() for term in R.terms()]).sum(0)
    assert torch.linalg.norm(by_terms - whole) <= 1e-10 * size
    return R


@every_device
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["weights and smoothing", "squares", "weighted binary", "Huber"])
@few_examples
@given(batch_sizes, ways_to_compute(), seeds)
def test_criteria(device, name, reduction, sizes, ways, seed):
    kind, options, make_targets = LOSSES[name]
    model = build(lambda: mlp(outputs=4, width=2), seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    y = make_targets(seed + 2, sum(sizes), device)
    assert_is_difference(
        (model, criterion_of(kind, options, reduction, device), cut(sizes, x, y)), ways
    )


@every_device
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_images(device, train, memory_budget):
    R = assert_is_difference(
        images(device, train=train).arguments, {"memory_budget": memory_budget}
    )
    check_operator(R, rng=0).raise_if_failed()


@every_device
def test_tokens_in_dict_batches(device):
    problem = language(device)
    assert_is_difference(split(problem), {"micro_batch_size": 1})
    with_criterion = SplitLoss(
        lambda f, b: f(b["tokens"]).flatten(0, 1), nn.CrossEntropyLoss(), masked_labels
    )
    assert_is_difference((problem.model, with_criterion, problem.batches))


@every_device
def test_a_layer_of_the_whole(device):
    assert_is_difference(images(device).arguments, params="3.inner.0")


@every_device
def test_terms_are_paired_with_those_of_the_hessian_and_the_ggn(device):
    problem = images(device)
    operators = (function(*problem.arguments) for function in (hessian, ggn, residual_curvature))
    for H, G, R in zip(*(operator.terms() for operator in operators), strict=True):
        assert_same(G.to_dense() + R.to_dense(), H.to_dense())
        assert G.num_samples == R.num_samples == H.num_samples


@every_device
def test_a_model_that_is_linear_in_its_parameters_has_none(device):
    model = nn.Linear(3, 2).to(device, torch.float64)
    x, y = normal(1, 4, 3, device=device), normal(2, 4, 2, device=device)
    operator = residual_curvature(model, nn.CrossEntropyLoss(), (x, y.softmax(1)))
    assert torch.count_nonzero(operator.to_dense()) == 0


@every_device
def test_a_loss_that_is_linear_in_the_outputs_has_nothing_else(device):
    model = build(lambda: nn.Sequential(mlp(outputs=4), nn.LogSoftmax(1)), 0, device)
    x, y = normal(1, 4, 3, device=device), torch.tensor([0, 1, 3, 1], device=device)
    H = hessian(model, nn.NLLLoss(), (x, y)).to_dense()
    assert_same(residual_curvature(model, nn.NLLLoss(), (x, y)).to_dense(), H)


@every_device
def test_no_digits_are_lost_where_the_model_fits(device):
    """There the difference H - G would be rounding of the size of H."""
    problem = regression(device)
    x = torch.cat([batch[0] for batch in problem.batches])
    noise = 1e-9 * normal(3, len(x), 2, device=device)
    fitted = problem.model(x).detach()
    batches = cut([3, 4, 1], x, fitted + noise)
    found = residual_curvature(problem.model, nn.MSELoss(), batches).to_dense()
    # Linear in the residual, which is known to seven digits.
    larger = cut([3, 4, 1], x, fitted + 1e6 * noise)
    expected = residual_curvature(problem.model, nn.MSELoss(), larger).to_dense() / 1e6
    assert_same(found, expected, 1e-6)


@every_device
def test_the_operator_follows_parameters_and_criterion(device):
    problem = images(device)
    operator = residual_curvature(*problem.arguments)
    before = operator.to_dense()
    with torch.no_grad():
        problem.model[0].weight.mul_(1.5)
    after = residual_curvature(*problem.arguments).to_dense()
    assert torch.linalg.norm(after - before) > 1e-3 * torch.linalg.norm(before)
    assert_same(operator.to_dense(), after)
    problem.loss.label_smoothing = 0.5
    assert_same(operator.to_dense(), residual_curvature(*problem.arguments).to_dense())


def test_the_trace_of_the_hessian_by_its_two_parts():
    problem = images("cpu")
    H, G = (function(*problem.arguments) for function in (hessian, ggn))
    R = residual_curvature(*problem.arguments)
    exact = float(H.to_dense().trace())
    parts = [hessops.trace(A, num_probes=16, rng=seed) for seed, A in enumerate((G, R))]
    error = sum(float(part.standard_error) ** 2 for part in parts) ** 0.5
    assert abs(sum(part.value for part in parts) - exact) <= 5 * error
    control = G, float(G.to_dense().trace())
    controlled = hessops.trace(H, control=control, max_products=64, rng=0)
    assert abs(controlled.value - exact) <= 5 * float(controlled.standard_error)


def test_a_function_of_model_and_batch_is_refused():
    problem = regression("cpu")

    def loss(model, batch):
        return F.mse_loss(model(batch[0]), batch[1], reduction="sum"), batch[1].numel()

    with pytest.raises(
        TypeError, match=r"residual curvature needs the model's outputs .*SplitLoss"
    ):
        residual_curvature(problem.model, loss, problem.batches)


@every_device
def test_operators_of_one_objective(device):
    problem = images(device)
    objective = Objective(*problem.arguments)
    H, G, R = (kind(objective).to_dense() for kind in (Hessian, GaussNewton, ResidualCurvature))
    assert_same(G + R, H)
    assert_same(Fisher(objective).to_dense(), G)
    assert_same(H, problem.dense())
    J, second = Jacobian(objective), GradientCovariance(objective, centred=False)
    assert J.shape == (21, 63)
    assert_same(second.to_dense(), EmpiricalFisher(objective).to_dense())


def test_it_says_what_it_is():
    assert repr(residual_curvature(*regression("cpu").arguments)).startswith(
        "ResidualCurvature(20x20"
    )
