"""The intervals of tr f(A) cover the truth as often as they say."""

import warnings

import numpy as np
import problems
import pytest

from hessops import ConvergenceWarning
from hessops.algorithms.functions.trace_function import trace_function

SEEDS = 500
CASES = {
    "log, flat": ("log", np.linspace(0.5, 4.0, 60), {"num_probes": 12, "num_steps": 10}),
    "inverse, decaying": (
        "inverse",
        np.geomspace(0.2, 5.0, 60),
        {"num_probes": 12, "num_steps": 14},
    ),
    "exp, two levels": (
        "exp",
        np.repeat([-1.0, 2.0], [40, 20]) + np.linspace(0, 0.1, 60),
        {"num_probes": 12, "num_steps": 8},
    ),
    "log, to a tolerance": ("log", np.linspace(0.5, 4.0, 60), {"atol": 3.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("f", "eigenvalues", "options"), CASES.values(), ids=CASES)
def test_coverage(f, eigenvalues, options):
    A = problems.matrix_of(eigenvalues)
    exact = np.sum({"log": np.log, "inverse": np.reciprocal, "exp": np.exp}[f](eigenvalues))
    ends = (eigenvalues.min() * 0.999, eigenvalues.max() * 1.001)
    ends = (-1.01, 2.11) if f == "exp" else ends
    inside = 0
    for seed in range(SEEDS):
        result = trace_function(A, f, interval=ends, rng=seed, **options)
        assert result.converged
        assert result.bracket_kind == "certified"
        inside += result.interval.low <= exact <= result.interval.high
    low, high = problems.COVERED
    assert low <= inside / SEEDS <= high


@pytest.mark.slow
@pytest.mark.parametrize(("num_probes", "low", "high"), [(16, 0.87, 0.93), (32, 0.92, 0.975)])
def test_intervals_of_few_probes_cover_less_where_few_eigenvectors_count(num_probes, low, high):
    """What the docstring says of it: about 90 % with 16 probes, 94 % with 32. A
    share of 500 seeds deviates by 1.3 % at 90 %: a false alarm in 2 to 3 % of all cases."""
    eigenvalues = np.linspace(0.0, 2.0, 24)
    A = problems.matrix_of(eigenvalues)
    exact = np.sum(eigenvalues / (eigenvalues + 0.1))
    inside = 0
    for seed in range(SEEDS):
        result = trace_function(A, lambda x: x / (x + 0.1), num_probes=num_probes, rng=seed)
        inside += result.interval.low <= exact <= result.interval.high
    assert low <= inside / SEEDS <= high


def test_an_interval_beside_a_wide_bracket_does_not_cover():
    """The reason for brackets: five steps of a hundred needed, and the interval knows nothing."""
    A = problems.matrix_of(np.geomspace(1e-6, 1.0, 60))
    exact = np.sum(1 / np.geomspace(1e-6, 1.0, 60))
    inside = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for seed in range(20):
            result = trace_function(A, "inverse", num_probes=12, num_steps=5, rng=seed)
            assert not result.converged
            inside += result.interval.low <= exact <= result.interval.high
    assert inside == 0
