"""The estimators of a diagonal beside plain probes: exact, XDiag as a method, controls, the choice."""

import numpy as np
import problems
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks
from strategies import LIBRARIES, Place, space_at

import hessops
from hessops import ConvergenceWarning, FiniteSum, LowRank, aslinearoperator
from hessops.algorithms.trace.diagonal_control import (
    DiagonalControl,
    as_diagonal_control,
    diagonal_control_steps,
)
from hessops.arrays import to_numpy
from hessops.random import Stream
from hessops.structure import SELF_ADJOINT

N = 60
DECAYING = problems.matrix_of(0.8 ** np.arange(100))
FLAT = problems.matrix_of(np.linspace(-1, 2, 100))
LIKE = problems.matrix_of(np.linspace(0.1, 4, N) ** 2, rng=1)
NEAR = LIKE + 0.05 * problems.matrix_of(np.linspace(-2, 3, N), rng=2)
UNLIKE = problems.matrix_of(np.linspace(-3, 3, N), rng=3)
TRUTH = np.diag(NEAR).copy()


def held(result, truth):
    low, high = result.interval
    return np.mean((low <= truth) & (truth <= high))


# Exact.


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_exact(library, dtype):
    A = np.random.default_rng(0).standard_normal((20, 20)).astype(dtype)
    moved = aslinearoperator(space_at(Place(library, dtype), 20).from_host(A))
    result = hessops.diagonal(moved, rng=0, block_size=7)
    assert (result.method, result.num_products, result.probe) == ("exact", 20, "unit")
    np.testing.assert_allclose(to_numpy(result.values), np.diag(A), rtol=1e-6)
    assert 0 < result.norm_error < 1e-6 * result.norm
    assert "exact with 20 unit vectors" in str(result)
    if dtype == "float64":
        assert held(result, np.diag(A)) == 1


def test_an_exact_diagonal_that_is_interrupted_claims_nothing_of_the_rest():
    with pytest.warns(ConvergenceWarning):
        result = hessops.diagonal(FLAT, method="exact", block_size=4, callback=lambda _: True)
    assert np.isfinite(result.standard_errors).sum() == 4
    assert not result.converged


# The choice.


@pytest.mark.parametrize(
    ("matrix", "options", "method"),
    [
        (DECAYING, {"max_products": 48}, "xdiag"),
        (FLAT, {"max_products": 48}, "hutchinson"),
        (np.diag(0.5 ** np.arange(100.0)), {"max_products": 48}, "hutchinson"),
        (DECAYING @ np.triu(np.ones((100, 100))), {"max_products": 48}, "hutchinson"),
        (DECAYING, {"max_products": 12}, "hutchinson"),
        (DECAYING, {"rtol": 0.01}, "xdiag"),
    ],
    ids=["decay", "flat", "diagonal", "general", "few", "tolerance"],
)
def test_the_choice(matrix, options, method):
    result = hessops.diagonal(matrix, rng=0, **options)
    assert result.method == method
    assert result.num_products <= options.get("max_products", 1000)
    assert result.reason != "asked for"
    assert result.converged


@pytest.mark.parametrize(("matrix", "method"), [(DECAYING, "xdiag"), (FLAT, "hutchinson")])
def test_the_pilot_is_not_lost(matrix, method):
    chosen = hessops.diagonal(matrix, max_products=48, rng=4)
    direct = hessops.diagonal(matrix, method=method, max_products=48, rng=4)
    assert chosen.num_products == direct.num_products == 48
    np.testing.assert_allclose(chosen.values, direct.values, atol=1e-12)
    np.testing.assert_allclose(chosen.standard_errors, direct.standard_errors, rtol=1e-6)


def test_finite_sums_get_a_fresh_probe_for_every_term():
    total = FiniteSum([aslinearoperator(DECAYING), aslinearoperator(FLAT)])
    result = hessops.diagonal(total, max_products=24, rng=0)
    assert result.method == "hutchinson"
    assert "fresh probe" in result.reason


# XDiag as a method.


def test_xdiag_to_a_tolerance():
    """20 seeds of 100 entries, calibrated intervals: 95 to 99 % measured."""
    truth, shares = np.diag(DECAYING), []
    for seed in range(20):
        result = hessops.diagonal(DECAYING, method="xdiag", rtol=0.01, rng=seed)
        assert result.converged
        assert result.norm_error <= 0.01 * result.norm
        assert np.linalg.norm(result.values - truth) < 2 * result.norm_error
        shares.append(held(result, truth))
    assert np.mean(shares) >= 0.93
    with pytest.warns(ConvergenceWarning, match="norm of the errors is .* raise max_products"):
        hessops.diagonal(FLAT, method="xdiag", rtol=1e-3, max_products=20, rng=0)


def test_xdiag_needs_the_adjoint():
    operator = aslinearoperator(lambda X: DECAYING @ X, shape=100, dtype=np.float64)
    with pytest.raises(NotImplementedError, match="no adjoint"):
        hessops.diagonal(operator, method="xdiag", rng=0)


@pytest.mark.parametrize("options", [{"method": "xdiag"}, {}], ids=["xdiag", "auto"])
def test_the_same_on_ranks(options):
    rows = [(0, 30), (30, 30), (30, 100)]
    serial = hessops.diagonal(DECAYING, max_products=48, rng=5, **options)
    results = run_on_ranks(
        lambda comm: hessops.diagonal(
            ShardedMatrix(DECAYING, comm, rows[comm.rank], SELF_ADJOINT),
            max_products=48,
            rng=5,
            **options,
        ),
        3,
    )
    np.testing.assert_allclose(gathered([r.values for r in results]), serial.values, atol=1e-12)
    assert {r.reason for r in results} == {serial.reason}


# Controls.

CASES = {
    "known": (aslinearoperator(LIKE), np.diag(LIKE).copy()),
    "probed and cheap": DiagonalControl(aslinearoperator(LIKE), cost=0.02),
    "of no help": (aslinearoperator(UNLIKE), np.zeros(N)),
    "of no help and probed": DiagonalControl(aslinearoperator(UNLIKE), cost=0.1),
}


@pytest.mark.parametrize(
    ("name", "gain"),
    [("known", 20), ("probed and cheap", 3), ("of no help", 0.8), ("of no help and probed", 0.85)],
)
def test_controls_pay_where_they_can_without_bias_and_with_honest_intervals(name, gain):
    """100 seeds of 60 entries. Measured: 45, 4.5, 0.92 and 0.98 times smaller errors than without."""
    options = {"control": CASES[name], "max_products": 24}
    results = [hessops.diagonal(NEAR, rng=seed, **options) for seed in range(100)]
    plain = [hessops.diagonal(NEAR, rng=seed, num_probes=24) for seed in range(100)]
    errors, without = (np.array([r.values - TRUTH for r in runs]) for runs in (results, plain))
    assert np.linalg.norm(errors) < np.linalg.norm(without) / gain
    # A mean 5 standard errors off in one of 60 entries is a false alarm of 3e-5.
    assert np.max(np.abs(errors.mean(axis=0)) / (errors.std(axis=0) / 10)) < 5
    assert 0.935 <= np.mean([held(r, TRUTH) for r in results]) <= 0.965
    assert ("of no help" in results[0].status) is name.startswith("of no help")
    assert all(result.num_products <= 24 for result in results)


@pytest.mark.parametrize("known", [True, False])
def test_the_state_is_the_corrected_mean(known):
    """Its identity, from the samples themselves."""
    A, B = aslinearoperator(NEAR), aslinearoperator(LIKE)
    diagonal = np.diag(LIKE).copy() if known else None
    control = as_diagonal_control(A, DiagonalControl(B, diagonal, cost=0.05))
    *_, state = diagonal_control_steps(
        A, control, stream=Stream(3), budget=60, probe="rademacher", block_size=5
    )
    Z = A.domain.probes(Stream(3), range(state.num_probes), "rademacher")
    a, b = Z * (NEAR @ Z), Z * (LIKE @ Z)
    pilot_a, pilot_b = (part[:, :8] - part[:, :8].mean(1, keepdims=True) for part in (a, b))
    slopes = np.full(state.num_probes, np.nan)
    for j in range(8):
        rest = [k for k in range(8) if k != j]
        x, y = (part[:, rest] - part[:, rest].mean(1, keepdims=True) for part in (a, b))
        slopes[j] = np.sum(x * y) / np.sum(y * y)
    slopes[8:] = slopes[:8].mean()
    assert state.slope == pytest.approx(slopes.mean())
    correlation = np.sum(pilot_a * pilot_b) / np.linalg.norm(pilot_a) / np.linalg.norm(pilot_b)
    assert state.correlation == pytest.approx(correlation)
    center = np.diag(LIKE) if known else b[:, :8].mean(axis=1)
    corrected = a - slopes * (b - center[:, None])
    shift = 0 if known else slopes.mean() * (to_numpy(state.extra.mean) - center)
    np.testing.assert_allclose(state.values, corrected.mean(axis=1) + shift, rtol=1e-9)


def test_a_diagonal_that_was_estimated_brings_its_errors():
    known = hessops.diagonal(LIKE, num_probes=400, rng=99)
    exact = hessops.diagonal(NEAR, control=CASES["known"], max_products=40, rng=0)
    result = hessops.diagonal(NEAR, control=(LIKE, known), max_products=40, rng=0)
    assert result.norm_error >= 0.9 * known.norm_error
    assert result.norm_error > 3 * exact.norm_error
    assert held(result, TRUTH) > 0.85


def test_terms_of_both_see_the_same_probes():
    parts = [problems.matrix_of(np.linspace(0, 3, 40) ** 2, rng=i) for i in range(3)]
    near = [part + 0.02 * problems.matrix_of(np.linspace(-1, 1, 40), rng=9) for part in parts]
    total, other = (FiniteSum([aslinearoperator(p) for p in terms]) for terms in (near, parts))
    result = hessops.diagonal(total, control=(other, np.diag(sum(parts))), max_products=24, rng=0)
    plain = hessops.diagonal(total, num_probes=24, rng=0)
    assert result.norm_error < 0.2 * plain.norm_error
    assert np.linalg.norm(result.values - np.diag(sum(near))) < 2 * result.norm_error
    with pytest.raises(ValueError, match="different numbers of terms"):
        hessops.diagonal(total, control=(parts[0], np.zeros(40)), rng=0)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_controls_in_every_library(library, dtype):
    space = space_at(Place(library, dtype), N)
    A, B = (space.from_host(matrix.astype(dtype)) for matrix in (NEAR, LIKE))
    d = space.from_host(np.diag(LIKE).astype(dtype))
    expected = hessops.diagonal(NEAR, control=CASES["known"], max_products=20, rng=2)
    result = hessops.diagonal(A, control=(B, d), max_products=20, rng=2)
    digits = 1e-3 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(to_numpy(result.values), expected.values, atol=digits)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"method": "magic"}, ValueError, "unknown; choose one of auto, hutchinson, xdiag"),
        ({"method": "xdiag", "num_probes": 3}, ValueError, "counts the probes of method='hutch"),
        ({"num_probes": 3, "max_products": 4}, ValueError, "say the same: give one"),
        ({"method": "exact", "max_products": 5}, ValueError, "takes 60 products, one per row"),
        ({"method": "xdiag", "max_products": 1}, ValueError, "two products a probe"),
        ({"method": "control"}, ValueError, "do not fit: give control alone"),
        ({"control": CASES["known"], "rtol": 0.1}, ValueError, "known beforehand: give no rtol"),
        ({"control": (LIKE, np.zeros(3))}, ValueError, r"shape \(60,\), got shape \(3,\)"),
        ({"control": (LIKE, 3.0)}, ValueError, r"shape \(60,\), got float"),
        ({"control": (LIKE, np.full(N, np.nan))}, ValueError, "holds NaN or infinity"),
        ({"control": (np.eye(3), None)}, ValueError, "does not act on the vectors of"),
        ({"control": LIKE}, TypeError, r"must be \(B, diagonal_of_B\)"),
        ({"control": DiagonalControl(LIKE, cost=0.0)}, ValueError, "cost of the control is 0.0"),
    ],
)
def test_bad_input(options, error, sentence):
    with pytest.raises(error, match=sentence):
        hessops.diagonal(NEAR, rng=0, **options)


def test_low_rank_by_auto():
    factor = np.random.default_rng(1).standard_normal((200, 4))
    result = hessops.diagonal(LowRank(factor, np.linspace(1, 2, 4)), max_products=40, rng=0)
    assert result.method == "xdiag"
    truth = np.sum(factor**2 * np.linspace(1, 2, 4), axis=1)
    np.testing.assert_allclose(result.values, truth, atol=1e-11)
    assert held(result, truth) >= 0.95
