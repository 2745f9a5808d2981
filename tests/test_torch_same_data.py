"""What shard deals out is one data set: other data, or another order, on one rank is refused on all."""

import random

import pytest

torch = pytest.importorskip("torch")

from doubles import run_on_ranks  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import BatchSampler, DataLoader, TensorDataset  # noqa: E402
from torch.utils.data.distributed import DistributedSampler  # noqa: E402
from torch_problems import build, integers, normal  # noqa: E402

import hessops_torch  # noqa: E402
from hessops.some_of import checksum_of, places  # noqa: E402

X, Y = normal(1, 65, 3, device="cpu"), integers(2, 3, 65, device="cpu")
DATA = TensorDataset(X, Y)
REVERSED = TensorDataset(X.flip(0), Y.flip(0))
OTHER = TensorDataset(X + 1, Y)


def batches(data):
    return list(zip(data.tensors[0].split(5), data.tensors[1].split(5), strict=True))


def loader(data):
    return DataLoader(data, batch_size=5)


def with_workers(data):
    return DataLoader(data, batch_size=5, num_workers=2)


def one_by_one(data):
    return DataLoader(data, batch_size=None)


class Stream:
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(batches(self.data))


def said_on_all(work, size, kind):
    """Return what every rank says when it raises; all of them must."""

    def guarded(comm):
        with pytest.raises(kind) as raised:
            work(comm)
        return str(raised.value)

    return run_on_ranks(guarded, size)


@pytest.mark.parametrize("other", [REVERSED, OTHER], ids=["order", "entries"])
@pytest.mark.parametrize("made", [lambda data: data, batches, loader, one_by_one, Stream])
def test_other_data_on_one_rank_is_refused_on_all(made, other):
    def work(comm):
        hessops_torch.shard(made(other if comm.rank == 1 else DATA), comm)

    for words in said_on_all(work, 3, ValueError):
        assert "the checksum of" in words
        assert "the data is not the same on all ranks" in words


def test_what_cannot_be_dealt_out_on_one_rank_is_refused_on_all():
    def work(comm):
        hessops_torch.shard(3 if comm.rank == 1 else DATA, comm)

    for words in said_on_all(work, 2, TypeError):
        assert "cannot deal out int" in words


def test_samples_are_read_by_a_worker_where_the_loader_has_some():
    read = hessops_torch.ranks.loader_like.read_some(with_workers(DATA), [0, 64])
    assert torch.equal(read[1][0], X[64])


class Drawing(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        torch.rand(1), random.random()
        return X[index], Y[index]


@pytest.mark.parametrize("made", [lambda data: data, loader])
def test_a_look_at_the_data_leaves_random_states_as_they_were(made):
    before = torch.get_rng_state(), random.getstate()
    run_on_ranks(lambda comm: hessops_torch.shard(made(Drawing()), comm), 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize("total", [0, 1, 2, 15, 16, 17, 18, 1000])
def test_places_are_the_first_the_last_and_some_between(total):
    found = places(total)
    assert found == places(total) == sorted(set(found))
    assert len(found) == min(total, 16)
    assert not found or (found[0], found[-1]) == (0, total - 1)


def test_a_checksum_tells_shapes_dtypes_and_entries_apart():
    items = [
        X,
        X.float(),
        X.reshape(-1),
        X.numpy(),
        X.bfloat16(),
        (X, Y),
        [Y, X],
        {"x": X},
        {"y": X},
        1,
        1.5,
        "1",
        object(),
        X.clone().requires_grad_(),
    ]
    assert len({checksum_of(item) for item in items}) == len(items) - 1
    assert checksum_of(items[-1]) == checksum_of(X)
    assert checksum_of(X.numpy().astype(object)) == checksum_of(-X.numpy().astype(object))


# Loaders that deal out by themselves.

MODEL = build(lambda: nn.Linear(3, 3), 0, "cpu")


def dealt(comm, data, sampler=None, **options):
    sampler = sampler or DistributedSampler(
        data, **{"num_replicas": comm.size, "rank": comm.rank, "shuffle": False, **options}
    )
    return DataLoader(data, batch_size=5, sampler=sampler)


def batched(comm, data):
    sampler = DistributedSampler(data, num_replicas=comm.size, rank=comm.rank, shuffle=False)
    return DataLoader(data, batch_sampler=BatchSampler(sampler, 5, drop_last=False))


def hessian(data, comm):
    return hessops_torch.hessian(MODEL, nn.CrossEntropyLoss(), data, comm=comm)


@pytest.mark.parametrize("made", [dealt, batched])
def test_a_sampler_that_repeats_samples_is_refused_where_it_is_given_to_an_operator(made):
    for words in said_on_all(lambda comm: hessian(made(comm, DATA), comm), 2, TypeError):
        assert "repeats samples so that ranks get equally many" in words
    for words in said_on_all(
        lambda comm: hessops_torch.shard(made(comm, DATA), comm), 2, TypeError
    ):
        assert "repeats samples so that ranks get equally many" in words


def test_a_sampler_that_repeats_none_deals_out_the_data():
    whole = hessops_torch.hessian(MODEL, nn.CrossEntropyLoss(), DATA).to_dense()
    for dense in run_on_ranks(lambda comm: hessian(dealt(comm, DATA), comm).to_dense(), 5):
        assert float((dense - whole).norm()) <= 1e-12 * float(whole.norm())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda comm: {"rank": 0}, "deals out part 0 of 5, and this is rank "),
        (lambda comm: {"seed": comm.rank == 1, "shuffle": True}, "DistributedSampler.seed is True"),
    ],
)
def test_samplers_that_do_not_fit_each_other_are_refused(options, words):
    def work(comm):
        hessian(dealt(comm, DATA, **options(comm)), comm)

    for said in said_on_all(work, 5, ValueError):
        assert words in said


def test_samplers_of_other_data_on_one_rank_are_refused():
    def work(comm):
        hessian(dealt(comm, REVERSED if comm.rank == 1 else DATA), comm)

    for words in said_on_all(work, 5, ValueError):
        assert "the data is not the same on all ranks" in words
