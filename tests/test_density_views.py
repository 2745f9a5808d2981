"""Other ways to look at one Lanczos run: Chebyshev series, continued fraction, band, distances."""

import math

import numpy as np
import problems
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from scipy import stats

import hessops
from hessops import Diagonal
from hessops.density.kernel_polynomial import chebyshev_moments, jackson_factors

UNIFORM = np.linspace(-1, 1, 400)


def run(eigenvalues, seed=0, **options):
    options = {"num_probes": 8, "num_steps": 50, "probe": "sphere", **options}
    return hessops.spectral_density(Diagonal(eigenvalues), rng=seed, **options)


# Kernel polynomials


@given(st.integers(1, 40), st.integers(0, 2**20))
def test_moments_are_those_of_the_nodes(count, seed):
    density = run(np.random.default_rng(seed).standard_normal(30), seed, num_steps=20, num_probes=2)
    low, high = density.support
    found = chebyshev_moments(density, count, (low - 1, high + 1))
    mapped = (2 * density.nodes - low - high) / (high - low + 2)
    expected = [
        [chebyshev.chebval(row, np.eye(count)[j]) @ weights for j in range(count)]
        for row, weights in zip(mapped, density.weights, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_moments_of_the_run_are_those_of_the_operator():
    """k steps know 2k moments: x_j of a probe is z^H T_j(A) z, whatever lies between the nodes."""
    density = run(UNIFORM, num_probes=1, num_steps=10)
    z = Diagonal(UNIFORM).domain.probes(
        hessops.random.Stream(0, hessops.random.Purpose.DENSITY), range(1), "sphere"
    )[:, 0]
    exact = [np.sum(z**2 * chebyshev.chebval(UNIFORM / 1.5, np.eye(20)[j])) for j in range(20)]
    found = chebyshev_moments(density, 20, (-1.5, 1.5))[0]
    np.testing.assert_allclose(found, np.array(exact) / np.sum(z**2), atol=1e-12)


@given(st.integers(1, 200))
def test_jackson_s_factors(count):
    factors = jackson_factors(count)
    assert factors[0] == pytest.approx(1)
    assert np.all(np.diff(factors) < 0)
    assert np.all(factors > 0)
    # Fejér and Jackson: a series so damped is that of a non-negative kernel.
    angles = np.linspace(0, math.pi, 500)
    kernel = 1 + 2 * factors[1:] @ np.cos(np.arange(1, count)[:, None] * angles)
    assert np.min(kernel) > -1e-10


def test_a_kernel_polynomial_is_a_density():
    density = run(UNIFORM)
    grid = np.linspace(-1.2, 1.2, 20_001)
    found = hessops.kernel_polynomial(density, grid)
    assert np.all(found.value >= -1e-10)
    assert np.trapezoid(found.value, grid) == pytest.approx(1, abs=2e-3)
    inner = np.abs(grid) < 0.8
    # The density is 1/2; eight probes of 400 entries scatter by a few per cent.
    assert np.max(np.abs(found.value[inner] - 0.5)) < 6 * np.max(found.standard_error[inner])
    assert np.all(found.value[np.abs(grid) > 1.05] == 0)


def test_fewer_moments_are_smoother():
    density = run(np.concatenate([np.zeros(50), np.full(50, 2.0)]), num_steps=20)
    at = np.array([0.05])
    heights = [
        hessops.kernel_polynomial(density, at, num_moments=count, support=(-1, 3)).value[0]
        for count in (4, 10, 20)
    ]
    assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_moments": 0}, "num_moments=0 must lie between 1 and 100"),
        ({"num_moments": 101}, "num_moments=101 must lie between 1 and 100"),
        ({"support": (-0.5, 2)}, r"support=\(-0.5, 2\) does not hold the nodes"),
    ],
)
def test_bad_input_of_kernel_polynomials(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        hessops.kernel_polynomial(run(UNIFORM), UNIFORM, **options)


# Haydock


@pytest.mark.parametrize("terminate", [False, True])
def test_the_continued_fraction(terminate):
    """Against the fraction itself, from the coefficients of the Lanczos run."""
    start = np.random.default_rng(1).standard_normal(60)
    eigenvalues = np.linspace(-2, 3, 60)
    operator = Diagonal(eigenvalues)
    result = hessops.lanczos(operator, num_steps=12, start=start)
    nodes, vectors = np.linalg.eigh(
        np.diag(result.alphas) + np.diag(result.betas, 1) + np.diag(result.betas, -1)
    )
    density = run(eigenvalues, num_probes=1, num_steps=12)
    density = type(density)(**{**vars(density), "nodes": nodes[None], "weights": vectors[:1] ** 2})
    z = np.linspace(-3, 4, 7) + 0.3j
    low, high = nodes[0], nodes[-1]
    tail = np.zeros_like(z)
    if terminate:
        shifted = z - (low + high) / 2
        tail = (shifted - np.sqrt(shifted**2 - ((high - low) / 2) ** 2 + 0j)) / 2
        other = shifted - tail
        tail = np.where(np.abs(tail) < np.abs(other), tail, other)
    for alpha, beta in zip(result.alphas[::-1], [*result.betas[::-1], 1.0], strict=True):
        tail = beta**2 / (z - alpha - tail)
    found = hessops.haydock(density, z.real, 0.3, terminate=terminate)
    np.testing.assert_allclose(found.value, -tail.imag / math.pi, rtol=1e-8)


def test_a_terminator_fills_the_gaps_between_nodes():
    """At a broadening below the distance of nodes; the density of a semicircle."""
    eigenvalues = np.sort(np.linalg.eigvalsh(problems.wigner(600, 0)))
    density = run(eigenvalues, num_steps=20, num_probes=20)
    grid = np.linspace(-1.5, 1.5, 61)
    truth = np.sqrt(4 - grid**2) / (2 * math.pi)
    ended = hessops.haydock(density, grid, 0.005, terminate=True).value
    plain = hessops.haydock(density, grid, 0.005).value
    assert np.max(np.abs(ended - truth)) < 0.1
    assert np.max(np.abs(plain - truth)) > 0.2


@pytest.mark.parametrize("broadening", [0, -1, math.nan])
def test_bad_broadening(broadening):
    with pytest.raises(ValueError, match=r"broadening=.* must be positive"):
        hessops.haydock(run(UNIFORM), UNIFORM, broadening)


# The band


def test_the_band_holds_everywhere_in_nearly_all_runs():
    """100 runs at 80 %: the theorem's band is wide, so that a single failure would be a surprise."""
    eigenvalues = np.sort(np.random.default_rng(0).standard_normal(200))
    x = np.linspace(-3, 3, 101)
    truth = np.searchsorted(eigenvalues, x, side="right") / 200
    held = 0
    for seed in range(100):
        band = hessops.cdf_band(run(eigenvalues, seed, num_steps=20), x, confidence=0.8)
        held += bool(np.all((band.low <= truth + 1e-12) & (truth <= band.high + 1e-12)))
    assert held >= 80


def test_the_band_narrows_with_steps_and_probes():
    def width(**options):
        band = hessops.cdf_band(run(UNIFORM, **options), 0.1)
        return float(band.high[0] - band.low[0])

    assert width(num_steps=50) < width(num_steps=10)
    assert width(num_probes=64) < width(num_probes=4)
    # Two nodes of the Gauss rule, each of the weight (pi / k) * (1 / 2) in the middle of the range.
    expected = 2 * math.sqrt(math.log(2 * 400 / 0.05) / (402 * 64)) + math.pi / 50
    assert width(num_probes=64, num_steps=50) == pytest.approx(expected, rel=0.1)


def test_bad_confidence():
    with pytest.raises(ValueError, match="confidence=1 must lie between 0 and 1"):
        hessops.cdf_band(run(UNIFORM), 0.0, confidence=1)


def test_bad_points():
    with pytest.raises(ValueError, match="x=nan must not be NaN"):
        hessops.cdf_band(run(UNIFORM), math.nan)
    with pytest.raises(ValueError, match=r"x must be a number or a vector, got shape \(1, 2\)"):
        hessops.cdf_band(run(UNIFORM), np.zeros((1, 2)))


def test_without_points_the_band_covers_all_nodes_and_holds_the_mean():
    density = run(UNIFORM)
    band = hessops.cdf_band(density)
    assert band.x[0] < density.support[0] < density.support[1] < band.x[-1]
    assert np.all((band.low <= band.value) & (band.value <= band.high))
    assert (band.low[0], band.high[-1]) == (0, 1)


def test_the_band_is_drawn_where_it_is():
    pytest.importorskip("matplotlib")
    band = hessops.cdf_band(run(UNIFORM))
    ax = band.plot()
    drawn = ax.collections[0].get_paths()[0].vertices
    assert drawn[:, 1].min() == band.low.min()
    assert drawn[:, 1].max() == band.high.max()
    assert ax.get_legend_handles_labels()[1] == ["95% band"]


# Distances


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(-3, 3))
def test_moving_a_spectrum_moves_it_by_as_much(eigenvalues, shift):
    values = np.array(eigenvalues)
    density = run(values, num_steps=10)
    moved = run(values + shift, num_steps=10)
    assert hessops.wasserstein(density, moved).value == pytest.approx(abs(shift), abs=1e-6)


def test_the_distance_is_scipy_s():
    first, second = run(UNIFORM, 0), run(2 * UNIFORM + 0.1, 1)
    found = hessops.wasserstein(first, second)
    expected = stats.wasserstein_distance(
        first.nodes.ravel(), second.nodes.ravel(), first.weights.ravel(), second.weights.ravel()
    )
    assert found.value == pytest.approx(expected, rel=1e-10)
    assert hessops.wasserstein(second, first).value == pytest.approx(expected, rel=1e-10)
    assert hessops.wasserstein(first, first).value == 0


@pytest.mark.slow
def test_the_error_of_a_distance_holds():
    """T16, T24: 150 pairs of runs; a share of 95 % has a deviation of 1.8 %."""
    first = np.linspace(0, 1, 300)
    second = np.sort(np.concatenate([first[:-10] + 0.05, np.linspace(2, 3, 10)]))
    truth = stats.wasserstein_distance(first, second)
    held = 0
    for seed in range(150):
        options = {"num_steps": 60, "num_probes": 10, "probe": "sphere"}
        found = hessops.wasserstein(
            run(first, seed, **options), run(second, 1000 + seed, **options)
        )
        low, high = found.interval
        held += low <= truth <= high
    assert 0.89 <= held / 150 <= 0.995


def test_one_probe_has_no_error_and_known_eigenvalues_none_of_their_own():
    density = run(UNIFORM, num_probes=1)
    assert math.isnan(hessops.wasserstein(density, UNIFORM).standard_error)
    found = hessops.wasserstein(run(UNIFORM, num_probes=6), UNIFORM)
    assert found.freedom == 5
    assert 0 < found.value < 0.05


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.array([]), np.array([1.0, np.nan])])
def test_eigenvalues_that_are_none(bad):
    with pytest.raises(ValueError, match="expected finite eigenvalues of shape"):
        hessops.wasserstein(run(UNIFORM), bad)
