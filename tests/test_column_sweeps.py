"""Sweeps through blocks of NumPy vectors: the same sums and updates, for any shape and any threads."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import hessops
from hessops import ArraySpace
from hessops.blocks import numpy_sweeps

DTYPES = (np.float32, np.float64, np.complex64, np.complex128)


def blocks_of(count, n, k, dtype, seed=0):
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((n, k)) for _ in range(count)]
    if np.issubdtype(dtype, np.complexfloating):
        parts = [part + 1j * rng.standard_normal((n, k)) for part in parts]
    return [part.astype(dtype) for part in parts]


@given(
    n=st.sampled_from([1, 2, 37, 255, 257, 5000]),
    k=st.sampled_from([1, 3, 8, 300]),
    dtype=st.sampled_from(DTYPES),
    threads=st.sampled_from([1, 3]),
    overwrite=st.booleans(),
    partners=st.sampled_from([0, 1, 2]),
)
def test_subtract_is_what_it_says(n, k, dtype, threads, overwrite, partners):
    n = min(n, 200_000 // k)
    W, X, *others = blocks_of(2 + partners, n, k, dtype)
    factors = np.linspace(-1, 1, k)
    space = ArraySpace(n, dtype, num_threads=threads)
    expected = W - X * factors.astype(dtype)
    before = W.copy()
    V, sums = space.subtract(W, X, factors, *others, overwrite=overwrite)
    assert V.dtype == dtype
    assert (V is W) == overwrite
    assert np.array_equal(V, expected)
    if not overwrite:
        assert np.array_equal(W, before)
    wide = np.result_type(dtype, np.float64)
    for row, Y in zip(sums, others or (expected,), strict=True):
        terms = Y.astype(wide).conj() * expected.astype(wide)
        assert row.dtype == wide
        np.testing.assert_allclose(
            row, terms.sum(axis=0), rtol=0, atol=1e-14 * np.abs(terms).sum(axis=0).max()
        )


@given(n=st.sampled_from([1, 300, 70_001]), k=st.sampled_from([1, 5]), overwrite=st.booleans())
def test_scale_is_what_it_says(n, k, overwrite):
    (X,) = blocks_of(1, n, k, np.float64)
    factors, space = np.arange(1.0, k + 1), ArraySpace(n)
    expected = X * factors
    scaled = space.scale(X, factors, overwrite=overwrite)
    assert np.array_equal(scaled, expected)
    assert (scaled is X) == overwrite


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_bit(dtype):
    W, X, Y = blocks_of(3, 150_001, 3, dtype)
    factors = np.array([0.5, -1.0, 2.0], dtype)
    results = []
    for threads in (1, 2, 5):
        out = np.empty_like(W)
        sums = numpy_sweeps.subtract(W, X, factors, (Y, X), out, threads)
        results.append((out, sums, numpy_sweeps.inner_products([(X, Y)], threads)))
    for other in results[1:]:
        assert all(np.array_equal(*pair) for pair in zip(results[0], other, strict=True))


def test_blocks_in_another_order_take_the_general_way():
    X, Y = blocks_of(2, 50, 4, np.float64)
    assert not numpy_sweeps.possible(np.asfortranarray(X), Y)
    assert not numpy_sweeps.possible(X, Y.astype(np.float32))
    space = ArraySpace(50)
    V, sums = space.subtract(np.asfortranarray(X), Y, np.ones(4), overwrite=True)
    np.testing.assert_allclose(V, X - Y)
    np.testing.assert_allclose(sums[0], np.sum((X - Y) ** 2, axis=0))


def sparse(n):
    return scipy.sparse.diags_array(
        [np.linspace(2.0, 3.0, n), np.full(n - 1, -1.0), np.full(n - 1, -1.0)],
        offsets=[0, 1, -1],
    ).tocsr()


def test_a_sparse_matrix_on_threads_multiplies_as_it_does_alone():
    matrix = sparse(20_000)
    alone, shared = (hessops.aslinearoperator(matrix, num_threads=t) for t in (1, 3))
    (X,) = blocks_of(1, 20_000, 3, np.float64)
    assert np.array_equal(alone @ X, shared @ X)
    assert np.array_equal(alone @ X[:, 0], shared @ X[:, 0])
    assert shared.structure == alone.structure
    rectangular = hessops.aslinearoperator(matrix[:, :100], num_threads=2)
    assert np.array_equal(rectangular.H @ X, matrix[:, :100].T @ X)
    results = [hessops.estrada_index(A, num_probes=3, num_steps=16, rng=0) for A in (alone, shared)]
    assert results[0].value == results[1].value


def test_bad_threads_are_refused():
    with pytest.raises(ValueError, match="num_threads=0 must be a positive integer"):
        hessops.aslinearoperator(sparse(5), num_threads=0)
    with pytest.raises(ValueError, match="for SciPy's sparse matrices, not for ndarray"):
        hessops.aslinearoperator(np.eye(3), num_threads=2)
    with pytest.raises(ValueError, match="num_threads=0 must be positive"):
        ArraySpace(3, num_threads=0)


@pytest.mark.parametrize("own", [True, False])
def test_a_lanczos_run_writes_into_no_product_that_is_not_its_own(own):
    """An operator that keeps its product, and says so, finds it as it was."""
    matrix = sparse(300)
    kept = []

    class Keeping(hessops.LinearOperator):
        returns_own_memory = own

        def _apply(self, X):
            product = matrix @ X
            kept.append((product, product.copy()))
            return product

    structure = hessops.Structure(self_adjoint=True)
    A = Keeping(ArraySpace(300), structure=structure)
    hessops.lanczos(A, num_steps=5, reorthogonalize=False, rng=0)
    assert all(np.array_equal(*pair) for pair in kept) != own


def test_states_of_lanczos_stay_as_they_were():
    from hessops.algorithms.krylov.lanczos import lanczos_steps

    A = hessops.aslinearoperator(sparse(300))
    start = np.random.default_rng(0).standard_normal((300, 4))
    seen = []
    for state in lanczos_steps(A, start, reorthogonalize=False):
        seen.append((state.following, state.following.copy()))
        if state.step == 6:
            break
    assert all(np.array_equal(*pair) for pair in seen)
