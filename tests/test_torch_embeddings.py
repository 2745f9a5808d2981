"""Embeddings: what they do besides looking rows up leaves the Hessian that of the loss."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    assert_is_hessian,
    assert_same,
    build,
    dense_hessian,
    every_device,
    few_examples,
    integers,
    normal,
    seeds,
)

from hessops_torch import hessian
from hessops_torch.model.embeddings import bag

MODES = ["sum", "mean", "max"]
SQUARES = nn.MSELoss()


class Reads(nn.Module):
    """Rows of an embedding through a nonlinear read-out."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding
        self.head = nn.Linear(3, 2)

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)))


def tokens_and_targets(device, seed=0, shape=(5, 3), targets=(5, 3, 2)):
    return integers(seed + 1, 4, *shape, device=device), normal(seed + 2, *targets, device=device)


def same_without(model, **options):
    """Return a copy of a model whose embedding has other options."""
    plain = copy.deepcopy(model)
    for name, value in options.items():
        setattr(plain.embedding, name, value)
    return plain


OPTIONS = {
    "plain": {},
    "padding": {"padding_idx": 1},
    "sparse gradients": {"sparse": True},
    "scaled gradients": {"scale_grad_by_freq": True},
    "sparse with padding": {"sparse": True, "padding_idx": -1},
}


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_gradients_are_not_the_losss(device, name, memory_budget):
    model = build(lambda: Reads(nn.Embedding(4, 3, **OPTIONS[name])), 0, device)
    x, y = tokens_and_targets(device)
    plain = same_without(model, sparse=False, scale_grad_by_freq=False)
    operator = hessian(model, SQUARES, (x, y), memory_budget=memory_budget)
    expected = dense_hessian(plain, lambda f: F.mse_loss(f(x), y))
    assert_is_hessian(operator, expected)
    assert_is_hessian(operator, expected)
    for option, value in OPTIONS[name].items():
        assert getattr(model.embedding, option) == (3 if value == -1 else value)


@every_device
def test_a_row_of_padding_has_no_curvature(device):
    model = build(lambda: Reads(nn.Embedding(4, 3, padding_idx=1)), 0, device)
    x, y = tokens_and_targets(device)
    assert (x == 1).any()
    dense = hessian(model, SQUARES, (x, y)).to_dense()
    assert torch.count_nonzero(dense[3:6]) == 0
    assert torch.count_nonzero(dense[:3]) > 0


@every_device
def test_rows_within_their_largest_norm(device):
    model = build(lambda: Reads(nn.Embedding(4, 3, max_norm=1.0)), 0, device)
    model.embedding.weight.data.renorm_(2, 0, 1.0)
    x, y = tokens_and_targets(device)
    before = model.embedding.weight.detach().clone()
    plain = same_without(model, max_norm=None)
    expected = dense_hessian(plain, lambda f: F.mse_loss(f(x), y))
    assert_is_hessian(hessian(model, SQUARES, (x, y)), expected)
    assert torch.equal(model.embedding.weight, before)
    assert model.embedding.max_norm == 1.0


@every_device
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_rows_beyond_their_largest_norm(device, kind):
    model = build(lambda: Reads(kind(4, 3, max_norm=0.1)), 0, device)
    targets = (5, 3, 2) if kind is nn.Embedding else (5, 2)
    x, y = tokens_and_targets(device, targets=targets)
    before = model.embedding.weight.detach().clone()
    sentence = r"embedding has max_norm=0.1 and a row of norm .*renorm_\(2, 0, 0.1\)"
    with pytest.raises(ValueError, match=sentence):
        hessian(model, SQUARES, (x, y))
    assert torch.equal(model.embedding.weight, before)
    # What the sentence says to do works.
    model.embedding.weight.data.renorm_(2, 0, 0.1)
    assert hessian(model, SQUARES, (x, y)).to_dense().isfinite().all()


class SumsRows(Reads):
    """What `EmbeddingBag` computes, row by row."""

    def forward(self, tokens):
        weight, mode = self.embedding.weight, self.embedding.mode
        bags = []
        for row in tokens:
            padding = self.embedding.padding_idx
            kept = row if padding is None else row[row != padding]
            rows = weight[kept]
            if len(kept) == 0:
                bags.append(weight.new_zeros(3))
            elif mode == "max":
                bags.append(rows.amax(0))
            else:
                bags.append(rows.sum(0) if mode == "sum" else rows.mean(0))
        return self.head(torch.tanh(torch.stack(bags)))


@every_device
@pytest.mark.parametrize("mode", MODES)
@few_examples
@given(st.sampled_from([None, 0, 1]), st.booleans(), seeds)
def test_embedding_bags(device, mode, padding, sparse, seed):
    options = {"mode": mode, "padding_idx": padding, "sparse": sparse and mode != "max"}
    model = build(lambda: Reads(nn.EmbeddingBag(4, 3, **options)), seed, device)
    reference = SumsRows(model.embedding)
    reference.head = model.head
    x, y = tokens_and_targets(device, seed, targets=(5, 2))
    # Each row once in a bag: between equal rows a maximum has no derivative.
    x = torch.stack([torch.randperm(4, generator=torch.Generator().manual_seed(seed % 2**31 + i))[:3]
                     for i in range(5)]).to(device)  # fmt: skip
    operator = hessian(model, SQUARES, (x, y))
    expected = dense_hessian(reference, lambda f: F.mse_loss(f(x), y))
    assert_is_hessian(operator, expected)
    assert "forward" not in vars(model.embedding)


@every_device
@pytest.mark.parametrize("mode", MODES)
@few_examples
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=5), st.booleans(), st.booleans(),
    st.sampled_from([None, 2]), st.booleans(), seeds,
)  # fmt: skip
def test_the_stand_in_computes_the_same(device, mode, lengths, flat, last, padding, weigh, seed):
    module = nn.EmbeddingBag(
        4, 3, mode=mode, padding_idx=padding, include_last_offset=last and flat
    )
    module = build(lambda: module, seed, device)
    if flat:
        indices = integers(seed, 4, sum(lengths), device=device)
        ends = torch.tensor(lengths).cumsum(0)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), ends if last else ends[:-1]])
        arguments = [indices, offsets.to(device)]
    else:
        arguments = [integers(seed, 4, len(lengths), 3, device=device), None]
    if weigh and mode == "sum":
        arguments.append(normal(seed, *arguments[0].shape, device=device))
    assert_same(bag(module, *arguments).detach(), module(*arguments).detach(), 1e-14)


@every_device
def test_a_forward_of_the_users_own_stays(device):
    class Doubled(nn.EmbeddingBag):
        def forward(self, tokens):
            return 2 * self.weight[tokens].sum(1)

    model = build(lambda: Reads(Doubled(4, 3, mode="sum")), 0, device)
    x, y = tokens_and_targets(device, targets=(5, 2))
    expected = dense_hessian(model, lambda f: F.mse_loss(f(x), y))
    assert_is_hessian(hessian(model, SQUARES, (x, y)), expected)


@every_device
def test_the_functional_form_of_a_bag_says_what_to_use(device):
    class Functional(Reads):
        def forward(self, tokens):
            pooled = F.embedding_bag(tokens, self.embedding.weight, mode="sum")
            return self.head(torch.tanh(pooled))

    model = build(lambda: Functional(nn.Embedding(4, 3)), 0, device)
    x, y = tokens_and_targets(device, targets=(5, 2))
    with pytest.raises(RuntimeError, match=r"use the module torch\.nn\.EmbeddingBag"):
        hessian(model, SQUARES, (x, y)).to_dense()


@every_device
def test_a_forward_pass_that_writes_into_its_parameters(device):
    class Renorms(Reads):
        def forward(self, tokens):
            rows = F.embedding(tokens, self.embedding.weight, max_norm=0.1)
            return self.head(torch.tanh(rows))

    model = build(lambda: Renorms(nn.Embedding(4, 3)), 0, device)
    x, y = tokens_and_targets(device)
    before = model.embedding.weight.detach().clone()
    with pytest.raises(ValueError, match=r"writes into the parameter embedding\.weight"):
        hessian(model, SQUARES, (x, y))
    assert torch.equal(model.embedding.weight, before)
