"""All ranks have the same model, loss and options: what one has otherwise is refused on all."""

import copy
from functools import partial

import pytest

torch = pytest.importorskip("torch")

from doubles import run_on_ranks  # noqa: E402
from torch import nn  # noqa: E402
from torch_problems import build, cut, integers, normal  # noqa: E402

import hessops  # noqa: E402
import hessops_torch  # noqa: E402

BATCHES = cut([3, 4], normal(1, 7, 3, device="cpu"), integers(2, 3, 7, device="cpu"))
MODEL = build(
    lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)), 0, "cpu"
)


def hessian(comm, model=MODEL, loss=None, **options):
    data = [BATCHES[comm.rank]]
    model = copy.deepcopy(model)
    return hessops_torch.hessian(model, loss or nn.CrossEntropyLoss(), data, comm=comm, **options)


def said(work):
    """Return what both ranks say when they raise."""

    def guarded(comm):
        with pytest.raises(ValueError, match=r"pass the same|different weights") as raised:
            work(comm)
        return str(raised.value)

    one, other = run_on_ranks(guarded, 2)
    assert other in one
    return other


def cross_entropy(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="sum"), len(y)


def twice(model, batch):
    x, y = batch
    return 2 * nn.functional.cross_entropy(model(x), y, reduction="sum"), len(y)


def times(factor):
    def scaled(model, batch):
        total, count = cross_entropy(model, batch)
        return factor * total, count

    return scaled


class Times:
    def __init__(self, factor):
        self.factor = factor

    def loss(self, model, batch):
        total, count = cross_entropy(model, batch)
        return self.factor * total, count


def times_by_default(model, batch, factor=1.0):
    return times(factor)(model, batch)


def split(factor):
    def loss(outputs, batch):
        return factor * nn.functional.cross_entropy(outputs, batch[1], reduction="sum"), 1

    return hessops_torch.SplitLoss(lambda model, batch: model(batch[0]), loss)


LOSSES = {
    "another function": (cross_entropy, twice),
    "a function and a criterion": (cross_entropy, nn.CrossEntropyLoss()),
    "what a function encloses": (times(1.0), times(2.0)),
    "what a function is given": (
        partial(times_by_default, factor=1.0),
        partial(times_by_default, factor=2.0),
    ),
    "split": (split(1.0), split(2.0)),
    "a method and its function": (Times(1.0).loss, cross_entropy),
    "two lambdas": (lambda m, b: twice(m, b)[:2], lambda m, b: cross_entropy(m, b)[:2]),
    "smoothing": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "weights": (
        nn.CrossEntropyLoss(weight=torch.ones(3, dtype=torch.float64)),
        nn.CrossEntropyLoss(weight=torch.arange(1, 4, dtype=torch.float64)),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_another_loss_on_one_rank_is_refused(name):
    pair = LOSSES[name]
    said(lambda comm: hessian(comm, loss=pair[comm.rank], mode="eval"))


@pytest.mark.parametrize(
    "loss",
    [cross_entropy, times(2), Times(2.0).loss, partial(times_by_default, factor=2.0), split(1.0)],
)
def test_the_same_function_made_on_each_rank_is_taken(loss):
    run_on_ranks(lambda comm: hessian(comm, loss=copy.deepcopy(loss), mode="eval").to_dense(), 2)


def changed(change):
    model = copy.deepcopy(MODEL)
    change(model)
    return model


MODELS = {
    "activation": (lambda m: m.__setitem__(2, nn.ReLU()), "module 2 is ReLU(inplace=False)"),
    "eps": (lambda m: setattr(m[1], "eps", 0.5), "eps=0.5"),
    "frozen": (lambda m: m[1].eval(), "affine=True, track_running_stats=True) in eval mode"),
    "order": (lambda m: m.insert(1, m.pop(2)), "module 1 is Tanh"),
    "frozen weights": (lambda m: m[0].weight.data.add_(1), "parameter 0.weight is"),
    "weights": (lambda m: m[3].weight.data[0, 0].add_(1e-12), "parameter 3.weight is"),
}


@pytest.mark.parametrize("name", MODELS)
def test_another_model_on_one_rank_is_refused(name):
    change, words = MODELS[name]
    models = [MODEL, changed(change)]
    assert words in said(lambda comm: hessian(comm, models[comm.rank], params="3"))


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = copy.deepcopy(MODEL)
        self.register_buffer("mask", torch.ones(3, dtype=torch.float64))
        self.num_calls = 0

    def forward(self, x):
        self.num_calls += 1
        return self.inner(x * self.mask)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_buffers_count_where_they_are_read(mode):
    means = [MODEL, changed(lambda m: m[1].running_mean.add_(1))]
    if mode == "eval":
        words = said(lambda comm: hessian(comm, means[comm.rank], mode=mode))
        assert "buffer 1.running_mean is" in words
    else:
        run_on_ranks(lambda comm: hessian(comm, means[comm.rank], mode=mode), 2)
    masks = [Masked(), Masked()]
    masks[1].mask[0] = 0
    assert "buffer mask is" in said(lambda comm: hessian(comm, masks[comm.rank], mode=mode))


def test_what_may_differ_is_not_looked_at():
    models = [Masked(), Masked()]
    models[1].num_calls = 7
    models[1].inner[1].num_batches_tracked += 3
    models[1].inner[1].eval()
    run_on_ranks(lambda comm: hessian(comm, models[comm.rank], mode="eval").to_dense(), 2)


def test_other_sizes_of_micro_batches_are_refused():
    words = said(lambda comm: hessian(comm, mode="eval", micro_batch_size=1 + comm.rank))
    assert "micro_batch_size is 2 on rank 1 and 1 on rank 0" in words


def test_other_kinds_of_operators_are_refused():
    kinds = [hessops_torch.hessian, hessops_torch.ggn]

    def work(comm):
        model = copy.deepcopy(MODEL).eval()
        kinds[comm.rank](model, nn.CrossEntropyLoss(), [BATCHES[comm.rank]], comm=comm)

    assert "the operator is GaussNewton on rank 1 and Hessian on rank 0" in said(work)


LATER = {
    "weights": (lambda m: m[3].weight.data[0, 0].add_(1e-6), "parameter 3.weight"),
    "frozen weights": (lambda m: m[0].bias.data.mul_(1.1), "parameter 0.bias"),
    "buffers": (lambda m: m[1].running_mean.add_(1), "buffer 1.running_mean"),
}
VERBS = {
    "eigsh": lambda A: hessops.eigsh(A, 1, rng=0),
    "trace": lambda A: hessops.trace(A + hessops.aslinearoperator(A), num_probes=2, rng=0),
    "cg": lambda A: hessops.cg(2.0 * A, torch.ones(A.shape[0], dtype=torch.float64)),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", LATER)
def test_what_changes_on_one_rank_later_is_seen_by_the_next_verb(name, verb):
    change, words = LATER[name]

    def work(comm):
        model = copy.deepcopy(MODEL).eval()
        data = [BATCHES[comm.rank]]
        A = hessops_torch.ggn(
            model, nn.CrossEntropyLoss(), data, params="3", weight_decay=0.1, comm=comm
        )
        hessops.trace(A, num_probes=2, rng=0)
        if comm.rank == 1:
            change(model)
        with pytest.raises(ValueError, match=f"the norm of {words} is .* same options and weights"):
            VERBS[verb](A)
        if comm.rank == 0:
            change(model)
        VERBS[verb](A)

    run_on_ranks(work, 2)
