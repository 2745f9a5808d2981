"""Rounding neither keeps a run going nor is it passed off for more digits than there are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import matrix_of

import hessops

DTYPES = ("float32", "float64")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def outliers_and_bulk(bulk, dtype, n=300, seed=0):
    """Five large eigenvalues, and many small ones: a trained network's Hessian, say."""
    small = np.abs(np.random.default_rng(seed).standard_normal(n - 5)) * bulk
    return matrix_of(np.concatenate([[50, 30, 20, 10, 5], small]), seed).astype(dtype)


def matrix(dtype, n=300):
    return outliers_and_bulk(0.1, dtype, n)


@every_dtype
@given(st.floats(-7, -2), st.integers(1, 5), st.integers(0, 1000))
def test_a_bulk_of_small_eigenvalues_does_not_keep_a_run_going(dtype, exponent, k, seed):
    """Products with outliers round to more than Lanczos vectors of the bulk have left of them."""
    A = outliers_and_bulk(10.0**exponent * 50, dtype, seed=seed)
    result = hessops.eigsh(A, k, rng=seed)
    assert result.converged
    assert result.num_products <= 60
    exact = np.sort(np.linalg.eigvalsh(A.astype(float)))[::-1][:k]
    assert np.all(np.abs(result.eigenvalues - exact) <= result.error_bounds)


@every_dtype
@pytest.mark.parametrize("verb", [hessops.eigsh, hessops.svds])
@pytest.mark.parametrize("tol", [1e-20, 1e-300])
def test_a_tolerance_below_rounding_ends_at_rounding_and_says_so(verb, tol, dtype):
    A = matrix(dtype)
    result = verb(A, 3, tol=tol, rng=0)
    assert result.converged
    assert result.num_products <= 100
    eps = float(np.finfo(dtype).eps)
    assert np.all(result.residual_norms <= 100 * eps * 50)
    assert f"to {32 * eps:.2g} of the largest, less than which is rounding" in result.status
    assert f"tol={tol:g}" in result.status


@every_dtype
@pytest.mark.parametrize("verb", [hessops.eigsh, hessops.svds])
def test_a_tolerance_above_rounding_says_nothing_of_it(verb, dtype):
    result = verb(matrix(dtype), 3, tol=40 * float(np.finfo(dtype).eps), rng=0)
    assert result.converged
    assert "rounding" not in result.status.split(";")[0]


def test_copies_that_rounding_may_have_brought_are_spoken_of():
    plain = hessops.eigsh(outliers_and_bulk(5.0, "float32"), 2, rng=0)
    assert plain.status.endswith("a multiple eigenvalue would appear once")
    blurred = hessops.eigsh(outliers_and_bulk(0.002, "float32"), 2, rng=0)
    assert blurred.status.endswith("would appear once, or more often by rounding")
