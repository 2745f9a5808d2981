"""What randomized approximations claim of their error, over many seeds.

A claim that holds with probability p in every one of N runs fails in at most N (1 - p) of them in the
mean; a test here fails by chance with a probability of at most 1e-4, and its seeds are fixed.
"""

import math

import numpy as np
import pytest
from problems import XTRACE_SPECTRA, matrix_of
from scipy.stats import binom, chi2, norm
from strategies import normal, with_spectrum

from hessops import Diagonal, aslinearoperator
from hessops.algorithms.low_rank._sketch_error import bound_factor
from hessops.algorithms.low_rank.nystrom import nystrom
from hessops.algorithms.low_rank.randomized_eigh import randomized_eigh
from hessops.algorithms.low_rank.randomized_svd import randomized_svd
from hessops.algorithms.low_rank.range_finder import range_finder_steps
from hessops.random import Stream

NUM_SEEDS = 400
FALSE_ALARM = 1e-4
LARGEST_Z = norm.isf(FALSE_ALARM / 2)
POLY = np.arange(1.0, 41.0) ** -2

every_dtype = pytest.mark.parametrize("dtype", ["float64", "complex128"])


def allowed_failures(probability, num_runs=NUM_SEEDS):
    return binom.isf(FALSE_ALARM, num_runs, probability)


def z_score(differences):
    """How many standard errors the mean of independent differences is away from zero."""
    differences = np.asarray(differences)
    return differences.mean() / (differences.std(ddof=1) / math.sqrt(len(differences)))


def dense(result):
    if hasattr(result, "S"):
        return (result.U * result.S) @ result.V.conj().T
    return (result.eigenvectors * result.eigenvalues) @ result.eigenvectors.conj().T


def rectangular(values, dtype="float64"):
    left = np.linalg.qr(normal(0, (len(values) + 10, len(values)), dtype))[0]
    right = np.linalg.qr(normal(1, (len(values),) * 2, dtype))[0]
    return (left * values) @ right.conj().T


def indefinite(values, dtype="float64"):
    return with_spectrum(values * (-1.0) ** np.arange(len(values)), 2, dtype)


def definite(values, dtype="float64"):
    return aslinearoperator(with_spectrum(values, 2, dtype), positive_semidefinite=True)


CASES = {
    "svd": (randomized_svd, rectangular),
    "eigh": (randomized_eigh, indefinite),
    "nystrom": (nystrom, definite),
}
every_verb = pytest.mark.parametrize("name", CASES)


# --- the bound of the spectral error ----------------------------------------------------------


@pytest.mark.parametrize("num_probes", [1, 3, 10])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_the_factor_is_exact_for_one_direction_and_no_larger_than_the_lemma(
    num_probes, complex_valued
):
    """Lemma 4.1 of Halko, Martinsson & Tropp: 10 sqrt(2/π) for a probability of 1 - 10^-r."""
    factor = bound_factor(10.0**-num_probes, num_probes, complex_valued=complex_valued)
    assert 1 < factor <= 10 * math.sqrt(2 / math.pi)
    draws = normal(0, (20000, num_probes), "complex128" if complex_valued else "float64")
    factor = bound_factor(0.1, num_probes, complex_valued=complex_valued)
    failures = np.sum(factor * np.abs(draws).max(axis=1) < 1)
    assert allowed_failures(0.1, 20000) >= failures
    assert failures >= 20000 - allowed_failures(0.9, 20000)


@every_dtype
def test_an_error_in_one_direction_breaks_the_bound_as_often_as_it_says(dtype):
    """The rank is one larger than the basis, so the error has rank one: the worst case there is."""
    A = rectangular(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), dtype)
    failures = 0
    for seed in range(NUM_SEEDS):
        result = randomized_svd(A, 4, oversampling=0, confidence=0.8, num_test_probes=3, rng=seed)
        failures += np.linalg.norm(A - dense(result), 2) > result.spectral_bound
    # Truncation adds nothing as nothing is cut off.
    assert failures <= allowed_failures(0.2)
    assert failures >= NUM_SEEDS - allowed_failures(0.8)


@every_dtype
def test_what_a_projection_from_both_sides_loses_is_in_the_bound(dtype):
    """The same for eigenpairs: A - P A P has more than (I - P) A, whose one direction is probed."""
    A = indefinite(np.array([2.0, 1.9, 1.8, 1.7, 1.6]), dtype)
    failures = larger = 0
    for seed in range(NUM_SEEDS):
        result = randomized_eigh(
            A, 4, oversampling=0, power_steps=0, confidence=0.8, num_test_probes=3, rng=seed
        )
        X = result.eigenvectors
        whole = np.linalg.norm(A - dense(result), 2)
        failures += whole > result.spectral_bound
        larger += whole > 1.1 * np.linalg.norm(A - X @ (X.conj().T @ A), 2)
    assert failures <= allowed_failures(0.2)
    assert larger > NUM_SEEDS / 4


@pytest.mark.slow
@every_verb
@every_dtype
@pytest.mark.parametrize("values", [POLY, 0.7 ** np.arange(40.0)], ids=["poly", "exp"])
def test_the_bound_holds_as_often_as_it_says(name, dtype, values):
    verb, make = CASES[name]
    A = make(values, dtype)
    matrix = A if isinstance(A, np.ndarray) else A.to_dense()
    failures = 0
    for seed in range(NUM_SEEDS):
        result = verb(A, 6, confidence=0.7, num_test_probes=2, rng=seed)
        failures += np.linalg.norm(matrix - dense(result), 2) > result.spectral_bound
        assert result.confidence == 0.7
    assert failures <= allowed_failures(0.3)


@pytest.mark.slow
@every_verb
def test_a_run_that_stops_at_its_bound_holds_it_as_often_as_it_says(name):
    """Looking after every block gives the bound many chances to fail; the confidence counts them."""
    verb, make = CASES[name]
    A = make(0.7 ** np.arange(40.0))
    matrix = A if isinstance(A, np.ndarray) else A.to_dense()
    failures, options = 0, {"confidence": 0.8, "num_test_probes": 2, "block_size": 2}
    if verb is not nystrom:
        options["power_steps"] = 0
    for seed in range(NUM_SEEDS):
        result = verb(A, tol=0.05, rng=seed, **options)
        assert result.converged
        assert result.spectral_bound <= 0.05 * 1.0001
        failures += np.linalg.norm(matrix - dense(result), 2) > result.spectral_bound
    assert failures <= allowed_failures(0.2)


# --- estimates of the error -------------------------------------------------------------------


@every_dtype
def test_leaving_one_out_has_no_bias(dtype):
    """Its square estimates the mean squared error of a basis from one random vector less."""
    A = rectangular(POLY, dtype)
    differences = []
    for seed in range(NUM_SEEDS):
        result = randomized_svd(A, 8, oversampling=0, power_steps=0, num_test_probes=0, rng=seed)
        assert result.error_kind == "leave-one-out"
        assert math.isnan(result.spectral_bound)
        fewer = randomized_svd(A, 7, oversampling=0, power_steps=0, rng=seed + NUM_SEEDS)
        differences.append(result.error**2 - np.linalg.norm(A - dense(fewer)) ** 2)
    assert abs(z_score(differences)) < LARGEST_Z


@every_dtype
@pytest.mark.parametrize("name", ["svd", "eigh"])
def test_test_probes_estimate_the_frobenius_error_without_bias(name, dtype):
    verb, make = CASES[name]
    A = make(POLY, dtype)
    differences = []
    for seed in range(NUM_SEEDS):
        result = verb(A, 6, oversampling=3, num_test_probes=2, rng=seed)
        assert result.error_kind == "test probes"
        differences.append(result.error**2 - np.linalg.norm(A - dense(result)) ** 2)
    assert abs(z_score(differences)) < LARGEST_Z


@every_dtype
def test_the_trace_of_what_nystrom_leaves_is_estimated_without_bias(dtype):
    A = definite(POLY, dtype)
    differences = []
    for seed in range(NUM_SEEDS):
        result = nystrom(A, 8, num_test_probes=0, rng=seed)
        fewer = nystrom(A, 7, num_test_probes=0, rng=seed + NUM_SEEDS)
        differences.append(result.error - (POLY.sum() - fewer.eigenvalues.sum()))
    assert abs(z_score(differences)) < LARGEST_Z


# --- expected errors --------------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", ["poly", "slowexp", "fastexp", "smallstep"])
def test_the_expected_error_of_a_range(spectrum):
    """T21: E ‖A - Q Q^H A‖_F² <= (1 + k / (p - 1)) times the best of rank k, for every k."""
    values = XTRACE_SPECTRA[spectrum]
    width = 20
    squares = []
    for seed in range(200):
        states = range_finder_steps(
            Diagonal(values), stream=Stream(seed), width=width, max_columns=width
        )
        state = next(states)
        left = np.diag(values) @ state.Q
        assert np.allclose(left, state.adjoint_product, rtol=0, atol=1e-13)
        rest = values**2 * (1 - np.sum(state.Q**2, axis=1))
        squares.append(rest.sum())
    mean, error = np.mean(squares), np.std(squares, ddof=1) / math.sqrt(200)
    best = np.array([np.sum(values[k:] ** 2) for k in range(width - 1)])
    k = np.arange(width - 1)
    bounds = (1 + k / (width - k - 1)) * best
    assert mean - LARGEST_Z * error <= bounds.min()
    # Nothing of rank 20 is better than the best.
    assert min(squares) >= np.sum(values[width:] ** 2) * (1 - 1e-9)


@pytest.mark.parametrize("spectrum", ["poly", "slowexp", "fastexp", "smallstep", "bigstep", "flat"])
def test_the_expected_error_of_nystrom(spectrum):
    """E tr(A - A⟨Ω⟩) <= (1 + k / (p - 1)) times the best of rank k, for every k."""
    values = XTRACE_SPECTRA[spectrum]
    rank, traces = 20, []
    for seed in range(100):
        result = nystrom(Diagonal(values), rank, num_test_probes=0, rng=seed)
        traces.append(values.sum() - result.eigenvalues.sum())
    mean, error = np.mean(traces), np.std(traces, ddof=1) / math.sqrt(100)
    k = np.arange(rank - 1)
    bounds = (1 + k / (rank - k - 1)) * np.array([values[i:].sum() for i in k])
    assert mean - LARGEST_Z * error <= bounds.min()
    assert min(traces) >= values[rank:].sum() * (1 - 1e-9)


@pytest.mark.parametrize("spectrum", XTRACE_SPECTRA)
def test_all_of_a_large_spectrum_is_bounded(spectrum):
    """T1, in random directions: A - U S V^H has the norm that is claimed, and not much less."""
    values = XTRACE_SPECTRA[spectrum][::5]
    A = matrix_of(values, 3)
    # Squares of what ten normal probes see scatter most where one direction is all of the error.
    least, most = np.sqrt(chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 10) / 10)
    for verb in (randomized_svd, randomized_eigh):
        result = verb(A, 15, rng=1)
        true = np.linalg.norm(A - dense(result), 2)
        assert values[15] - 1e-14 <= true <= result.spectral_bound
        assert least <= result.error / np.linalg.norm(A - dense(result)) <= most
