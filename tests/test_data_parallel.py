"""Sums over ranks of operators that each has alone, on ranks that are threads."""

from itertools import pairwise

import numpy as np
import pytest
from doubles import ThreadComm, run_on_ranks
from hypothesis import given
from hypothesis import strategies as st
from strategies import norm, normal

import hessops
from hessops import ArraySpace, FiniteSum, LinearOperator, NonFiniteError, aslinearoperator
from hessops.comm import SerialComm, share
from hessops.operators.shared_out import SharedOut
from hessops.together import raise_together, require_same

N = 9
RTOL = 1e-13


class Counted:
    """A communicator that counts what is asked of it."""

    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.calls = []

    def all_reduce(self, array):
        self.calls.append(array.shape)
        return self.comm.all_reduce(array)

    def broadcast(self, value):
        return self.comm.broadcast(value)


class Failing(LinearOperator):
    def __init__(self, error):
        super().__init__(ArraySpace(N))
        self.error = error

    def _apply(self, X):
        if self.error is not None:
            raise self.error
        return X


@given(count=st.integers(0, 40), size=st.integers(1, 9), multiple=st.integers(1, 7))
def test_shares_are_neighbours_in_order_and_nearly_equal(count, size, multiple):
    comms = [SerialComm() for _ in range(size)]
    for rank, comm in enumerate(comms):
        comm.rank, comm.size = rank, size
    shares = [share(comm, count, multiple) for comm in comms]
    assert [index for mine in shares for index in mine] == list(range(count))
    assert all(mine.start % multiple == 0 for mine in shares if mine)
    lots = [-(-len(mine) // multiple) for mine in shares]
    assert max(lots) - min(lots) <= 1


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_products_are_those_of_the_sum_by_one_reduction(size, dtype):
    matrices = normal(0, (size, N, N), dtype)
    X = normal(1, (N, 4), dtype)

    def work(comm: ThreadComm):
        counted = Counted(comm)
        A = hessops.data_parallel(matrices[comm.rank], counted)
        counted.calls.clear()
        products = A @ X, A.H @ X, A @ X[:, 0]
        assert len(counted.calls) == (3 if size > 1 else 0)
        return products

    whole = matrices.sum(axis=0)
    tolerance = 100 * np.finfo(dtype).eps
    for products in run_on_ranks(work, size):
        for found, expected in zip(
            products, (whole @ X, whole.conj().T @ X, whole @ X[:, 0]), strict=True
        ):
            assert found.dtype == np.dtype(dtype)
            assert norm(found - expected) <= tolerance * norm(expected)


@given(weights=st.lists(st.floats(0, 1e6), min_size=3, max_size=3))
def test_means_weigh_by_their_data(weights):
    matrices = normal(0, (3, N, N))

    def work(comm):
        return hessops.data_parallel(
            matrices[comm.rank], comm, weight=weights[comm.rank]
        ).to_dense()

    if sum(weights) == 0:
        with pytest.raises(ValueError, match="add up to 0"):
            run_on_ranks(work, 3)
        return
    mean = np.average(matrices, axis=0, weights=weights)
    for dense in run_on_ranks(work, 3):
        assert norm(dense - mean) <= RTOL * norm(matrices)


@pytest.mark.parametrize("cuts", [(0, 6), (0, 2, 6), (0, 1, 3, 6), (0, 2, 4, 5, 6)])
def test_sums_of_sums_have_the_terms_of_all(cuts):
    matrices = normal(0, (6, N, N))
    parts = [aslinearoperator(matrix) for matrix in matrices]
    serial = hessops.trace(FiniteSum(parts), num_probes=5, rng=0)

    def work(comm):
        first, last = list(pairwise(cuts))[comm.rank]
        A = hessops.data_parallel(FiniteSum(parts[first:last]), comm)
        return A, hessops.trace(A, num_probes=5, rng=0)

    for A, trace in run_on_ranks(work, len(cuts) - 1):
        assert trace.value == serial.value
        assert trace.standard_error == serial.standard_error
        assert repr(A) == f"DataParallel({N}x{N}, float64, general, FiniteSum of every rank)"


def test_operators_that_are_no_sums_get_one_probe_however_many_ranks_there_are():
    matrix = normal(0, (N, N))
    serial = hessops.trace(matrix, num_probes=5, rng=0)

    def work(comm):
        return hessops.trace(hessops.data_parallel(matrix / comm.size, comm), num_probes=5, rng=0)

    for size in (2, 3):
        for trace in run_on_ranks(work, size):
            assert trace.value == pytest.approx(serial.value, rel=1e-12)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NonFiniteError("not a number"), NonFiniteError),
        (ValueError("no"), ValueError),
        (MemoryError("too little"), (MemoryError, RuntimeError)),
    ],
)
def test_an_error_on_one_rank_is_an_error_on_all(error, kind):
    said = []

    def work(comm):
        A = hessops.data_parallel(Failing(error if comm.rank == 2 else None), comm)
        with pytest.raises(kind) as raised:
            A @ np.ones(N)
        said.append((comm.rank, str(raised.value)))
        # And they go on together.
        return hessops.data_parallel(np.eye(N), comm) @ np.ones(N)

    for product in run_on_ranks(work, 3):
        assert np.array_equal(product, 3 * np.ones(N))
    texts = dict(said)
    assert texts[2] == str(error)
    assert texts[0] == texts[1]
    assert texts[0].startswith("rank 2 of 3: ")
    assert str(error) in texts[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda comm: (np.eye(N + comm.rank), None),
            "the shape of the operator is (10, 10) on rank 1",
        ),
        (lambda comm: (np.eye(N, dtype=["f4", "f8"][comm.rank]), None), "its dtype is float64"),
        (lambda comm: (np.eye(N), [None, 1.0][comm.rank]), "the weight is given on rank 1"),
        (lambda comm: (np.eye(N), [1.0, -1.0][comm.rank]), "must not be negative"),
        (lambda comm: ([np.eye(N), "matrix"][comm.rank], None), "rank 1|str"),
        (lambda comm: (split(comm), None), "split over ranks"),
    ],
)
def test_what_does_not_fit_together_is_refused_on_all_ranks(make, words):
    raised = []

    def work(comm):
        local, weight = make(comm)
        try:
            hessops.data_parallel(local, comm, weight=weight)
        except (ValueError, TypeError) as error:
            raised.append(str(error))

    run_on_ranks(work, 2)
    assert len(raised) == 2
    assert any(word in raised[0] + raised[1] for word in words.split("|"))


def split(comm):
    return hessops.Identity(ArraySpace(N, comm=comm, rows=[(0, 4), (4, N)][comm.rank]))


def test_facts_that_agree_cost_no_error_and_one_process_no_call():
    def work(comm):
        require_same(comm, {"size": 3, "name": "a"}, "hint")
        raise_together(comm, None)
        return True

    assert run_on_ranks(work, 3) == [True] * 3
    raise_together(SerialComm(), None)
    with pytest.raises(KeyError):
        raise_together(SerialComm(), KeyError("own"))


def test_calls_with_other_options_are_refused_on_all_ranks():
    def work(comm):
        A = hessops.data_parallel(np.diag(np.arange(1.0, 10.0)), comm)
        with pytest.raises(ValueError, match="num_steps is 4 on rank 1 and 3 on rank 0"):
            hessops.lanczos(A, num_steps=3 + comm.rank, rng=0)
        with pytest.raises(ValueError, match="the call is eigsh on rank 1 and lanczos on rank 0"):
            hessops.lanczos(A, num_steps=3, rng=0) if comm.rank == 0 else hessops.eigsh(A, 1, rng=0)
        return hessops.lanczos(A, num_steps=3, rng=0).alphas

    first, second = run_on_ranks(work, 2)
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda rank: normal(rank, (N, N)), "has another product with the operator than rank 0"),
        (lambda rank: np.eye(N + rank), "the shape of the operator is"),
        (lambda rank: Failing(ValueError("broken here") if rank == 1 else None), "broken here"),
    ],
)
def test_operators_that_differ_are_not_shared_out(make, words):
    said = []

    def work(comm):
        with pytest.raises(ValueError, match=words) as raised:
            SharedOut(aslinearoperator(make(comm.rank)), comm)
        said.append(raised.value)

    run_on_ranks(work, 3, timeout=5.0)
    assert len(said) == 3


@pytest.mark.parametrize("size", [1, 2, 3, 12])
@pytest.mark.parametrize("sparse", [False, True])
def test_rows_of_a_matrix_are_shared_out(size, sparse):
    matrix = normal(0, (N, N))
    matrix = matrix + matrix.T
    given_ = matrix
    if sparse:
        from scipy.sparse import csc_array

        given_ = csc_array(matrix)
    operator = aslinearoperator(given_, self_adjoint=True)
    X = normal(1, (N, 3))

    def work(comm):
        A = SharedOut(operator, comm)
        assert repr(A) == repr(operator)
        assert A.power_traces() == operator.power_traces()
        return A @ X

    for product in run_on_ranks(work, size):
        assert norm(product - matrix @ X) <= RTOL * norm(matrix @ X)
