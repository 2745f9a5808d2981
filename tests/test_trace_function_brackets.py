"""Gauss and Gauss-Radau brackets: exact for polynomials, on both sides of the truth, monotone."""

import math

import numpy as np
import problems
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import psd_matrices

from hessops import Diagonal, Identity, aslinearoperator
from hessops.algorithms.functions.gauss_brackets import GaussBrackets, gauss_rule, radau_rule
from hessops.algorithms.krylov.lanczos import lanczos_steps
from hessops.result import Interval
from hessops.spectral_function import SpectralFunction, power, spectral_function

UNKNOWN = Interval(-math.inf, math.inf)
SIGNED = ["log", "inverse", "exp", "sqrt", "inverse_sqrt", "xlogx"]
EXACT = {
    "log": np.log,
    "inverse": lambda x: 1 / x,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "inverse_sqrt": lambda x: x**-0.5,
    "xlogx": lambda x: x * np.log(x),
}


def signs(shape, seed=0):
    return np.random.default_rng(seed).choice([-1.0, 1.0], shape)


def brackets(operator, f, start, known=UNKNOWN, num_steps=60, *, reorthogonalize=False):
    """Yield the brackets of every step."""
    squares = np.sum(np.abs(start) ** 2, axis=0)
    operator = aslinearoperator(operator)
    for state in lanczos_steps(operator, start, reorthogonalize=reorthogonalize):
        yield GaussBrackets(f, state, squares, known, state.step)
        if state.step == num_steps:
            return


def exact_forms(A, f, start):
    values, vectors = np.linalg.eigh(A)
    return f(values) @ np.abs(vectors.conj().T @ start) ** 2


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("end", ["low", "high"])
def test_rules_are_exact_for_polynomials(k, end):
    """Gauss up to degree 2 k - 1, Radau up to 2 k, and each no further."""
    values = np.linspace(0.5, 3.0, 40)
    start = signs((40, 1))
    *_, state = (s for s, _ in zip(lanczos_steps(Diagonal(values), start), range(k), strict=False))
    alphas, betas = state.alphas[:, 0], state.betas[:, 0]
    gauss = gauss_rule(alphas, betas[:-1])
    bound = values[0] if end == "low" else values[-1]
    radau = radau_rule(alphas, betas, bound)
    assert bound in radau.nodes
    assert len(radau.nodes) == k + 1
    for rule, degree in ((gauss, 2 * k - 1), (radau, 2 * k)):
        assert rule.weights.sum() == pytest.approx(1, abs=1e-14)
        for p in range(degree + 2):
            off = abs(rule.weights @ rule.nodes**p - np.mean(values**p))
            if p <= degree:
                assert off <= 1e-13 * 3.0**p
            else:
                assert off > 1e-7


def test_a_radau_rule_within_the_ritz_values_does_not_exist():
    alphas, betas = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.5, 0.5])
    nodes = gauss_rule(alphas, betas[:-1]).nodes
    assert radau_rule(alphas, betas, nodes.mean()) is None
    assert radau_rule(alphas, betas, nodes[0] - 0.1) is not None


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("name", SIGNED)
def test_brackets_hold_the_exact_value_and_shrink(name, reorthogonalize):
    """T14: for every k, to 1e-10, monotonically."""
    A = problems.laplacian_1d(100)
    eigenvalues = problems.laplacian_1d_eigenvalues(100)
    start = signs((100, 3), seed=5)
    exact = exact_forms(A.toarray(), EXACT[name], start)
    slack = 1e-10 * np.abs(exact)
    known = Interval(eigenvalues.min(), eigenvalues.max())
    low, high = np.full(3, -np.inf), np.full(3, np.inf)
    f = spectral_function(name)
    for bracket in brackets(A, f, start, known, 90, reorthogonalize=reorthogonalize):
        assert bracket.kind == "certified"
        assert np.all(bracket.lows <= exact + slack)
        assert np.all(bracket.highs >= exact - slack)
        assert np.all(bracket.lows >= low - slack)
        assert np.all(bracket.highs <= high + slack)
        assert np.all((bracket.lows <= bracket.values) & (bracket.values <= bracket.highs))
        low, high = bracket.lows, bracket.highs
        if bracket.steps == 10:
            early = high - low
    # The condition number is 4134: 1/x gains at least exp(4 * 80 / 64) = 148 over 80 steps.
    assert np.all(high - low <= np.maximum(early / 100, slack))


def test_the_example_of_the_test_bed_has_the_widths_it_says():
    """T14: of 1/x after 10 and 40 steps about 3.4 and 0.21 of the value; of log 8e-3 after 40."""
    A, eigenvalues = problems.laplacian_1d(100), problems.laplacian_1d_eigenvalues(100)
    start = signs((100, 20), seed=1)
    known = Interval(eigenvalues.min(), eigenvalues.max())
    widths = {}
    for name in ("inverse", "log"):
        for b in brackets(A, spectral_function(name), start, known, 40):
            if b.steps in {10, 40}:
                widths[name, b.steps] = np.mean((b.highs - b.lows) / np.abs(b.values))
    assert 0.5 < widths["inverse", 10] < 30
    assert 0.05 < widths["inverse", 40] < 1
    assert widths["inverse", 40] < widths["inverse", 10] / 3


@given(psd_matrices(6), st.sampled_from(SIGNED), st.integers(0, 100))
def test_certified_brackets_hold_the_value_of_any_positive_definite_matrix(matrix, name, seed):
    scale = max(np.linalg.norm(matrix, 2), 1e-3)
    matrix = matrix / scale + 0.01 * np.eye(6)
    eigenvalues = np.linalg.eigvalsh(matrix)
    start = np.random.default_rng(seed).standard_normal((6, 2))
    exact = exact_forms(matrix, EXACT[name], start)
    known = Interval(eigenvalues[0] * (1 - 1e-12), eigenvalues[-1] * (1 + 1e-12))
    for b in brackets(matrix, spectral_function(name), start, known, 6, reorthogonalize=True):
        slack = b.rounding_errors + 1e-12
        assert np.all(b.lows <= exact + slack)
        assert np.all(b.highs >= exact - slack)


@given(psd_matrices(6), st.floats(-2.9, 3.9))
def test_the_signs_of_powers(matrix, p):
    scale = max(np.linalg.norm(matrix, 2), 1e-3)
    matrix = matrix / scale + 0.05 * np.eye(6)
    eigenvalues = np.linalg.eigvalsh(matrix)
    start = signs((6, 1))
    exact = exact_forms(matrix, lambda x: x**p, start)
    for b in brackets(matrix, power(p), start, Interval(eigenvalues[0], eigenvalues[-1]), 6):
        slack = b.rounding_errors + 1e-10 * (1 + np.abs(exact))
        assert np.all(b.lows <= exact + slack)
        assert np.all(b.highs >= exact - slack)


def test_the_bracket_of_a_polynomial_closes():
    """A cube is exact from the second step on, by its derivatives of order 4 and more being 0."""
    A = problems.matrix_of(np.linspace(-1, 2, 30))
    start = signs((30, 2))
    exact = exact_forms(A, lambda x: x**3, start)
    found = list(brackets(A, power(3), start, num_steps=3))
    assert found[0].kind == "estimated" or not np.all(np.isfinite(found[0].highs - found[0].lows))
    for b in found[1:]:
        assert b.kind == "certified"
        assert b.lows == pytest.approx(exact, abs=1e-12)
        assert b.highs == pytest.approx(exact, abs=1e-12)


def test_known_bounds_certify_and_estimated_ones_do_not():
    values = np.linspace(1.0, 3.0, 60)
    start = signs((60, 4))
    log = spectral_function("log")
    exact = np.sum(np.log(values))
    *_, certain = brackets(Diagonal(values), log, start, Interval(1.0, math.inf), 6)
    *_, guessed = brackets(Diagonal(values), log, start, UNKNOWN, 6)
    assert (certain.kind, guessed.kind) == ("certified", "estimated")
    assert certain.bounds.low == 1.0
    assert 0 < guessed.bounds.low < 1.0
    # A looser bound of the spectrum gives a looser bracket.
    assert np.all(guessed.lows <= certain.lows)
    assert np.all(guessed.lows <= exact)


def test_zero_bounds_a_root_and_leaves_a_logarithm_open():
    values = np.linspace(0.0, 3.0, 60)
    start = signs((60, 2))
    known = Interval(0.0, math.inf)
    *_, root = brackets(Diagonal(values), spectral_function("sqrt"), start, known, 8)
    assert root.kind == "certified"
    assert np.all(root.lows <= np.sum(np.sqrt(values)))
    assert np.all(root.highs >= np.sum(np.sqrt(values)))
    *_, log = brackets(Diagonal(values + 1e-9), spectral_function("log"), start, known, 8)
    assert log.kind == "open"
    assert np.all(log.lows == -np.inf)
    assert np.all(np.isfinite(log.highs))


def test_a_function_without_signs_has_no_bracket():
    start = signs((60, 2))
    *_, b = brackets(
        Diagonal(np.linspace(-1, 3.0, 60)), spectral_function("abs"), start, UNKNOWN, 8
    )
    assert b.kind == "none"
    assert np.all(b.highs - b.lows == np.inf)


def test_an_exhausted_space_closes_every_bracket():
    values = np.repeat([-1.0, 2.0, 5.0], 10)
    *_, b = brackets(Diagonal(values), spectral_function("abs"), signs((30, 3)), UNKNOWN, 20)
    assert b.steps == 3
    assert b.kind == "certified"
    assert b.lows == pytest.approx(np.sum(np.abs(values)), rel=1e-13)
    assert np.array_equal(b.lows, b.highs)


def test_a_ritz_value_outside_of_the_bounds_given_is_an_error():
    A = Diagonal(np.linspace(1.0, 3.0, 60))
    for known in (Interval(1.5, 4.0), Interval(0.5, 2.5)):
        *_, b = brackets(A, spectral_function("log"), signs((60, 1)), known, 8)
        with pytest.raises(ValueError, match="does not hold the spectrum: there is an eigenvalue"):
            _ = b.values


def test_estimated_bounds_give_way_to_nearly_singular_operators():
    """Ten thousand to one: before the small eigenvalues are seen, the bracket stays open."""
    values = np.geomspace(1e-8, 1.0, 300)
    for b in brackets(Diagonal(values), spectral_function("log"), signs((300, 4)), UNKNOWN, 60):
        exact = np.sum(np.log(values))
        assert np.all(b.lows <= exact)
        assert np.all(b.highs >= exact)


@pytest.mark.parametrize("small", [1e-9, 1e-3])
@pytest.mark.parametrize("seed", range(5))
def test_one_eigenvalue_far_below_all_others_is_not_overlooked(small, seed):
    """One in 100,000: four steps would resolve all the others."""
    values = np.append(np.linspace(1.0, 2.0, 99_999), small)
    start = np.random.default_rng(seed).standard_normal((len(values), 2))
    exact = (1 / values) @ start**2
    kinds = []
    for b in brackets(Diagonal(values), spectral_function("inverse"), start, UNKNOWN, 16):
        kinds.append(b.kind)
        slack = b.rounding_errors + 1e-9 * exact
        assert np.all(b.lows <= exact + slack)
        assert np.all(b.highs >= exact - slack)
    assert set(kinds[:11]) == {"open"}


@pytest.mark.parametrize("name", ["log", "inverse"])
def test_strakos_quadrature_survives_lost_orthogonality(name):
    """T2: errors of the mean without reorthogonalisation, ten times the orders of the test bed."""
    eigenvalues = problems.strakos_eigenvalues()
    exact = np.mean(EXACT[name](eigenvalues))
    errors = {
        b.steps: abs(b.values[0] - exact)
        for b in brackets(
            Diagonal(eigenvalues), spectral_function(name), np.ones((24, 1)), num_steps=40
        )
        for b in [GaussBrackets(b.function, b.lanczos, np.ones(1), UNKNOWN, b.steps)]
    }
    allowed = {
        "log": {24: 1.5e-4, 30: 1.2e-6, 36: 1e-12},
        "inverse": {24: 4.3e-3 * exact, 30: 4.7e-5 * exact, 36: 1e-11 * exact},
    }[name]
    for steps, most in allowed.items():
        assert errors[steps] <= most, steps


def test_user_signs_do_as_named_ones():
    values = np.linspace(1.0, 2.0, 50)
    start = signs((50, 2))
    named = spectral_function("log")
    own = spectral_function(np.log, (-1, 1))
    known = Interval(0.9, 2.1)
    for a, b in zip(
        brackets(Diagonal(values), named, start, known, 5),
        brackets(Diagonal(values), own, start, known, 5),
        strict=True,
    ):
        assert np.array_equal(a.lows, b.lows)
        assert np.array_equal(a.highs, b.highs)


def test_rounding_errors_are_what_the_precision_may_change():
    """Of the sign of a value that is 0 to rounding, everything."""
    values = np.linspace(-1.0, 1.0, 3)
    step = SpectralFunction("sign", np.sign)
    *_, b = brackets(Diagonal(values), step, np.ones((3, 1)), reorthogonalize=True)
    assert b.rounding_errors[0] >= 1 - 1e-12
    A = Diagonal(values) + 5.0 * Identity(Diagonal(values).domain)
    *_, b = brackets(A, spectral_function("log"), np.ones((3, 1)), reorthogonalize=True)
    assert b.rounding_errors[0] < 1e-12
