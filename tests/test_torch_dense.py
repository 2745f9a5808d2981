"""Hessians of networks against explicit dense ones, in double precision to 1e-10."""

import importlib
import re
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch_problems import (
    ACTIVATIONS,
    Attention,
    Encoder,
    Recurrent,
    assert_is_hessian,
    assert_same,
    batch_sizes,
    build,
    convolutional,
    cut,
    dense_hessian,
    every_device,
    few_examples,
    forward_over_reverse,
    images,
    language,
    mlp,
    normal,
    regression,
    rows_of,
    seeds,
    ways_to_compute,
)

from hessops_torch import hessian
from hessops_torch.data.micro_batches import MicroBatches

activations = st.sampled_from(ACTIVATIONS)
block_sizes = st.integers(1, 40)


@every_device
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@given(
    st.integers(1, 4), activations, st.booleans(), batch_sizes, block_sizes, ways_to_compute(),
    st.sampled_from([0.0, 0.3]), seeds,
)  # fmt: skip
def test_mlp(device, reduction, width, activation, bias, sizes, block_size, ways, decay, seed):
    model = build(lambda: mlp(width, activation, bias=bias), seed, device)
    x, y = (normal(seed + i, sum(sizes), size, device=device) for i, size in ((1, 3), (2, 2)))
    criterion = nn.MSELoss(reduction=reduction)
    operator = hessian(model, criterion, cut(sizes, x, y), weight_decay=decay, **ways)
    dense = dense_hessian(model, lambda f: criterion(f(x), y), forward_over_reverse)
    identity = torch.eye(len(dense), dtype=dense.dtype, device=device)
    assert_is_hessian(operator, dense + decay * identity, block_size)


@every_device
@few_examples
@given(
    activations, batch_sizes, block_sizes, ways_to_compute(), st.booleans(),
    st.sampled_from([nn.BatchNorm2d, lambda n: nn.GroupNorm(1, n), nn.Identity]), seeds,
)  # fmt: skip
def test_convolutions(device, activation, sizes, block_size, ways, shortcut, norm, seed):
    problem = images(device, sizes, seed, activation=activation, norm=norm, shortcut=shortcut)
    assert_is_hessian(hessian(*problem.arguments, **ways), problem.dense(), block_size)


@every_device
@few_examples
@given(
    activations, st.lists(st.integers(2, 4), min_size=1, max_size=3), block_sizes,
    st.sampled_from([None, 0]), st.booleans(), seeds,
)  # fmt: skip
def test_batch_norm_in_train_mode(device, activation, sizes, block_size, budget, by_option, seed):
    problem = images(device, sizes, seed, train=True, activation=activation)
    mode = "train" if by_option else None
    problem.model.train(not by_option)
    operator = hessian(*problem.arguments, mode=mode, memory_budget=budget)
    problem.model.train()
    assert_is_hessian(operator, problem.dense(), block_size)


@every_device
@few_examples
@given(st.lists(st.integers(2, 4), min_size=1, max_size=2), seeds)
def test_batch_norm_without_running_statistics(device, sizes, seed):
    def norm(channels):
        return nn.BatchNorm2d(channels, track_running_stats=False)

    problem = images(device, sizes, seed, train=True, norm=norm)
    assert_is_hessian(hessian(*problem.arguments, mode="eval"), problem.dense())


@every_device
@few_examples
@given(
    st.sampled_from([
        Attention, lambda: Attention(tied=False), Encoder, lambda: Encoder(norm_first=True),
    ]),
    st.lists(st.integers(1, 3), min_size=1, max_size=2), st.integers(20, 200), ways_to_compute(),
    st.booleans(), seeds,
)  # fmt: skip
def test_transformers(device, factory, sizes, block_size, ways, train, seed):
    problem = language(device, sizes, seed, factory)
    problem.model.train(train)
    assert_is_hessian(hessian(*problem.arguments, **ways), problem.dense(), block_size)


@every_device
@few_examples
@given(st.booleans(), batch_sizes, seeds)
def test_multihead_attention(device, with_bias, sizes, seed):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, bias=with_bias, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    model = build(Mixer, seed, device).eval()
    x, y = (normal(seed + i, sum(sizes), 3, 4, device=device) for i in (1, 2))
    operator = hessian(model, nn.MSELoss(), cut(sizes, x, y))
    assert_is_hessian(operator, dense_hessian(model, lambda f: F.mse_loss(f(x), y)))


@every_device
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@few_examples
@given(batch_sizes, ways_to_compute(), seeds)
def test_recurrent_networks(device, kind, sizes, ways, seed):
    model = build(lambda: Recurrent(kind), seed, device)
    count = sum(sizes)
    x, y = normal(seed + 1, count, 3, 3, device=device), normal(seed + 2, count, 2, device=device)
    operator = hessian(model, nn.MSELoss(), cut(sizes, x, y), **ways)
    assert_is_hessian(operator, dense_hessian(model, lambda f: F.mse_loss(f(x), y)))


class TiedAutoencoder(nn.Module):
    """A weight that is used twice, the second time transposed."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.decoder_bias = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return torch.tanh(self.encoder(x)) @ self.encoder.weight + self.decoder_bias


@every_device
@given(batch_sizes, ways_to_compute(), seeds)
def test_tied_weights(device, sizes, ways, seed):
    model = build(TiedAutoencoder, seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    operator = hessian(model, nn.MSELoss(), cut(sizes, x, x), **ways)
    assert_is_hessian(operator, dense_hessian(model, lambda f: F.mse_loss(f(x), x)))


class PartlyUsed(nn.Module):
    """Some parameters that the output does not depend on, and one it is linear in."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.inner = nn.Linear(3, 2)
        self.never = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.sigmoid(self.inner(x)).sum(1, keepdim=True) + self.offset


@every_device
@given(batch_sizes, ways_to_compute(), seeds)
def test_unused_and_linear_parameters_have_zero_rows(device, sizes, ways, seed):
    model = build(PartlyUsed, seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)

    def summed_outputs(f, batch):
        outputs = f(batch[0])
        return outputs.sum(), len(outputs)

    operator = hessian(model, summed_outputs, cut(sizes, x), **ways)
    dense = dense_hessian(model, lambda f: f(x).mean())
    assert_is_hessian(operator, dense)
    flat = rows_of(model, ["unused.weight", "unused.bias", "never", "offset"])
    assert torch.count_nonzero(operator.to_dense()[flat]) == 0
    assert torch.count_nonzero(dense) > 0


@every_device
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_linear_loss_has_the_hessian_zero(device, weight_decay):
    model = build(lambda: nn.Linear(3, 1), 0, device)
    batches = [(normal(1, 4, 3, device=device),)]
    operator = hessian(model, lambda f, b: (f(b[0]).sum(), 4), batches, weight_decay=weight_decay)
    identity = torch.eye(4, dtype=torch.float64, device=device)
    assert_is_hessian(operator, weight_decay * identity)


Pair = namedtuple("Pair", ["inputs", "targets"])


def nested_loss(model, batch):
    return F.mse_loss(model(batch["in"][0]), batch["out"].targets, reduction="sum"), 2 * batch["n"]


@every_device
def test_nested_batches(device):
    problem = regression(device)
    batches = [
        {"in": [x], "out": Pair(None, y), "n": len(x), "name": "batch"} for x, y in problem.batches
    ]
    assert_is_hessian(hessian(problem.model, nested_loss, batches), problem.dense())


class Stream(IterableDataset):
    """Samples that come one after another; their number is not known."""

    def __init__(self, tensors):
        self.tensors = tensors

    def __iter__(self):
        return zip(*self.tensors, strict=True)


class EveryPassAnew:
    """Batches from an object that only knows how to begin again."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


SOURCES = {
    "one batch": lambda tensors: tensors,
    "one named batch": lambda tensors: Pair(*tensors),
    "list of lists": lambda tensors: [list(batch) for batch in cut([5, 3], *tensors)],
    "tuple of batches": lambda tensors: tuple(cut([5, 3], *tensors)),
    "data set": lambda tensors: TensorDataset(*tensors),
    "loader": lambda tensors: DataLoader(TensorDataset(*tensors), batch_size=3),
    "loader of a stream": lambda tensors: DataLoader(Stream(tensors), batch_size=3),
    "stream of samples": Stream,
    "iterable": lambda tensors: EveryPassAnew(cut([5, 3], *tensors)),
}


@every_device
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "read again"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_sources_of_data(device, source, resident, monkeypatch):
    problem = regression(device, sizes=(8,))
    if not resident:
        # With no memory free, no batch is kept on the device.
        module = importlib.import_module("hessops_torch.objective.objective")
        monkeypatch.setattr(module, "free_memory", lambda device: 0)
    operator = hessian(problem.model, problem.loss, source(problem.batches[0]))
    assert_is_hessian(operator, problem.dense())
    assert_is_hessian(operator, problem.dense())


@every_device
@pytest.mark.parametrize("memory_budget", [0, 10**6])
def test_micro_batches_come_in_order_from_every_source(device, memory_budget):
    x = normal(0, 7, 2, device="cpu")
    loader = DataLoader(TensorDataset(x), batch_size=3)
    batches = MicroBatches(loader, torch.device(device), 2, memory_budget)
    for _ in range(2):
        parts = [part for (part,) in batches]
        assert [len(part) for part in parts] == [2, 1, 2, 1, 1]
        assert all(part.device.type == device for part in parts)
        assert torch.equal(torch.cat(parts).cpu(), x)
    assert len(batches) == 5


@every_device
def test_a_data_set_is_cut_by_the_micro_batch_size(device):
    problem = regression(device, sizes=(8,))
    data = TensorDataset(*problem.batches[0])
    operator = hessian(problem.model, problem.loss, data, micro_batch_size=3)
    assert len(operator.objective.batches) == 3
    assert_is_hessian(operator, problem.dense())


SELECTIONS = {
    "name": ("0.weight", ["0.weight"]),
    "module": ("1", ["1.weight", "1.bias"]),
    "nested module": ("3.inner", ["3.inner.0.weight", "3.inner.1.weight", "3.inner.1.bias"]),
    "glob": ("*.bias", ["0.bias", "1.bias", "3.inner.1.bias", "6.bias"]),
    "regex": (re.compile(r"^\d\.weight"), ["0.weight", "1.weight", "6.weight"]),
    "several": (["6", re.compile("inner.1"), "0.bias"],
                ["0.bias", "3.inner.1.weight", "3.inner.1.bias", "6.weight", "6.bias"]),
}  # fmt: skip


@every_device
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", SELECTIONS)
def test_selected_parameters_have_their_block_of_the_whole(device, name, train):
    params, names = SELECTIONS[name]
    problem = images(device, train=train)
    operator = hessian(*problem.arguments, params=params)
    rows = rows_of(problem.model, names).to(device)
    assert list(operator.space.shapes) == names
    assert_is_hessian(operator, problem.dense()[rows][:, rows])


@every_device
def test_without_a_selection_frozen_parameters_are_left_out(device):
    problem = regression(device)
    problem.model[0].weight.requires_grad_(False)
    operator = hessian(*problem.arguments)
    rows = rows_of(problem.model, ["0.bias", "2.weight", "2.bias"]).to(device)
    assert_is_hessian(operator, problem.dense()[rows][:, rows])
    assert_is_hessian(hessian(*problem.arguments, params="*"), problem.dense())


@every_device
def test_checkpointed_activations_are_differentiated_twice(device):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    problem = regression(device)
    operator = hessian(Checkpointed(problem.model), problem.loss, problem.batches)
    assert_is_hessian(operator, problem.dense())
    assert_is_hessian(operator, problem.dense())


@every_device
def test_single_precision_stays_single(device):
    problem = regression(device)
    expected = problem.dense().to(torch.float32)
    problem.model.float()
    batches = [tuple(tensor.float() for tensor in batch) for batch in problem.batches]
    found = hessian(problem.model, problem.loss, batches).to_dense()
    assert_same(found, expected, 1e-5)


def test_convolutional_network_has_what_the_tests_say():
    names = [name for name, _ in convolutional().named_parameters()]
    assert names == [
        "0.weight", "0.bias", "1.weight", "1.bias", "3.inner.0.weight", "3.inner.1.weight",
        "3.inner.1.bias", "6.weight", "6.bias",
    ]  # fmt: skip
