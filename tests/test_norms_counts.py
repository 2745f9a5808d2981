"""Counts of eigenvalues, numerical ranks and condition numbers."""

import math
import warnings

import numpy as np
import problems
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from strategies import normal, orthonormal, psd_matrices, self_adjoint_matrices, with_spectrum

import hessops
from hessops import ConvergenceWarning, aslinearoperator, gallery
from hessops.algorithms.norms._markov import mass_below
from hessops.random import Purpose, Stream

SEEDS = range(500)
COVERED = problems.COVERED


def quiet(verb, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return verb(*arguments, **options)


def levels(sizes, dtype="float64"):
    """A dense operator with the eigenvalues 0, 1, 2, ..., of these multiplicities."""
    matrix = with_spectrum(np.repeat(np.arange(float(len(sizes))), sizes), 0, dtype)
    return aslinearoperator(matrix, self_adjoint=True)


# --- the bracket of one measure -------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(1, 9), st.floats(-3.0, 3.0))
def test_the_mass_below_any_point_is_between_its_bounds(seed, steps, x):
    rng = np.random.default_rng(seed)
    n = 10
    values, b = np.sort(rng.standard_normal(n)), rng.standard_normal(n)
    state = _after(values, b, steps)
    bounds = mass_below(
        state.alphas[:, 0], state.betas[:, 0], x, state.rounding, exhausted=not state.alive[0]
    )
    below, upto = (np.sum(b[side] ** 2) / np.sum(b**2) for side in (values < x, values <= x))
    assert bounds.low <= below + 1e-9
    assert bounds.high >= upto - 1e-9
    assert 0 <= bounds.low <= bounds.high <= 1


def _after(values, b, steps):
    from hessops.algorithms.krylov.lanczos import lanczos_steps

    for state in lanczos_steps(hessops.Diagonal(values), b[:, None]):
        if state.step == steps or not state.alive[0]:
            break
    return state


def test_at_a_ritz_value_and_near_one_the_bounds_hold():
    values, b = np.linspace(-1.0, 1.0, 12), np.ones(12)
    state = _after(values, b, 5)
    nodes = np.linalg.eigvalsh(
        np.diag(state.alphas[:, 0])
        + np.diag(state.betas[:-1, 0], 1)
        + np.diag(state.betas[:-1, 0], -1)
    )
    for node in nodes:
        for step in (0.0, 1e-15, -1e-13, 1e-10, -1e-7, 1e-4):
            bounds = mass_below(
                state.alphas[:, 0],
                state.betas[:, 0],
                node + step,
                state.rounding,
                exhausted=False,
            )
            assert bounds.low <= np.mean(values < node + step) + 1e-12
            assert bounds.high >= np.mean(values <= node + step) - 1e-12


def test_in_a_gap_the_bracket_closes_exponentially():
    values = np.r_[np.linspace(-2.0, -1.0, 40), np.linspace(1.0, 2.0, 40)]
    widths = []
    for steps in (8, 16, 24):
        state = _after(values, np.ones(80), steps)
        low, high = mass_below(
            state.alphas[:, 0], state.betas[:, 0], 0.0, state.rounding, exhausted=False
        )
        widths.append(high - low)
    assert widths[1] < 1e-2 * widths[0]
    assert widths[2] < 1e-2 * widths[1]


# --- counts ---------------------------------------------------------------------------------

COUNTS = {
    "three levels": (levels([15, 15, 10]), (0.5, 1.5), 15),
    "complex": (levels([20, 20], "complex128"), (0.5, math.inf), 20),
    "kneser": (gallery.kneser(7, 2).operator, (-math.inf, 0.0), None),
}


def truth_of(name):
    _, (low, high), number = COUNTS[name]
    if number is not None:
        return number
    return sum(m for value, m in problems.kneser_eigenvalues(7, 2).items() if low <= value <= high)


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_count_coverage(name):
    A, interval, _ = COUNTS[name]
    hits = 0
    for seed in SEEDS:
        result = hessops.eigenvalue_count(A, interval, num_probes=12, rng=seed)
        hits += result.interval.low <= truth_of(name) <= result.interval.high
    assert COVERED[0] <= hits / len(SEEDS) <= COVERED[1]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("interval", "truth"), [((-math.inf, 0.0), 0), ((0.0, math.inf), 200)])
def test_where_none_or_all_are_counted_the_interval_holds_what_is_left_open(interval, truth, seed):
    """The probes then agree, and their scatter alone would say that nothing is."""
    A = aslinearoperator(np.diag(np.linspace(1.0, 2.0, 200)), self_adjoint=True)
    result = hessops.eigenvalue_count(A, interval, rng=seed)
    assert result.interval.low <= truth <= result.interval.high
    rank = hessops.numerical_rank(A, 0.5, rng=seed)
    assert rank.interval.low <= 200 <= rank.interval.high


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 20])
@pytest.mark.parametrize("interval", [(0.2, 0.7), (-math.inf, 0.5), (0.5, 0.5), (-5.0, 5.0)])
def test_the_bracket_holds_the_exact_mean_of_the_probes(steps, interval):
    """z^H P z of the very probes, at any number of steps: 300 in all."""
    values, low, high = np.linspace(-1.0, 1.0, 30), *interval
    A = hessops.Diagonal(values)
    inside = (values >= low) & (values <= high)
    for seed in range(50):
        result = quiet(
            hessops.eigenvalue_count,
            A, interval, num_probes=3, num_steps=steps, probe="sphere", rng=seed,
        )  # fmt: skip
        Z = A.domain.probes(Stream(seed, Purpose.COUNT), range(3), "sphere")
        exact = np.mean(np.sum(Z[inside] ** 2, axis=0))
        assert result.bracket.low - 1e-9 <= exact <= result.bracket.high + 1e-9
        assert result.bracket.low <= result.value <= result.bracket.high


@given(self_adjoint_matrices(5), st.integers(0, 2**32), st.floats(-2, 2), st.floats(0, 2))
def test_the_bracket_holds_for_any_matrix(matrix, seed, low, width):
    values, vectors = np.linalg.eigh(matrix)
    near = np.min(np.abs(values[:, None] - [low, low + width]))
    if near <= 1e-9 * (1 + np.abs(values).max()):
        return  # On which side of an end an eigenvalue lies is then rounding.
    A = aslinearoperator(matrix, self_adjoint=True)
    result = quiet(hessops.eigenvalue_count, A, (low, low + width), num_probes=2, rng=seed)
    Z = A.domain.probes(Stream(seed, Purpose.COUNT), range(2), "rademacher")
    inside = (values >= low) & (values <= low + width)
    exact = np.mean(np.sum((vectors[:, inside].T @ Z) ** 2, axis=0))
    assert result.bracket.low - 1e-6 <= exact <= result.bracket.high + 1e-6


def test_all_and_none_are_certain():
    A = gallery.laplacian_1d(20).operator
    assert hessops.eigenvalue_count(A, (-math.inf, math.inf), num_probes=2, rng=0).value == 20
    none = hessops.eigenvalue_count(A, (5.0, 6.0), num_probes=2, rng=0)
    assert none.bracket.low == 0
    assert none.bracket.high < 0.05
    assert none.converged


def test_ends_belong_to_the_range():
    result = hessops.eigenvalue_count(levels([5, 6, 7]), (1.0, 1.0), num_probes=40, rng=0)
    assert abs(result.value - 6) <= 4 * result.standard_error
    assert result.bracket.high - result.bracket.low < 1e-6


def test_too_few_steps_for_a_count_are_said():
    A = gallery.laplacian_2d(20).operator
    with pytest.warns(ConvergenceWarning, match="only known to lie between .* raise num_steps"):
        result = hessops.eigenvalue_count(A, (1.0, 3.0), num_steps=5, rng=0)
    assert not result.converged
    assert result.num_products == 5 * 16


def test_one_probe_gives_no_interval_of_a_count():
    result = hessops.eigenvalue_count(levels([5, 5]), (0.5, 2.0), num_probes=1, rng=0)
    assert result.interval == (0.0, 10.0)
    assert "one probe gives no error" in result.status


# --- rank -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_numerical_rank_of_rectangles(shape, dtype):
    m, n = shape
    matrix = normal(0, (m, 15), dtype) @ normal(1, (15, n), dtype) + 1e-6 * normal(2, shape, dtype)
    result = hessops.numerical_rank(matrix, 1e-2, num_probes=40, rng=0)
    assert result.converged
    assert abs(result.value - 15) <= 4 * result.standard_error
    assert result.dim == 60
    assert result.num_products == 2 * 40 * result.num_steps


def test_numerical_rank_of_an_indefinite_operator():
    matrix = with_spectrum(np.repeat([-2.0, 1e-9, -1e-9, 3.0], [8, 20, 20, 12]), 0)
    A = aslinearoperator(matrix, self_adjoint=True)
    result = hessops.numerical_rank(A, 1e-4, num_probes=40, rng=0)
    assert abs(result.value - 20) <= 4 * result.standard_error
    assert result.num_products == 40 * result.num_steps


def test_rank_coverage():
    matrix = orthonormal(0, (30, 12)) @ orthonormal(1, (25, 12)).T
    intervals = [
        hessops.numerical_rank(matrix, 1e-3, num_probes=12, rng=seed).interval for seed in SEEDS
    ]
    share = np.mean([low <= 12 <= high for low, high in intervals])
    assert COVERED[0] <= share <= COVERED[1]


def test_a_tolerance_that_is_rounding_is_refused():
    matrix = normal(0, (20, 10))
    with pytest.raises(ValueError, match=r"tol=1e-09 is rounding .* give more than"):
        hessops.numerical_rank(matrix, 1e-9, rng=0)


# --- condition number -----------------------------------------------------------------------

CONDITIONS = {
    "laplacian": problems.laplacian_1d_eigenvalues(60),
    "strakos": problems.strakos_eigenvalues(),
    "cluster": np.repeat([1e-3, 1.0, 2.0], [1, 40, 19]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "sign"),
    [("laplacian", 7, 1.0), ("strakos", 6, -1.0), ("cluster", 3, 1.0), ("strakos", 2, 1.0)],
)
def test_condition_bounds_hold_always_and_as_often_as_stated(name, steps, sign):
    values = CONDITIONS[name]
    A, truth = hessops.Diagonal(sign * values), np.max(values) / np.min(values)
    results = [
        quiet(hessops.condition_number, A, max_steps=steps, failure=0.1, rtol=1e-9, rng=seed)
        for seed in range(300)
    ]
    assert all(result.lower_bound <= truth for result in results)
    too_low = sum(result.upper_bound < truth * (1 - 1e-9) for result in results)
    assert too_low <= binom.ppf(0.999, 300, 0.1)


@pytest.mark.parametrize("name", CONDITIONS)
def test_condition_numbers_converge(name):
    values = CONDITIONS[name]
    truth = np.max(values) / np.min(values)
    result = hessops.condition_number(with_spectrum(values, 0), rng=0)
    assert result.converged
    assert result.lower_bound <= truth * (1 + 1e-12)
    assert truth <= result.upper_bound <= 1.01 * result.value
    assert result.num_products == result.num_steps + 2


@given(psd_matrices(5, "complex128"), st.integers(0, 2**32), st.floats(1e-3, 10.0))
def test_condition_of_any_definite_matrix(matrix, seed, shift):
    matrix = matrix + shift * np.eye(5)
    truth = np.linalg.cond(matrix)
    result = quiet(hessops.condition_number, matrix, failure=1e-9, rng=seed)
    assert 1 <= result.lower_bound <= truth * (1 + 1e-12)
    assert result.upper_bound >= truth * (1 - 1e-9)


def test_singular_operators_are_named():
    A = gallery.with_eigenvalues([0.0, 1.0, 2.0, 3.0]).operator
    with pytest.warns(ConvergenceWarning, match="singular to working precision"):
        result = hessops.condition_number(A, rng=0)
    assert (result.value, result.upper_bound) == (math.inf, math.inf)
    assert 1e12 < result.lower_bound < math.inf


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1.0, -1.0, 2.0], r"is indefinite: .* take the root of condition_number\(A @ A\)"),
        ([0.0, 0.0], "is zero: it has no condition number"),
    ],
)
def test_operators_without_a_condition_number_are_named(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        hessops.condition_number(hessops.Diagonal(np.array(values)), rng=0)


def test_the_way_out_for_indefinite_operators_works():
    A = aslinearoperator(with_spectrum([-4.0, -1.0, 1.0, 2.0], 0), self_adjoint=True)
    result = hessops.condition_number(A @ A, rng=0)
    assert math.sqrt(result.value) == pytest.approx(4.0)


def test_too_few_steps_for_a_condition_number_are_said():
    A = gallery.laplacian_2d(20).operator
    with pytest.warns(ConvergenceWarning, match="nothing keeps the smallest eigenvalue away"):
        result = hessops.condition_number(A, max_steps=6, rng=0)
    assert result.upper_bound == math.inf
    assert not result.converged
