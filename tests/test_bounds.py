"""Each bound holds, against exact values where there are any and against simulation elsewhere.

Where a sample mean or a rate is held against a bound that is nearly attained, four standard errors are
allowed: a false alarm in fewer than one of 10,000 such comparisons. Each bound is also shown to be near
what it bounds, by a factor that was measured, or to be attained.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.linalg import eigh_tridiagonal, expm

import hessops
from hessops import bounds

ROUNDING = 1e-12
dims = st.integers(2, 10**9)
steps = st.integers(1, 10**6)
rates = st.floats(1e-6, 0.999)


def lanczos_run(eigenvalues, start, num_steps):
    result = hessops.lanczos(np.diag(eigenvalues), num_steps=num_steps, start=start)
    return result.alphas, result.betas


def largest_ritz(run, k):
    return eigh_tridiagonal(run[0][:k], run[1][: k - 1], eigvals_only=True)[-1]


def spectra(least=3, most=12):
    """Draw eigenvalues in [0, 1] with gaps that rounding cannot close, and a start."""
    gaps = st.lists(st.floats(1e-3, 1.0), min_size=least, max_size=most)
    return st.tuples(gaps, st.integers(0, 2**31)).map(_spectrum)


def _spectrum(drawn):
    values = np.cumsum(drawn[0])
    values = (values - values[0]) / (values[-1] - values[0])
    start = np.random.default_rng(drawn[1]).standard_normal(values.size)
    return values, start / np.linalg.norm(start)


# Kuczyński & Woźniakowski


@pytest.mark.parametrize(("k", "n", "eps"), [(1, 5, 0.6), (10, 30, 0.1), (30, 1000, 0.1)])
def test_the_failure_of_the_power_method_is_attained_by_two_eigenvalues(k, n, eps):
    other = (2 * k - 2) * (1 - eps) / (2 * k - 1)
    rng = np.random.default_rng(k)
    square = 1 / (1 + rng.chisquare(n - 1, 20_000) / rng.chisquare(1, 20_000))
    rest = other ** (2 * k - 2) * (1 - square)
    failed = np.mean((1 - other) * rest / (square + rest) > eps)
    bound = bounds.power_failure(k, n, eps)
    assert 0.05 < bound < 0.95
    assert abs(failed - bound) <= 4 * math.sqrt(bound * (1 - bound) / 20_000)


@pytest.mark.parametrize("k", [5, 10, 50, 100])
def test_the_mean_error_of_the_power_method_is_nearly_attained_by_two_eigenvalues(k):
    n = 1000
    square = stats.beta(0.5, (n - 1) / 2)

    def mean_error(other):
        tail = other ** (2 * k - 2)

        def weighted(quantile):
            b = square.ppf(quantile)
            return (1 - other) * tail * (1 - b) / (b + tail * (1 - b))

        return integrate.quad(weighted, 0, 1, limit=200)[0]

    worst = max(mean_error(x) for x in 1 - np.geomspace(0.2, 10, 25) / (k + 10))
    assert 0.85 <= worst / bounds.power_error(k, n) <= 1


@given(spectrum=spectra(), k=st.integers(1, 30))
def test_no_start_of_the_power_method_errs_more_than_its_component_allows(spectrum, k):
    values, start = spectrum
    x = values ** (k - 1) * start
    error = 1 - (x @ (values * x)) / (x @ x)
    assume(1e-9 < error < 1 - 1e-9)
    # The event behind the bound: a larger error than this needs a smaller component than ours.
    eps = error * (1 - 1e-6)
    degree = 2 * k - 2
    peak = (degree / (degree + 1)) ** degree / (degree + 1) * (1 - eps) ** (degree + 1)
    assert start[-1] ** 2 <= (peak / eps) / (1 + peak / eps) * (1 + 1e-9)


@pytest.mark.parametrize("power", [1.0, 0.1])
def test_lanczos_from_random_starts_stays_below_its_mean_and_its_failure(power):
    n, starts = 300, 100
    rng = np.random.default_rng(1)
    values = 1 - np.linspace(0, 1, n) ** (1 / power)
    runs = [lanczos_run(values, rng.standard_normal(n), 24) for _ in range(starts)]
    for k in (2, 4, 8, 16, 24):
        errors = np.array([1 - largest_ritz(run, k) for run in runs])
        assert errors.mean() <= bounds.lanczos_error(k, n)
        for eps in (0.01, 0.1, 0.3):
            bound = bounds.lanczos_failure(k, n, eps)
            slack = 4 * math.sqrt(bound * (1 - bound) / starts)
            assert np.mean(errors > eps) <= bound + slack


def test_the_mean_error_of_lanczos_is_within_a_factor_of_five_for_a_full_spectrum():
    n, rng = 300, np.random.default_rng(2)
    runs = [lanczos_run(np.linspace(0, 1, n), rng.standard_normal(n), 16) for _ in range(40)]
    for k in (4, 8, 16):
        mean = np.mean([1 - largest_ritz(run, k) for run in runs])
        assert bounds.lanczos_error(k, n) <= 5 * mean


@given(spectrum=spectra(), k=st.integers(1, 12))
def test_no_start_of_lanczos_errs_more_than_its_component_allows(spectrum, k):
    values, start = spectrum
    k = min(k, values.size)
    theta = largest_ritz(lanczos_run(values, start, k), k)
    bound = bounds.lanczos_overlap_error(k, abs(start[-1]))
    assert 1 - theta <= bound + ROUNDING


def test_the_error_for_a_known_component_is_attained_after_one_step():
    for b in (0.01, 0.3, 0.9):
        theta = largest_ritz(lanczos_run([0.0, 1.0], np.array([math.sqrt(1 - b * b), b]), 1), 1)
        assert bounds.lanczos_overlap_error(1, b) == pytest.approx(1 - theta, rel=1e-12)


@given(k=st.integers(1, 1000), n=st.integers(2, 10**6), b=st.floats(0.05, 0.999))
def test_the_failure_of_lanczos_is_the_chance_of_a_smaller_component(k, n, b):
    # Below 0.05 one step's error is so near 1 that double precision forgets b.
    eps = bounds.lanczos_overlap_error(k, b)
    chance = stats.beta(0.5, (n - 1) / 2).cdf(b * b)
    assert bounds.lanczos_failure(k, n, eps) == pytest.approx(chance, rel=1e-7)


@pytest.mark.parametrize("n", [10, 1000, 10**6])
def test_the_printed_constants_are_larger(n):
    k = np.arange(4, 200)
    assert np.all(bounds.power_error(k, n) <= 0.871 * math.log(n) / (k - 1))
    assert np.all(bounds.lanczos_error(k, n) <= 0.103 * (np.log(n * (k - 1.0) ** 4) / (k - 1)) ** 2)
    for eps in (1e-4, 0.01, 0.1, 0.5, 0.9):
        printed = 0.354 / np.sqrt(eps * (k - 1)) * math.sqrt(n) * (1 - eps) ** (k - 0.5)
        ours = bounds.power_failure(k, n, eps)
        assert np.all(ours <= np.minimum(printed, 1) * (1 + ROUNDING))
        printed = 1.648 * math.sqrt(n) * np.exp(-math.sqrt(eps) * (2 * k - 1))
        ours = bounds.lanczos_failure(k, n, eps)
        assert np.all(ours <= np.minimum(printed, 1) * (1 + ROUNDING))


@pytest.mark.parametrize("n", [2, 1000, 10**9])
@pytest.mark.parametrize("k", [1, 10, 1000])
@pytest.mark.parametrize(
    ("failure", "mean"),
    [
        (bounds.power_failure, bounds.power_error),
        (bounds.lanczos_failure, bounds.lanczos_error),
    ],
)
def test_a_mean_is_the_integral_of_the_failures(failure, mean, n, k):
    edges = np.linspace(-36, -1e-15, 40)
    pieces = [
        integrate.quad(lambda y: failure(k, n, math.exp(y)) * math.exp(y), a, b, epsrel=1e-9)[0]
        for a, b in itertools.pairwise(edges)
    ]
    assert mean(k, n) == pytest.approx(sum(pieces), rel=2e-6)


@given(n=dims, eps=st.floats(1e-5, 0.99), delta=st.floats(1e-9, 0.99))
def test_steps_needed_are_the_fewest(n, eps, delta):
    needed = bounds.power_steps_needed(n, eps, delta)
    assert bounds.power_failure(needed, n, eps) <= delta
    assert needed == 1 or bounds.power_failure(needed - 1, n, eps) > delta
    needed = bounds.lanczos_steps_needed(n, eps, delta)
    assume(needed < n)
    assert bounds.lanczos_failure(needed, n, eps) <= delta * (1 + 1e-9)
    assert needed == 1 or bounds.lanczos_failure(needed - 1, n, eps) > delta * (1 - 1e-9)


@given(n=dims, k=steps, eps=rates)
def test_more_steps_a_larger_error_or_fewer_dimensions_lower_the_failure(n, k, eps):
    for failure in (bounds.power_failure, bounds.lanczos_failure):
        value = failure(k, n, eps)
        assert 0 <= value <= 1
        assert failure(k + 1, n, eps) <= value
        assert failure(k, n, (1 + eps) / 2) <= value
        assert failure(k, n + 1, eps) >= value * (1 - 1e-9)
    for mean in (bounds.power_error, bounds.lanczos_error):
        assert 0 <= mean(k + 1, n) <= mean(k, n) <= 1 + ROUNDING


# Kaniel, Paige & Saad; conjugate gradients


@given(spectrum=spectra(4), k=st.integers(1, 12), index=st.integers(0, 2))
def test_ritz_values_and_vectors_are_within_kaniel_paige_and_saad(spectrum, k, index):
    values, start = spectrum
    k = min(k, values.size - 1)
    assume(index < min(k, values.size - 1))
    result = hessops.lanczos(np.diag(values), num_steps=k, start=start)
    theta, vectors = eigh_tridiagonal(result.alphas, result.betas)
    theta, vectors = theta[::-1], (result.basis @ vectors)[:, ::-1]
    target = values.size - 1 - index
    tangent = math.sqrt(1 - start[target] ** 2) / abs(start[target])
    assume(index == 0 or theta[index - 1] > values[target] + 1e-6)
    bound = bounds.ritz_value_error(values, k, tangent, index=index, ritz_values=theta[:index])
    assert values[target] - theta[index] <= bound * (1 + 1e-6) + ROUNDING

    inside = np.linalg.norm(result.basis[target])
    sine = math.sqrt(max(1 - inside**2, 0.0))
    angle = bounds.krylov_angle(values, k, tangent, index=index)
    assert sine <= angle * inside * (1 + 1e-6) + 1e-7  # 1 - cos² has lost half the digits
    others = np.delete(theta, index)
    separation = np.abs(others - values[target]).min(initial=np.inf)
    assume(1e-6 < separation < np.inf)
    bound = bounds.ritz_vector_error(min(sine, 1.0), result.residual_norm, separation)
    ritz_sine = math.sqrt(max(1 - vectors[target, index] ** 2, 0.0))
    assert ritz_sine <= bound * (1 + 1e-6) + 1e-6


def test_kaniel_paige_and_saad_see_the_gap():
    n = 400
    values = np.append(np.linspace(0, 0.9, n - 1), 1.0)
    start = np.random.default_rng(3).standard_normal(n)
    start /= np.linalg.norm(start)
    run = lanczos_run(values, start, 20)
    tangent = math.sqrt(1 / start[-1] ** 2 - 1)
    bound = bounds.ritz_value_error(values, np.arange(5, 21), tangent)
    errors = np.array([1 - largest_ritz(run, k) for k in range(5, 21)])
    assert np.all(errors <= bound)
    assert np.all(bound[5:] <= 40 * errors[5:])  # 21 to 30 were measured
    assert bound[-1] < bounds.lanczos_overlap_error(20, abs(start[-1]))


@pytest.mark.parametrize("k", [2, 5, 9])
def test_the_angle_to_the_krylov_space_is_attained(k):
    values = np.append(np.cos(np.pi * np.arange(k) / (k - 1)), 1.2)
    cardinal = [np.prod([(1.2 - b) / (a - b) for b in values[:k] if b != a]) for a in values[:k]]
    start = np.append(np.sqrt(np.abs(cardinal)), 2.0)
    result = hessops.lanczos(np.diag(values), num_steps=k, start=start)
    inside = np.linalg.norm(result.basis[-1])
    tangent = np.linalg.norm(start[:k]) / start[k]
    expected = bounds.krylov_angle(values, k, tangent)
    assert math.sqrt(1 / inside**2 - 1) == pytest.approx(expected, rel=1e-6)


def test_equal_eigenvalues_count_once_and_a_last_step_is_exact():
    twice = bounds.ritz_value_error([0, 0, 1, 1, 3, 3], [1, 2], 1.5)
    np.testing.assert_array_equal(twice, bounds.ritz_value_error([3, 1, 0], [1, 2], 1.5))
    assert bounds.ritz_value_error([1.0, 0.0], [1, 2], 2.0).tolist() == [4.0, 0.0]


def conjugate_gradient_errors(values, rhs, num_steps):
    x, r = np.zeros_like(rhs), rhs.copy()
    p, errors = r.copy(), []
    for _ in range(num_steps):
        alpha = (r @ r) / (p @ (values * p))
        x, old, r = x + alpha * p, r @ r, r - alpha * values * p
        p = r + (r @ r) / old * p
        errors.append(math.sqrt((x - rhs / values) @ (values * (x - rhs / values))))
    return np.array(errors) / math.sqrt(rhs @ (rhs / values))


@pytest.mark.parametrize("k", [1, 4, 10])
def test_conjugate_gradients_attain_their_bound(k):
    kappa = 50.0
    values = (kappa + 1) / 2 + (kappa - 1) / 2 * np.cos(np.pi * np.arange(k + 1) / k)
    cardinal = [np.prod([b / (b - a) for b in values if b != a]) for a in values]
    rhs = np.sqrt(np.abs(cardinal) * values)
    error = conjugate_gradient_errors(values, rhs, k)[-1]
    assert error == pytest.approx(bounds.conjugate_gradient_error(k, kappa), rel=1e-9)


def test_conjugate_gradients_stay_below_their_bound():
    rng = np.random.default_rng(4)
    k = np.arange(1, 31)
    errors = conjugate_gradient_errors(np.linspace(1, 100, 200), rng.standard_normal(200), 30)
    bound = bounds.conjugate_gradient_error(k, 100.0)
    assert np.all(errors <= bound)
    assert np.all(bound <= 2 * (9 / 11) ** k)
    assert bounds.conjugate_gradient_error([0, 1], 1.0).tolist() == [1.0, 0.0]


# Halko, Martinsson & Tropp; Nyström

DECAYS = {
    "poly": np.arange(1.0, 101.0) ** -1.5,
    "exponential": 0.8 ** np.arange(100),
    "flat": np.linspace(1, 2, 100),
    "step": np.repeat([1.0, 1e-3], [8, 92]),
}
every_decay = pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS)


def sketch_basis(rng, values, size, power_steps=0):
    sample = values[:, None] ** (2 * power_steps + 1) * rng.standard_normal((values.size, size))
    return np.linalg.qr(sample)[0]


def mean_and_error(samples):
    return np.mean(samples), np.std(samples, ddof=1) / math.sqrt(len(samples))


@every_decay
def test_the_randomized_svd_is_within_its_expected_errors(decay):
    rng, size = np.random.default_rng(5), 15
    frobenius, spectral, nuclear = [], [], []
    for _ in range(200):
        Q = sketch_basis(rng, decay, size)
        rest = np.diag(decay) - Q @ (Q.T * decay)
        frobenius.append(np.linalg.norm(rest) ** 2)
        spectral.append(np.linalg.norm(rest, 2))
        root = np.sqrt(decay)
        Q = sketch_basis(rng, root, size)
        nuclear.append(decay.sum() - np.linalg.norm(Q.T * root) ** 2)
    for samples, bound, factor in (
        (frobenius, bounds.range_finder_frobenius_error(decay, size), 4),
        (spectral, bounds.range_finder_spectral_error(decay, size), 8),
        (nuclear, bounds.nystrom_nuclear_error(decay, size), 4),
    ):
        mean, error = mean_and_error(samples)
        assert mean <= bound + 4 * error
        assert bound <= factor * mean


@every_decay
@pytest.mark.parametrize("power_steps", [1, 3])
def test_power_steps_are_within_their_expected_error(decay, power_steps):
    rng = np.random.default_rng(6)
    errors = []
    for _ in range(100):
        Q = sketch_basis(rng, decay, 12, power_steps)
        errors.append(np.linalg.norm(np.diag(decay) - Q @ (Q.T * decay), 2))
    bound = bounds.range_finder_spectral_error(decay, 12, power_steps=power_steps)
    mean, error = mean_and_error(errors)
    assert mean <= bound + 4 * error
    assert bound <= 4 * mean


@given(st.integers(3, 40), st.integers(0, 4))
def test_the_default_rank_has_the_smallest_bound(size, power_steps):
    values = DECAYS["poly"]
    ranks = range(1, size - 1)
    by_rank = [bounds.range_finder_frobenius_error(values, size, rank=k) for k in ranks]
    assert bounds.range_finder_frobenius_error(values, size) == min(by_rank)
    tails = [(1 + k / (size - k - 1)) * np.sum(values[k:] ** 2) for k in ranks]
    np.testing.assert_allclose(by_rank, tails, rtol=1e-12)
    spectral = bounds.range_finder_spectral_error(values, size, power_steps=power_steps)
    assert values[size - 2] <= spectral
    scaled = bounds.range_finder_spectral_error(1e6 * values, size, power_steps=power_steps)
    assert scaled == pytest.approx(1e6 * spectral, rel=1e-9)


def test_many_power_steps_reach_the_best_error():
    values = DECAYS["poly"]
    bound = bounds.range_finder_spectral_error(values, 12, rank=10, power_steps=200)
    assert bound == pytest.approx(values[10], rel=0.01)


def test_a_sketch_of_all_columns_leaves_nothing():
    assert bounds.range_finder_frobenius_error(np.ones(5), 5) == 0.0
    assert bounds.range_finder_spectral_error(np.ones(5), 6) == 0.0
    assert bounds.range_finder_spectral_error(np.zeros(9), 4) == 0.0


@pytest.mark.parametrize("r", [1, 2, 5])
@pytest.mark.parametrize("failure", [None, 0.5, 1e-3])
def test_the_sampled_bound_fails_as_rarely_as_it_says(r, failure):
    # The worst residual has rank one: then ‖B ω‖ = ‖B‖ |g|, and the rate is known.
    allowed = 10.0**-r if failure is None else failure
    factor = bounds.range_finder_sampled_error(np.ones(r), failure)
    rate = (2 * stats.norm.cdf(1 / factor) - 1) ** r
    assert rate <= allowed
    assert allowed <= 1.5**r * rate


# Traces


def quadratic_forms(A, probes):
    return np.einsum("ij,jk,ik->i", probes.conj(), A, probes).real


def symmetric(n, seed):
    A = np.random.default_rng(seed).standard_normal((n, n))
    return A + A.T + n * np.diag(np.linspace(-1, 2, n))


def described(A):
    return {
        "frobenius": np.linalg.norm(A),
        "diagonal": np.linalg.norm(np.diag(A)),
        "trace": np.trace(A).real,
        "dim": len(A),
    }


@pytest.mark.parametrize(
    ("probe", "entries"),
    [("rademacher", (-1, 1)), ("steinhaus", np.exp(2j * np.pi * np.arange(3) / 3))],
)
@given(n=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_variances_of_discrete_probes_are_those_of_all_probes(probe, entries, n, seed):
    # Cube roots of unity have the moments of the circle that matter: E z² = 0 and |z| = 1.
    A = symmetric(n, seed)
    everything = np.array(list(itertools.product(entries, repeat=n)))
    exact = np.var(quadratic_forms(A, everything))
    assert bounds.hutchinson_variance(probe, **described(A)) == pytest.approx(
        exact, rel=1e-9, abs=1e-10 * np.linalg.norm(A) ** 2
    )


@pytest.mark.parametrize("probe", ["normal", "sphere"])
def test_variances_of_continuous_probes_are_those_of_many(probe):
    A, rng = symmetric(5, 7), np.random.default_rng(8)
    probes = rng.standard_normal((200_000, 5))
    if probe == "sphere":
        probes *= math.sqrt(5) / np.linalg.norm(probes, axis=1, keepdims=True)
    squares = (quadratic_forms(A, probes) - np.trace(A)) ** 2
    mean, error = mean_and_error(squares)
    assert abs(bounds.hutchinson_variance(probe, **described(A)) - mean) <= 4 * error
    assert error < 0.01 * mean


@pytest.mark.parametrize("probe", ["rademacher", "steinhaus", "normal", "sphere"])
def test_the_standard_error_of_the_verb_is_the_one_of_theory(probe):
    A = symmetric(60, 9).astype(complex if probe == "steinhaus" else float)
    estimate = hessops.trace(A, num_probes=2000, probe=probe, rng=0)
    theory = math.sqrt(bounds.hutchinson_variance(probe, **described(A)) / 2000)
    # The relative error of a standard deviation from m nearly normal samples is 1 / √(2m).
    assert estimate.standard_error == pytest.approx(theory, rel=4 * 1.5 / math.sqrt(4000))


@pytest.mark.parametrize("values", [np.linspace(-1, 1, 40), np.r_[3.0, np.full(20, 0.1)]])
@pytest.mark.parametrize("m", [1, 8])
def test_tails_of_normal_probes_are_bounded(values, m):
    rng = np.random.default_rng(10)
    errors = np.mean(values * (rng.standard_normal((20_000, m, values.size)) ** 2 - 1), axis=1)
    errors = np.abs(errors.sum(axis=-1))
    norms = {"frobenius": np.linalg.norm(values), "spectral": np.abs(values).max()}
    spread = math.sqrt(2 / m) * norms["frobenius"]
    for atol in spread * np.array([0.5, 1.0, 2.0, 3.0]):
        rate, bound = np.mean(errors >= atol), bounds.hutchinson_failure(m, atol, **norms)
        assert rate <= bound + 4 * math.sqrt(bound * (1 - bound) / 20_000)
    loose = bounds.hutchinson_failure(m, 2 * spread, **norms)
    assert loose <= 25 * np.mean(errors >= 2 * spread)


@given(eps=st.floats(0.02, 0.5), delta=st.floats(1e-4, 0.9))
def test_probes_needed_are_enough_for_rank_one(eps, delta):
    m = bounds.hutchinson_probes_needed(eps, delta, probe="normal")
    law = stats.chi2(m)
    assert law.cdf(m * (1 - eps)) + law.sf(m * (1 + eps)) <= delta
    m = bounds.hutchinson_probes_needed(eps, delta)
    law = stats.binom(int(m), 0.5)  # of zᵀ 11ᵀ z / 4 for two signs
    assert law.cdf(m * (1 - eps) / 2) + law.sf(m * (1 + eps) / 2) <= delta


def test_a_quarter_of_the_probes_needed_is_not_enough_for_rank_one():
    m = bounds.hutchinson_probes_needed(0.1, 0.05, probe="normal") / 4
    law = stats.chi2(m)
    assert law.cdf(0.9 * m) + law.sf(1.1 * m) > 0.05


@every_decay
@pytest.mark.parametrize("m", [26, 58])
def test_the_variance_of_hutchpp_is_within_its_bound(decay, m):
    rng, size, probes = np.random.default_rng(11), (m + 2) // 4, (m - 2) // 2
    variances = []
    for _ in range(200):
        Q = sketch_basis(rng, decay, size)
        rest = np.eye(decay.size) - Q @ Q.T
        variances.append(2 / probes * np.linalg.norm(rest * decay @ rest) ** 2)
    bound = bounds.hutchpp_variance(size, probes, trace=decay.sum())
    assert bound == pytest.approx(16 * decay.sum() ** 2 / (m - 2) ** 2)
    mean, error = mean_and_error(variances)
    sharper = 2 / probes * bounds.range_finder_frobenius_error(decay, size)
    assert mean <= sharper + 4 * error
    assert sharper <= bound
    assert sharper <= 10 * mean


# Densities and functions


@pytest.mark.parametrize("t", [0.1, 0.25])
@pytest.mark.parametrize("values", [np.linspace(-1, 1, 300), 0.9 ** np.arange(300)])
def test_the_density_is_within_the_wasserstein_distance_asked_for(t, values):
    num_steps, num_probes = bounds.wasserstein_needed(t, values.size, 0.05)
    assert bounds.wasserstein_error(num_steps, num_probes, values.size, 0.05) <= t
    distances = []
    for seed in range(20):
        density = hessops.spectral_density(
            np.diag(values), num_probes=num_probes, num_steps=num_steps, probe="sphere", rng=seed
        )
        distances.append(
            stats.wasserstein_distance(density.nodes.ravel(), values, density.weights.ravel())
        )
    distances = np.array(distances) / np.ptp(values)
    assert np.mean(distances <= t) >= 0.95
    assert t <= 40 * distances.mean()  # 13 and 31 were measured


@given(spectrum=spectra(), k=st.integers(1, 12))
def test_one_quadrature_is_within_its_wasserstein_distance(spectrum, k):
    values, start = spectrum
    run = lanczos_run(values, start, min(k, values.size))
    nodes, vectors = eigh_tridiagonal(*run)
    distance = stats.wasserstein_distance(nodes, values, vectors[0] ** 2, start**2)
    assert distance <= bounds.quadrature_wasserstein_error(min(k, values.size)) + ROUNDING


@pytest.mark.parametrize("k", [1, 5, 20])
def test_one_quadrature_can_be_a_quarter_of_its_wasserstein_distance_away(k):
    values = np.cos(np.pi * (np.arange(2000) + 0.5) / 2000)
    nodes = np.cos(np.pi * (np.arange(k) + 0.5) / k)
    distance = stats.wasserstein_distance(nodes, values) / 2
    bound = bounds.quadrature_wasserstein_error(k)
    assert bound / 4 <= distance <= bound


def test_a_function_and_its_quadratic_form_are_within_their_bernstein_ellipse():
    values, pole = np.linspace(-1, 1, 500), 1.5
    start = np.random.default_rng(12).standard_normal(500)
    start /= np.linalg.norm(start)
    result = hessops.lanczos(np.diag(values), num_steps=12, start=start)
    axes = np.linspace(1.05, 2.6, 60)
    maxima = 1 / (pole - (axes + 1 / axes) / 2)  # the pole is at the ellipse of 2.618
    exact = start / (pole - values)
    for k in range(1, 13):
        T = np.diag(result.alphas[:k])
        T += np.diag(result.betas[: k - 1], 1) + np.diag(result.betas[: k - 1], -1)
        x = np.linalg.solve(pole * np.eye(k) - T, np.eye(k)[:, 0])
        of_form = abs(x[0] - start @ exact)
        of_vector = np.linalg.norm(result.basis[:, :k] @ x - exact)
        for error, bound in (
            (of_form, bounds.quadrature_error(k, axes, maxima).min()),
            (of_vector, bounds.matrix_function_error(k, axes, maxima).min()),
        ):
            assert error <= bound + 1e-14
            assert bound <= 500 * error  # 41 to 446 were measured


@pytest.mark.parametrize("spread", [1.0, 40.0, 400.0])
def test_the_exponential_is_within_its_bounds(spread):
    values = np.linspace(0, spread, 300)
    start = np.random.default_rng(13).standard_normal(300)
    start /= np.linalg.norm(start)
    result = hessops.lanczos(np.diag(values), num_steps=60, start=start)
    exact = np.exp(-values) * start
    for k in range(1, 61):
        T = np.diag(result.alphas[:k])
        T += np.diag(result.betas[: k - 1], 1) + np.diag(result.betas[: k - 1], -1)
        error = np.linalg.norm(result.basis[:, :k] @ expm(-T)[:, 0] - exact)
        chebyshev = bounds.exponential_chebyshev_error(k, spread)
        assert error <= chebyshev + 1e-13
        assert error < 1e-12 or chebyshev <= 100 * error  # 3 to 62 were measured
        assert error <= bounds.exponential_error(k, spread) + 1e-13


@given(spread=st.floats(1e-3, 1e5), k=st.integers(1, 3000))
def test_hochbruck_and_lubich_lie_above_the_chebyshev_series(spread, k):
    chebyshev = bounds.exponential_chebyshev_error(k, spread)
    printed = bounds.exponential_error(k, spread)
    assert chebyshev <= printed * (1 + 1e-9)
    assert bounds.exponential_chebyshev_error(k + 1, spread) <= chebyshev
    assert bounds.exponential_error(k + 1, spread) <= printed


@given(k=st.integers(1, 10**6), m=st.integers(1, 10**6), n=dims, eta=rates)
def test_wasserstein_bounds_fall_with_steps_probes_and_confidence(k, m, n, eta):
    value = bounds.wasserstein_error(k, m, n, eta)
    assert bounds.wasserstein_error(k + 1, m, n, eta) < value
    assert bounds.wasserstein_error(k, 2 * m, n, eta) < value
    assert bounds.wasserstein_error(k, m, n, (1 + eta) / 2) < value
    assert bounds.quadrature_wasserstein_error(k) < 12 / (2 * k - 1)


# What all have in common

CURVES = [
    lambda k: bounds.power_failure(k, 10, 0.1),
    lambda k: bounds.power_error(k, 10),
    lambda k: bounds.lanczos_failure(k, 10, 0.1),
    lambda k: bounds.lanczos_error(k, 10),
    lambda k: bounds.lanczos_overlap_error(k, 0.1),
    lambda k: bounds.ritz_value_error([3, 2, 1], k, 1.0),
    lambda k: bounds.krylov_angle([3, 2, 1], k, 1.0),
    lambda k: bounds.conjugate_gradient_error(k, 10.0),
    lambda k: bounds.hutchinson_failure(k, 5.0, frobenius=3.0, spectral=1.0),
    lambda k: bounds.hutchpp_variance(9, k),
    lambda k: bounds.wasserstein_error(k, 3, 10, 0.1),
    bounds.quadrature_wasserstein_error,
    lambda k: bounds.quadrature_error(k, 2.0),
    lambda k: bounds.matrix_function_error(k, 2.0),
    lambda k: bounds.exponential_error(k, 10.0),
    lambda k: bounds.exponential_chebyshev_error(k, 10.0),
]


@pytest.mark.parametrize("bound", CURVES)
def test_a_curve_is_its_points_and_falls(bound):
    k = np.array([1, 2, 5, 30, 400])
    curve = bound(k)
    assert curve.dtype == np.float64
    assert np.all(np.diff(curve) <= 0)
    points = [bound(int(step)) for step in k]
    assert all(type(point) is float for point in points)
    np.testing.assert_allclose(curve, points, rtol=1e-12)
    for wrong in (-1, 2.5, math.nan, [3, -2], "five", 1j):
        with pytest.raises(ValueError, match=r"at least|whole numbers|real numbers"):
            bound(wrong)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bounds.power_failure(3, 1, 0.1), "dim holds 1; it has to be at least 2"),
        (lambda: bounds.power_error(3, [4, 5]), r"dim has the shape \(2,\)"),
        (lambda: bounds.lanczos_failure(3, 9, 1.0), "rtol holds 1.0; it has to be above 0 and"),
        (lambda: bounds.power_steps_needed(9, 1e-300, 0.1), "more than 2"),
        (lambda: bounds.lanczos_overlap_error(3, 0.0), "overlap holds 0.0"),
        (lambda: bounds.ritz_value_error([1, 1], 3, 1.0), "of 1 distinct eigenvalues"),
        (lambda: bounds.ritz_value_error([3, 2, 1], 3, 1.0, index=1), "give the 1 above number 1"),
        (
            lambda: bounds.ritz_value_error([3, 2, 1], 3, 1.0, index=1, ritz_values=[1.5]),
            "not above the eigenvalue 2",
        ),
        (lambda: bounds.krylov_angle([3, 2, 1], 1, 1.0, index=1), "num_steps holds 1"),
        (lambda: bounds.ritz_vector_error(0.1, 1.0, 0.0), "separation holds 0.0"),
        (lambda: bounds.conjugate_gradient_error(3, 0.5), "condition_number holds 0.5"),
        (lambda: bounds.range_finder_frobenius_error([], 5), "at least one number"),
        (lambda: bounds.nystrom_nuclear_error([1.0, -1.0], 5), "needs them at least 0"),
        (lambda: bounds.range_finder_spectral_error([1.0] * 9, 5, rank=4), "two columns more"),
        (lambda: bounds.range_finder_sampled_error([]), "residual_norms has the shape"),
        (lambda: bounds.hutchinson_variance("gauss", frobenius=1.0), "probe is 'gauss'"),
        (lambda: bounds.hutchinson_variance("sphere", frobenius=1.0), "dim is None"),
        (
            lambda: bounds.hutchinson_variance("rademacher", frobenius=1.0, diagonal=2.0),
            "diagonal is larger than any matrix",
        ),
        (
            lambda: bounds.hutchinson_failure(3, 1.0, frobenius=1.0, spectral=2.0),
            "spectral holds 2",
        ),
        (lambda: bounds.hutchinson_probes_needed(0.7, 0.1), "rtol holds 0.7"),
        (lambda: bounds.hutchinson_probes_needed(0.1, 0.1, probe="sphere"), "is known for"),
        (lambda: bounds.hutchpp_variance(2, 5), "sketch_size holds 2"),
        (lambda: bounds.wasserstein_needed(1.5, 10, 0.1), "tol holds 1.5"),
        (lambda: bounds.quadrature_error(3, 1.0), "rho holds 1.0"),
        (lambda: bounds.exponential_error(3, 0.0), "spread holds 0.0"),
    ],
)
def test_bad_arguments_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
