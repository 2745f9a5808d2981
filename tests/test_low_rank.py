"""Randomized SVD and eigendecomposition: laws, against dense decompositions."""

from functools import partial

import numpy as np
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    PLACES,
    assert_close,
    blocks,
    norm,
    normal,
    places,
    self_adjoint_matrices,
    sizes,
    with_spectrum,
)

from hessops import (
    ArraySpace,
    aslinearoperator,
)
from hessops.algorithms.low_rank.randomized_eigh import randomized_eigh
from hessops.algorithms.low_rank.randomized_svd import randomized_svd
from hessops.algorithms.low_rank.range_finder import orthonormal_remainder, range_finder_steps
from hessops.arrays import dtype_name, to_numpy
from hessops.random import Stream
from hessops.structure import GENERAL, SELF_ADJOINT

VERBS = [randomized_svd, randomized_eigh]
both = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)


def wide(block):
    return to_numpy(block).astype(np.complex128)


def approximation(result):
    if hasattr(result, "S"):
        return (wide(result.U) * result.S) @ wide(result.V).conj().T
    X = wide(result.eigenvectors)
    return (X * result.eigenvalues) @ X.conj().T


def assert_near(found, expected, place):
    assert norm(found - expected) <= 32 * 40 * place.eps * norm(expected)


def values_of(result):
    return result.S if hasattr(result, "S") else result.eigenvalues


def factors_of(result):
    return [result.U, result.V] if hasattr(result, "S") else [result.eigenvectors]


def assert_orthonormal(block, eps):
    gram = wide(block).conj().T @ wide(block)
    assert norm(gram - np.eye(len(gram))) <= 64 * max(len(wide(block)), 4) * eps


def decaying(n, dtype="float64", rate=0.7):
    """A self-adjoint matrix with eigenvalues of both signs."""
    return with_spectrum((-1.0) ** np.arange(n) * rate ** np.arange(n), 3, dtype)


# --- what the factors are ---------------------------------------------------------------------


@given(places(), sizes(8), sizes(8), st.data())
def test_svd_of_any_matrix(place, m, n, data):
    A = data.draw(blocks(m, n, place.dtype))
    k = data.draw(st.integers(1, min(m, n)))
    options = {
        "oversampling": data.draw(st.integers(0, 3)),
        "power_steps": data.draw(st.integers(0, 2)),
    }
    result = randomized_svd(place.put(A), k, rng=data.draw(st.integers(0, 99)), **options)
    exact = np.linalg.svd(A.astype("complex128"), compute_uv=False)
    rounding = 64 * max(m, n, 4) * place.eps * norm(A)
    assert result.S.dtype == np.float64
    assert result.rank <= k
    assert np.all(np.diff(result.S) <= 0)
    assert np.all(exact[: result.rank] + rounding >= result.S)
    for factor, rows in ((result.U, m), (result.V, n)):
        assert tuple(factor.shape) == (rows, result.rank)
        assert dtype_name(factor.dtype) == place.dtype
        assert_orthonormal(factor, place.eps)
    if k + options["oversampling"] >= min(m, n):
        best = np.sqrt(np.sum(exact[k:] ** 2))
        assert norm(A - approximation(result)) <= best + rounding
        np.testing.assert_allclose(result.S, exact[: result.rank], rtol=0, atol=rounding)
    assert result.spectral_bound >= 0
    assert result.num_products == result.history["num_products"][-1]


@given(places(), sizes(8), st.data())
def test_eigenpairs_of_any_self_adjoint_matrix(place, n, data):
    A = data.draw(self_adjoint_matrices(n, place.dtype))
    k = data.draw(st.integers(1, n))
    result = randomized_eigh(place.put(A), k, oversampling=2, rng=data.draw(st.integers(0, 99)))
    exact = np.linalg.eigvalsh(A.astype("complex128"))
    rounding = 64 * max(n, 4) * place.eps * norm(A)
    X = wide(result.eigenvectors)
    assert_orthonormal(result.eigenvectors, place.eps)
    assert np.all(np.diff(np.abs(result.eigenvalues)) <= 0)
    assert np.all(result.eigenvalues <= exact[-1] + rounding)
    assert np.all(result.eigenvalues >= exact[0] - rounding)
    residuals = np.linalg.norm(A @ X - X * result.eigenvalues, axis=0)
    np.testing.assert_allclose(result.residual_norms, residuals, rtol=0, atol=rounding)
    distance = np.abs(result.eigenvalues[:, None] - exact[None, :]).min(axis=1)
    assert np.all(distance <= result.residual_norms + rounding)
    if k + 2 >= n:
        best = np.sqrt(np.sum(np.sort(np.abs(exact))[: n - k] ** 2))
        assert norm(A - approximation(result)) <= best + rounding


@both
@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("rank", [1, 4])
def test_exact_where_the_rank_is_no_larger(verb, place, rank):
    left = normal(0, (40, rank), place.dtype)
    right = left if verb is randomized_eigh else normal(1, (30, rank), place.dtype)
    A = wide(left) @ wide(right).conj().T
    A = A if verb is randomized_svd else (A + A.conj().T) / 2
    A = (A if place.is_complex else A.real).astype(place.dtype)
    result = verb(place.put(A), rank + 3, oversampling=5, rng=0)
    assert result.rank == rank
    assert "the operator has no more" in result.status
    assert_near(approximation(result), A, place)
    assert result.spectral_bound <= 500 * place.eps * norm(A)


@both
def test_small_values_are_found_in_full_precision(verb):
    """A Gram matrix alone would lose everything below 1e-8 of the largest."""
    A = decaying(60, rate=0.6)
    result = verb(A, 45, oversampling=10, rng=0)
    exact = 0.6 ** np.arange(60)
    np.testing.assert_allclose(np.abs(values_of(result)), exact[:45], atol=2e-15)
    assert np.linalg.norm(A - approximation(result), 2) <= 2 * exact[45]
    for factor in factors_of(result):
        assert_orthonormal(factor, 2e-16)


@both
def test_zero_has_rank_zero(verb):
    result = verb(np.zeros((6, 6)), 2, rng=0)
    assert (result.rank, result.spectral_bound, result.error) == (0, 0.0, 0.0)
    assert result.operator.shape == (6, 6)
    assert np.all(result.operator @ np.ones(6) == 0)
    assert verb(np.zeros((6, 6)), tol=0.1, rng=0).converged


def test_the_operator_of_a_result():
    A = normal(0, (12, 7), "complex128")
    result = randomized_svd(A, 3, rng=0)
    np.testing.assert_allclose(result.operator.to_dense(), approximation(result), atol=1e-13)
    H = with_spectrum(np.linspace(-1, 2, 9))
    pairs = randomized_eigh(H, 3, rng=0)
    assert pairs.operator.structure.self_adjoint
    np.testing.assert_allclose(pairs.operator.to_dense(), approximation(pairs), atol=1e-13)


# --- what changes nothing ---------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex64"])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("options", [{"k": 5}, {"tol": 1e-2}], ids=str)
def test_scale(verb, dtype, scale, options):
    A = decaying(40, dtype)
    one, scaled = (verb((A * c).astype(dtype), rng=1, **options) for c in (1.0, scale))
    eps = float(np.finfo(dtype).eps)
    assert (scaled.rank, scaled.num_products) == (one.rank, one.num_products)
    np.testing.assert_allclose(values_of(scaled) / scale, values_of(one), atol=200 * eps)
    np.testing.assert_allclose(
        scaled.spectral_bound / scale, one.spectral_bound, rtol=0.01, atol=200 * eps
    )
    np.testing.assert_allclose(scaled.error / scale, one.error, rtol=0.01, atol=200 * eps)


@both
@pytest.mark.parametrize("power_steps", [0, 2])
@given(st.integers(1, 20))
def test_block_size(verb, power_steps, block_size):
    A = decaying(30)
    options = {"k": 4, "power_steps": power_steps, "rng": 5}
    whole, parts = verb(A, **options), verb(A, block_size=block_size, **options)
    assert_close(approximation(parts).real, approximation(whole), norm(A))
    assert parts.num_products == whole.num_products
    assert parts.spectral_bound == pytest.approx(whole.spectral_bound, rel=1e-9)


def test_without_power_steps_growing_in_blocks_is_the_same_as_all_at_once():
    A = normal(2, (40, 30)) * 0.8 ** np.arange(30)
    stream = Stream(3)
    *_, whole = range_finder_steps(aslinearoperator(A), stream=stream, width=15, max_columns=15)
    *_, grown = range_finder_steps(aslinearoperator(A), stream=stream, width=4, max_columns=15)
    assert (whole.num_blocks, grown.num_blocks) == (1, 4)
    assert (whole.num_products, grown.num_products) == (30, 30)
    np.testing.assert_allclose(grown.Q @ grown.Q.T, whole.Q @ whole.Q.T, atol=1e-10)


@both
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_array_library(verb, place):
    A = decaying(40, place.dtype)
    found = verb(place.put(A), 5, rng=7)
    expected = verb(A, 5, rng=7)
    assert found.num_products == expected.num_products
    assert_near(approximation(found), approximation(expected), place)
    assert found.spectral_bound == pytest.approx(expected.spectral_bound, rel=0.01)


@both
@pytest.mark.parametrize("split", splits(37), ids=str)
@pytest.mark.parametrize("options", [{"k": 4}, {"tol": 1e-3}, {"k": 4, "power_steps": 0}], ids=str)
def test_ranks(verb, split, options):
    A = decaying(37, "complex128")
    structure = SELF_ADJOINT
    if verb is randomized_svd:
        A, structure = A @ np.diag(np.exp(1j * np.arange(37.0))), GENERAL
    run = partial(verb, rng=2, **options)
    serial = run(A)
    results = run_on_ranks(
        lambda comm: run(ShardedMatrix(A, comm, split[comm.rank], structure)), len(split)
    )
    for result in results:
        assert result.num_products == serial.num_products
        assert result.converged == serial.converged
        np.testing.assert_allclose(values_of(result), values_of(serial), rtol=0, atol=1e-12)
        assert result.spectral_bound == pytest.approx(serial.spectral_bound, rel=1e-9)
        assert result.error == pytest.approx(serial.error, rel=1e-9)
    factors = [gathered(parts) for parts in zip(*map(factors_of, results), strict=True)]
    found = (factors[0] * values_of(serial)) @ factors[-1].conj().T
    np.testing.assert_allclose(found, approximation(serial), rtol=0, atol=1e-12)
    if len(split) > 1:
        with pytest.raises(ValueError, match="split over ranks"):
            _ = results[0].operator


# --- identities and cost ----------------------------------------------------------------------


@given(places(), sizes(8), sizes(8), st.integers(0, 2), st.data())
def test_the_identity_of_a_state(place, m, n, power_steps, data):
    A = data.draw(blocks(m, n, place.dtype))
    states = range_finder_steps(
        aslinearoperator(place.put(A)),
        stream=Stream(1),
        width=data.draw(sizes(4)),
        max_columns=min(m, n),
        power_steps=power_steps,
    )
    error = np.inf
    rounding = 64 * 8 * place.eps * norm(A)
    for state in states:
        assert_orthonormal(state.Q, place.eps)
        assert_close(state.adjoint_product, wide(A).conj().T @ wide(state.Q), norm(A))
        left = norm(A - wide(state.Q) @ (wide(state.Q).conj().T @ A))
        if state.finished:
            assert left <= error + rounding
            error = left
    assert error <= rounding


@given(places(), st.integers(0, 4), sizes(6), st.data())
def test_what_a_block_adds_to_a_basis(place, r, k, data):
    n = 7
    Q = np.linalg.qr(normal(data.draw(st.integers(0, 99)), (n, r), place.dtype))[0]
    Y = data.draw(blocks(n, k, place.dtype))
    fresh = orthonormal_remainder(
        ArraySpace(n, place.dtype_object, place.xp), place.put(Q), place.put(Y)
    )
    whole = np.concatenate([wide(Q), wide(fresh)], axis=1)
    assert whole.shape[1] <= min(n, r + k)
    assert_orthonormal(whole, place.eps)
    assert norm(Y - whole @ (whole.conj().T @ Y)) <= 200 * k * place.eps * max(norm(Y), 1e-300)


@both
@pytest.mark.parametrize("power_steps", [0, 1, 3])
def test_products_are_counted_as_they_are_made(verb, power_steps):
    A, columns = decaying(50), []

    def multiply(X):
        columns.append(X.shape[1])
        return A @ X

    operator = aslinearoperator(multiply, shape=50, self_adjoint=True)
    result = verb(operator, 6, power_steps=power_steps, block_size=5, rng=0)
    assert sum(columns) == result.num_products == 16 * (2 * power_steps + 2) + 10
    assert max(columns) == 5
    assert len(result.history) == power_steps + 1


@both
def test_power_steps_sharpen_a_flat_spectrum(verb):
    A = with_spectrum(np.concatenate([[2.0] * 5, np.linspace(1, 0.8, 195)]), 0)
    errors = [
        np.linalg.norm(A - approximation(verb(A, 5, power_steps=q, rng=0)), 2) for q in (0, 1, 3)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1.05 < errors[0]
