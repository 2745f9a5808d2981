"""Polynomials with known traces as control variates of tr f(A)."""

import numpy as np
import problems
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import hessops
from hessops import Diagonal, aslinearoperator, trace_function

SEEDS = 500


def exact_powers(A, most=4):
    dense = np.asarray(A, dtype=np.result_type(A.dtype, np.float64))
    return [np.trace(np.linalg.matrix_power(dense, p)).real for p in range(1, most + 1)]


@given(
    n=st.integers(1, 40),
    dtype=st.sampled_from([np.float32, np.float64, np.complex64, np.complex128]),
    density=st.sampled_from([0.05, 0.9]),
    shift=st.sampled_from([0.0, -3.5]),
    factor=st.sampled_from([1, -2.0]),
)
def test_power_traces_are_those_of_the_dense_matrix(n, dtype, density, shift, factor):
    rng = np.random.default_rng(n)
    B = rng.standard_normal((n, n)) * (rng.random((n, n)) < density)
    if np.issubdtype(dtype, np.complexfloating):
        B = B + 1j * np.triu(B)
    A = (B + B.conj().T).astype(dtype)
    eps = 8 * np.finfo(dtype).eps
    for matrix in (A, scipy.sparse.csr_array(A), scipy.sparse.coo_matrix(A)):
        operator = hessops.operators.algebra.Shifted(aslinearoperator(matrix), shift)
        if factor != 1:
            operator = factor * operator
        whole = factor * (A.astype(np.complex128) - shift * np.eye(n))
        expected = exact_powers(whole)
        found = operator.power_traces()
        assert len(found) in (2, 4)
        sizes = [n * (np.linalg.norm(whole, 2) + abs(shift)) ** p for p in range(1, 5)]
        for value, truth, size in zip(found, expected, sizes, strict=False):
            assert abs(value - truth) <= eps * (size + 1e-30) * 2**4


def test_duplicate_entries_of_a_sparse_matrix_count_once_together():
    matrix = scipy.sparse.csr_array(
        (np.array([1.0, 2.0, 4.0]), np.array([0, 0, 1]), np.array([0, 2, 3])), shape=(2, 2)
    )
    assert not matrix.has_canonical_format
    found = aslinearoperator(matrix, self_adjoint=True).power_traces()
    np.testing.assert_allclose(found, [7, 25, 91, 337])


def test_what_is_known_by_products_alone_has_no_traces():
    assert aslinearoperator(lambda X: X, shape=4, self_adjoint=True).power_traces() == ()
    assert aslinearoperator(np.triu(np.ones((3, 3)))).power_traces() == ()
    assert (2j * aslinearoperator(np.eye(3))).power_traces() == ()


@given(
    eigenvalues=st.lists(st.floats(0.1, 10), min_size=2, max_size=20),
    probe=st.sampled_from(["rademacher", "normal", "sphere"]),
    seed=st.integers(0, 1000),
)
def test_polynomials_of_low_degree_are_exact(eigenvalues, probe, seed):
    """tr A² needs no luck where tr A and tr A² are known, by any two probes."""
    A = problems.matrix_of(np.array(eigenvalues))
    result = trace_function(A, "square", num_probes=2, probe=probe, rng=seed)
    exact = float(np.sum(np.square(eigenvalues)))
    assert abs(result.value - exact) <= 1e-9 * exact


def test_traces_may_be_given_or_left_out():
    A = problems.matrix_of(np.linspace(0.5, 4.0, 60))
    by_products = aslinearoperator(lambda X: A @ X, shape=60, self_adjoint=True)
    options = {"num_probes": 8, "num_steps": 20, "interval": (0.4, 4.1), "rng": 0}
    plain = trace_function(A, "log", power_traces=(), **options)
    unknown = trace_function(by_products, "log", **options)
    given_traces = trace_function(by_products, "log", power_traces=exact_powers(A, 2), **options)
    automatic = trace_function(A, "log", **options)
    assert (plain.control_degree, unknown.control_degree) == (0, 0)
    assert (given_traces.control_degree, automatic.control_degree) == (2, 2)
    assert plain.value == pytest.approx(unknown.value, rel=1e-12)
    assert given_traces.value == pytest.approx(automatic.value, rel=1e-12)
    assert automatic.standard_error < plain.standard_error / 3
    assert automatic.bracket.low <= automatic.value <= automatic.bracket.high


def test_a_single_probe_has_no_control():
    A = problems.matrix_of(np.linspace(0.5, 4.0, 30))
    options = {"num_probes": 1, "num_steps": 30, "rng": 0}
    with_traces = trace_function(A, "log", **options)
    assert with_traces.control_degree == 0
    assert with_traces.value == trace_function(A, "log", power_traces=(), **options).value


@pytest.mark.parametrize(
    ("traces", "sentence"),
    [
        ("all", "power_traces='all' must be 'auto' or numbers"),
        ([np.nan], "must be finite"),
        ([1.0, -2.0], "traces of even powers cannot be negative"),
    ],
)
def test_bad_traces_are_refused(traces, sentence):
    with pytest.raises(ValueError, match=sentence):
        trace_function(np.eye(3), "exp", power_traces=traces)


@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
def test_array_libraries_agree(library):
    xp = pytest.importorskip(library)
    A = problems.matrix_of(np.linspace(0.5, 4.0, 40))
    expected = trace_function(A, "log", num_probes=4, num_steps=20, interval=(0.4, 4.1), rng=0)
    found = trace_function(
        xp.asarray(A), "log", num_probes=4, num_steps=20, interval=(0.4, 4.1), rng=0
    )
    assert found.control_degree == expected.control_degree == 2
    assert found.value == pytest.approx(expected.value, rel=1e-12)


CASES = {
    "log, few probes": ("log", np.linspace(0.5, 4.0, 60), 8, "rademacher"),
    "exp": ("exp", np.linspace(-2.0, 2.0, 60), 8, "normal"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("f", "eigenvalues", "probes", "probe"), CASES.values(), ids=CASES)
def test_intervals_with_controls_cover(f, eigenvalues, probes, probe):
    """The mean over 500 seeds is the truth to four of its own standard errors: there is no bias."""
    A = problems.matrix_of(eigenvalues)
    exact = float(np.sum({"log": np.log, "exp": np.exp}[f](eigenvalues)))
    interval = (eigenvalues.min() - 5e-4, eigenvalues.max() * 1.001)
    options = {"num_probes": probes, "num_steps": 10, "probe": probe, "interval": interval}
    found = [trace_function(A, f, rng=seed, **options) for seed in range(SEEDS)]
    assert all(result.control_degree == 2 for result in found)
    covered = np.mean([r.interval.low <= exact <= r.interval.high for r in found])
    errors = np.array([result.value for result in found]) - exact
    assert problems.COVERED[0] <= covered <= problems.COVERED[1]
    assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(SEEDS)


def test_huge_shifts_leave_no_control_rather_than_noise():
    """With A = 10^9 I + B, the digits of B are lost in tr A²."""
    A = 1e9 + np.linspace(0.0, 1.0, 50)
    result = trace_function(Diagonal(A), "log", power_traces=[A.sum(), (A**2).sum()], rng=0)
    assert result.control_degree <= 1
    assert abs(result.value - np.sum(np.log(A))) <= 1e-9 * 50
