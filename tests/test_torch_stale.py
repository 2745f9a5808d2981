"""Kept graphs are given up as soon as model or loss are no longer what they were built for."""

from functools import reduce
from operator import add

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    Attention,
    assert_is_hessian,
    assert_same,
    build,
    cut,
    dense_hessian,
    every_device,
    images,
    language,
    normal,
    regression,
)

from hessops_torch import hessian


def in_train_mode(device):
    return images(device, train=True)


def without_ties(device):
    # Assigning a state dictionary would cut them.
    return language(device, factory=lambda: Attention(tied=False))


def step_of_an_optimizer(model, problem):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    problem.total_loss(model).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def load_other_weights(model, _problem):
    state = {name: value + 0.25 * value.abs() for name, value in model.state_dict().items()}
    model.load_state_dict(state)


def assign_other_weights(model, _problem):
    state = {name: value + 0.25 * value.abs() for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def write_in_place(model, _problem):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)


def exchange_the_data(model, _problem):
    for parameter in model.parameters():
        parameter.data = 1.5 * parameter.data


def write_past_autograd(model, _problem):
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


def flip_past_autograd(model, _problem):
    """Keeps every norm and every version."""
    for parameter in model.parameters():
        parameter.data.neg_()


def reverse_past_autograd(model, _problem):
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data.flip(0))


def write_one_entry(model, _problem):
    with torch.no_grad():
        [parameter for parameter in model.parameters() if parameter.ndim == 1][-1][0] += 0.5


WRITES = [
    step_of_an_optimizer, load_other_weights, assign_other_weights, write_in_place,
    exchange_the_data, write_one_entry, write_past_autograd, flip_past_autograd,
    reverse_past_autograd,
]  # fmt: skip


@every_device
@pytest.mark.parametrize(
    "make_problem",
    [regression, images, in_train_mode, without_ties],
    ids=lambda make_problem: make_problem.__name__,
)
@pytest.mark.parametrize("change", WRITES, ids=lambda change: change.__name__)
def test_the_operator_follows_the_parameters(device, make_problem, change):
    problem = make_problem(device)
    operator = hessian(*problem.arguments)
    before = operator.to_dense()
    terms = list(operator.terms())
    assert len(operator.graphs) == len(problem.batches)
    change(problem.model, problem)
    after = problem.dense()
    assert torch.linalg.norm(after - before) > 1e-3 * torch.linalg.norm(before)
    assert_is_hessian(operator, after)
    assert_same(reduce(add, [term.to_dense() for term in terms]), after)


@every_device
def test_the_operator_follows_selected_parameters_and_all_others(device):
    problem = regression(device)
    operator = hessian(*problem.arguments, params="0")
    operator.to_dense()
    with torch.no_grad():
        problem.model[2].weight.mul_(2)
    assert_is_hessian(operator, problem.dense()[:12, :12])


@every_device
def test_the_operator_follows_running_statistics(device):
    problem = images(device)
    operator = hessian(*problem.arguments)
    before = operator.to_dense()
    problem.model.train()
    problem.model(problem.batches[0][0])
    problem.model.eval()
    assert torch.linalg.norm(problem.dense() - before) > 1e-3 * torch.linalg.norm(before)
    assert_is_hessian(operator, problem.dense())


@every_device
def test_the_operator_follows_the_mode_of_the_model(device):
    problem, expected_in_train_mode = images(device), in_train_mode(device).dense()
    operator = hessian(*problem.arguments)
    for _ in range(2):
        problem.model.eval()
        assert_is_hessian(operator, problem.dense())
        problem.model.train()
        assert_is_hessian(operator, expected_in_train_mode)


@every_device
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_mode_that_was_asked_for_stays(device, mode):
    problem = images(device, train=mode == "train")
    operator = hessian(*problem.arguments, mode=mode)
    expected = problem.dense()
    for training in (True, False):
        problem.model.train(training)
        assert_is_hessian(operator, expected)


class Steep(nn.Module):
    """A nonlinearity whose every setting is an attribute of another kind."""

    def __init__(self):
        super().__init__()
        self.beta = 2.0
        self.power = 2
        self.double = False
        self.name = "tanh"
        self.shift = None
        self.scales = [1.0, (0.5, 2.0)]
        self.options = {"gain": 1.0, "more": [0.25]}
        self.offset = torch.zeros(3, dtype=torch.float64)
        self.table = np.zeros(3)
        self.function = torch.tanh

    def forward(self, x):
        x = x * self.scales[0] * self.options["gain"] + self.options["more"][0]
        x = x + self.offset.to(x) + torch.as_tensor(self.table).to(x)
        x = x if self.shift is None else x + self.shift
        x = self.function(self.beta * x) if self.name == "tanh" else torch.sin(x)
        return x**self.power * (2 if self.double else 1)


class Steeper(Steep):
    def forward(self, x):
        return super().forward(2 * x)


def make(device):
    model = build(lambda: nn.Sequential(nn.Linear(3, 3), Steep(), nn.Linear(3, 2)), 0, device)
    x, y = normal(1, 7, 3, device=device), normal(2, 7, 2, device=device)
    return model, cut([4, 3], x, y), lambda f: F.mse_loss(f(x), y)


CHANGES = {
    "float": lambda m: setattr(m[1], "beta", 5.0),
    "integer": lambda m: setattr(m[1], "power", 3),
    "bool": lambda m: setattr(m[1], "double", True),
    "string": lambda m: setattr(m[1], "name", "sine"),
    "None": lambda m: setattr(m[1], "shift", 0.5),
    "entry of a list": lambda m: m[1].scales.__setitem__(0, 2.0),
    "entry of a dictionary": lambda m: m[1].options.__setitem__("gain", 2.0),
    "list in a dictionary": lambda m: m[1].options["more"].__setitem__(0, 1.0),
    "another tensor": lambda m: setattr(m[1], "offset", torch.ones(3, dtype=torch.float64)),
    "tensor in place": lambda m: m[1].offset.add_(0.5),
    "tensor past autograd": lambda m: m[1].offset.data.add_(0.5),
    "array in place": lambda m: m[1].table.__iadd__(0.5),
    "function": lambda m: setattr(m[1], "function", torch.sin),
    "module": lambda m: m.__setitem__(1, nn.Sigmoid()),
    "more modules": lambda m: m.append(nn.Tanh()),
    "class": lambda m: setattr(m[1], "__class__", Steeper),
    "forward of one module": lambda m: setattr(m[1], "forward", torch.sigmoid),
    "forward hook": lambda m: m[1].register_forward_hook(lambda _m, _i, out: 2 * out),
    "forward pre-hook": lambda m: m[1].register_forward_pre_hook(lambda _m, i: (2 * i[0],)),
}  # fmt: skip


@every_device
@pytest.mark.parametrize("name", CHANGES)
def test_the_operator_follows_the_model(device, name):
    model, batches, total_loss = make(device)
    operator = hessian(model, nn.MSELoss(), batches)
    before = operator.to_dense()
    terms = list(operator.terms())
    assert len(operator.graphs) == len(batches)
    CHANGES[name](model)
    after = dense_hessian(model, total_loss)
    assert torch.linalg.norm(after - before) > 1e-3 * torch.linalg.norm(before)
    assert_is_hessian(operator, after)
    assert_same(reduce(add, [term.to_dense() for term in terms]), after)


@every_device
def test_the_operator_follows_modules_that_change_places(device):
    model = build(
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Softplus(), nn.Linear(3, 2)), 0, device
    )
    x, y = normal(1, 7, 3, device=device), normal(2, 7, 2, device=device)
    operator = hessian(model, nn.MSELoss(), (x, y))
    operator.to_dense()
    model[1], model[2] = model[2], model[1]
    assert_is_hessian(operator, dense_hessian(model, lambda f: F.mse_loss(f(x), y)))


@every_device
def test_a_forward_hook_that_is_removed(device):
    model, batches, total_loss = make(device)
    handle = model[0].register_forward_hook(lambda _m, _i, out: 2 * out)
    operator = hessian(model, nn.MSELoss(), batches)
    assert_is_hessian(operator, dense_hessian(model, total_loss))
    handle.remove()
    assert_is_hessian(operator, dense_hessian(model, total_loss))


CRITERIA = {
    "smoothing": lambda c: setattr(c, "label_smoothing", 0.3),
    "another weight": lambda c: setattr(c, "weight", c.weight.flip(0)),
    "weight in place": lambda c: c.weight.mul_(torch.tensor([1.0, 5.0]).to(c.weight)),
    "ignored label": lambda c: setattr(c, "ignore_index", 0),
    "reduction": lambda c: setattr(c, "reduction", "sum"),
}


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
@pytest.mark.parametrize("name", CRITERIA)
def test_the_operator_follows_the_criterion(device, name, memory_budget):
    """Class weights and ignored labels change the count that the mean divides by, too."""
    model = build(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), 0, device)
    criterion = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0], dtype=torch.float64, device=device))
    x = normal(1, 7, 3, device=device)
    y = torch.tensor([0, 1, 1, 0, 1, 0, 1], device=device)
    operator = hessian(model, criterion, cut([4, 3], x, y), memory_budget=memory_budget)
    before = operator.to_dense()
    terms = list(operator.terms())
    CRITERIA[name](criterion)
    after = dense_hessian(model, lambda f: criterion(f(x), y))
    assert torch.linalg.norm(after - before) > 1e-3 * torch.linalg.norm(before)
    assert_same(reduce(add, [term.to_dense() for term in terms]), after)
    assert_is_hessian(operator, after)


class Scaled:
    """A loss with a setting, as an object that is called and as a method."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, model, batch):
        return self.scale * F.mse_loss(model(batch[0]), batch[1], reduction="sum"), batch[1].numel()

    def method(self, model, batch):
        return self(model, batch)


@every_device
@pytest.mark.parametrize("form", [lambda loss: loss, lambda loss: loss.method])
def test_the_operator_follows_the_object_behind_a_loss_function(device, form):
    problem = regression(device)
    scaled = Scaled(1.0)
    operator = hessian(problem.model, form(scaled), problem.batches)
    assert_is_hessian(operator, problem.dense())
    scaled.scale = 3.0
    assert_is_hessian(operator, 3 * problem.dense())


class Watched(nn.Module):
    """Counts its calls and puts aside what it sees, and none of it changes what it computes."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.seen = []
        self.last = None
        self.beta = 1.0

    def forward(self, x):
        self.calls += 1
        self.seen.append(len(x))
        self.last = x.detach()
        self.mean = x.mean().item()
        return torch.tanh(self.beta * x)


@every_device
def test_what_the_forward_pass_itself_writes_does_not_cost_the_graphs(device):
    problem = regression(device)
    model = nn.Sequential(problem.model, Watched())
    operator = hessian(model, problem.loss, problem.batches)
    before = operator.to_dense()
    graphs = [operator.graphs.get(index) for index in range(len(problem.batches))]
    calls = model[1].calls
    assert None not in graphs
    for term in operator.terms():
        term.to_dense()
    assert_same(operator.to_dense(), before)
    assert [operator.graphs.get(index) for index in range(len(graphs))] == graphs
    assert model[1].calls == calls
    # What it does not write itself is still looked at.
    model[1].beta = 2.0
    assert torch.linalg.norm(operator.to_dense() - before) > 1e-3 * torch.linalg.norm(before)


@every_device
def test_graphs_are_kept_while_nothing_changes(device):
    model, batches, _ = make(device)
    operator = hessian(model, nn.MSELoss(), batches)
    operator.to_dense()
    graphs = [operator.graphs.get(index) for index in range(len(batches))]
    # Other objects, the same values.
    model[1].beta = float("2.0")
    model[1].scales = [1.0, (0.5, 2.0)]
    model[1].table = np.zeros(3)
    operator.to_dense()
    assert None not in graphs
    assert [operator.graphs.get(index) for index in range(len(batches))] == graphs
