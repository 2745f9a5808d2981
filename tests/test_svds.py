"""Singular triplets: those of NumPy, for every shape, rank and precision, with errors that hold."""

import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
from doubles import ShardedRectangle, gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIBRARIES, Place, normal, orthonormal, places
from test_golub_kahan import with_singular_values

import hessops
from hessops import ConvergenceWarning, NonFiniteError, aslinearoperator
from hessops.arrays import dtype_name, to_numpy
from hessops.cli.matrix_file import read_matrix

DATA = os.environ.get("HESSOPS_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
MATRICES = Path(DATA) / "matrices"


def exact_values(matrix, k, which):
    values = np.linalg.svd(matrix.astype(np.complex128), compute_uv=False)
    return values[:k] if which == "LM" else values[::-1][:k]


def true_residuals(matrix, result):
    U, V = to_numpy(result.left_vectors), to_numpy(result.right_vectors)
    A = matrix.astype(np.complex128)
    first = np.linalg.norm(A @ V - U * result.singular_values, axis=0)
    return np.hypot(first, np.linalg.norm(A.conj().T @ U - V * result.singular_values, axis=0))


@st.composite
def problems(draw):
    """Tall, wide, square, a single row; of full rank or not; with copies or not; every k."""
    place = draw(places())
    m, n = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rank = draw(st.integers(0, min(m, n)))
    seed = draw(st.integers(0, 1000))
    if draw(st.booleans()):
        matrix = normal(seed, (m, n), place.dtype)
    else:
        levels = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
        matrix = with_singular_values(levels, m, n, seed, place.dtype)
    k = draw(st.integers(1, min(m, n)))
    max_basis = draw(st.sampled_from([None, min(k + 3, m, n)]))
    return place, matrix, k, draw(st.sampled_from(["LM", "SM"])), max_basis, seed


@given(problems())
def test_the_triplets_are_those_of_numpy(problem):
    place, matrix, k, which, max_basis, seed = problem
    result = hessops.svds(
        place.put(matrix), k, which=which, max_basis=max_basis, rng=seed, max_steps=3000
    )
    size = max(np.linalg.norm(matrix), 1e-300)
    allowed = 100 * len(matrix) * place.eps * size + 4 * place.eps ** (2 / 3) * size
    assert result.converged
    assert "no copies of multiple singular values are missing" in result.status or not (
        np.linalg.matrix_rank(matrix) < k
    )
    exact = exact_values(matrix, min(matrix.shape), "LM")
    distance = np.abs(result.singular_values[:, None] - exact[None, :]).min(axis=1)
    assert np.all(distance <= result.error_bounds + 40 * place.eps * size)
    if "would appear once" not in result.status:
        np.testing.assert_allclose(
            result.singular_values, exact_values(matrix, k, which), atol=allowed
        )
    for vectors in (result.left_vectors, result.right_vectors):
        assert dtype_name(vectors.dtype) == place.dtype
        host = to_numpy(vectors).astype(np.complex128)
        assert host.shape[1] == k
        assert np.abs(host.conj().T @ host - np.eye(k)).max() <= 500 * place.eps
    np.testing.assert_allclose(
        true_residuals(matrix, result), result.residual_norms, atol=300 * place.eps * size
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_array_libraries_agree(library):
    matrix = normal(0, (40, 25))
    place = Place(library, "float64")
    result = hessops.svds(place.put(matrix), 4, rng=3, check_completeness=True)
    serial = hessops.svds(matrix, 4, rng=3, check_completeness=True)
    np.testing.assert_allclose(result.singular_values, serial.singular_values, atol=1e-12)
    assert (result.num_products, result.status) == (serial.num_products, serial.status)


# --- invariance -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("max_basis", [None, 10])
def test_the_scale_of_the_operator_changes_nothing(scale, dtype, max_basis):
    matrix = with_singular_values(np.linspace(0, 5, 40) ** 2, 50, 40)
    one, scaled = (
        hessops.svds((c * matrix).astype(dtype), 3, max_basis=max_basis, rng=0) for c in (1, scale)
    )
    assert scaled.converged
    assert abs(scaled.num_products - one.num_products) <= 4
    atol = 1000 * 25 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(scaled.singular_values / scale, one.singular_values, atol=atol)


@given(st.integers(0, 1000), st.sampled_from(["float64", "complex128"]))
def test_unitary_factors_change_no_singular_value(seed, dtype):
    matrix = normal(seed, (15, 10), dtype)
    turned = (
        orthonormal(seed + 1, (15, 15), dtype) @ matrix @ orthonormal(seed + 2, (10, 10), dtype)
    )
    one, other = (hessops.svds(A, 3, rng=seed) for A in (matrix, turned))
    np.testing.assert_allclose(one.singular_values, other.singular_values, atol=1e-12)


@pytest.mark.parametrize("which", ["LM", "SM"])
@pytest.mark.parametrize("shape", [(20, 13), (13, 20)])
def test_the_adjoint_swaps_the_vectors(shape, which):
    matrix = normal(1, shape, "complex128")
    one, other = (hessops.svds(A, 3, which=which, rng=4) for A in (matrix, matrix.conj().T))
    # Both work on the tall one of the two, with the same start.
    np.testing.assert_allclose(one.singular_values, other.singular_values, atol=1e-14)
    np.testing.assert_allclose(one.left_vectors, other.right_vectors, atol=1e-12)
    np.testing.assert_allclose(one.right_vectors, other.left_vectors, atol=1e-12)
    assert one.num_products == other.num_products


@pytest.mark.parametrize("options", [{}, {"max_basis": 6}, {"check_completeness": True}])
@pytest.mark.parametrize("shape", [(14, 9), (9, 14)])
def test_split_vectors_give_what_whole_ones_do(shape, options):
    matrix = normal(2, shape, "complex128")
    serial = hessops.svds(matrix, 2, tol=1e-8, rng=5, **options)
    for rows, columns in zip(splits(shape[0]), splits(shape[1]), strict=True):

        def work(comm, rows=rows, columns=columns):
            A = ShardedRectangle(matrix, comm, rows[comm.rank], columns[comm.rank])
            return hessops.svds(A, 2, tol=1e-8, rng=5, **options)

        results = run_on_ranks(work, len(rows))
        for result in results:
            np.testing.assert_allclose(result.singular_values, serial.singular_values, atol=1e-12)
            assert (result.num_products, result.status) == (serial.num_products, serial.status)
        for name in ("left_vectors", "right_vectors"):
            found = gathered([getattr(result, name) for result in results])
            overlap = np.abs(np.sum(found.conj() * getattr(serial, name), axis=0))
            np.testing.assert_allclose(overlap, 1, atol=1e-12)


# --- multiple singular values, and what was missed -------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_basis", [None, 9])
def test_copies_are_found_once_the_krylov_space_is_exhausted(seed, max_basis):
    values = np.repeat([3.0, 2.0, 1.0], [3, 4, 5])
    matrix = with_singular_values(values, 60, 50, seed)
    result = hessops.svds(matrix, 6, max_basis=max_basis, rng=seed)
    np.testing.assert_allclose(result.singular_values, values[:6], atol=1e-10)
    assert "no copies of multiple singular values are missing" in result.status


@pytest.mark.parametrize("which", ["LM", "SM"])
@pytest.mark.parametrize("seed", range(3))
def test_a_check_finds_copies_that_a_single_vector_cannot_see(which, seed):
    values = np.concatenate([np.linspace(3, 4, 150), [6.0] * 3, [1.0] * 3])
    matrix = with_singular_values(values, 170, 156, seed)
    plain = hessops.svds(matrix, 4, which=which, rng=seed)
    assert "a multiple singular value would appear once" in plain.status
    found = hessops.svds(matrix, 4, which=which, check_completeness=True, rng=seed)
    assert found.converged
    assert "with probability 0.99 no singular value" in found.status
    np.testing.assert_allclose(found.singular_values, exact_values(matrix, 4, which), atol=1e-9)
    assert len(found.history) == (found.num_products - 8) // 2


def test_checks_are_as_right_as_they_say():
    """A special start hides the largest singular value. Of 40 checks, each of which misses it with a
    probability of at most 1 %, more than 3 do so with a probability below 1e-3."""
    values = np.append(np.linspace(0, 1, 100), 1.2)
    A, missed = hessops.Diagonal(values), 0
    start = np.ones(101)
    start[-1] = 0
    for seed in range(40):
        result = hessops.svds(A, 1, tol=1e-3, start=start, check_completeness=True, rng=seed)
        claimed = re.search(r"above ([\d.]+) is missing", result.status)
        bound = float(claimed[1]) if claimed else result.singular_values[0] + 2e-3
        missed += bound < 1.2
    assert missed <= 3


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 40), (45, 40), (40, 60)])
@pytest.mark.parametrize("tol", [1e-1, 1e-3, None])
def test_error_bounds_hold(shape, tol):
    """Well apart, clustered and close to zero, at both ends: always within the residual norm, and
    within the bound where the gap that it assumes holds no other singular value."""
    rng = np.random.default_rng(0)
    sharper = 0
    for seed in range(16):
        values = rng.uniform(0, 1, 40) ** rng.choice([1, 4])
        if seed % 3 == 0:
            values[:3] = 1.5 + 10 ** rng.uniform(-9, -1) * rng.uniform(0, 1, 3)
        matrix = with_singular_values(values, *shape, seed)
        which, k = ("LM", "SM")[seed % 2], int(rng.integers(1, 5))
        result = hessops.svds(matrix, k, which=which, tol=tol, rng=seed)
        exact = np.linalg.svd(matrix, compute_uv=False)
        distance = np.abs(result.singular_values[:, None] - exact[None, :]).min(axis=1)
        assert np.all(distance <= result.residual_norms + 1e-14)
        assert np.all(result.error_bounds <= result.residual_norms + 2e-14)
        for value, residual, bound, error in zip(
            result.singular_values,
            result.residual_norms,
            result.error_bounds,
            distance,
            strict=True,
        ):
            if bound <= 2e-14 or bound > 0.7 * residual:
                assert error <= bound + 1e-14
                continue
            gap = residual**2 / bound * (1 - 1e-6)
            within = np.sum(np.abs(exact - value) < gap)
            sharper += 1
            assert error <= bound + 1e-14 or within > 1
    assert sharper > 0 or tol != 1e-3


def test_unverified_residuals_are_those_of_the_recurrence():
    matrix = normal(0, (90, 60))
    checked = hessops.svds(matrix, 3, tol=1e-6, rng=0)
    unchecked = hessops.svds(matrix, 3, tol=1e-6, rng=0, verify=False)
    assert checked.num_products == unchecked.num_products + 6
    np.testing.assert_allclose(unchecked.residual_norms, checked.residual_norms, atol=1e-13)


def test_small_singular_values_keep_their_digits():
    """Squares of these differ by less than rounding from zero."""
    values = np.array([1.0, 1e-3, 1e-9, 3e-11])
    result = hessops.svds(with_singular_values(values, 9, 4), 4, tol=1e-15, rng=0)
    np.testing.assert_allclose(result.singular_values, values, atol=1e-15)


# --- cost -----------------------------------------------------------------------------------------


def counted(matrix, columns):
    def forward(X):
        columns.append(X.shape[1] if X.ndim > 1 else 1)
        return matrix @ X

    def back(X):
        columns.append(X.shape[1] if X.ndim > 1 else 1)
        return matrix.conj().T @ X

    return forward, back


def test_products_are_counted_as_they_are_made():
    matrix, columns = normal(0, (80, 50)), []
    forward, back = counted(matrix, columns)
    A = aslinearoperator(forward, shape=(80, 50), adjoint_function=back)
    result = hessops.svds(A, 4, rng=0)
    assert sum(columns) == result.num_products
    assert columns[-2:] == [4, 4]
    assert result.history["num_products"].tolist() == list(range(2, 2 * len(result.history) + 1, 2))
    # The history ends with the step that converged.
    largest = result.singular_values[0]
    assert np.sum(result.history["error"] <= 3.7e-11 * largest) == 1


def read_1138_bus():
    return sp.csr_array(read_matrix(str(MATRICES / "1138_bus.mtx")), dtype=np.float64)


REAL = [
    pytest.param(
        read_1138_bus, marks=[
            pytest.mark.data, pytest.mark.skipif(not MATRICES.is_dir(), reason="needs HESSOPS_DATA"),
        ], id="1138_bus",
    ),
    pytest.param(
        lambda: sp.random_array((1200, 300), density=0.02, rng=np.random.default_rng(1)).tocsr(),
        id="random",
    ),
]  # fmt: skip


@pytest.mark.parametrize("matrix", REAL)
@pytest.mark.parametrize("k", [1, 6])
def test_takes_no_more_products_than_scipy_or_eigsh_of_the_gram_matrix(matrix, k):
    A, columns = matrix(), []
    forward, back = counted(A, columns)
    theirs = scipy.sparse.linalg.LinearOperator(
        A.shape, matvec=forward, rmatvec=back, dtype=np.float64
    )
    tol = 1e-8
    start = np.random.default_rng(0).standard_normal(A.shape[1])
    exact = scipy.sparse.linalg.svds(theirs, k, tol=tol, v0=start, return_singular_vectors=False)
    result = hessops.svds(A, k, tol=tol, start=start, verify=False)
    np.testing.assert_allclose(
        result.singular_values, np.sort(exact)[::-1], atol=10 * tol * result.singular_values[0]
    )
    assert result.num_products <= sum(columns)
    operator = aslinearoperator(A)
    gram = hessops.eigsh(operator.H @ operator, k, tol=tol, start=start, verify=False)
    # Its residual norms are σ times as large, relative to σ² σ_max; so it may stop a step earlier.
    assert result.num_products <= 2 * gram.num_products + 4


@pytest.mark.parametrize("which", ["LM", "SM"])
def test_a_small_basis_converges_by_restarts(which):
    matrix = with_singular_values(np.linspace(1, 3, 120) ** 2, 150, 120)
    sizes = []
    result = hessops.svds(
        matrix, 3, which=which, max_basis=25, rng=0,
        callback=lambda state: sizes.append((state.left.size, state.num_restarts)),
    )  # fmt: skip
    assert result.converged
    assert max(size for size, _ in sizes) == 25
    assert sizes[-1][1] > 0
    np.testing.assert_allclose(result.singular_values, exact_values(matrix, 3, which), atol=1e-9)


@pytest.mark.parametrize("shape", [(40_000, 300), (300, 40_000)])
def test_memory_is_the_bases_and_a_few_blocks(shape):
    long, short = max(shape), min(shape)
    diagonal = np.linspace(1, 2, short)

    def spread(X):
        Y = np.zeros((long, X.shape[1]))
        Y[:short] = diagonal[:, None] * X
        return Y

    def gather(X):
        return diagonal[:, None] * X[:short]

    forward, back = (spread, gather) if shape[0] > shape[1] else (gather, spread)
    A = aslinearoperator(forward, shape=shape, adjoint_function=back)
    k, limit = 3, 30
    tracemalloc.start()
    with pytest.warns(ConvergenceWarning):
        result = hessops.svds(A, k, max_basis=limit, max_steps=60, tol=1e-15, rng=0)
    peak = tracemalloc.get_traced_memory()[1] / (8 * long)
    tracemalloc.stop()
    assert result.num_products == 120 + 2 * k
    assert limit <= peak <= limit + 5 * k + 7


# --- the end, and what cannot be used ---------------------------------------------------------------


def test_too_few_steps_give_a_warning_and_what_was_found():
    matrix = normal(0, (100, 80))
    with pytest.warns(ConvergenceWarning, match=r"of 3 triplets converged in 8 steps.*asked for"):
        result = hessops.svds(matrix, 3, max_steps=8, rng=0)
    assert not result.converged
    np.testing.assert_allclose(true_residuals(matrix, result), result.residual_norms, rtol=1e-6)
    exact = np.linalg.svd(matrix, compute_uv=False)
    distance = np.abs(result.singular_values[:, None] - exact[None, :]).min(axis=1)
    assert np.all(distance <= result.residual_norms)


def test_a_callback_ends_the_run():
    with pytest.warns(ConvergenceWarning, match="stopped by the callback; 0 of 1 triplets"):
        result = hessops.svds(normal(0, (90, 80)), 1, rng=0, callback=lambda s: s.step == 5)
    assert len(result.history) == 5


def test_an_operator_whose_adjoint_is_not_its_adjoint_is_refused():
    matrix, other = normal(0, (20, 15)), normal(1, (15, 20))
    A = aslinearoperator(lambda X: matrix @ X, shape=(20, 15), adjoint_function=lambda X: other @ X)
    with pytest.raises(ValueError, match=r"is not its adjoint: inner products <u, A v>.*differ by"):
        hessops.svds(A, 2, rng=0)


def test_an_operator_without_adjoint_is_refused():
    A = aslinearoperator(lambda X: X[:3], shape=(3, 5))
    with pytest.raises(NotImplementedError, match="has no adjoint"):
        hessops.svds(A, 2, rng=0)


@pytest.mark.parametrize("side", ["forward", "back"])
def test_products_that_are_not_finite_are_refused(side):
    matrix = normal(0, (20, 15))
    bad = {"forward": matrix, "back": matrix.T}
    bad[side] = bad[side] * np.nan
    A = aslinearoperator(
        lambda X: bad["forward"] @ X, shape=(20, 15), adjoint_function=lambda X: bad["back"] @ X
    )
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        hessops.svds(A, 2, rng=0)


def test_an_operator_that_mixes_columns_is_refused():
    matrix = normal(0, (30, 20))
    A = aslinearoperator(
        lambda X: matrix @ X + 0.1 * X.sum(axis=1).sum() * (X.shape[1] > 1),
        shape=(30, 20),
        adjoint_function=lambda X: matrix.T @ X,
    )
    with pytest.raises(ValueError, match=r"not linear.*singular value .* was found"):
        hessops.svds(A, 3, rng=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k=0 must be a positive integer"),
        ({"k": 5}, r"k=5 singular triplets asked of an operator of shape \(4, 6\)"),
        ({"which": "LA"}, "which='LA' is unknown; choose one of LM, SM"),
        ({"tol": 0}, "tol=0 must be positive"),
        ({"max_steps": 1.5}, "max_steps=1.5 must be a positive integer"),
        (
            {"k": 2, "max_basis": 3},
            "max_basis=3 is too small for k=2 triplets; it must be at least 4",
        ),
        ({"start": np.ones(6)}, "expected 4 rows"),
        ({"start": np.zeros(4)}, "a start vector has norm 0"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        hessops.svds(np.ones((4, 6)), **{"k": 1, **options}, rng=0)
