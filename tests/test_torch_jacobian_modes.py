"""Gauss-Newton products by function transforms: the same as by backward passes, or not at all."""

import pytest

pytest.importorskip("torch")

import logging
import re
import warnings
from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_problems import Encoder, FailsTransformed, build, every_device, integers, mlp, normal

import hessops
from hessops_torch import (
    SplitLoss,
    empirical_fisher,
    fisher,
    ggn,
    gradient_covariance,
    hessian,
    plan,
)
from hessops_torch.products import columns
from hessops_torch.products.columns import columns_at_a_time


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


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


class Tied(nn.Module):
    """Tokens in, and scores of tokens by the same matrix out."""

    def __init__(self, padding=None):
        super().__init__()
        self.tokens = nn.Embedding(4, 3, padding_idx=padding)
        self.score = nn.Linear(3, 4, bias=False)
        self.score.weight = self.tokens.weight

    def forward(self, x):
        return self.score(torch.tanh(self.tokens(x)).mean(1))


def last_scores(model, batch):
    return model(batch[0])[:, -1]


def label(batch):
    return batch[1]


BY_TOKEN = SplitLoss(last_scores, nn.CrossEntropyLoss(), label)


def tokens(device, sizes):
    count = sum(sizes)
    x, y = integers(1, 4, count, 3, device=device), integers(2, 4, count, device=device)
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def numbers(device, sizes, *shape, outputs):
    count = sum(sizes)
    x, y = normal(1, count, *shape, device=device), normal(2, count, outputs, device=device)
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


NETWORKS = {
    "layers": lambda d: (build(mlp, 0, d), nn.MSELoss(), numbers(d, [3, 4, 1], 3, outputs=2)),
    "attention": lambda d: (build(Encoder, 0, d).eval(), BY_TOKEN, tokens(d, [2, 3])),
    "recurrent": lambda d: (build(Recurrent, 0, d), nn.MSELoss(), numbers(d, [3, 2], 4, 2, outputs=3)),
    "tied": lambda d: (build(Tied, 0, d), nn.CrossEntropyLoss(), tokens(d, [2, 3])),
}  # fmt: skip
MODES = ("forward", "batched", "auto")


@every_device
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_multiplies_the_same_matrix(mode, budget, network, device):
    model, loss, data = NETWORKS[network](device)
    plain = ggn(model, loss, data, product="backward", memory_budget=budget)
    other = ggn(model, loss, data, product=mode, memory_budget=budget)
    for width in (11, 1, 2):
        X = normal(width, plain.shape[1], width, device=device)
        expected = plain @ X
        # Twice: the second product may come of what was kept.
        for _ in range(2):
            found = other @ X
            assert torch.linalg.norm(found - expected) <= 1e-12 * torch.linalg.norm(expected)
    if mode != "auto":
        assert other.product_found == mode
    assert f"product {mode}" in repr(other)


@settings(max_examples=20)
@given(
    norm=st.sampled_from(["none", "batch", "group"]),
    mode=st.sampled_from(["eval", "train"]),
    sizes=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    width=st.sampled_from([1, 2, 9, 17]),
    budget=st.sampled_from([None, 0, 4000]),
    product=st.sampled_from([None, "batched"]),
    seed=st.integers(0, 5),
)
def test_convolutions_by_either_transform(norm, mode, sizes, width, budget, product, seed):
    model, data = convolutional(norm=norm), images(sizes, seed)
    options = {"mode": mode, "memory_budget": budget, "weight_decay": 0.1}
    plain = ggn(model, nn.CrossEntropyLoss(), data, product="backward", **options)
    by_rule = ggn(model, nn.CrossEntropyLoss(), data, product=product, **options)
    X = torch.randn(plain.shape[1], width, dtype=torch.float64)
    expected = plain @ X
    # Twice: the second product may come of what was kept.
    for _ in range(2):
        found = by_rule @ X
        assert torch.linalg.norm(found - expected) <= 1e-12 * torch.linalg.norm(expected)
    assert by_rule.product_found == (product or "forward")
    assert plain.product_found == "backward"
    if budget is None:
        assert by_rule.graphs.num_bytes < plain.graphs.num_bytes


@pytest.mark.parametrize(
    "make",
    [
        partial(fisher, product="forward"),
        partial(fisher, num_draws=3, rng=0),
        partial(fisher, num_draws=3, rng=0, product="batched"),
        empirical_fisher,
        partial(empirical_fisher, product="batched"),
        gradient_covariance,
        partial(gradient_covariance, product="batched"),
        partial(gradient_covariance, centred=False, product="auto"),
    ],
)
def test_other_sums_over_outputs(make):
    model, data = convolutional(), images([3, 2])
    A = make(model, nn.CrossEntropyLoss(), data)
    dense = A.to_dense()
    assert A.product_found == (A.product or "forward") or A.product == "auto"
    other = make(model, nn.CrossEntropyLoss(), data)
    other.product = "backward"
    expected = other.to_dense()
    assert other.product_found == "backward"
    assert torch.linalg.norm(dense - expected) <= 1e-12 * torch.linalg.norm(expected)


def test_a_block_of_some_parameters():
    G = ggn(convolutional(), nn.CrossEntropyLoss(), images([3, 2]))
    whole = G.to_dense()
    block = G.restricted("0.*")
    start, stop = G.domain.sections["0.weight"][0], G.domain.sections["0.bias"][1]
    assert torch.linalg.norm(block.to_dense() - whole[start:stop, start:stop]) <= 1e-12
    assert block._jacobian is not None
    # Backward passes to the head alone are short.
    head = G.restricted("5.*")
    start, stop = G.domain.sections["5.weight"][0], G.domain.sections["5.bias"][1]
    assert torch.linalg.norm(head.to_dense() - whole[start:stop, start:stop]) <= 1e-12
    assert head._jacobian is None


def test_networks_without_convolutions_take_two_backward_passes():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    data = [(torch.randn(4, 3).double(), torch.randint(2, (4,)))]
    by_rule, asked = (
        ggn(model, nn.CrossEntropyLoss(), data, product=product) for product in (None, "forward")
    )
    torch.testing.assert_close(by_rule.to_dense(), asked.to_dense(), rtol=1e-12, atol=1e-14)
    assert by_rule._jacobian is None
    assert asked._jacobian is not None


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


class Doubled(torch.autograd.Function):
    """Twice something, and three times where it is taken along for several vectors."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient

    @staticmethod
    def vmap(info, in_dims, x):
        return 3 * x, in_dims[0]


class WrongForSeveral(Odd):
    @staticmethod
    def backward(ctx, gradient):
        return Doubled.apply(gradient * ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent * ctx.saved_tensors[0]

    @staticmethod
    def vmap(info, in_dims, x):
        return WrongForSeveral.apply(x), in_dims[0]


@pytest.mark.parametrize("product", ["forward", "batched"])
@pytest.mark.parametrize(
    ("function", "says"), [(Odd, "fails"), (Wrong, "gives a product that differs")]
)
def test_a_forward_mode_that_fails_or_is_wrong_is_not_taken(function, says, product):
    torch.manual_seed(0)
    model = Applies(function).double()
    data = [(torch.randn(4, 3).double(), torch.randn(4, 4).double())]
    plain = ggn(model, nn.MSELoss(), data, product="backward").to_dense()
    with pytest.warns(RuntimeWarning, match=f"product='{product}' {says}"):
        asked = ggn(model, nn.MSELoss(), data, product=product).to_dense()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_rule = ggn(model, nn.MSELoss(), data).to_dense()
    assert torch.equal(asked, plain)
    assert torch.equal(by_rule, plain)


def test_a_pullback_that_is_wrong_for_several_vectors_is_not_taken(caplog):
    torch.manual_seed(0)
    model = Applies(WrongForSeveral).double()
    data = [(torch.randn(4, 3).double(), torch.randn(4, 4).double())]
    plain = ggn(model, nn.MSELoss(), data, product="backward").to_dense()
    with pytest.warns(RuntimeWarning, match="product='batched' gives a product that differs"):
        asked = ggn(model, nn.MSELoss(), data, product="batched").to_dense()
    with caplog.at_level(logging.INFO, "hessops"), warnings.catch_warnings():
        warnings.simplefilter("error")
        G = ggn(model, nn.MSELoss(), data, product="auto")
        fastest = G.to_dense()
    assert torch.equal(asked, plain)
    assert "batched gives a product that differs" in caplog.text
    assert G.product_found in ("backward", "forward")
    torch.testing.assert_close(fastest, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [ggn, empirical_fisher])
def test_a_plan_finds_the_fastest_for_blocks_of_its_width(make, caplog):
    model, data = convolutional(), images([3, 3])
    G = make(model, nn.CrossEntropyLoss(), data)
    with caplog.at_level(logging.INFO, "hessops"):
        planned = plan(G, num_products=8, block_size=4, calibrate=True)
    assert "of 4 columns" in caplog.text
    assert planned.product in ("backward", "forward", "batched")
    assert planned.options["product"] == planned.product
    assert plan(G, num_products=8).product is None
    assert G.product is None


def test_what_is_fastest_is_found_anew_for_some_parameters(caplog):
    model, data = convolutional(), images([3, 2])
    G = ggn(model, nn.CrossEntropyLoss(), data, product="auto")
    whole = G.to_dense()
    start, stop = G.domain.sections["5.weight"][0], G.domain.sections["5.bias"][1]
    head = G.restricted("5.*")
    assert head.product_found == "auto"
    with caplog.at_level(logging.INFO, "hessops"):
        block = head.to_dense()
    assert "J v and J^T u of" in caplog.text
    assert torch.linalg.norm(block - whole[start:stop, start:stop]) <= 1e-12


@given(st.integers(0, 2**40), st.sampled_from(["cpu", "cuda"]))
def test_as_many_columns_as_keep_tensors_small(largest, kind):
    device = torch.device(kind)
    width = columns_at_a_time(largest, device)
    assert 2 <= width <= 16
    assert columns_at_a_time(largest + 1, device) <= width
    if width > 2:
        assert width * largest < (2**25 if kind == "cpu" else 2**28)


@pytest.mark.parametrize(
    "make", [partial(ggn, product="batched"), partial(hessian, product="forward-over-reverse")]
)
def test_large_tensors_go_with_few_columns(make, monkeypatch):
    model, data = convolutional(), images([3, 2])
    A = make(model, nn.CrossEntropyLoss(), data)
    expected = A.to_dense()
    # Of three images, what goes into the first nonlinearity.
    largest = 3 * 3 * 4 * 4 * 8
    monkeypatch.setattr(columns, "_CPU_BYTES", 4 * largest + 1)
    few = make(model, nn.CrossEntropyLoss(), data)
    assert torch.linalg.norm(few.to_dense() - expected) <= 1e-12 * torch.linalg.norm(expected)
    way = few._jacobian if hasattr(few, "_jacobian") else few._functional
    assert way.chunk_size == 4


def test_an_embedding_whose_padding_forward_mode_forgets():
    model = build(partial(Tied, padding=0), 0, "cpu")
    data = tokens("cpu", [2, 3])
    plain = ggn(model, nn.CrossEntropyLoss(), data, product="backward").to_dense()
    with pytest.warns(RuntimeWarning, match="product='batched' gives a product that differs"):
        found = ggn(model, nn.CrossEntropyLoss(), data, product="batched").to_dense()
    assert torch.equal(found, plain)


@pytest.mark.parametrize("product", ["backward", "forward", "batched"])
def test_a_batch_that_the_model_cannot_take_is_named(product):
    model, data = convolutional(), images([3, 2])
    data[1] = data[1][0][:, :1], data[1][1]
    G = ggn(model, nn.CrossEntropyLoss(), data, product=product)
    with pytest.raises(RuntimeError, match="cannot be applied to micro-batch 1"):
        G @ torch.ones(G.shape[1], 2, dtype=torch.float64)


@pytest.mark.parametrize("product", ["forward", "batched"])
def test_weights_that_change_between_products(product):
    model, data = convolutional(), images([3, 2])
    G = ggn(model, nn.CrossEntropyLoss(), data, product=product)
    before = G.to_dense()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after = G.to_dense()
    expected = ggn(model, nn.CrossEntropyLoss(), data, product="backward").to_dense()
    assert torch.linalg.norm(after - expected) <= 1e-12 * torch.linalg.norm(expected)
    assert torch.linalg.norm(after - before) > 0.1 * torch.linalg.norm(before)


ERRORS = [
    RuntimeError(), RuntimeError("  \n "), ValueError(""), NotImplementedError(), AssertionError(),
    KeyError(), TypeError(), StopIteration(), Exception(), ZeroDivisionError("\n\nthe reason\nmore"),
    RuntimeError("the reason"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize(
    ("make", "product"), [(ggn, "forward"), (ggn, "batched"), (hessian, "forward-over-reverse")]
)
def test_why_a_way_fails_is_never_left_empty(make, product, error):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FailsTransformed(error).double()
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


@pytest.mark.parametrize("product", ["forward", "batched", "auto"])
def test_the_model_is_left_as_it_was_found(product):
    model = convolutional(norm="batch").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    G = ggn(model, nn.CrossEntropyLoss(), images([4, 3]), product=product)
    hessops.trace(G, num_probes=4, rng=0)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert attributes == [dict(vars(module)) for module in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_trace_is_the_same_by_either():
    model, data = convolutional(), images([5, 4])
    traces = [
        hessops.trace(ggn(model, nn.CrossEntropyLoss(), data, product=p), num_probes=8, rng=0).value
        for p in ("backward", "forward", "batched")
    ]
    assert traces[1:] == pytest.approx([traces[0]] * 2, rel=1e-12)
