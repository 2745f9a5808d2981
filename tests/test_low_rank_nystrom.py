"""The Nyström approximation: laws, against dense matrices."""

from functools import partial

import numpy as np
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from problems import XTRACE_SPECTRA
from strategies import PLACES, norm, normal, places, psd_matrices, sizes, with_spectrum

from hessops import (
    ConvergenceWarning,
    Diagonal,
    NonFiniteError,
    NotSelfAdjointError,
    aslinearoperator,
    load,
)
from hessops.algorithms.low_rank.nystrom import nystrom, nystrom_steps
from hessops.algorithms.low_rank.randomized_eigh import randomized_eigh
from hessops.arrays import dtype_name, to_numpy
from hessops.random import Stream
from hessops.structure import POSITIVE_SEMIDEFINITE


def wide(block):
    return to_numpy(block).astype(np.complex128)


def approximation(result):
    X = wide(result.eigenvectors)
    return (X * result.eigenvalues) @ X.conj().T


def declared(A, place=None):
    return aslinearoperator(A if place is None else place.put(A), positive_semidefinite=True)


def assert_orthonormal(block, eps):
    gram = wide(block).conj().T @ wide(block)
    assert norm(gram - np.eye(len(gram))) <= 64 * max(len(wide(block)), 4) * eps


@given(places(), sizes(8), st.data())
def test_any_semidefinite_matrix(place, n, data):
    """Never above the matrix: what is left is semidefinite, and so is the approximation."""
    A = data.draw(psd_matrices(n, place.dtype))
    rank = data.draw(st.integers(1, n))
    result = nystrom(declared(A, place), rank, rng=data.draw(st.integers(0, 99)))
    # The shift is eps ‖A Ω‖_F, and an eigenvalue that is dropped as rounding may be 32 of it.
    rounding = 64 * max(n, 4) * place.eps * norm(A)
    assert result.rank <= rank
    assert dtype_name(result.eigenvectors.dtype) == place.dtype
    assert_orthonormal(result.eigenvectors, place.eps)
    assert np.all(result.eigenvalues > 0)
    assert np.all(np.diff(result.eigenvalues) <= 0)
    left = np.linalg.eigvalsh(A - approximation(result))
    assert left[0] >= -rounding
    exact = np.linalg.eigvalsh(A.astype("complex128"))[::-1]
    assert np.all(result.eigenvalues <= exact[: result.rank] + rounding)
    if rank == n:
        assert norm(A - approximation(result)) <= rounding
        assert result.error_kind == "exact"


@given(places(), sizes(8), st.data())
def test_it_agrees_with_the_operator_on_its_random_vectors(place, n, data):
    A = data.draw(psd_matrices(n, place.dtype))
    rank = data.draw(st.integers(1, n))
    states = nystrom_steps(declared(A, place), stream=Stream(1), width=2, max_columns=rank)
    for state in states:
        basis = wide(state.basis)
        assert_orthonormal(state.basis, place.eps)
        assert norm(wide(A) @ basis - wide(state.product)) <= 64 * 8 * place.eps * norm(A)
        assert state.num_products == basis.shape[1] == min(2 * state.step, rank)
        gaussian = basis @ state.coefficients
        assert norm(gaussian) > 0
        assert np.allclose(np.tril(state.coefficients, -2), 0, atol=1e-6)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("rank", [1, 5])
def test_exact_where_the_rank_is_smaller(place, rank):
    B = normal(0, (40, rank), place.dtype)
    A = B @ B.conj().T
    result = nystrom(declared((A + A.conj().T) / 2, place), rank + 8, rng=0)
    assert result.rank == rank
    assert norm(A - approximation(result)) <= 32 * 40 * place.eps * norm(A)
    assert norm(A - approximation(result)) <= result.spectral_bound * 2
    assert result.error <= 32 * 40 * place.eps * norm(A)


def test_zero_has_rank_zero():
    result = nystrom(declared(np.zeros((5, 5))), 3, rng=0)
    assert (result.rank, result.spectral_bound, result.error) == (0, 0.0, 0.0)
    assert np.all(result.operator @ np.ones(5) == 0)


@pytest.mark.parametrize("spectrum", XTRACE_SPECTRA)
@pytest.mark.parametrize("rank", [5, 60, 200])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_spectra_of_the_test_bed(spectrum, rank, dtype):
    """T1, at a fifth of the size: below the matrix, within the bound, better than its own rank."""
    values = XTRACE_SPECTRA[spectrum][::5]
    A = with_spectrum(values, 1, dtype)
    eps = float(np.finfo(dtype).eps)
    result = nystrom(declared(A), rank, confidence=1 - 1e-6, rng=0)
    left = np.linalg.eigvalsh(A - approximation(result).real)
    rounding = 500 * eps * values[0]
    assert left[0] >= -rounding
    assert left[-1] <= result.spectral_bound + rounding
    assert_orthonormal(result.eigenvectors, eps)
    best = values[rank] if rank < 200 else 0.0
    assert left[-1] >= best - rounding


def test_a_singular_core_is_factored_by_its_eigenvalues(monkeypatch):
    """Without a Cholesky factor the answer is the same, to rounding."""
    A = declared(with_spectrum(0.5 ** np.arange(60), 1))
    expected = nystrom(A, 12, rng=0)

    def refuse(_matrix):
        raise np.linalg.LinAlgError

    monkeypatch.setattr(np.linalg, "cholesky", refuse)
    found = nystrom(A, 12, rng=0)
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=0, atol=1e-13)
    result = nystrom(A, 60, rng=0)
    left = np.linalg.eigvalsh(A.to_dense() - approximation(result).real)
    assert -1e-13 <= left[0] <= left[-1] <= 1e-12


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_an_operator_that_is_semidefinite_to_less_than_rounding_has_no_cholesky_factor(dtype):
    """Products with an error of 1e-9, say: what is negative in them is left out."""
    A = with_spectrum(np.concatenate([0.5 ** np.arange(10), np.full(30, -1e-9)]), 1, dtype)
    operator = aslinearoperator(
        lambda X: A @ X, shape=40, dtype=A.dtype, positive_semidefinite=True
    )
    result = nystrom(operator, 25, confidence=1 - 1e-6, rng=0)
    assert np.all(result.eigenvalues > 0)
    left = np.linalg.norm(A - approximation(result), 2)
    assert left <= result.spectral_bound
    assert left <= 1e-6
    assert np.isfinite(result.error)


# --- what changes nothing ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex64"])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("options", [{"rank": 8}, {"tol": 1e-2}], ids=str)
def test_scale(dtype, scale, options):
    A = with_spectrum(0.7 ** np.arange(40), 3, dtype)
    one, scaled = (nystrom(declared((A * c).astype(dtype)), rng=1, **options) for c in (1.0, scale))
    eps = float(np.finfo(dtype).eps)
    assert (scaled.rank, scaled.num_products) == (one.rank, one.num_products)
    np.testing.assert_allclose(scaled.eigenvalues / scale, one.eigenvalues, atol=200 * eps)
    np.testing.assert_allclose(scaled.spectral_bound / scale, one.spectral_bound, rtol=0.01)
    np.testing.assert_allclose(scaled.error / scale, one.error, rtol=0.01)


@given(st.integers(1, 20))
def test_block_size(block_size):
    A = with_spectrum(0.7 ** np.arange(30), 3)
    whole = nystrom(declared(A), 9, rng=5)
    parts = nystrom(declared(A), 9, block_size=block_size, rng=5)
    assert norm(approximation(parts) - approximation(whole)) <= 1e-13
    assert parts.num_products == whole.num_products == 19
    *_, grown = nystrom_steps(
        declared(A), stream=Stream(2), width=min(block_size, 9), max_columns=9
    )
    *_, once = nystrom_steps(declared(A), stream=Stream(2), width=9, max_columns=9)
    gaussian = wide(once.basis) @ once.coefficients
    np.testing.assert_allclose(wide(grown.basis) @ grown.coefficients, gaussian, atol=1e-13)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_array_library(place):
    A = with_spectrum(0.7 ** np.arange(40), 3, place.dtype)
    found, expected = nystrom(declared(A, place), 8, rng=7), nystrom(declared(A), 8, rng=7)
    assert norm(approximation(found) - approximation(expected)) <= 1000 * place.eps
    assert found.spectral_bound == pytest.approx(expected.spectral_bound, rel=0.01)


@pytest.mark.parametrize("split", splits(37), ids=str)
@pytest.mark.parametrize("options", [{"rank": 6}, {"tol": 1e-2, "block_size": 3}], ids=str)
def test_ranks(split, options):
    A = with_spectrum(0.7 ** np.arange(37), 3, "complex128")
    run = partial(nystrom, rng=2, **options)
    serial = run(declared(A))
    results = run_on_ranks(
        lambda comm: run(ShardedMatrix(A, comm, split[comm.rank], POSITIVE_SEMIDEFINITE)),
        len(split),
    )
    for result in results:
        assert result.num_products == serial.num_products
        assert result.status == serial.status
        np.testing.assert_allclose(result.eigenvalues, serial.eigenvalues, rtol=0, atol=1e-12)
        assert result.spectral_bound == pytest.approx(serial.spectral_bound, rel=1e-9)
        assert result.error == pytest.approx(serial.error, rel=1e-9)
    X = gathered([result.eigenvectors for result in results])
    found = (X * serial.eigenvalues) @ X.conj().T
    np.testing.assert_allclose(found, approximation(serial), rtol=0, atol=1e-12)


# --- a tolerance, cost, files -----------------------------------------------------------------


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_tolerance_is_met(tol, dtype):
    A = with_spectrum(0.7 ** np.arange(80), 3, dtype)
    result = nystrom(declared(A), tol=tol, block_size=4, rng=4)
    assert result.converged
    assert np.linalg.norm(A - approximation(result), 2) <= result.spectral_bound <= tol
    needed = int(np.ceil(np.log(tol) / np.log(0.7)))
    assert needed <= result.rank <= needed + 20
    assert result.num_products == result.rank + 10


def test_what_was_missed_is_said():
    A = declared(with_spectrum(np.linspace(1, 2, 60), 0))
    with pytest.warns(ConvergenceWarning, match="at rank 20 is .*raise max_rank or tol"):
        result = nystrom(A, tol=1e-2, max_rank=20, rng=0)
    assert result.rank == 20
    with pytest.warns(ConvergenceWarning, match="stopped by the callback"):
        result = nystrom(A, tol=1e-2, block_size=4, rng=0, callback=lambda state: state.step == 2)
    assert result.rank == 8


def test_a_result_comes_back_from_a_file(tmp_path):
    result = nystrom(Diagonal(0.5 ** np.arange(20.0)), 6)
    again = load(result.save(tmp_path / "result"))
    np.testing.assert_array_equal(approximation(again), approximation(result))
    assert again.operator.structure.positive_semidefinite
    assert str(again) == str(result)
    repeated = nystrom(Diagonal(0.5 ** np.arange(20.0)), 6, rng=result.seed)
    np.testing.assert_array_equal(repeated.eigenvalues, result.eigenvalues)


def test_half_the_products_of_a_projection():
    """One product a vector, where a projection takes two."""
    A = with_spectrum(0.8 ** np.arange(100), 3)
    one = nystrom(declared(A), 20, num_test_probes=0, rng=0)
    two = randomized_eigh(A, 20, oversampling=0, power_steps=0, num_test_probes=0, rng=0)
    assert (one.num_products, two.num_products) == (20, 40)
    assert np.isnan(one.spectral_bound)
    assert np.isnan(one.confidence)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0 must be a positive integer"),
        ({"rank": 7}, r"rank=7 asked of an operator of shape \(6, 6\)"),
        ({}, "give either rank"),
        ({"rank": 2, "tol": 0.1}, "give either rank"),
        ({"rank": 2, "max_rank": 3}, "max_rank=3 limits a tolerance"),
        ({"tol": 1e-17}, "tol=1e-17 is below"),
        ({"tol": 0.1, "num_test_probes": 0}, "tol needs num_test_probes"),
        ({"rank": 2, "confidence": 0.0}, "confidence=0.0 must lie"),
    ],
    ids=str,
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        nystrom(declared(np.eye(6)), **options)


def test_operators_that_are_not_semidefinite():
    A = with_spectrum([3.0, 2.0, 1.0, -1.0, -2.0, -3.0])
    with pytest.raises(ValueError, match=r"positive_semidefinite=True.*use randomized_eigh"):
        nystrom(A, 2)
    with pytest.raises(NotSelfAdjointError, match="nystrom needs a self-adjoint"):
        nystrom(np.triu(np.ones((6, 6))), 2)
    lying = aslinearoperator(lambda X: A @ X, shape=6, positive_semidefinite=True)
    with pytest.raises(ValueError, match=r"<x, A x> = -.* use randomized_eigh"):
        nystrom(lying, 6, rng=0)
    B = normal(0, (6, 6))
    lying = aslinearoperator(lambda X: B @ X, shape=6, positive_semidefinite=True)
    with pytest.raises(NotSelfAdjointError, match="its products are not"):
        nystrom(lying, 4, rng=0)


def test_nan_in_a_product():
    operator = aslinearoperator(lambda X: X * np.nan, shape=6, positive_semidefinite=True)
    with pytest.raises(NonFiniteError, match="product 1 with"):
        nystrom(operator, 2, rng=0)
