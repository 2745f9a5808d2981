"""Sparse matrices split by rows: the products of the whole matrix, for every split."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import scipy.sparse
from doubles import gathered
from hypothesis import given, settings
from hypothesis import strategies as st

import hessops
from hessops.gallery.grid import GridLaplacian

pytest.importorskip("mpi4py")

from row_doubles import on_row_ranks

import hessops_mpi
from hessops.partition import Partition, even_counts

DTYPES = ("float32", "float64", "complex64", "complex128")


@st.composite
def cases(draw, square=False):
    """Return a random sparse matrix and uneven splits of its rows and columns, some of them empty."""
    size = draw(st.integers(1, 4))
    rows = draw(st.integers(1, 14))
    columns = rows if square else draw(st.integers(1, 14))
    seed = draw(st.integers(0, 2**32 - 1))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    density = draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]))
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((rows, columns))
    if dtype.kind == "c":
        dense = dense + 1j * rng.standard_normal((rows, columns))
    dense = dense * (rng.random((rows, columns)) < density)
    matrix = scipy.sparse.csr_array(dense.astype(dtype))
    return matrix, draw(counts(rows, size)), draw(counts(columns, size)), rng


@st.composite
def counts(draw, dim, size):
    cuts = sorted(draw(st.lists(st.integers(0, dim), min_size=size - 1, max_size=size - 1)))
    return tuple(np.diff([0, *cuts, dim]).tolist())


def blocks(rng, dim, width, dtype):
    X = rng.standard_normal((dim, width))
    return (X + 1j * X[::-1] if dtype.kind == "c" else X).astype(dtype)


def part(X, counts, rank):
    first, last = Partition(counts).rows(rank)
    return X[first:last]


@settings(max_examples=120, deadline=None)
@given(cases(), st.integers(1, 3))
def test_products_have_the_bits_of_the_whole_matrix(case, width):
    matrix, row_counts, column_counts, rng = case
    X = blocks(rng, matrix.shape[1], width, matrix.dtype)
    Y = blocks(rng, matrix.shape[0], width, matrix.dtype)

    def work(comm):
        A = hessops_mpi.sharded_matrix(
            matrix, comm, row_counts=row_counts, column_counts=column_counts
        )
        assert A.shape == matrix.shape
        return (
            A.apply(part(X, column_counts, comm.rank)),
            A.apply_adjoint(part(Y, row_counts, comm.rank)),
        )

    products, adjoints = zip(*on_row_ranks(work, len(row_counts)), strict=True)
    assert np.array_equal(gathered(products), matrix @ X)
    expected = matrix.conj().T @ Y
    allowed = 20 * np.finfo(matrix.dtype).eps * (abs(matrix).T @ abs(Y))
    assert np.all(abs(gathered(adjoints) - expected) <= allowed)


@settings(max_examples=80, deadline=None)
@given(cases(square=True), st.booleans())
def test_structure_and_traces_are_those_of_the_whole_matrix(case, symmetric):
    matrix, row_counts, _, _ = case
    if symmetric:
        matrix = scipy.sparse.csr_array(matrix + matrix.conj().T)
    serial = hessops.aslinearoperator(matrix)

    def work(comm):
        A = hessops_mpi.sharded_matrix(matrix, comm, row_counts=row_counts)
        return A.structure, A.power_traces(), A.asymmetry

    for structure, traces, asymmetry in on_row_ranks(work, len(row_counts)):
        assert structure == serial.structure
        scale = np.linalg.norm(matrix.toarray().astype("complex128"))
        powers = scale ** np.arange(1, len(traces) + 1)
        assert len(traces) == len(serial.power_traces())
        assert np.all(abs(np.subtract(traces, serial.power_traces())) <= 1e-13 * 14 * powers)
        dense = matrix.toarray()
        assert asymmetry == (abs(dense - dense.conj().T).max(), abs(dense).max())


@settings(max_examples=60, deadline=None)
@given(cases())
def test_rows_may_come_from_rank_0_or_from_every_rank(case):
    matrix, row_counts, _, rng = case
    X = blocks(rng, matrix.shape[1], 2, matrix.dtype)
    columns = even_counts(matrix.shape[1], len(row_counts))
    if matrix.shape[0] == matrix.shape[1]:
        columns = row_counts

    def work(comm):
        own = part(matrix, row_counts, comm.rank)
        from_root = None if comm.rank else matrix
        local = part(X, columns, comm.rank)
        dealt = hessops_mpi.sharded_matrix(from_root, comm, row_counts=row_counts)
        given_rows = hessops_mpi.sharded_matrix(own, comm, local_rows=True)
        return dealt.apply(local), given_rows.apply(local)

    for products in zip(*on_row_ranks(work, len(row_counts)), strict=True):
        assert np.array_equal(gathered(products), matrix @ X)


def test_only_what_is_needed_travels():
    n, size = 40, 4
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))

    def work(comm):
        counting = hessops_mpi.CountingComm(comm)
        A = hessops_mpi.sharded_matrix(line, counting)
        counting.reset()
        A.apply(np.ones((A.domain.local_dim, 5)))
        return A.neighbours, counting.calls, counting.sent_bytes

    expected = [(1,), (0, 2), (1, 3), (2,)]
    for rank, (neighbours, calls, sent) in enumerate(on_row_ranks(work, size)):
        assert neighbours == expected[rank]
        assert calls == {"exchange": 1}
        assert sent == {"exchange": len(neighbours) * 5 * 8}


@pytest.mark.parametrize("shape", [(3,), (1,), (5, 4), (1, 6), (3, 4, 2)])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_rows_of_a_grid_laplacian(shape, size):
    whole = GridLaplacian(hessops.ArraySpace(int(np.prod(shape))), shape)

    def work(comm):
        A = hessops_mpi.sharded_laplacian(shape, comm)
        assert A.structure.positive_semidefinite
        return A.to_dense()

    assert np.array_equal(gathered(on_row_ranks(work, size)), whole.to_dense())


# What is refused, on every rank.


def refused(work, size, error, match):
    seen = []

    def guarded(comm):
        try:
            work(comm)
        except Exception as raised:
            seen.append(raised)

    on_row_ranks(guarded, size, timeout=5.0)
    assert len(seen) == size
    assert any(isinstance(one, error) for one in seen)
    assert all(match in str(one) for one in seen), seen


SQUARE = scipy.sparse.csr_array(np.diag(np.arange(1.0, 7.0)))


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda comm: (np.eye(6), {}), TypeError, "expected a SciPy sparse matrix, got ndarray"),
    (lambda comm: (SQUARE.astype(int), {}), TypeError, "a floating type first"),
    (lambda comm: (SQUARE * (np.nan if comm.rank == 1 else 1.0), {}), hessops.NonFiniteError,
     "entries that are NaN or infinite"),
    (lambda comm: (SQUARE, {"row_counts": [6]}), ValueError, "must be 3 numbers"),
    (lambda comm: (SQUARE, {"row_counts": [3, 3, 1]}), ValueError, "add up to 6"),
    (lambda comm: (SQUARE, {"column_counts": [7, -1, 0]}), ValueError, "column_counts="),
    (lambda comm: (SQUARE, {"row_counts": [[2, 2, 2], [1, 3, 2]][comm.rank == 2]}), ValueError,
     "row_counts is (1, 3, 2) on rank 2 and (2, 2, 2) on rank 0"),
    (lambda comm: (SQUARE * (1 + comm.rank), {}), ValueError, "checksum of the matrix is (6, 6, 6"),
    (lambda comm: (SQUARE if comm.rank else None, {}), ValueError, "the ranks [1, 2] of 3 were given"),
    (lambda comm: (None, {}), ValueError, "no rank of 3 was given a matrix; give the whole to rank 0"),
    (lambda comm: (SQUARE[: 5 + (comm.rank != 1)], {}), ValueError,
     "the shape of the matrix is (5, 6) on"),
    (lambda comm: (SQUARE.astype(["f8", "f4", "f8"][comm.rank]), {}), ValueError,
     "the dtype of the matrix is float32 on rank 1 and float64 on rank 0"),
    (lambda comm: (SQUARE if comm.rank else SQUARE + scipy.sparse.eye_array(6, k=5), {}), ValueError,
     "the number of entries of the matrix is 6 on"),
    (lambda comm: (SQUARE if comm.rank < 2 else None, {}), ValueError, "give the whole to rank 0"),
    (lambda comm: (SQUARE[: 2, : 4 + comm.rank], {"local_rows": True}), ValueError,
     "must be rows of one matrix"),
    (lambda comm: (SQUARE, {"self_adjoint": comm.rank == 1}), ValueError, "self_adjoint is "),
    (lambda comm: (SQUARE, {"local_rows": comm.rank == 1}), ValueError, "local_rows is "),
    (lambda comm: (SQUARE[:0], {"local_rows": True}), ValueError, "no rank has a row"),
    (lambda comm: (scipy.sparse.csr_array(np.triu(np.ones((6, 6)))), {"self_adjoint": True}),
     hessops.NotSelfAdjointError, "max |A - A^H| = 1"),
])  # fmt: skip
def test_bad_input_is_refused_on_every_rank(make, error, match):
    def work(comm):
        matrix, options = make(comm)
        hessops_mpi.sharded_matrix(matrix, comm, **options)

    refused(work, 3, error, match)


def test_a_communicator_that_cannot_send_rows_is_refused():
    class SumsAlone(hessops.SerialComm):
        size = 2

    with pytest.raises(TypeError, match="it has no exchange"):
        hessops_mpi.sharded_matrix(SQUARE, SumsAlone())


def test_one_process_needs_no_communicator_that_sends():
    A = hessops_mpi.sharded_matrix(SQUARE, hessops.SerialComm())
    assert np.array_equal(A.to_dense(), SQUARE.toarray())
    assert repr(A) == "ShardedMatrix(6x6, float64, self-adjoint, rows 0 to 6 on rank 0 of 1)"


# Every verb, unchanged.

N = 30
CUTS = [(N,), (10, 20), (7, 0, 23), (0, 1, 28, 1)]


def path(n):
    """Return a symmetric sparse matrix with a spectrum without ties."""
    rng = np.random.default_rng(8)
    off = rng.uniform(0.5, 1.5, n - 1)
    far = rng.uniform(0.1, 0.2, n - 7)
    return scipy.sparse.csr_array(
        scipy.sparse.diags_array(
            [far, off, np.linspace(3.5, 9, n), off, far], offsets=[-7, -1, 0, 1, 7]
        )
    )


def rectangle(m, n):
    rng = np.random.default_rng(9)
    dense = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.3)
    return scipy.sparse.csr_array(dense + np.eye(m, n) * np.linspace(1, 8, n))


def right_hand_side(A, columns):
    first, last = A.codomain.rows or (0, A.shape[0])
    return np.random.default_rng(3).standard_normal((A.shape[0], columns))[first:last]


def cg(A, **options):
    return hessops.cg(A, right_hand_side(A, 2), **options)


def minres(A, **options):
    return hessops.minres(A, right_hand_side(A, 2), **options)


VERBS = {
    "trace": (hessops.trace, {"num_probes": 6}),
    "xtrace": (hessops.trace, {"method": "xtrace", "max_products": 16}),
    "hutchpp": (hessops.trace, {"method": "hutchpp", "max_products": 15}),
    "xnystrace": (hessops.trace, {"method": "xnystrace", "max_products": 12}),
    "diagonal": (hessops.diagonal, {"method": "hutchinson", "num_probes": 6}),
    "xdiag": (hessops.diagonal, {"method": "xdiag", "max_products": 16}),
    "lanczos": (hessops.lanczos, {"num_steps": 8}),
    "lanczos, partial": (hessops.lanczos, {"num_steps": 8, "reorthogonalize": "partial"}),
    "eigsh": (hessops.eigsh, {"k": 3}),
    "lobpcg": (hessops.lobpcg, {"k": 2, "tol": 1e-8}),
    "power": (hessops.power_iteration, {"tol": 1e-8}),
    "spectral_density": (hessops.spectral_density, {"num_probes": 3, "num_steps": 8}),
    "logdet": (hessops.logdet, {"num_probes": 4}),
    "trace_function": (hessops.trace_function, {"f": "exp", "num_probes": 4}),
    "nystrom": (hessops.nystrom, {"rank": 8}),
    "randomized_eigh": (hessops.randomized_eigh, {"k": 4}),
    "frobenius_norm": (hessops.frobenius_norm, {"num_probes": 6}),
    "spectral_norm": (hessops.spectral_norm, {}),
    "cg": (cg, {"tol": 1e-8}),
    "minres": (minres, {"tol": 1e-8}),
}
OF_RECTANGLES = {
    "svds": (hessops.svds, {"k": 3}),
    "randomized_svd": (hessops.randomized_svd, {"k": 4}),
    "frobenius_norm": (hessops.frobenius_norm, {"num_probes": 6}),
    "spectral_norm": (hessops.spectral_norm, {}),
}
NUMBERS = (
    "value", "standard_error", "interval", "alphas", "betas", "eigenvalues", "S", "nodes", "weights",
    "singular_values",
)  # fmt: skip
LONG = {"values", "standard_errors", "X", "solution"}


def assert_same_answer(serial, results):
    """Hold the numbers of every rank, and the rows of all together, against the serial ones."""
    names = {field.name for field in dataclasses.fields(serial)} & {*NUMBERS, *LONG}
    assert names
    for name in names & LONG:
        expected = getattr(serial, name)
        found = gathered([getattr(result, name) for result in results])
        assert np.linalg.norm(found - expected) <= 1e-10 * np.linalg.norm(expected), name
    for found in results:
        assert found.num_products == serial.num_products
        for name in names - LONG:
            mine, other = np.array(getattr(found, name)), np.array(getattr(serial, name))
            assert mine.shape == other.shape
            # Errors are differences of numbers that agree: they have fewer digits in common.
            digits = 1e-8 if name in {"standard_error", "interval"} else 1e-12
            assert np.linalg.norm(mine - other) <= digits * np.linalg.norm(other), name


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("name", VERBS)
def test_every_verb_gives_the_serial_answer(name, cuts):
    verb, options = VERBS[name]
    matrix = path(N)

    def work(comm):
        A = hessops_mpi.sharded_matrix(matrix, comm, row_counts=cuts, positive_semidefinite=True)
        return verb(A, rng=1, **options) if verb not in {cg, minres} else verb(A, **options)

    serial = hessops.aslinearoperator(matrix, positive_semidefinite=True)
    run = partial(verb, **options) if verb in {cg, minres} else partial(verb, rng=1, **options)
    expected = run(serial)
    assert_same_answer(expected, on_row_ranks(work, len(cuts)))


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("name", OF_RECTANGLES)
def test_every_verb_of_rectangles_gives_the_serial_answer(name, cuts):
    verb, options = OF_RECTANGLES[name]
    matrix = rectangle(N, 12)

    def work(comm):
        A = hessops_mpi.sharded_matrix(matrix, comm, row_counts=cuts)
        return verb(A, rng=1, **options)

    serial = verb(hessops.aslinearoperator(matrix), rng=1, **options)
    assert_same_answer(serial, on_row_ranks(work, len(cuts)))


@pytest.mark.parametrize("kind", ["rademacher", "normal", "sphere"])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_probes_have_the_bits_of_whole_ones(kind, cuts):
    stream = hessops.random.Stream(5)

    def work(comm):
        A = hessops_mpi.sharded_matrix(path(N), comm, row_counts=cuts)
        return A.domain.probes(stream, range(3), kind)

    found = gathered(on_row_ranks(work, len(cuts)))
    expected = hessops.ArraySpace(N).probes(stream, range(3), kind)
    if kind == "sphere":
        # Scaled by a norm, which is summed over ranks.
        assert np.allclose(found, expected, rtol=4e-16, atol=0)
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_operators_of_split_matrices(cuts):
    matrix = path(N)
    dense = matrix.toarray()

    def work(comm):
        A = hessops_mpi.sharded_matrix(matrix, comm, row_counts=cuts)
        T = hessops_mpi.sharded_matrix(rectangle(N, 12), comm, row_counts=cuts)
        assert hessops.check_operator(A, rng=0).passed
        assert hessops.check_operator(T, rng=0).passed
        return (2 * A @ A - 0.5 * hessops.Identity(A.domain)).to_dense(), (T.H @ T).to_dense()

    squares, grams = zip(*on_row_ranks(work, len(cuts)), strict=True)
    assert np.allclose(gathered(squares), 2 * dense @ dense - 0.5 * np.eye(N), rtol=1e-13)
    tall = rectangle(N, 12).toarray()
    assert np.allclose(gathered(grams), tall.T @ tall, rtol=1e-13, atol=1e-12)


def test_the_laplacian_of_other_points_on_another_rank_is_refused():
    def work(comm):
        hessops_mpi.sharded_laplacian((3, 4 + comm.rank), comm)

    refused(work, 2, ValueError, "points is (3, 5) on rank 1 and (3, 4) on rank 0")


def test_what_lies_together_is_not_copied():
    def work(comm):
        A = hessops_mpi.sharded_laplacian((8, 5), comm)
        return np.shares_memory(A.block._interior.data, A._own.data)

    assert all(on_row_ranks(work, 2))
