"""A network's data on several ranks: the operator of all of it, exactly, however it is dealt out.

The ranks are threads, each with a model of its own.
"""

import copy
import re
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from doubles import run_on_ranks  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, IterableDataset, TensorDataset  # noqa: E402
from torch.utils.data.distributed import DistributedSampler  # noqa: E402
from torch_problems import build, cut, dense_hessian, integers, normal  # noqa: E402

import hessops  # noqa: E402
import hessops_torch  # noqa: E402
from hessops import NonFiniteError, SerialComm  # noqa: E402
from hessops_torch import Hessian, Objective, ggn, hessian, shard  # noqa: E402

SIZES = [3, 1, 4, 2, 5, 1]
RTOL = 1e-12


# Made once: threads that seed alike still draw from one generator.
MODEL = build(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), 0, "cpu")


def small_model():
    return copy.deepcopy(MODEL)


X = normal(1, sum(SIZES), 3, device="cpu")
Y = integers(2, 3, sum(SIZES), device="cpu")
BATCHES = cut(SIZES, X, Y)
WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64))


def mean_by_tokens(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="sum") * 2.0, float(2 * len(y))


LOSSES = {
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "weighted": WEIGHTED,
    "function": mean_by_tokens,
}
cuts = st.lists(st.integers(0, len(SIZES)), min_size=0, max_size=3).map(
    lambda inner: [0, *sorted(inner), len(SIZES)]
)


def part(bounds, comm):
    first, last = list(pairwise(bounds))[comm.rank]
    return BATCHES[first:last]


@settings(max_examples=10)
@given(bounds=cuts, loss=st.sampled_from(sorted(LOSSES)), kind=st.sampled_from([hessian, ggn]))
def test_any_deal_is_the_operator_of_all_the_data(bounds, loss, kind):
    if kind is ggn and loss == "function":
        return
    serial = kind(small_model(), LOSSES[loss], BATCHES, weight_decay=0.1)
    expected = serial.to_dense()
    trace = hessops.trace(serial, num_probes=3, rng=0)

    def work(comm):
        A = kind(
            small_model(),
            copy.deepcopy(LOSSES[loss]),
            part(bounds, comm),
            weight_decay=0.1,
            comm=comm,
        )
        return repr(A), A.to_dense(), hessops.trace(A, num_probes=3, rng=0)

    for words, dense, found in run_on_ranks(work, len(bounds) - 1):
        assert words == repr(serial)
        assert float((dense - expected).norm()) <= RTOL * float(expected.norm())
        # The same products and the same divisor, to the last bit.
        assert found.value == trace.value
        assert found.term_scatter == trace.term_scatter
        assert {n: s.value for n, s in found.sections.items()} == {
            n: s.value for n, s in trace.sections.items()
        }


def test_it_is_the_dense_hessian():
    expected = dense_hessian(small_model(), lambda f: nn.functional.cross_entropy(f(X), Y))

    def work(comm):
        return hessian(
            small_model(), nn.CrossEntropyLoss(), part([0, 1, 1, 6], comm), comm=comm
        ).to_dense()

    for dense in run_on_ranks(work, 3):
        assert float((dense - expected).norm()) <= 1e-11 * float(expected.norm())


class Counted:
    def __init__(self, comm):
        self.comm, self.rank, self.size, self.calls = comm, comm.rank, comm.size, []

    def all_reduce(self, array):
        self.calls.append(tuple(array.shape))
        return self.comm.all_reduce(array)

    def broadcast(self, value):
        return self.comm.broadcast(value)


@pytest.mark.parametrize("columns", [1, 5])
def test_one_reduction_for_the_product_of_a_block_of_any_width(columns):
    def work(comm):
        counted = Counted(comm)
        A = hessian(small_model(), nn.CrossEntropyLoss(), part([0, 2, 6], comm), comm=counted)
        block = torch.ones(A.shape[1], columns, dtype=torch.float64)
        A.apply(block)  # And once for the counts.
        counted.calls.clear()
        A.apply(block)
        return counted.calls, A.shape[1]

    for calls, n in run_on_ranks(work, 2):
        # The block, a flag from each rank, and one for the counts.
        assert calls == [(n * columns + 3,)]


def test_several_operators_share_an_objective_on_ranks():
    def work(comm):
        objective = Objective(
            small_model(), nn.CrossEntropyLoss(), part([0, 3, 6], comm), comm=comm
        )
        H, G = Hessian(objective), hessops_torch.GaussNewton(objective)
        return hessops.trace(H, control=(G, None), max_products=40, rng=0)

    def serial():
        objective = Objective(small_model(), nn.CrossEntropyLoss(), BATCHES)
        H, G = Hessian(objective), hessops_torch.GaussNewton(objective)
        return hessops.trace(H, control=(G, None), max_products=40, rng=0)

    for found in run_on_ranks(work, 2):
        assert found.value == pytest.approx(serial().value, rel=RTOL)


def test_counts_are_told_again_when_the_loss_has_changed():
    new = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    changed = nn.CrossEntropyLoss(weight=new)
    expected = hessian(small_model(), changed, BATCHES).to_dense()

    def work(comm):
        loss = copy.deepcopy(WEIGHTED)
        A = hessian(small_model(), loss, part([0, 3, 6], comm), comm=comm)
        A.to_dense()
        terms = list(A.terms())
        loss.weight.copy_(new)
        mine = next(term for term in terms if term.held_by == comm.rank)
        with pytest.raises(RuntimeError, match="the loss has changed since"):
            mine.apply(torch.ones(A.shape[1], dtype=torch.float64))
        dense = A.to_dense()
        elsewhere = next(term for term in A.terms() if term.held_by != comm.rank)
        with pytest.raises(RuntimeError, match="on rank"):
            elsewhere.apply(torch.ones(A.shape[1], dtype=torch.float64))
        return dense

    for dense in run_on_ranks(work, 2):
        assert float((dense - expected).norm()) <= RTOL * float(expected.norm())


def test_what_does_not_add_up_over_ranks_is_refused():
    def work(comm):
        A = hessian(small_model(), nn.CrossEntropyLoss(), part([0, 3, 6], comm), comm=comm)
        with pytest.raises(RuntimeError, match="all the data in one process"):
            list(A.objective.batches)
        return len(A.objective.batches)

    assert run_on_ranks(work, 2) == [3, 3]


def raised_on_all(work, size=3):
    """Return what every rank raises; all of them must."""
    found = []

    def guarded(comm):
        try:
            work(comm)
        except Exception as error:
            found.append((comm.rank, error))

    run_on_ranks(guarded, size)
    assert len(found) == size
    return [error for _, error in sorted(found, key=lambda pair: pair[0])]


def test_nan_on_one_rank_is_an_error_on_all():
    def work(comm):
        batches = [(x.clone(), y) for x, y in part([0, 2, 4, 6], comm)]
        A = hessian(small_model(), nn.CrossEntropyLoss(), batches, comm=comm)
        if comm.rank == 1:
            batches[1][0].data.fill_(float("nan"))
        A.apply(torch.ones(A.shape[1], dtype=torch.float64))

    for rank, error in enumerate(raised_on_all(work)):
        assert isinstance(error, NonFiniteError)
        assert "the loss of micro-batch 1 is nan" in str(error)
        assert ("rank 1 of 3" in str(error)) is (rank != 1)


def other_weights(comm):
    model = small_model()
    with torch.no_grad():
        model[2].bias[0] += comm.rank == 1
    hessian(model, nn.CrossEntropyLoss(), part([0, 2, 4, 6], comm), comm=comm)


def other_modes(comm):
    model = small_model().train(comm.rank != 1)
    hessian(model, nn.CrossEntropyLoss(), part([0, 2, 4, 6], comm), comm=comm)


def other_losses(comm):
    loss = nn.CrossEntropyLoss(reduction=["mean", "sum", "mean"][comm.rank])
    hessian(small_model(), loss, part([0, 2, 4, 6], comm), comm=comm)


def nothing_at_all(comm):
    hessian(small_model(), nn.CrossEntropyLoss(), [], comm=comm)


def all_the_data(comm):
    hessian(small_model(), nn.CrossEntropyLoss(), BATCHES, comm=comm)


def no_model(comm):
    model = "model" if comm.rank == 1 else small_model()
    hessian(model, nn.CrossEntropyLoss(), part([0, 2, 4, 6], comm), comm=comm)


def wrong_batch(comm):
    batches = part([0, 2, 4, 6], comm)
    if comm.rank == 1:
        batches = [(torch.ones(2, 7, dtype=torch.float64), Y[:2])]
    hessian(small_model(), nn.CrossEntropyLoss(), batches, comm=comm)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (other_weights, "parameter 2.bias is .* the ranks have different weights"),
        (other_modes, "mode is eval on rank 1 and train on rank 0"),
        (other_losses, "a mean over the data is False on rank 1 and True on rank 0"),
        (nothing_at_all, "the data of all ranks is empty"),
        (all_the_data, "every rank was given the same data"),
        (no_model, "a model must be a torch.nn.Module"),
        (wrong_batch, "cannot be applied to the first batch"),
    ],
)
def test_what_one_rank_has_otherwise_is_refused_on_all(work, words):
    for error in raised_on_all(work):
        assert re.search(words, str(error), flags=re.DOTALL)


# Dealing out.


def contents(data):
    return [x.tolist() for x, _ in data]


def dealt(data, size, **options):
    return run_on_ranks(lambda comm: list(shard(copy.deepcopy(data), comm, **options)), size)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(BATCHES)


DATA = {
    "list": BATCHES,
    "tuple": tuple(BATCHES),
    "loader": DataLoader(TensorDataset(X, Y), batch_size=3),
    "ragged loader": DataLoader(TensorDataset(X, Y), batch_sampler=[[0, 5], [1], [2, 3, 4]]),
    "stream": DataLoader(Stream(), batch_size=None),
    "samples": DataLoader(TensorDataset(X, Y), batch_size=None),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("name", DATA)
def test_all_parts_are_all_the_data_in_order(name, size):
    parts = dealt(DATA[name], size)
    assert [b for part_ in parts for b in contents(part_)] == contents(DATA[name])
    lengths = [len(part_) for part_ in parts]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 5, 128])
def test_a_data_set_is_cut_where_its_batches_are(size, batch_size):
    data = TensorDataset(X, Y)
    parts = dealt(data, size, batch_size=batch_size)
    assert [b for part_ in parts for b in contents(part_)] == X.tolist()
    starts = [sum(map(len, parts[:rank])) for rank in range(size)]
    assert all(start % batch_size == 0 for start in starts if start < len(X))


def test_what_cannot_be_dealt_out_is_refused():
    comm = SerialComm()
    shuffled = DataLoader(TensorDataset(X, Y), batch_size=2, shuffle=True)
    sampler = DistributedSampler(TensorDataset(X, Y), num_replicas=2, rank=0)
    with pytest.raises(ValueError, match="shuffle=False"):
        shard(shuffled, comm)
    with pytest.raises(TypeError, match="repeats samples"):
        shard(DataLoader(TensorDataset(X, Y), sampler=sampler), comm)
    with pytest.raises(TypeError, match="one batch"):
        shard((X, Y), comm)
    with pytest.raises(TypeError, match="cannot deal out"):
        shard(iter(BATCHES), comm)
    with pytest.raises(TypeError, match="cannot deal out"):
        shard({"x": X}, comm)


def test_lengths_that_differ_are_refused_on_all_ranks():
    def work(comm):
        shard(BATCHES[: 6 - comm.rank], comm)

    for error in raised_on_all(work, 2):
        assert "the number of batches is 5 on rank 1 and 6 on rank 0" in str(error)


def test_the_operator_of_a_data_set_is_the_same_dealt_out():
    data = TensorDataset(X, Y)
    serial = hessops.trace(
        hessian(small_model(), WEIGHTED, data, micro_batch_size=3), num_probes=3, rng=0
    )

    def work(comm):
        mine = shard(data, comm, batch_size=3)
        A = hessian(small_model(), copy.deepcopy(WEIGHTED), mine, micro_batch_size=3, comm=comm)
        return hessops.trace(A, num_probes=3, rng=0)

    for size in (2, 3):
        for found in run_on_ranks(work, size):
            assert found.value == serial.value
