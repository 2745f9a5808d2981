"""Hessians by activations and inputs, against dense ones of the pieces that a model is made of."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    Recurrent,
    assert_same,
    batch_sizes,
    build,
    every_device,
    few_examples,
    images,
    language,
    normal,
    regression,
    seeds,
    ways_to_compute,
)

import hessops
from hessops_torch import activation_hessian, input_hessian, layer_curvature


def dense_by(function, *shapes, device="cpu"):
    """Return the Hessian of a function of some tensors at zero, flattened one after the other."""
    sizes = [int(np.prod(shape)) for shape in shapes]

    def of_flat(flat):
        pieces = [p.reshape(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]
        return function(*pieces)

    zero = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
    return torch.autograd.functional.hessian(of_flat, zero)


def everything(batches):
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


@every_device
@given(batch_sizes, ways_to_compute(), st.integers(1, 40), seeds)
@few_examples
def test_outputs_of_two_layers(device, sizes, ways, block_size, seed):
    problem = regression(device, sizes, seed)
    x, y = everything(problem.batches)
    first, activation, last = problem.model

    def loss(a, b):
        return F.mse_loss(last(activation(first(x) + a) + b), y)

    operator = activation_hessian(*problem.arguments, ["0", "1"], **ways)
    assert operator.space.shapes == {"0": (sum(sizes), 3), "1": (sum(sizes), 3)}
    expected = dense_by(loss, *operator.space.shapes.values(), device=device)
    assert_same(operator.to_dense(block_size=block_size), expected)
    part = operator.restricted(["1"])
    count = 3 * sum(sizes)
    assert_same(part.to_dense(), expected[count:, count:])
    with pytest.raises(KeyError, match="no parameter '2'"):
        operator.restricted(["2"])


@every_device
@given(batch_sizes, ways_to_compute(), st.booleans(), seeds)
@few_examples
def test_feature_maps_and_inputs(device, sizes, ways, summed, seed):
    problem = images(device, sizes, seed)
    x, y = everything(problem.batches)
    criterion = nn.CrossEntropyLoss(reduction="sum" if summed else "mean")
    head, tail = problem.model[:4], problem.model[4:]
    operator = activation_hessian(problem.model, criterion, problem.batches, "3", **ways)
    assert operator.space.shapes == {"3": (len(x), 2, 3, 3)}
    expected = dense_by(
        lambda shift: criterion(tail(head(x) + shift), y), (len(x), 2, 3, 3), device=device
    )
    assert_same(operator.to_dense(), expected)
    operator = input_hessian(problem.model, criterion, problem.batches, **ways)
    assert operator.space.shapes == {"input 0": x.shape}
    expected = dense_by(
        lambda shift: criterion(problem.model(x + shift), y), x.shape, device=device
    )
    assert_same(operator.to_dense(), expected)
    samples = expected.reshape(len(x), 16, len(x), 16)
    for one in range(len(x)):
        for other in range(one):
            assert not samples[one, :, other].any()


def test_in_train_mode_samples_of_a_batch_are_coupled():
    problem = images("cpu", (3, 2), train=True)
    operator = input_hessian(*problem.arguments)

    def loss(shift):
        shifts = shift.split([3, 2])
        sums = [
            F.cross_entropy(problem.model(x + s), y, reduction="sum")
            for (x, y), s in zip(problem.batches, shifts, strict=True)
        ]
        return sum(sums) / 5

    expected = dense_by(loss, (5, 1, 4, 4))
    assert_same(operator.to_dense(), expected)
    samples = expected.reshape(5, 16, 5, 16)
    assert samples[0, :, 1].any()
    assert not samples[0, :, 3].any()
    assert problem.model.training


def test_tokens_are_differentiated_by_what_their_embedding_gives():
    """Masked losses of one's own, dictionaries, attention; ragged batches lie in one row."""
    problem = language("cpu")
    operator = activation_hessian(*problem.arguments, nn.Embedding)
    assert operator.space.shapes == {"embedding": (5, 3, 4)}
    dense = operator.to_dense()
    assert_same(dense, dense.T)
    samples = dense.reshape(5, 12, 5, 12)
    assert not samples[0, :, 1].any()
    assert samples[0, :, 0].any()
    tail = problem.batches[1]
    short = {name: tensor[:, :2] for name, tensor in tail.items()}
    ragged = activation_hessian(problem.model, problem.loss, [tail, short], "embedding")
    assert ragged.space.shapes == {"embedding": (3 * 3 * 4 + 3 * 2 * 4,)}
    counts = [float(batch["mask"].sum()) for batch in (tail, short)]
    parts = [
        activation_hessian(problem.model, problem.loss, [batch], "embedding").to_dense() * count
        for batch, count in zip((tail, short), counts, strict=True)
    ]
    assert_same(ragged.to_dense(), torch.block_diag(*parts) / sum(counts))


def test_inputs_of_dictionaries_go_by_their_key():
    model = build(lambda: nn.Linear(3, 3), 0, "cpu")
    x = normal(1, 4, 3, device="cpu")

    def loss(model, batch):
        return ((model(batch["x"]) - batch["x"]) ** 2).sum(), len(batch["x"])

    operator = input_hessian(model, loss, [{"x": x}], which="x")
    # The loss's own use of the input counts.
    residual = model.weight.detach() - torch.eye(3, dtype=torch.float64)
    expected = torch.block_diag(*[2 / 4 * residual.T @ residual] * 4)
    assert_same(operator.to_dense(), expected, 1e-9)
    other = {"x": x[:2], "name": "kept"}
    assert input_hessian(model, loss, [{"x": x}, other], which="x").shape == (18, 18)


@every_device
def test_one_sweep_gives_the_traces_of_all_layers(device):
    """Each within 6 standard errors, which leave 3 · 10⁻⁹ of normal numbers outside."""
    problem = images(device, (5, 4, 3))
    names = ["0", "3.inner.0", "6"]
    operator = activation_hessian(*problem.arguments, names)
    dense = operator.to_dense()
    found = layer_curvature(operator, num_probes=200, num_eigenvalues=1, tol=1e-6, rng=0)
    traces = hessops.trace(operator, num_probes=200, rng=0).sections
    assert list(found.blocks) == list(traces) == names
    for name in names:
        rows = operator.space.section(name)
        exact = float(torch.trace(dense[rows, rows]))
        for estimate in (found.traces[name], traces[name]):
            assert abs(float(estimate) - exact) <= 6 * estimate.standard_error + 1e-12
        values = torch.linalg.eigvalsh(dense[rows, rows])
        largest = float(values[values.abs().argmax()])
        assert found.top_eigenvalue(name) == pytest.approx(largest, rel=1e-6)
    by_sample = operator.space.unflatten(torch.diagonal(dense))["6"].sum(dim=1)
    assert by_sample.shape == (12,)


@every_device
def test_everything_is_left_as_it_was(device):
    problem = images(device)
    model, loss, batches = problem.arguments
    for parameter in model[:3].parameters():
        parameter.requires_grad_(False)
    before = {module: dict(module._forward_hooks) for module in model.modules()}
    values = [tensor.clone() for batch in batches for tensor in batch]

    def assert_untouched():
        assert before == {module: dict(module._forward_hooks) for module in model.modules()}
        assert [p.requires_grad for p in model.parameters()].count(False) == 4
        assert all(p.grad is None for p in model.parameters())
        now = [tensor for batch in batches for tensor in batch]
        assert all(torch.equal(a, b) for a, b in zip(values, now, strict=True))

    operators = [activation_hessian(model, loss, batches, "3"), input_hessian(model, loss, batches)]
    for operator in operators:
        operator.to_dense()
        assert len(operator.graphs) == len(batches)
        assert_untouched()
    model.append(_Unused()).to(device, torch.float64)
    with pytest.raises(ValueError, match=r"module '7\.unused' is called 0 times"):
        activation_hessian(model, loss, batches, "7.unused")
    assert not any(module._forward_hooks for module in model.modules())


class _Unused(nn.Module):
    """Gives back its input, and has a module that it does not call."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return x


@pytest.mark.parametrize("memory_budget", [None, 0])
def test_products_follow_the_parameters(memory_budget):
    problem = regression("cpu")
    x, y = everything(problem.batches)
    operator = activation_hessian(*problem.arguments, "1", memory_budget=memory_budget)
    operator.to_dense()
    with torch.no_grad():
        problem.model[2].weight.mul_(2.0)
    first, activation, last = problem.model
    expected = dense_by(
        lambda shift: F.mse_loss(last(activation(first(x)) + shift), y), (len(x), 3)
    )
    assert_same(operator.to_dense(), expected)


def test_frozen_models_have_activations():
    problem = regression("cpu")
    problem.model.requires_grad_(False)
    assert activation_hessian(*problem.arguments, "0").to_dense().any()
    assert input_hessian(*problem.arguments).to_dense().any()


class _Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.act = nn.Tanh()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.act(self.linear(self.act(x))))


@pytest.mark.parametrize(
    ("modules", "error", "words"),
    [
        ("act", ValueError, "module 'act' is called 2 times in a forward pass"),
        ("acts", ValueError, "no module fits 'acts'; did you mean 'act'"),
        ("zzz", ValueError, "no module fits 'zzz'; the model has 'linear', 'act', 'head'"),
        (re.compile("^h.d$"), ValueError, r"no module fits '\^h.d\$'"),
        (nn.Conv2d, ValueError, "no module of the class Conv2d"),
        (nn.Linear(3, 3), ValueError, "the Linear in modules is none of this model's"),
        ([], ValueError, "modules is empty"),
        ([3], TypeError, "modules holds 3; give names"),
        (3, TypeError, "modules=3 names no modules"),
    ],
)
def test_bad_modules_are_named(modules, error, words):
    model = _Twice()
    with pytest.raises(error, match=words):
        activation_hessian(model, nn.MSELoss(), (torch.ones(2, 3), torch.ones(2, 2)), modules)
    assert not any(module._forward_hooks for module in model.modules())


def test_outputs_that_are_no_tensor_are_named():
    model = Recurrent(nn.RNN)
    data = [(torch.ones(2, 4, 3), torch.ones(2, 2))]
    with pytest.raises(TypeError, match=r"'recurrent' is a tuple of 2, .*has to be one tensor"):
        activation_hessian(model, nn.MSELoss(), data, "recurrent")


def test_bad_inputs_are_named():
    model, loss = nn.Linear(3, 2), nn.MSELoss()
    data = [(torch.ones(2, 3), torch.ones(2, 2))]
    with pytest.raises(ValueError, match=r"has no 5 .*tuple with 2 entries.*which=0"):
        input_hessian(model, loss, data, which=5)
    problem = language("cpu")
    with pytest.raises(ValueError, match=r"has no 0 .*dict with \['tokens', 'labels', 'mask'\]"):
        input_hessian(*problem.arguments)
    with pytest.raises(TypeError, match=r"'tokens' is torch.int64.*activation_hessian"):
        input_hessian(*problem.arguments, which="tokens")
    with pytest.raises(TypeError, match=r"a model must be a torch.nn.Module"):
        activation_hessian(lambda x: x, loss, data, "0")
