"""Randomized SVD and eigendecomposition: tolerances, files, and what is refused."""

import numpy as np
import pytest
from strategies import normal, with_spectrum

from hessops import (
    ConvergenceWarning,
    NonFiniteError,
    NotSelfAdjointError,
    aslinearoperator,
    load,
    randomized_eigh,
    randomized_svd,
)

VERBS = [randomized_svd, randomized_eigh]
both = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)


def approximation(result):
    if hasattr(result, "S"):
        return (result.U * result.S) @ result.V.conj().T
    return (result.eigenvectors * result.eigenvalues) @ result.eigenvectors.conj().T


def decaying(n, dtype="float64"):
    """A self-adjoint matrix with eigenvalues 0.7^i of both signs."""
    return with_spectrum((-0.7) ** np.arange(float(n)), 3, dtype)


# --- a tolerance ------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("block_size", [3, 16])
def test_a_tolerance_is_met_by_not_many_more_values_than_it_takes(verb, dtype, tol, block_size):
    A = decaying(80, dtype)
    result = verb(A, tol=tol, block_size=block_size, rng=4)
    assert result.converged
    assert np.linalg.norm(A - approximation(result), 2) <= result.spectral_bound <= tol * 1.0001
    needed = int(np.ceil(np.log(tol) / np.log(0.7)))
    # One in fifty of a bound that may be three times the error: log(3) / log(1 / 0.7) = 3.
    assert needed <= result.rank <= needed + 4


@both
def test_a_known_norm_gives_the_frobenius_error_without_test_probes(verb):
    A = decaying(60)
    size = np.linalg.norm(A)
    result = verb(A, tol=1e-3, frobenius_norm=size, rng=4)
    true = np.linalg.norm(A - approximation(result))
    assert result.error_kind == "exact"
    assert result.error == pytest.approx(true, rel=1e-6)
    assert true <= 1e-3 * size
    assert result.confidence == 1.0
    assert np.linalg.norm(A - approximation(result), 2) <= result.spectral_bound
    one_less = np.sqrt(np.sum(0.7 ** (2 * np.arange(result.rank - 1, 60))))
    assert one_less > 1e-3 * size
    with pytest.raises(ValueError, match="is not that of"):
        verb(A, 5, frobenius_norm=0.5 * size, rng=0)


@both
def test_what_was_missed_is_said(verb):
    A = with_spectrum(np.linspace(1, 2, 60), 0)
    with pytest.warns(ConvergenceWarning, match="raise max_rank or tol"):
        result = verb(A, tol=1e-2, max_rank=20, rng=0)
    assert not result.converged
    assert result.rank == 20
    assert np.linalg.norm(A - approximation(result), 2) <= result.spectral_bound


@both
def test_a_callback_ends_the_run(verb):
    A = decaying(40)
    with pytest.warns(ConvergenceWarning, match="stopped by the callback"):
        result = verb(A, 4, power_steps=5, rng=0, callback=lambda state: state.step == 2)
    assert len(result.history) == 2
    assert result.num_products == 2 * 2 * 14 + 10


@both
def test_a_result_comes_back_from_a_file(verb, tmp_path):
    A = decaying(20)
    result = verb(A, 4)
    again = load(result.save(tmp_path / "result"))
    np.testing.assert_array_equal(approximation(again), approximation(result))
    assert again.history == result.history
    assert again.operator.shape == (20, 20)
    assert str(again) == str(result)
    repeated = verb(A, 4, rng=result.seed)
    np.testing.assert_array_equal(approximation(repeated), approximation(result))
    assert not any(np.shape(value)[:1] == (20,) for value in result.to_dict().values())


# --- what is refused --------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k=0 must be a positive integer"),
        ({"k": 2.5}, "k=2.5 must be a positive integer"),
        ({"k": 7}, r"k=7 asked of an operator of shape \(6, 6\)"),
        ({}, "give either k"),
        ({"k": 2, "tol": 0.1}, "give either k"),
        ({"k": 2, "max_rank": 3}, "max_rank=3 limits a tolerance"),
        ({"tol": 0.1, "max_rank": 0}, "max_rank=0 must be"),
        ({"tol": 0.1, "max_rank": 9}, "max_rank=9 asked of"),
        ({"tol": 1e-16}, "tol=1e-16 is below"),
        ({"tol": -1.0}, "tol=-1.0 is below"),
        ({"tol": float("nan")}, "tol=nan is below"),
        ({"tol": 1e-9, "frobenius_norm": 1.0}, "leave that out"),
        ({"tol": 0.1, "num_test_probes": 0}, "tol needs num_test_probes"),
        ({"k": 2, "oversampling": -1}, "oversampling=-1 must be"),
        ({"k": 2, "power_steps": -1}, "power_steps=-1 must be"),
        ({"k": 2, "power_steps": True}, "power_steps=True must be"),
        ({"k": 2, "num_test_probes": -1}, "num_test_probes=-1 must be"),
        ({"k": 2, "block_size": 0}, "block_size=0 must be"),
        ({"k": 2, "confidence": 1.0}, "confidence=1.0 must lie"),
        ({"k": 2, "frobenius_norm": 0.0}, "frobenius_norm=0.0 must be"),
        ({"k": 2, "frobenius_norm": float("inf")}, "frobenius_norm=inf must be"),
        ({"k": 2, "rng": -1}, "rng=-1 is no seed"),
    ],
    ids=str,
)
def test_options_out_of_range(verb, options, message):
    with pytest.raises(ValueError, match=message):
        verb(np.eye(6), **options)


@both
def test_nan_in_a_product(verb):
    def broken(X):
        return X * np.nan

    operator = aslinearoperator(broken, shape=6, self_adjoint=True)
    with pytest.raises(NonFiniteError, match="product 1 with"):
        verb(operator, 2, rng=0)


def test_an_operator_that_is_not_self_adjoint():
    A = normal(0, (12, 12))
    with pytest.raises(NotSelfAdjointError, match="randomized_eigh needs a self-adjoint"):
        randomized_eigh(A, 2)
    lying = aslinearoperator(lambda X: A @ X, shape=12, self_adjoint=True)
    with pytest.raises(NotSelfAdjointError, match="its products are not"):
        randomized_eigh(lying, 2, rng=0)
    with pytest.raises(ValueError, match="needs a square operator"):
        randomized_eigh(A[:, :5], 2)


def test_an_operator_without_an_adjoint():
    with pytest.raises(NotImplementedError, match="has no adjoint"):
        randomized_svd(aslinearoperator(lambda X: X[:3], shape=(3, 6)), 2, rng=0)
