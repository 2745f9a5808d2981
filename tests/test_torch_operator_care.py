"""What all operators made of outputs owe their user: laws, no trace left, never out of date."""

import copy
from functools import partial, reduce
from operator import add

import pytest

pytest.importorskip("torch")

import torch
from test_torch_hygiene import Fails, in_a_mixed_state, nothing_changes
from test_torch_second_derivatives import Wrong, normed
from test_torch_stale import (
    CHANGES,
    assign_other_weights,
    flip_past_autograd,
    make,
    step_of_an_optimizer,
    write_past_autograd,
)
from torch import nn
from torch_problems import (
    OnceDifferentiable,
    assert_same,
    build,
    cut,
    every_device,
    images,
    normal,
    regression,
)

import hessops
from hessops import check_operator
from hessops_torch import (
    SplitLoss,
    empirical_fisher,
    fisher,
    ggn,
    gradient_covariance,
    hessian,
    jacobian,
    preconditioned,
    residual_curvature,
)

ROUNDING = 1e-12


def in_a_metric(model, loss, data, **options):
    operator = hessian(model, loss, data, **options)
    diagonal = torch.linspace(1, 2, operator.shape[0], dtype=torch.float64)
    return preconditioned(operator, diagonal)


OPERATORS = {
    "ggn": ggn,
    "fisher": fisher,
    "drawn labels": partial(fisher, num_draws=2, rng=3),
    "empirical fisher": empirical_fisher,
    "covariance": gradient_covariance,
    "residual": residual_curvature,
    "jacobian": lambda model, _loss, data, **options: jacobian(model, data, **options),
    "metric": in_a_metric,
}
OF_OUTPUTS = sorted(set(OPERATORS) - {"residual", "metric"})
every_operator = pytest.mark.parametrize("name", OPERATORS)
every_operator_of_outputs = pytest.mark.parametrize("name", OF_OUTPUTS)


def add_up(terms):
    return reduce(add, [term.to_dense() for term in terms])


@every_device
@every_operator
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_laws(device, name, memory_budget):
    problem = images(device)
    operator = OPERATORS[name](*problem.arguments, memory_budget=memory_budget)
    check_operator(operator, rng=0).raise_if_failed()
    block = normal(5, operator.shape[1], 3, device=device)
    columns = torch.stack([operator @ block[:, j] for j in range(3)], dim=1)
    assert_same(operator @ block, columns, ROUNDING)
    assert_same(operator @ block.T.contiguous().T, columns, ROUNDING)
    assert_same(reduce(add, [term @ block for term in operator.terms()]), columns, ROUNDING)
    assert len(list(operator.terms())) == len(problem.batches)
    assert not (operator @ block.requires_grad_()).requires_grad


@every_device
@every_operator
def test_use_leaves_no_trace(device, name):
    problem = images(device)
    model = in_a_mixed_state(problem.model)
    data = copy.deepcopy(problem.batches)
    for options in ({}, {"memory_budget": 0}, {"mode": "train"}, {"params": "*"}):
        with nothing_changes(model):
            operator = OPERATORS[name](model, *problem.arguments[1:], **options)
        with nothing_changes(model):
            operator.to_dense()
        with nothing_changes(model):
            add_up(operator.terms())
    for before, after in zip(data, problem.batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every_device
@every_operator
@pytest.mark.parametrize("at", [1, 2, 4, 5])
def test_an_exception_in_the_model_leaves_no_trace(device, name, at):
    problem = regression(device)
    model = Fails(problem.model, at, RuntimeError("no"))
    with nothing_changes(model):
        try:
            OPERATORS[name](model, *problem.arguments[1:]).to_dense()
        except RuntimeError as error:
            assert "no" in str(error)  # noqa: PT017 - some need fewer passes than others
    model.at = 0
    operator = OPERATORS[name](model, *problem.arguments[1:])
    expected = OPERATORS[name](*problem.arguments).to_dense()
    assert_same(operator.to_dense(), expected)


@every_device
@every_operator
@pytest.mark.parametrize(
    "change",
    [step_of_an_optimizer, assign_other_weights, write_past_autograd, flip_past_autograd],
    ids=lambda change: change.__name__,
)
def test_the_operator_follows_the_parameters(device, name, change):
    problem = images(device)
    operator = OPERATORS[name](*problem.arguments)
    before = operator.to_dense()
    terms = list(operator.terms())
    change(problem.model, problem)
    after = OPERATORS[name](*problem.arguments, memory_budget=0).to_dense()
    assert torch.linalg.norm(after - before) > 1e-4 * torch.linalg.norm(before)
    assert_same(operator.to_dense(), after)
    assert_same(add_up(terms), after)


@every_device
@every_operator
@pytest.mark.parametrize(
    "change", ["float", "tensor past autograd", "function", "module", "forward hook"]
)
def test_the_operator_follows_the_model(device, name, change):
    model, batches, _ = make(device)
    operator = OPERATORS[name](model, nn.MSELoss(), batches)
    before = operator.to_dense()
    CHANGES[change](model)
    after = OPERATORS[name](model, nn.MSELoss(), batches).to_dense()
    assert torch.linalg.norm(after - before) > 1e-4 * torch.linalg.norm(before)
    assert_same(operator.to_dense(), after)


CRITERIA = {
    "smoothing": lambda c: setattr(c, "label_smoothing", 0.3),
    "another weight": lambda c: setattr(c, "weight", c.weight.flip(0)),
    "weight in place": lambda c: c.weight.mul_(torch.tensor([1.0, 5.0]).to(c.weight)),
    "ignored label": lambda c: setattr(c, "ignore_index", 0),
    "reduction": lambda c: setattr(c, "reduction", "sum"),
}


@every_device
@pytest.mark.parametrize("change", CRITERIA)
@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"jacobian"}))
def test_the_operator_follows_the_criterion(device, name, change):
    model = build(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), 0, device)
    criterion = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0], dtype=torch.float64, device=device))
    x = normal(1, 7, 3, device=device)
    batches = cut([4, 3], x, torch.tensor([0, 1, 1, 0, 1, 0, 1], device=device))
    operator = OPERATORS[name](model, criterion, batches)
    operator.to_dense()
    terms = list(operator.terms())
    CRITERIA[change](criterion)
    after = OPERATORS[name](model, criterion, batches).to_dense()
    assert_same(add_up(terms), after)
    assert_same(operator.to_dense(), after)


@every_device
@every_operator
def test_a_mode_that_was_asked_for_stays(device, name):
    problem = images(device, train=True)
    operator = OPERATORS[name](*problem.arguments, mode="train")
    expected = operator.to_dense()
    problem.model.eval()
    assert_same(operator.to_dense(), expected)
    as_it_stands = OPERATORS[name](*problem.arguments)
    assert torch.linalg.norm(as_it_stands.to_dense() - expected) > 1e-3
    with pytest.raises(ValueError, match="batch norm in train mode"):
        OPERATORS[name](*problem.arguments, mode="train", micro_batch_size=2)


@every_device
@every_operator_of_outputs
def test_a_function_that_can_be_differentiated_once_only(device, name):
    """Autograd would leave it out and give zero."""
    problem = regression(device)
    model = build(OnceDifferentiable, 0, device)
    operator = OPERATORS[name](model, problem.loss, problem.batches)
    with nothing_changes(model), pytest.raises(RuntimeError, match="once_differentiable"):
        operator.to_dense()


@every_device
@every_operator_of_outputs
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_backward_pass_with_a_wrong_derivative(device, name, dtype):
    """Products with the Jacobian are made of it, and their adjoints are not."""

    class Forgets(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient.detach() * x.cos() + 0 * gradient

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return Forgets.apply(self.linear(x))

    model = build(Layer, 0, device, dtype)
    batches = [tuple(t.to(dtype) for t in batch) for batch in regression(device).batches]
    operator = OPERATORS[name](model, nn.MSELoss(), batches)
    sentence = "first batch with the Jacobian and its adjoint do not fit.*gradgradcheck"
    for product in (operator, next(operator.terms())):
        with pytest.raises(hessops.NotSelfAdjointError, match=sentence):
            product.to_dense()


@every_device
@every_operator_of_outputs
def test_what_only_a_hessian_gets_wrong(device, name):
    """The derivative of a backward pass by what it is linear in is right here."""
    problem = regression(device)
    for model in (build(Wrong, 0, device), normed("parametrization", device, dim=0)):
        operator = OPERATORS[name](model, *problem.arguments[1:])
        dense = operator.to_dense()
        assert torch.linalg.norm(dense) > 0
        assert_same(dense if name != "jacobian" else operator.H.to_dense(), dense.T)


@every_device
@every_operator
def test_outputs_that_are_not_finite_are_named_with_their_batch(device, name):
    problem = regression(device)
    x, y = problem.batches[1]
    bad = torch.full_like(x, float("nan"))
    batches = [problem.batches[0], (bad, y), problem.batches[2]]
    operator = OPERATORS[name](problem.model, problem.loss, batches)
    vector = normal(1, operator.shape[1], device=device)
    for _ in range(2):
        with pytest.raises(hessops.NonFiniteError, match="loss of micro-batch 1 is nan"):
            operator @ vector


@every_device
@every_operator
def test_dropout_that_is_active_is_refused(device, name):
    problem = regression(device)
    model = nn.Sequential(problem.model, nn.Dropout(0.5)).train()
    with pytest.raises(ValueError, match="draws random numbers"):
        OPERATORS[name](model, *problem.arguments[1:])


@every_device
@pytest.mark.parametrize("last", [nn.Identity, nn.Tanh])
@pytest.mark.parametrize("name", ["ggn", "empirical fisher", "covariance", "residual", "metric"])
def test_a_loss_that_writes_into_the_outputs(device, name, last):
    model = build(lambda: nn.Sequential(nn.Linear(3, 2), last()), 0, device)
    batches = regression(device).batches

    def writes(outputs, batch):
        outputs[:, 0] *= 2.0
        return (outputs - batch[1]).square().sum(), len(outputs)

    def copies(outputs, batch):
        return writes(outputs.clone(), batch)

    found, expected = (
        OPERATORS[name](model, SplitLoss(lambda f, b: f(b[0]) + 0, loss), batches).to_dense()
        for loss in (writes, copies)
    )
    if last is nn.Identity and name == "residual":
        assert torch.count_nonzero(found) == torch.count_nonzero(expected) == 0
    else:
        assert_same(found, expected)


@every_device
@every_operator
def test_data_that_is_written_to_is_refused(device, name):
    problem = regression(device)
    operator = OPERATORS[name](*problem.arguments)
    problem.batches[1][0].mul_(2)
    with pytest.raises(ValueError, match=r"micro-batch \d was written to"):
        operator.to_dense()
