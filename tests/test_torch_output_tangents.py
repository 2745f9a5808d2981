"""Gauss-Newton products by forward mode: the same matrix as by two backward passes, or not at all."""

import pytest

pytest.importorskip("torch")

import re
import warnings

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hessops
from hessops_torch import empirical_fisher, fisher, ggn, gradient_covariance, hessian


def convolutional(*, norm="none"):
    torch.manual_seed(1)
    kinds = {
        "none": nn.Identity,
        "batch": lambda: nn.BatchNorm2d(3),
        "group": lambda: nn.GroupNorm(1, 3),
    }
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), kinds[norm](), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(12, 4),
    ).double()  # fmt: skip


def images(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 2, 4, 4, generator=generator, dtype=torch.float64),
            torch.randint(4, (size,), generator=generator),
        )
        for size in sizes
    ]


@settings(max_examples=20)
@given(
    norm=st.sampled_from(["none", "batch", "group"]),
    mode=st.sampled_from(["eval", "train"]),
    sizes=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    columns=st.sampled_from([1, 2, 9, 17]),
    budget=st.sampled_from([None, 0, 4000]),
    seed=st.integers(0, 5),
)
def test_forward_mode_multiplies_the_same_matrix(norm, mode, sizes, columns, budget, seed):
    model, data = convolutional(norm=norm), images(sizes, seed)
    options = {"mode": mode, "memory_budget": budget, "weight_decay": 0.1}
    plain = ggn(model, nn.CrossEntropyLoss(), data, product="backward", **options)
    by_rule = ggn(model, nn.CrossEntropyLoss(), data, **options)
    X = torch.randn(plain.shape[1], columns, dtype=torch.float64)
    expected = plain @ X
    # Twice: the second product may come of what was kept.
    for _ in range(2):
        found = by_rule @ X
        assert torch.linalg.norm(found - expected) <= 1e-12 * torch.linalg.norm(expected)
    assert by_rule._tangents is not None
    assert plain._tangents is None
    if budget is None:
        assert by_rule.graphs.num_bytes < plain.graphs.num_bytes


@pytest.mark.parametrize(
    "make",
    [
        lambda *args, **options: fisher(*args, product="forward", **options),
        lambda *args, **options: fisher(*args, num_draws=3, rng=0, **options),
        empirical_fisher,
        gradient_covariance,
    ],
)
def test_other_sums_over_outputs(make):
    model, data = convolutional(), images([3, 2])
    A = make(model, nn.CrossEntropyLoss(), data)
    dense = A.to_dense()
    assert A._tangents is not None
    other = make(model, nn.CrossEntropyLoss(), data)
    other.product = "backward"
    expected = other.to_dense()
    assert other._tangents is None
    assert torch.linalg.norm(dense - expected) <= 1e-12 * torch.linalg.norm(expected)


def test_a_block_of_some_parameters():
    G = ggn(convolutional(), nn.CrossEntropyLoss(), images([3, 2]))
    whole = G.to_dense()
    block = G.restricted("0.*")
    start, stop = G.domain.sections["0.weight"][0], G.domain.sections["0.bias"][1]
    assert torch.linalg.norm(block.to_dense() - whole[start:stop, start:stop]) <= 1e-12
    assert block._tangents is not None
    # Backward passes to the head alone are short.
    head = G.restricted("5.*")
    start, stop = G.domain.sections["5.weight"][0], G.domain.sections["5.bias"][1]
    assert torch.linalg.norm(head.to_dense() - whole[start:stop, start:stop]) <= 1e-12
    assert head._tangents is None


def test_networks_without_convolutions_take_two_backward_passes():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    data = [(torch.randn(4, 3).double(), torch.randint(2, (4,)))]
    by_rule, asked = (
        ggn(model, nn.CrossEntropyLoss(), data, product=product) for product in (None, "forward")
    )
    torch.testing.assert_close(by_rule.to_dense(), asked.to_dense(), rtol=1e-12, atol=1e-14)
    assert by_rule._tangents is None
    assert asked._tangents is not None


class Odd(torch.autograd.Function):
    """A function that knows no forward mode, or a wrong one."""

    wrong = False

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


class Wrong(Odd):
    @staticmethod
    def jvp(ctx, tangent):
        return 3 * tangent * ctx.saved_tensors[0]


class Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.convolution = nn.Conv1d(1, 2, 2)
        self.function = function

    def forward(self, x):
        return self.function.apply(self.convolution(x[:, None])).flatten(1)


@pytest.mark.parametrize(
    ("function", "says"), [(Odd, "fails"), (Wrong, "gives a product that differs")]
)
def test_a_forward_mode_that_fails_or_is_wrong_is_not_taken(function, says):
    torch.manual_seed(0)
    model = Applies(function).double()
    data = [(torch.randn(4, 3).double(), torch.randn(4, 4).double())]
    plain = ggn(model, nn.MSELoss(), data, product="backward").to_dense()
    with pytest.warns(RuntimeWarning, match=f"product='forward' {says}"):
        asked = ggn(model, nn.MSELoss(), data, product="forward").to_dense()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_rule = ggn(model, nn.MSELoss(), data).to_dense()
    assert torch.equal(asked, plain)
    assert torch.equal(by_rule, plain)


class Fails(nn.Module):
    """A model that raises something under function transforms, and is right without."""

    def __init__(self, error):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.error = error

    def forward(self, x):
        outputs = self.layer(x)
        if torch._C._functorch.is_functorch_wrapped_tensor(outputs):
            raise self.error
        return outputs


ERRORS = [
    RuntimeError(), RuntimeError("  \n "), ValueError(""), NotImplementedError(), AssertionError(),
    KeyError(), TypeError(), StopIteration(), Exception(), ZeroDivisionError("\n\nthe reason\nmore"),
    RuntimeError("the reason"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize(("make", "product"), [(ggn, "forward"), (hessian, "forward-over-reverse")])
def test_why_a_way_fails_is_never_left_empty(make, product, error):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Fails(error).double()
        data = [(torch.randn(4, 3).double(), torch.randn(4, 2).double())]
    plain = make(model, nn.MSELoss(), data, product="backward").to_dense()
    with pytest.warns(RuntimeWarning, match=f"product='{product}' ") as caught:
        found = make(model, nn.MSELoss(), data, product=product).to_dense()
    assert torch.equal(found, plain)
    (message,) = (str(one.message) for one in caught)
    kind, reason = re.search(r"fails \((\w+): (.*?)\)", message).groups()
    if make is ggn:
        assert kind == type(error).__name__
        assert reason == ("the reason" if "reason" in str(error) else "it says no more")
    assert reason.strip()


def test_an_unknown_way_is_named():
    with pytest.raises(ValueError, match="product='sideways' is unknown; choose one of backward"):
        ggn(convolutional(), nn.CrossEntropyLoss(), images([2]), product="sideways")


def test_the_model_is_left_as_it_was_found():
    model = convolutional(norm="batch").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    G = ggn(model, nn.CrossEntropyLoss(), images([4, 3]))
    hessops.trace(G, num_probes=4, rng=0)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert attributes == [dict(vars(module)) for module in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_trace_is_the_same_by_either():
    model, data = convolutional(), images([5, 4])
    traces = [
        hessops.trace(ggn(model, nn.CrossEntropyLoss(), data, product=p), num_probes=8, rng=0).value
        for p in ("backward", "forward")
    ]
    assert traces[0] == pytest.approx(traces[1], rel=1e-12)
