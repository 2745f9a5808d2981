"""All ways to compute Hessian products give one matrix, the dense one, or say why they do not."""

import copy
import logging
import shutil
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    ACTIVATIONS,
    PROBLEMS,
    Encoder,
    OnceDifferentiable,
    Recurrent,
    assert_is_hessian,
    batch_sizes,
    build,
    cut,
    dense_hessian,
    every_device,
    few_examples,
    images,
    language,
    mlp,
    normal,
    regression,
    seeds,
)

import hessops
from hessops_torch import hessian
from hessops_torch.products.compiled_product import CompiledProduct
from hessops_torch.products.functional_product import FunctionalProduct

TRANSFORMS = ("forward-over-reverse", "reverse-over-forward")
MODES = (*TRANSFORMS, "compiled", "auto")
every_mode = pytest.mark.parametrize("mode", MODES)

# PyTorch 2.13 differentiates neither the forward mode of layer norm nor that of batch norm in train
# mode rightly, and knows of an embedding's padding in the backward pass alone.
DIFFERING = {
    ("images in train mode", "reverse-over-forward"),
    ("encoder layer", "reverse-over-forward"),
    *(("language", mode) for mode in MODES),
}


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch, request):
    """Let what was recorded run as it is, which takes no minute; a slow test compiles it."""
    if "by_the_real_compiler" in request.node.name:
        return
    monkeypatch.setattr(torch, "compile", lambda recorded, **options: recorded)


def mode_found(operator):
    return operator._functional.order if operator._functional else "backward"


# Recording a product takes a second or more: all networks are recorded in the slow tests.
combinations = [
    pytest.param(
        name, mode, marks=[pytest.mark.slow] * (mode == "compiled" and name != "regression")
    )
    for name in PROBLEMS
    for mode in MODES
]


@every_device
@pytest.mark.parametrize(("name", "mode"), combinations)
def test_every_problem(device, name, mode):
    problem = PROBLEMS[name](device)
    operator = hessian(*problem.arguments, product=mode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_is_hessian(operator, problem.dense(), 20)
    messages = [str(w.message) for w in caught]
    if mode == "auto":
        assert not messages
    elif (name, mode) in DIFFERING:
        assert mode_found(operator) == "backward"
        assert any("differ from those of the double backward" in message for message in messages)
    else:
        assert mode_found(operator) == ("forward-over-reverse" if mode == "compiled" else mode)
        assert not messages


@every_device
@pytest.mark.parametrize("mode", TRANSFORMS)
@given(
    st.integers(1, 4), st.sampled_from(ACTIVATIONS), batch_sizes, st.integers(1, 40),
    st.sampled_from([None, 0, 9000]), st.sampled_from([None, 2]), st.sampled_from([0.0, 0.3]), seeds,
)  # fmt: skip
@few_examples
def test_any_mlp(device, mode, width, activation, sizes, block_size, budget, cut_to, decay, seed):
    model = build(lambda: mlp(width, activation), seed, device)
    x, y = (normal(seed + i, sum(sizes), size, device=device) for i, size in ((1, 3), (2, 2)))
    operator = hessian(
        model, nn.MSELoss(), cut(sizes, x, y),
        weight_decay=decay, micro_batch_size=cut_to, memory_budget=budget, product=mode,
    )  # fmt: skip
    dense = dense_hessian(model, lambda f: F.mse_loss(f(x), y))
    identity = torch.eye(len(dense), dtype=dense.dtype, device=device)
    assert_is_hessian(operator, dense + decay * identity, block_size)
    assert mode_found(operator) == mode


@every_device
@pytest.mark.parametrize("mode", TRANSFORMS)
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_networks_keep_their_own_weights(device, kind, mode):
    model = build(lambda: Recurrent(kind), 0, device)
    x, y = normal(1, 5, 3, 3, device=device), normal(2, 5, 2, device=device)
    weights = list(model.recurrent._flat_weights)
    operator = hessian(model, nn.MSELoss(), cut([2, 3], x, y), product=mode)
    assert_is_hessian(operator, dense_hessian(model, lambda f: F.mse_loss(f(x), y)))
    assert mode_found(operator) == mode
    assert all(a is b for a, b in zip(weights, model.recurrent._flat_weights, strict=True))


@every_device
@pytest.mark.parametrize("mode", TRANSFORMS)
def test_selected_parameters(device, mode):
    problem = images(device)
    operator = hessian(*problem.arguments, params="0.*", product=mode)
    n = operator.shape[0]
    assert_is_hessian(operator, problem.dense()[:n, :n])


@every_device
@pytest.mark.parametrize("mode", TRANSFORMS)
def test_terms_add_up(device, mode):
    problem = regression(device)
    operator = hessian(*problem.arguments, product=mode)
    dense = sum(term.to_dense() for term in operator.terms())
    assert torch.linalg.norm(dense - problem.dense()) <= 1e-10 * torch.linalg.norm(dense)


@every_device
@every_mode
def test_what_follows_the_model(device, mode):
    """Parameters, mode and data of other shapes are taken as they are in every product."""
    problem = regression(device, (4, 3))
    operator = hessian(*problem.arguments, product=mode)
    operator.to_dense()
    with torch.no_grad():
        for parameter in problem.model.parameters():
            parameter.mul_(1.1)
    assert_is_hessian(operator, problem.dense())
    problem.model[1] = nn.GELU()
    assert_is_hessian(operator, problem.dense())


@every_device
@pytest.mark.parametrize("mode", TRANSFORMS)
@pytest.mark.parametrize("train", [False, True])
def test_the_model_is_left_as_it_was(device, mode, train):
    problem = images(device, train=train)
    model = problem.model
    state, attributes = copy.deepcopy(model.state_dict()), [dict(vars(m)) for m in model.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        hessian(*problem.arguments, product=mode).to_dense()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for module, before in zip(model.modules(), attributes, strict=True):
        assert vars(module).keys() == before.keys()
        assert all(value is before[name] for name, value in vars(module).items())
    assert all(p.grad is None for p in model.parameters())


class Remembering(nn.Module):
    """A module that puts its activations aside."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.last = None

    def forward(self, x):
        self.last = torch.tanh(self.linear(x))
        return self.last


@every_device
@pytest.mark.parametrize("mode", TRANSFORMS)
def test_no_tensor_of_a_transform_stays_in_the_model(device, mode):
    model = build(Remembering, 0, device)
    x, y = normal(1, 4, 3, device=device), normal(2, 4, 2, device=device)
    dense = dense_hessian(model, lambda f: F.mse_loss(f(x), y))
    operator = hessian(model, nn.MSELoss(), (x, y), product=mode)
    assert_is_hessian(operator, dense)
    assert mode_found(operator) == mode
    # What the plain product put there, which the first is compared with.
    last = model.last
    operator.to_dense()
    assert model.last is last
    assert torch.equal(last, model(x))


class WithHook(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        y = self.inner(x)
        if y.sum() > 1e9:  # Decided by the data: no vmap, no record.
            return y
        return y.tanh()


@every_device
def test_what_cannot_be_recorded_goes_plain(device):
    model = build(WithHook, 0, device)
    x, y = normal(1, 4, 3, device=device), normal(2, 4, 2, device=device)
    operator = hessian(model, nn.MSELoss(), (x, y), product="compiled")
    dense = dense_hessian(model, lambda f: F.mse_loss(f(x), y))
    with pytest.warns(RuntimeWarning, match="'compiled' cannot be compiled"):
        assert_is_hessian(operator, dense)
    for mode in TRANSFORMS:
        assert_is_hessian(hessian(model, nn.MSELoss(), (x, y), product=mode), dense)


class OldStyle(torch.autograd.Function):
    """A function in the style that transforms do not know."""

    @staticmethod
    def forward(ctx, x):
        y = x.sin()
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class UsesOldStyle(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return OldStyle.apply(self.linear(x))


@every_device
@every_mode
def test_what_cannot_be_transformed_goes_plain(device, mode, caplog):
    model = build(UsesOldStyle, 0, device)
    x, y = normal(1, 4, 3, device=device), normal(2, 4, 2, device=device)
    operator = hessian(model, nn.MSELoss(), (x, y), product=mode)
    dense = dense_hessian(model, lambda f: F.mse_loss(f(x), y))
    if mode == "auto":
        with caplog.at_level(logging.INFO, "hessops"):
            assert_is_hessian(operator, dense)
        assert "forward-over-reverse fails" in caplog.text
    else:
        with pytest.warns(RuntimeWarning, match=f"product='{mode}' .*plain double backward"):
            assert_is_hessian(operator, dense)
    assert mode_found(operator) == "backward"


@every_device
@every_mode
def test_what_the_plain_product_refuses_is_refused(device, mode):
    model = build(OnceDifferentiable, 0, device)
    batch = normal(1, 4, 3, device=device), normal(2, 4, 2, device=device)
    operator = hessian(model, nn.MSELoss(), batch, product=mode)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        operator.to_dense()


@every_device
@pytest.mark.parametrize("mode", TRANSFORMS)
def test_loss_that_becomes_infinite_is_named(device, mode):
    model = build(mlp, 0, device)
    x, y = normal(1, 7, 3, device=device), normal(2, 7, 2, device=device)
    x[5] = torch.inf
    operator = hessian(model, nn.MSELoss(), cut([4, 3], x * 1.0, y), product=mode)
    with pytest.raises(hessops.NonFiniteError, match="micro-batch 1"):
        operator.to_dense()


def test_unknown_mode():
    with pytest.raises(ValueError, match="product='forward' is unknown; choose one of backward"):
        hessian(*regression("cpu").arguments, product="forward")


@every_device
def test_modes_are_shown(device):
    assert "product auto" in repr(hessian(*regression(device).arguments, product="auto"))
    assert "product" not in repr(hessian(*regression(device).arguments))


@every_device
def test_the_comparison_is_made_once(device, monkeypatch):
    calls = []
    add_products = FunctionalProduct.add_products

    def counted(self, index, batch, columns, out):
        calls.append(len(columns))
        return add_products(self, index, batch, columns, out)

    monkeypatch.setattr(FunctionalProduct, "add_products", counted)
    problem = regression(device)
    operator = hessian(*problem.arguments, product="forward-over-reverse")
    block = torch.ones(operator.shape[0], 3, dtype=torch.float64, device=device)
    operator @ block
    assert calls == [3] * (1 + len(problem.batches))
    operator @ block
    assert calls == [3] * (1 + 2 * len(problem.batches))


@every_device
def test_records_are_made_once_for_a_shape(device, monkeypatch):
    shapes = []
    compile_record = CompiledProduct._compile

    def counted(self, index, batch, parameters, vectors, width):
        shapes.append((batch[0].shape[0], width))
        return compile_record(self, index, batch, parameters, vectors, width)

    monkeypatch.setattr(CompiledProduct, "_compile", counted)
    problem = regression(device, (3, 2, 3))
    operator = hessian(*problem.arguments, product="compiled")
    block = torch.ones(operator.shape[0], 4, dtype=torch.float64, device=device)
    for _ in range(2):
        operator @ block
        with torch.no_grad():
            problem.model[0].weight.mul_(1.1)
    assert sorted(shapes) == [(2, 4), (3, 4)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_by_the_real_compiler():
    problem = regression("cpu", (4, 4))
    operator = hessian(*problem.arguments, product="compiled")
    assert_is_hessian(operator, problem.dense())
    assert isinstance(operator._functional, CompiledProduct)


@every_device
def test_layer_norm_forward_over_reverse(device):
    problem = language(device, factory=Encoder)
    operator = hessian(*problem.arguments, product="forward-over-reverse")
    assert_is_hessian(operator, problem.dense())
    assert mode_found(operator) == "forward-over-reverse"
