"""Traces by random probes: exact answers, honest intervals, variances as theory has them."""

import math
import warnings

import numpy as np
import problems
import pytest
import scipy.sparse as sp
from scipy import stats

import hessops
from hessops import ArraySpace, ConvergenceWarning, Diagonal, FiniteSum, LowRank, aslinearoperator
from hessops.algorithms.trace.hutchinson import HutchinsonState, hutchinson_steps
from hessops.random import Purpose, Stream
from hessops.statistics import MeanVariance, welch_satterthwaite

REAL_KINDS = ("rademacher", "normal", "sphere")
COMPLEX_KINDS = (*REAL_KINDS, "steinhaus")

# Mean relative errors over 200 trials with sphere probes after 30, 60, 120 and 240 products.
HUTCHINSON_TABLE = {
    "flat": {60: 1.3e-3, 240: 6.4e-4},
    "poly": {30: 0.131, 60: 9.4e-2, 120: 6.7e-2, 240: 4.6e-2},
    "slowexp": {60: 3.7e-2, 120: 2.2e-2, 240: 1.6e-2},
    "fastexp": {30: 8.4e-2, 60: 5.6e-2, 120: 4.1e-2},
    "smallstep": {60: 2.2e-2, 120: 1.3e-2, 240: 1.1e-2},
    "bigstep": {60: 1.8e-2, 120: 1.4e-2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HUTCHINSON_TABLE)
def test_mean_relative_errors_of_the_xtrace_spectra(name):
    """T1. Each mean has a relative deviation of 5 to 7 %: a false alarm of factor 1.5 is 5 sigma."""
    spectrum, expected = problems.XTRACE_SPECTRA[name], HUTCHINSON_TABLE[name]
    operator, truth = Diagonal(spectrum), float(np.sum(spectrum))
    most = max(expected)
    runs = [
        hessops.trace(operator, num_probes=most, probe="sphere", block_size=30, rng=seed)
        for seed in range(200)
    ]
    for num_probes, error in expected.items():
        estimates = np.array([run.history["estimate"][num_probes // 30 - 1] for run in runs])
        mean_error = np.mean(np.abs(estimates / truth - 1))
        assert error / 1.5 <= mean_error <= error * 1.5, num_probes


@pytest.mark.parametrize("probe", REAL_KINDS)
@pytest.mark.parametrize(
    ("matrix", "truth"),
    [
        (problems.laplacian_1d(100), 200.0),
        (problems.laplacian_2d(30), 3600.0),
        (problems.kneser(11, 4), 0.0),
        (problems.toeplitz_gram(1000), 4999.0),
    ],
    ids=["T4", "T5", "T9", "T8"],
)
def test_interval_holds_the_trace(matrix, truth, probe):
    """At a confidence of 0.9999: one false alarm in 800 for all cases together."""
    result = hessops.trace(matrix, num_probes=64, probe=probe, confidence=0.9999, rng=1)
    assert result.interval.low <= truth <= result.interval.high
    variance = 2 * sp.linalg.norm(matrix) ** 2
    assert 0 < result.standard_error**2 < 2 * variance / 64


@pytest.mark.parametrize(
    ("probe", "variance"), [("normal", 35760.0), ("rademacher", 6960.0), ("sphere", 6944.567627)]
)
def test_variance_of_one_probe(probe, variance):
    """T6. A sample variance of 2000 has a relative deviation of 3.2 %; 15 % are 4.7 sigma."""
    result = hessops.trace(problems.laplacian_2d(30), num_probes=2000, probe=probe, rng=0)
    assert result.standard_error**2 * 2000 == pytest.approx(variance, rel=0.15)


def complex_variance(A, probe):
    """Return the variance of one probe on a complex self-adjoint matrix."""
    n, squares, diagonal = len(A), np.sum(np.abs(A) ** 2), np.sum(np.diag(A).real ** 2)
    return {
        # Signs only see the real part.
        "rademacher": 2 * (np.sum(A.real**2) - diagonal),
        "normal": squares,
        "sphere": n / (n + 1) * (squares - np.trace(A).real ** 2 / n),
        "steinhaus": squares - diagonal,
    }[probe]


@pytest.mark.parametrize("probe", COMPLEX_KINDS)
def test_variance_of_one_probe_on_a_complex_operator(probe):
    """A relative deviation of the sample variance of about 3.5 %: 15 % are more than 4 sigma."""
    A = problems.matrix_of(np.linspace(-1, 3, 40), rng=3, dtype=np.complex128)
    result = hessops.trace(A, num_probes=2000, probe=probe, confidence=0.9999, rng=0)
    assert result.standard_error**2 * 2000 == pytest.approx(complex_variance(A, probe), rel=0.15)
    assert result.interval.low <= 40.0 <= result.interval.high


@pytest.mark.parametrize(
    ("operator", "probe"),
    [
        (Diagonal(np.linspace(-3, 5, 50)), "rademacher"),
        (2.5 * hessops.Identity(50), "sphere"),
        (np.diag(np.linspace(-3, 5, 50)).astype(np.complex128), "steinhaus"),
        (np.diag(np.linspace(-3, 5, 50)).astype(np.complex128), "rademacher"),
        (2.5 * hessops.Identity(ArraySpace(50, np.complex128)), "sphere"),
    ],
    ids=["signs", "sphere", "steinhaus", "signs-complex", "sphere-complex"],
)
def test_one_probe_is_exact_where_its_variance_vanishes(operator, probe):
    """T7."""
    truth = np.trace(aslinearoperator(operator).to_dense()).real
    result = hessops.trace(operator, num_probes=1, probe=probe, rng=5)
    assert result.value == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("n", [3, 6, 10, 50])
def test_sphere_probes_are_not_biased_in_small_dimensions(n):
    """A probe scaled by n / |z|^2 instead of sqrt(n) / |z| would give n^2 / (n - 2) here."""
    result = hessops.trace(hessops.Identity(n), num_probes=3, probe="sphere", rng=0)
    assert result.value == pytest.approx(n, rel=1e-13)


@pytest.mark.parametrize("probe", REAL_KINDS)
def test_value_error_and_interval_are_those_of_students_t(probe):
    """Also with two probes, where a population deviation would be sqrt(2) too small."""
    A = problems.matrix_of(np.linspace(-1, 2, 30))
    for num_probes in (2, 3, 12):
        result = hessops.trace(A, num_probes=num_probes, probe=probe, confidence=0.9, rng=4)
        Z = ArraySpace(30).probes(Stream(4, Purpose.TRACE), range(num_probes), probe)
        samples = np.einsum("ij,ij->j", Z, A @ Z)
        error = stats.sem(samples)
        half = stats.t.ppf(0.95, num_probes - 1) * error
        assert result.value == pytest.approx(samples.mean(), rel=1e-12)
        assert result.standard_error == pytest.approx(error, rel=1e-10)
        assert result.interval == pytest.approx(
            (samples.mean() - half, samples.mean() + half), rel=1e-10
        )


# --- coverage -------------------------------------------------------------------------------

SEEDS = range(500)
NOMINAL = problems.COVERED

SPECTRA = {
    "flat": np.linspace(3.0, 1.0, 100),
    "exponential": 0.9 ** np.arange(100.0),
    "step": np.repeat([1.0, 1e-3], [25, 75]),
}


def coverage(A, truth, seeds=SEEDS, **options):
    """Return the share of seeds whose interval holds the truth."""
    operator = aslinearoperator(A)
    intervals = np.array([hessops.trace(operator, rng=s, **options).interval for s in seeds])
    return float(np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])))


def gram_of_rows(name, batch):
    """Return X^T X / N as a finite sum over batches of rows, and its trace."""
    rng = np.random.default_rng(5)
    X = {
        "isotropic": rng.standard_normal((64, 40)),
        "decaying": rng.standard_normal((64, 40)) / np.arange(1, 41),
        "heavy": rng.standard_t(5, (64, 40)),
        # The rows have much in common, as samples have in a trained network.
        "shared": 1 + rng.standard_normal((64, 40)),
    }[name]
    terms = [LowRank(np.ascontiguousarray(part.T)) for part in np.split(X, len(X) // batch)]
    return FiniteSum(terms, [1 / len(X)] * len(terms)), float(np.sum(X**2) / len(X))


@pytest.mark.parametrize("probe", REAL_KINDS)
@pytest.mark.parametrize("name", SPECTRA)
def test_coverage(name, probe):
    A = problems.matrix_of(SPECTRA[name])
    share = coverage(A, np.sum(SPECTRA[name]), num_probes=24, probe=probe)
    assert NOMINAL[0] <= share <= NOMINAL[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch", "num_probes"),
    [
        ("isotropic", 1, 4), ("isotropic", 8, 2), ("decaying", 1, 2), ("decaying", 16, 8),
        ("heavy", 4, 2), ("heavy", 16, 4),
    ],
)  # fmt: skip
def test_coverage_with_a_fresh_probe_for_every_term(name, batch, num_probes):
    operator, truth = gram_of_rows(name, batch)
    share = coverage(operator, truth, num_probes=num_probes)
    assert NOMINAL[0] <= share <= NOMINAL[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("flat", {"rtol": 0.01}), ("exponential", {"atol": 1.2}), ("step", {"rtol": 0.08})],
)
def test_coverage_of_the_two_stages_of_stein(name, tolerance):
    """Looking again after every block and stopping on lucky draws would lose coverage."""
    A = problems.matrix_of(SPECTRA[name])
    share = coverage(A, np.sum(SPECTRA[name]), **tolerance)
    assert NOMINAL[0] <= share <= NOMINAL[1]


@pytest.mark.slow
def test_coverage_of_the_two_stages_of_stein_with_a_fresh_probe_for_every_term():
    operator, truth = gram_of_rows("isotropic", 16)
    share = coverage(operator, truth, rtol=0.05)
    assert NOMINAL[0] <= share <= NOMINAL[1]


def test_coverage_of_other_confidences():
    A = problems.matrix_of(SPECTRA["flat"])
    for confidence in (0.5, 0.8, 0.99):
        share = coverage(A, 200.0, num_probes=8, probe="sphere", confidence=confidence)
        deviation = math.sqrt(confidence * (1 - confidence) / len(SEEDS))
        assert abs(share - confidence) <= 2.6 * deviation, confidence


# --- fresh probes for every term ------------------------------------------------------------


def probe_variance(A):
    """Return the variance of one probe of signs on a real symmetric matrix."""
    return 2 * (np.sum(A**2) - np.sum(np.diag(A) ** 2))


@pytest.mark.slow
def test_fresh_probes_vary_as_theory_says():
    """Sums of squares of the terms instead of the square of the sum.

    A mean of 500 sample variances of 8 probes has a relative deviation of 2.5 to 4 %: 15 % are
    about 4 sigma.
    """
    operator, _ = gram_of_rows("shared", 4)
    parts = sum(probe_variance(term.to_dense()) for term in operator.terms())
    whole = probe_variance(operator.to_dense())
    assert parts < whole / 5
    for stratify, variance in ((True, parts), (False, whole)):
        errors = [
            hessops.trace(operator, num_probes=8, stratify=stratify, rng=s).standard_error
            for s in range(500)
        ]
        assert np.mean(np.square(errors)) * 8 == pytest.approx(variance, rel=0.15)


def test_fresh_probes_admit_their_error_where_terms_cancel():
    """A sum of M and -M is zero for one probe, but not for a probe of each."""
    M = aslinearoperator(problems.matrix_of(np.linspace(1, 3, 20)))
    cancelling = FiniteSum([M, M], [1.0, -1.0])
    together = hessops.trace(cancelling, num_probes=16, stratify=False, rng=0)
    apart = hessops.trace(cancelling, num_probes=16, stratify=True, confidence=0.9999, rng=0)
    assert abs(together.value) < 1e-12
    assert apart.standard_error > 0.1
    assert apart.interval.low <= 0 <= apart.interval.high


def test_stratify_is_done_for_finite_sums_and_changes_nothing_for_others():
    operator, _ = gram_of_rows("isotropic", 8)
    fresh = hessops.trace(operator, num_probes=4, rng=0)
    assert fresh.num_terms == 8
    assert fresh.value == hessops.trace(operator, num_probes=4, stratify=True, rng=0).value
    whole = hessops.trace(operator, num_probes=4, stratify=False, rng=0)
    assert whole.num_terms == 1
    assert whole.value != fresh.value
    A = operator.to_dense()
    assert whole.value == pytest.approx(
        hessops.trace(A, num_probes=4, stratify=True, rng=0).value, rel=1e-12
    )


def test_terms_have_independent_probes():
    """Two equal terms with one probe would repeat each other's sample."""
    A = aslinearoperator(problems.matrix_of(np.linspace(1, 3, 20)))
    (state,) = hutchinson_steps(
        FiniteSum([A, A]), stream=Stream(0), block_size=4, stratify=True, num_probes=4
    )
    assert state.moments.mean[0, 0] != state.moments.mean[1, 0]


def test_scatter_between_terms_is_exact_where_probes_leave_no_error():
    diagonals = np.random.default_rng(0).standard_normal((6, 10))
    weights = [0.5, 1.0, 2.0, 1.0, 1.0, 0.1]
    operator = FiniteSum([Diagonal(d) for d in diagonals], weights)
    result = hessops.trace(operator, num_probes=2, rng=0)
    scaled_up = 6 * diagonals.sum(axis=1) * weights
    assert result.term_scatter == pytest.approx(np.std(scaled_up, ddof=1), rel=1e-12)
    assert result.standard_error == pytest.approx(0, abs=1e-12)


def test_scatter_between_terms_has_the_error_of_the_probes_taken_out():
    """The mean of 400 squares has a relative deviation of 2 %; not corrected, it is 70 % high."""
    rng = np.random.default_rng(1)
    terms = []
    for shift in np.linspace(-2, 2, 8):
        B = rng.standard_normal((10, 10))
        terms.append(B + B.T - np.diag(np.diag(B + B.T)) + shift * np.eye(10))
    operator = FiniteSum([aslinearoperator(term) for term in terms])
    truth = np.var([8 * np.trace(term) for term in terms], ddof=1)
    noise = 64 / 4 * np.mean([probe_variance(term) for term in terms])
    scatters = [hessops.trace(operator, num_probes=4, rng=s).term_scatter for s in range(400)]
    assert noise > 0.3 * truth
    assert np.mean(np.square(scatters)) == pytest.approx(truth, rel=0.1)


def sized(sizes, traces, n=4):
    """Return diagonal terms, which probes of signs leave no error, with samples and traces given."""
    terms = []
    for size, trace in zip(sizes, traces, strict=True):
        terms.append(Diagonal(np.full(n, trace / n)))
        terms[-1].num_samples = size
    return terms


def scatter(operator):
    return hessops.trace(operator, num_probes=2, rng=0).term_scatter


def test_terms_that_differ_in_size_alone_do_not_scatter():
    """Batches of 8, 8 and a short last one of 2: the mean of each is the same."""
    operator = FiniteSum(sized([8, 8, 2], np.array([8, 8, 2]) / 18 * 5.0))
    assert scatter(operator) == pytest.approx(0, abs=1e-12)
    unsized = FiniteSum(sized([1, 1, 1], np.array([8, 8, 2]) / 18 * 5.0))
    assert scatter(unsized) > 1


@pytest.mark.parametrize("decay", [0.7, -0.7, 1e6])
def test_a_multiple_of_the_identity_is_no_data_and_does_not_scatter(decay):
    operator = FiniteSum(sized([3, 5, 4], [1.0, 2.5, 2.0]))
    for decayed in (operator + decay * hessops.Identity(4), hessops.Shifted(operator, decay)):
        assert scatter(decayed) == pytest.approx(scatter(operator), rel=1e-12)
        assert hessops.trace(decayed, num_probes=2, rng=0).num_terms == 4
    single = FiniteSum(sized([3], [1.0])) + decay * hessops.Identity(4)
    assert math.isnan(scatter(single))


def test_sizes_reach_through_scaling_projection_declaration_and_adjoint():
    operator = FiniteSum(sized([3, 5, 0], [1.0, 2.5, 2.0]), [0.5, 2.0, 1.0])
    skew = FiniteSum([A @ Diagonal(np.arange(4.0)) for A in sized([3, 5], [1.0, 2.5])])
    for product, size in zip(skew.operators, (3, 5), strict=True):
        product.num_samples = size
    for whole in (
        operator,
        2 * operator,
        -operator,
        aslinearoperator(operator, positive_semidefinite=True),
        hessops.Projected(operator, np.eye(4)[:, :1]),
    ):
        assert [term.num_samples for term in whole.terms()] == [3, 5, 0]
    assert [term.num_samples for term in skew.H.terms()] == [3, 5]


def test_scatter_is_that_of_samples_whatever_the_sizes_of_terms():
    """Samples of unit variance fall into terms of any size: the error of the mean is 1 / sqrt(N).

    The mean of 4000 squares of 5 degrees of freedom deviates by 1 %, relatively: 5 % are 5 sigma.
    """
    rng = np.random.default_rng(0)
    sizes = np.array([1, 9, 4, 4, 30, 2])
    total = sizes.sum()
    squares = []
    for _ in range(4000):
        means = rng.standard_normal(6) / np.sqrt(sizes)
        moments = MeanVariance(2, (means * sizes / total)[:, None], np.zeros((6, 1)))
        state = HutchinsonState(1, 2, moments, tuple(sizes))
        squares.append(state.term_scatter() ** 2 / 6)
    assert np.mean(squares) == pytest.approx(1 / total, rel=0.05)


def test_scatter_of_terms_of_any_size_has_the_error_of_the_probes_taken_out():
    """Terms that agree but for noise of known variance: the squares average to zero.

    Cut off at zero, each is at most the noise; uncorrected, they would average to twice what is
    allowed here.
    """
    rng = np.random.default_rng(1)
    sizes, probes = np.array([1.0, 9.0, 4.0, 4.0, 30.0, 2.0]), 400
    shares = sizes / sizes.sum()
    signed, noise = [], []
    for _ in range(400):
        samples = (
            shares[:, None] * 3.0 + rng.standard_normal((6, probes)) * np.sqrt(shares)[:, None]
        )
        moments = MeanVariance.of(samples[:, None, :])
        signed.append(HutchinsonState(1, probes, moments, tuple(sizes)).term_scatter() ** 2)
        bare = MeanVariance(probes, moments.mean, np.zeros_like(moments.spread))
        noise.append(HutchinsonState(1, probes, bare, tuple(sizes)).term_scatter() ** 2)
    assert np.mean(signed) < 0.5 * np.mean(noise)


def test_scatter_of_a_single_term_is_unknown():
    assert math.isnan(hessops.trace(np.eye(4), num_probes=4, rng=0).term_scatter)


def test_degrees_of_freedom_of_equal_and_of_lonely_terms():
    assert welch_satterthwaite(np.array([0.0, 5.0, 0.0]), 3) == 3
    assert welch_satterthwaite(np.ones(10), 3) == 30
    assert welch_satterthwaite(np.zeros(10), 3) >= 3
    # (Σv)² / Σv² (f + 2) - 2, with variances 1, 4 and 9
    assert welch_satterthwaite(np.array([1.0, 2.0, 3.0]), 3) == pytest.approx(14**2 / 98 * 5 - 2)


def test_a_real_term_of_a_complex_sum_takes_complex_probes():
    real = aslinearoperator(problems.matrix_of(np.linspace(1, 2, 8)))
    other = aslinearoperator(problems.matrix_of(np.linspace(0, 1, 8), rng=1, dtype=np.complex128))
    result = hessops.trace(
        FiniteSum([real, other]), num_probes=64, probe="steinhaus", confidence=0.9999, rng=0
    )
    assert result.interval.low <= 16.0 <= result.interval.high


# --- tolerances -----------------------------------------------------------------------------


def test_the_first_stage_fixes_the_number_of_probes():
    """Stein (1945): ceil((t s / w)^2) probes in all, with s and t of the first 16."""
    A = problems.matrix_of(SPECTRA["exponential"])
    for seed in range(10):
        result = hessops.trace(A, method="hutchinson", atol=1.0, block_size=1, rng=seed)
        Z = ArraySpace(100).probes(Stream(seed, Purpose.TRACE), range(16), "rademacher")
        first = np.std(np.einsum("ij,ij->j", Z, A @ Z), ddof=1)
        quantile = stats.t.ppf(0.975, 15)
        assert result.num_probes == max(16, math.ceil((quantile * first) ** 2))
        half = (result.interval.high - result.interval.low) / 2
        assert half == pytest.approx(quantile * first / math.sqrt(result.num_probes), rel=1e-9)
        assert half <= 1.0
        assert result.converged


@pytest.mark.parametrize("tolerance", [{"rtol": 0.02}, {"atol": 2.0}, {"rtol": 1e-9, "atol": 2.0}])
def test_the_interval_is_as_short_as_asked_for(tolerance):
    A = problems.matrix_of(np.linspace(1, 5, 30))
    result = hessops.trace(A, rng=0, **tolerance)
    half = (result.interval.high - result.interval.low) / 2
    asked = max(tolerance.get("atol", 0), tolerance.get("rtol", 0) * abs(result.value))
    assert result.converged
    assert half <= asked * (1 + 1e-12)


def test_a_negative_trace_takes_as_many_probes_as_its_opposite():
    """A test of the change relative to the signed mean would stop at once."""
    A = problems.matrix_of(SPECTRA["exponential"])
    positive, negative = (
        hessops.trace(c * A, method="hutchinson", rtol=0.1, rng=0) for c in (1, -1)
    )
    assert negative.num_probes == positive.num_probes > 16
    assert negative.value == pytest.approx(-positive.value, rel=1e-12)


def test_a_tolerance_out_of_reach_warns_and_says_how_many_probes_it_takes():
    A = problems.matrix_of(SPECTRA["exponential"])
    with pytest.warns(ConvergenceWarning, match=r"used all 40 probes; about \d+ would reach"):
        result = hessops.trace(A, rtol=1e-3, num_probes=40, rng=0)
    assert result.num_probes == result.num_products == 40
    assert not result.converged
    needed = int(result.status.partition("about ")[2].split()[0])
    truth = (1.96 * math.sqrt(probe_variance(A)) / (1e-3 * 10)) ** 2
    assert truth / 4 < needed < truth * 4
    with pytest.raises(hessops.ConvergenceError, match="raise num_probes"):
        result.raise_if_failed()


def test_a_zero_trace_without_variance_is_reached_at_once():
    result = hessops.trace(Diagonal(np.zeros(5)), rtol=0.1, rng=0)
    assert (result.value, result.converged) == (0.0, True)


# --- the rest -------------------------------------------------------------------------------


def test_one_probe_gives_a_value_and_no_error():
    result = hessops.trace(problems.laplacian_1d(20), num_probes=1, rng=0)
    assert math.isfinite(result.value)
    assert math.isnan(result.standard_error)
    assert result.interval == (-math.inf, math.inf)
    assert "num_probes=2" in result.status


def test_one_probe_reaches_no_tolerance():
    with pytest.warns(ConvergenceWarning, match="one probe gives no error"):
        result = hessops.trace(problems.laplacian_1d(20), num_probes=1, rtol=0.5, rng=0)
    assert not result.converged


@pytest.mark.parametrize("block_size", [1, 2, 7, 30, 100])
@pytest.mark.parametrize("kind", ["whole", "stratified"])
def test_the_block_size_changes_nothing(kind, block_size):
    operator, _ = gram_of_rows("heavy", 16)
    options = {"num_probes": 30, "stratify": kind == "stratified", "rng": 3}
    expected = hessops.trace(operator, block_size=30, **options)
    result = hessops.trace(operator, block_size=block_size, **options)
    assert result.value == pytest.approx(expected.value, rel=1e-12)
    assert result.standard_error == pytest.approx(expected.standard_error, rel=1e-9)
    assert result.interval == pytest.approx(expected.interval, rel=1e-10)
    assert result.term_scatter == pytest.approx(expected.term_scatter, rel=1e-9, nan_ok=True)
    assert result.num_products == 30


def test_the_block_size_does_not_change_where_a_tolerance_is_reached():
    A = problems.matrix_of(SPECTRA["exponential"])
    runs = [
        hessops.trace(A, method="hutchinson", atol=1.0, block_size=size, rng=0)
        for size in (1, 6, 16, 64)
    ]
    assert runs[0].num_probes % 16 != 0
    for result in runs[1:]:
        assert result.num_probes == runs[0].num_probes
        assert result.interval == pytest.approx(runs[0].interval, rel=1e-10)


def test_products_are_counted_as_they_are_made():
    columns = []

    def multiply(X):
        columns.append(X.shape[1])
        return 2 * X

    operator = aslinearoperator(multiply, shape=10, self_adjoint=True)
    result = hessops.trace(operator, num_probes=23, block_size=5, rng=0)
    assert sum(columns) == result.num_products == result.num_probes == 23
    assert result.history["num_products"].tolist() == [5, 10, 15, 20, 23]
    assert result.history["estimate"][-1] == result.value
    assert result.history["error"][-1] == result.standard_error


def test_the_seed_of_a_result_repeats_it():
    A = problems.laplacian_2d(6)
    first = hessops.trace(A, num_probes=5, probe="normal")
    assert hessops.trace(A, num_probes=5, probe="normal", rng=first.seed).value == first.value
    assert hessops.trace(A, num_probes=5, probe="normal").value != first.value


def test_sections_add_up_and_have_errors_of_their_own():
    """Standard errors of 2000 probes have a relative deviation of 2 %; 8 % are 4 sigma."""
    A = problems.matrix_of(np.linspace(-1, 4, 30))
    space = ArraySpace(30, sections={"first": (0, 10), "second": (10, 30)})
    operator = hessops.aslinearoperator(A)
    operator.domain = operator.codomain = space
    result = hessops.trace(operator, num_probes=2000, rng=0)
    assert set(result.sections) == {"first", "second"}
    total = sum(float(section) for section in result.sections.values())
    assert total == pytest.approx(result.value, rel=1e-12)
    for name, (start, stop) in space.sections.items():
        rows, block = A[start:stop], A[start:stop, start:stop]
        # z_s^T (A z)_s is the quadratic form of the symmetric part of the section's rows of A.
        form = np.zeros_like(A)
        form[start:stop] = rows
        section = result.sections[name]
        assert abs(section.value - np.trace(block)) < 4 * section.standard_error
        variance = probe_variance((form + form.T) / 2)
        assert section.standard_error == pytest.approx(math.sqrt(variance / 2000), rel=0.08)


def test_sections_of_a_finite_sum():
    space = ArraySpace(6, sections={"a": (0, 2), "b": (2, 6)})
    values = np.arange(6.0)
    terms = [Diagonal(values), Diagonal(10 * values)]
    for term in terms:
        term.domain = term.codomain = space
    result = hessops.trace(FiniteSum(terms), num_probes=2, rng=0)
    assert {name: float(s) for name, s in result.sections.items()} == {"a": 11.0, "b": 154.0}
    assert result.value == 165.0


def test_a_callback_ends_the_run():
    seen = []

    def callback(state):
        seen.append(state.num_products)
        return len(seen) == 3

    result = hessops.trace(np.eye(5), num_probes=50, block_size=4, rng=0, callback=callback)
    assert seen == [4, 8, 12]
    assert result.num_probes == 12
    assert "stopped by the callback" in result.status


def test_a_callback_that_ends_a_run_before_its_tolerance_is_no_success():
    A = problems.matrix_of(SPECTRA["exponential"])
    with pytest.warns(ConvergenceWarning, match="stopped by the callback after 16 probes"):
        result = hessops.trace(
            A, method="hutchinson", rtol=1e-3, rng=0, callback=lambda state: True
        )
    assert not result.converged


def test_float32_products_are_summed_in_double_precision():
    """A float32 running sum would keep five digits of these."""
    values = np.full(200_000, np.float32(0.1))
    result = hessops.trace(Diagonal(values), num_probes=2, rng=0)
    assert result.value == pytest.approx(np.sum(values, dtype=np.float64), rel=1e-12)


EVERY_SCALE = [(1e-12, "float32"), (1e-3, "float32"), (1e12, "float32")]
EVERY_SCALE += [(scale, "float64") for scale in (1e-160, 1e-80, 1e-12, 1e12, 1e80, 1e150)]


@pytest.mark.parametrize(("scale", "dtype"), EVERY_SCALE)
def test_the_estimate_scales_with_the_operator(scale, dtype):
    A = problems.matrix_of(np.linspace(-1, 4, 30))
    one, scaled = (hessops.trace((c * A).astype(dtype), num_probes=8, rng=0) for c in (1.0, scale))
    tolerance = 200 * float(np.finfo(dtype).eps)
    assert scaled.value == pytest.approx(scale * one.value, rel=tolerance)
    assert scaled.standard_error == pytest.approx(scale * one.standard_error, rel=tolerance)


@pytest.mark.parametrize("scale", [1e-160, 1e-80, 1e80, 1e150])
@pytest.mark.parametrize("options", [{"num_probes": 8}, {"rtol": 0.05}, {"rtol": 1e-3}], ids=str)
def test_finite_sums_scale_with_the_operator(scale, options):
    """Degrees of freedom are ratios of fourth powers, which must not leave the range of doubles."""
    operator, _ = gram_of_rows("heavy", 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        one, scaled = (hessops.trace(c * operator, rng=0, **options) for c in (1.0, scale))
    assert scaled.num_probes == one.num_probes
    assert scaled.interval == pytest.approx(tuple(scale * np.array(one.interval)), rel=1e-9)
    assert scaled.term_scatter == pytest.approx(scale * one.term_scatter, rel=1e-9)


def test_torch_tensors_see_the_same_signs():
    torch = pytest.importorskip("torch")
    A = problems.matrix_of(np.linspace(-1, 4, 30))
    ours = hessops.trace(A, num_probes=8, rng=0)
    theirs = hessops.trace(torch.from_numpy(A), num_probes=8, rng=0)
    assert theirs.value == pytest.approx(ours.value, rel=1e-12)
    assert isinstance(theirs.value, float)


def test_a_fixed_number_of_probes_never_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = hessops.trace(problems.laplacian_2d(5), num_probes=2, rng=0)
    assert result.converged


def test_intervals_of_sections_have_the_confidence_that_was_asked_for():
    space = ArraySpace(30, sections={"first": (0, 10), "second": (10, 30)})
    operator = hessops.aslinearoperator(problems.matrix_of(np.linspace(-1, 4, 30)))
    operator.domain = operator.codomain = space
    results = {
        confidence: hessops.trace(operator, num_probes=12, confidence=confidence, rng=0)
        for confidence in (0.5, 0.95)
    }
    for name in space.sections:
        narrow, wide = (result.sections[name] for result in results.values())
        assert narrow.confidence == 0.5
        assert 0.25 < np.diff(narrow.interval)[0] / np.diff(wide.interval)[0] < 0.4
