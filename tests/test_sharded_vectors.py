"""Operators on whole vectors made ones on split vectors: the same numbers, a part of a basis each."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import scipy.sparse
from doubles import gathered, run_on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import norm, normal, with_spectrum

import hessops

pytest.importorskip("mpi4py")

from row_doubles import on_row_ranks
from test_sharded_matrix import counts, part

import hessops_mpi
from hessops.partition import even_counts

N = 26
MATRIX = with_spectrum(np.concatenate([[-9.0, 7.0, 5.0], np.linspace(-2.0, 2.0, N - 3)]), 0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.sampled_from(["float32", "float64", "complex128"]),
    st.booleans(),
    st.data(),
)
def test_products_are_rows_of_the_whole(n, dtype, share, data):
    size = data.draw(st.integers(1, 4))
    split = data.draw(counts(n, size))
    matrices = [normal(seed, (n, n), dtype) for seed in range(size)]
    total = sum(matrices[1:], matrices[0]) if share else matrices[0]
    X = normal(9, (n, 2), dtype)

    def work(comm):
        own = hessops.aslinearoperator(matrices[comm.rank if share else 0])
        A = hessops_mpi.sharded(own, comm, share=share, row_counts=split)
        local = part(X, split, comm.rank)
        return A.apply(local), A.apply_adjoint(local)

    products, adjoints = zip(*on_row_ranks(work, size), strict=True)
    allowed = 50 * np.finfo(dtype).eps * sum(map(norm, matrices)) * norm(X)
    assert norm(gathered(products) - total @ X) <= allowed
    assert norm(gathered(adjoints) - total.conj().T @ X) <= allowed


def test_rectangles():
    matrix, X, Y = normal(0, (7, 5)), normal(1, (5, 2)), normal(2, (7, 2))

    def work(comm):
        A = hessops_mpi.sharded(hessops.aslinearoperator(matrix), comm)
        return (
            A.apply(part(X, even_counts(5, 3), comm.rank)),
            A.apply_adjoint(part(Y, even_counts(7, 3), comm.rank)),
        )

    products, adjoints = zip(*on_row_ranks(work, 3), strict=True)
    assert norm(gathered(products) - matrix @ X) < 1e-13
    assert norm(gathered(adjoints) - matrix.T @ Y) < 1e-13


@pytest.mark.parametrize("runner", [on_row_ranks, run_on_ranks], ids=["rows", "sums only"])
def test_a_communicator_of_sums_alone_serves_too(runner):
    def work(comm):
        A = hessops_mpi.sharded(hessops.aslinearoperator(MATRIX), comm)
        B = hessops_mpi.sharded(
            hessops.aslinearoperator(MATRIX / comm.size, self_adjoint=True), comm, share=True
        )
        return hessops.eigsh(A, 3, rng=0).eigenvalues, hessops.eigsh(B, 3, rng=0).eigenvalues

    expected = hessops.eigsh(MATRIX, 3, rng=0).eigenvalues
    for whole, shares in runner(work, 3):
        assert norm(whole - expected) <= 1e-12 * norm(expected)
        assert norm(shares - expected) <= 1e-12 * norm(expected)


VERBS = {
    "trace": partial(hessops.trace, num_probes=6),
    "diagonal": partial(hessops.diagonal, num_probes=6),
    "lanczos": partial(hessops.lanczos, num_steps=8),
    "spectral_density": partial(hessops.spectral_density, num_probes=3, num_steps=8),
    "randomized_eigh": partial(hessops.randomized_eigh, k=4),
}


@pytest.mark.parametrize("name", VERBS)
def test_verbs_give_the_serial_numbers(name):
    serial = VERBS[name](hessops.aslinearoperator(MATRIX, self_adjoint=True), rng=2)

    def work(comm):
        own = hessops.aslinearoperator(MATRIX, self_adjoint=True)
        return VERBS[name](hessops_mpi.sharded(own, comm, row_counts=(10, 0, 16)), rng=2)

    for result in on_row_ranks(work, 3):
        for field in ("value", "eigenvalues", "alphas", "nodes"):
            if hasattr(serial, field):
                found, expected = np.array(getattr(result, field)), np.array(getattr(serial, field))
                assert norm(found - expected) <= 1e-12 * norm(expected)


def test_what_is_split_already_is_refused():
    def work(comm):
        A = hessops_mpi.sharded(hessops.Identity(6), comm)
        with pytest.raises(ValueError, match="are split over ranks already"):
            hessops_mpi.sharded(A, comm)
        with pytest.raises(ValueError, match="add up to 6"):
            hessops_mpi.sharded(hessops.Identity(6), comm, row_counts=(1, 2))

    on_row_ranks(work, 2)


def test_other_operators_on_another_rank_are_refused():
    def work(comm):
        with pytest.raises(ValueError, match="the shape of the operator is"):
            hessops_mpi.sharded(hessops.Identity(6 + comm.rank), comm)
        with pytest.raises(ValueError, match="share is"):
            hessops_mpi.sharded(hessops.Identity(6), comm, share=comm.rank == 1)

    on_row_ranks(work, 2, timeout=5.0)


def test_the_basis_is_divided_among_the_ranks():
    def work(comm):
        A = hessops_mpi.sharded(hessops.aslinearoperator(MATRIX, self_adjoint=True), comm)
        return hessops.lanczos(A, num_steps=10, rng=0).basis.nbytes

    sizes = on_row_ranks(work, 4)
    assert sum(sizes) == N * 10 * 8
    assert max(sizes) == 7 * 10 * 8


# The Hessian of a network.


def small_problem(torch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
    ).double()
    X = torch.randn(12, 5, dtype=torch.float64)
    y = torch.randn(12, 2, dtype=torch.float64)
    return model, torch.nn.MSELoss(), [(X[:7], y[:7]), (X[7:], y[7:])]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_hessian_of_a_network_on_split_vectors(size):
    torch = pytest.importorskip("torch")
    import copy

    import hessops_torch

    model, loss, data = small_problem(torch)
    serial = hessops_torch.hessian(model, loss, data)
    expected = hessops.eigsh(serial, 3, rng=1).eigenvalues
    traces = hessops.trace(serial, num_probes=6, stratify=False, rng=1)

    def work(comm):
        H = hessops_mpi.sharded(hessops_torch.hessian(copy.deepcopy(model), loss, data), comm)
        pairs = hessops.eigsh(H, 3, rng=1)
        assert pairs.eigenvectors.shape == (H.domain.local_dim, 3)
        return pairs.eigenvalues, hessops.trace(H, num_probes=6, rng=1)

    for values, trace in on_row_ranks(work, size):
        assert norm(values - expected) <= 1e-12 * norm(expected)
        assert trace.value == pytest.approx(traces.value, rel=1e-12)
        for name, section in traces.sections.items():
            assert trace.sections[name].value == pytest.approx(section.value, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("size", [2, 3])
def test_split_data_and_split_vectors_of_a_network(size):
    torch = pytest.importorskip("torch")
    import copy

    import hessops_torch

    model, loss, data = small_problem(torch)
    expected = hessops.eigsh(hessops_torch.hessian(model, loss, data), 3, rng=1).eigenvalues

    def work(comm):
        own = copy.deepcopy(model)
        shard = hessops_mpi.shard(data, comm)
        whole = hessops_torch.hessian(own, loss, shard, comm=comm)
        values = [hessops.eigsh(hessops_mpi.sharded(whole, comm), 3, rng=1).eigenvalues]
        if size == len(data):
            alone = hessops_torch.hessian(own, loss, shard)
            mean = hessops_mpi.data_parallel(alone, comm, weight=len(shard[0][0]))
            split = hessops_mpi.sharded(mean, comm)
            assert split.share
            values.append(hessops.eigsh(split, 3, rng=1).eigenvalues)
        return values

    for values in on_row_ranks(work, size):
        for found in values:
            assert norm(found - expected) <= 1e-12 * norm(expected)


def test_an_error_in_one_share_is_told_to_all():
    class Broken(hessops.LinearOperator):
        def _apply(self, X):
            raise MemoryError("no room")

    def work(comm):
        own = hessops.Identity(6)
        if comm.rank == 1:
            own = Broken(own.domain, structure=own.structure)
        A = hessops_mpi.sharded(own, comm, share=True)
        with pytest.raises((MemoryError, RuntimeError), match="no room"):
            A.apply(np.ones((2, 1)))

    on_row_ranks(work, 3, timeout=5.0)


SAVED = {
    "eigsh": lambda A: hessops.eigsh(A, 2, rng=0),
    "lobpcg": lambda A: hessops.lobpcg(A, 2, rng=0),
    "power_iteration": lambda A: hessops.power_iteration(A, max_steps=500, rng=0),
    "svds": lambda A: hessops.svds(A, 2, rng=0),
    "lanczos": lambda A: hessops.lanczos(A, num_steps=3, rng=0),
    "matrix_function": lambda A: hessops.matrix_function(A, "exp", A.domain.unit_vectors(0, 2)),
    "minres": lambda A: hessops.minres(A, A.domain.unit_vectors(0, 1)[:, 0]),
    "diagonal": lambda A: hessops.diagonal(A, num_probes=3, rng=0),
    "spectrum": lambda A: hessops.spectrum(A, budget=30, rng=0),
    "randomized_svd": lambda A: hessops.randomized_svd(A, 3, rng=0),
    "randomized_eigh": lambda A: hessops.randomized_eigh(A, 3, rng=0),
    "nystrom": lambda A: hessops.nystrom(
        hessops.aslinearoperator(A @ A, positive_semidefinite=True), 3, rng=0
    ),
}


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("verb", SAVED)
def test_a_part_of_the_vectors_is_not_saved_and_all_of_them_are(verb, tmp_path):
    whole = hessops.aslinearoperator(MATRIX, self_adjoint=True)
    serial = SAVED[verb](whole)
    assert serial.rows_here is None
    names = [
        f.name
        for f in dataclasses.fields(serial)
        if f.metadata.get("long") and np.shape(getattr(serial, f.name))[:1] == (N,)
    ]
    assert names

    def work(comm):
        A = hessops.sharded(whole, comm)
        result = SAVED[verb](A)
        assert result.rows_here == (A.domain.local_dim, N)
        path = tmp_path / f"{verb}{comm.rank}.npz"
        with pytest.raises(ValueError, match=rf"{names[0]}.*: {A.domain.local_dim} of {N} rows"):
            result.save(path)
        assert not path.exists()
        parts = {name: hessops.gathered(A.domain, getattr(result, name)) for name in names}
        dataclasses.replace(result, **parts, rows_here=None).save(path)
        return hessops.load(path)

    for loaded in on_row_ranks(work, 3):
        assert loaded.rows_here is None
        for name in names:
            assert getattr(loaded, name).shape == getattr(serial, name).shape


def test_results_without_vectors_are_saved(tmp_path):
    def work(comm):
        A = hessops.sharded(MATRIX, comm)
        path = tmp_path / f"{comm.rank}.npz"
        hessops.lanczos(A, num_steps=3, reorthogonalize=False, rng=0).save(path)
        return hessops.load(path)

    assert [loaded.basis for loaded in on_row_ranks(work, 2)] == [None, None]


@pytest.mark.parametrize("runner", [run_on_ranks, on_row_ranks])
@pytest.mark.parametrize("shape", [(7,), (7, 2), (7, 0)])
def test_vectors_are_gathered(runner, shape):
    vectors = normal(0, shape)
    split = [0, 3, 4]

    def work(comm):
        first, last = sum(split[: comm.rank]), sum(split[: comm.rank + 1])
        space = hessops.ArraySpace(7, comm=comm, rows=(first, last))
        return hessops.gathered(space, vectors[first:last])

    for found in runner(work, 3):
        assert np.array_equal(found, vectors)


def test_what_cannot_be_gathered_is_refused_on_all_ranks():
    def work(comm):
        space = hessops.sharded(MATRIX, comm).domain
        rows = space.zeros(2)
        with pytest.raises(ValueError, match=f"expected {N // 2} rows"):
            hessops.gathered(space, rows[comm.rank :])
        with pytest.raises(ValueError, match="the shape of the vectors is"):
            hessops.gathered(space, rows[:, comm.rank :])
        with pytest.raises(TypeError, match="expected an array, got list"):
            hessops.gathered(space, rows if comm.rank else [1.0])

    on_row_ranks(work, 2, timeout=5.0)


def test_whole_vectors_are_gathered_already():
    X = normal(0, (3, 2))
    assert hessops.gathered(hessops.ArraySpace(3), X) is X


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array, hessops.aslinearoperator])
def test_whatever_is_an_operator_is_split(kind):
    X = normal(1, (N, 2))

    def work(comm):
        return hessops.sharded(kind(MATRIX), comm).apply(part(X, even_counts(N, 2), comm.rank))

    assert norm(gathered(on_row_ranks(work, 2)) - MATRIX @ X) <= 1e-13 * norm(MATRIX) * norm(X)


def test_what_is_no_operator_on_one_rank_is_refused_on_all():
    def work(comm):
        with pytest.raises(TypeError):
            hessops.sharded("words" if comm.rank else MATRIX, comm)

    on_row_ranks(work, 2, timeout=5.0)
