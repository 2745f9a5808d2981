"""The intervals and probable bounds of `spectrum`, over many seeds."""

import math

import numpy as np
import pytest

import hessops
from hessops import Diagonal
from hessops.algorithms.spectrum.block_krylov import block_krylov_steps
from hessops.density.compression import probable_bounds, unlucky_share
from hessops.random import Stream

SEEDS = 50
# Fewer than this, of 50 intervals of 95 %, cover with a probability of 2e-4.
LEAST_COVERED = 41

# Probes are uniform on the sphere, so that a diagonal matrix stands for all with its eigenvalues.
SPECTRA = {
    "flat": np.linspace(1, 3, 120),
    "outliers": np.r_[np.linspace(0.5, 1.5, 115), 20.0, 30.0, 30.0, 50.0, 80.0],
    "decay": 0.8 ** np.arange(120) + 1e-3,
}


@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_cover_and_probable_bounds_hold(name):
    values = SPECTRA[name]
    A = Diagonal(values)
    covered = dict.fromkeys(["trace", "Frobenius norm", "logdet", "bounds", "condition"], 0)
    errors, claimed = [], []
    for seed in range(SEEDS):
        result = hessops.spectrum(A, budget=36, num_probes=4, rng=seed)
        logdet, condition = result.log_determinant, result.condition_number
        ends = values.max() / values.min()
        covered["trace"] += _holds(result.trace.interval, values.sum())
        covered["Frobenius norm"] += _holds(result.frobenius_norm.interval, np.linalg.norm(values))
        # The bracket is the other error, and not in the interval.
        width = logdet.quadrature_error if math.isfinite(logdet.quadrature_error) else 1e9
        covered["logdet"] += _holds(logdet.interval, np.log(values).sum(), width)
        covered["bounds"] += result.bounds.low <= values.min() < values.max() <= result.bounds.high
        covered["condition"] += condition.lower_bound <= ends <= condition.upper_bound
        errors.append(float(result.trace) - values.sum())
        claimed.append(result.trace.standard_error)
    assert min(covered.values()) >= LEAST_COVERED, covered
    # These fail with probability 0.001: more than twice of 50 has a probability of 2e-5.
    assert min(covered["bounds"], covered["condition"]) >= SEEDS - 2, covered
    # A ratio of roots of means of 50 squares, of which each claimed has 3 degrees of freedom, has a
    # relative deviation of √(1/100 + 1/300) = 12 %: this is four of these.
    ratio = np.sqrt(np.mean(np.square(claimed)) / np.mean(np.square(errors)))
    assert abs(np.log(ratio)) < 4 * math.sqrt(1 / 100 + 1 / 300)


@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("num_probes", [1, 4])
def test_probes_overlap_too_little_as_rarely_as_they_should(num_probes, complex_valued):
    """At a chance of 10 %, 4000 draws deviate by 1.9 % with a probability of 1e-4."""
    space = hessops.ArraySpace(12, np.complex128 if complex_valued else np.float64)
    share = unlucky_share(num_probes, 12, complex_valued=complex_valued, failure=0.1)
    X = space.probes(Stream(3), range(4000 * num_probes), "sphere")
    overlaps = np.abs(X[0].reshape(4000, num_probes)) ** 2
    missed = np.mean(overlaps.sum(axis=1) < share)
    assert missed <= 0.1 + 0.019
    assert missed >= 0.05


def test_probable_bounds_are_not_idle():
    """With one probe, at a probability of failure of 50 %, some fail, and no more than that."""
    values = np.r_[np.linspace(0, 1, 60), 1.5]
    share = unlucky_share(1, 61, complex_valued=False, failure=0.5)
    failed = 0
    for seed in range(200):
        *_, state = block_krylov_steps(
            Diagonal(values), stream=Stream(seed), num_probes=1, max_products=3
        )
        failed += probable_bounds([state.compression], share).high < 1.5
    assert 0 < failed <= 100 + 3.5 * math.sqrt(50)


def test_stein_intervals_of_a_requested_accuracy_cover():
    values = np.linspace(1, 3, 50)
    covered, widths = 0, []
    for seed in range(40):
        result = hessops.spectrum(Diagonal(values), accuracy=0.05, num_probes=3, rng=seed)
        assert result.converged
        covered += _holds(result.trace.interval, values.sum())
        widths.append(result.num_probes)
    # Of 40, fewer than 32 with a probability of 1.3e-4.
    assert covered >= 32
    assert max(widths) > 3


def _holds(interval, exact, slack=0.0):
    room = slack + 1e-9 * abs(exact)
    return interval.low - room <= exact <= interval.high + room
