"""How orthogonal a Lanczos basis is, as estimated and in truth; what a menu of remedies makes of it."""

import math

import numpy as np
import problems
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, places, with_spectrum

import hessops
from hessops import NotSelfAdjointError, aslinearoperator
from hessops.algorithms.krylov._omega import OrthogonalityEstimate
from hessops.algorithms.krylov.lanczos import lanczos_steps
from hessops.arrays import to_numpy
from hessops.structure import SELF_ADJOINT

BETWEEN = ("partial", "periodic", "selective")
SPECTRA = {
    "even": lambda n: np.linspace(-1, 1, n),
    "graded": lambda n: np.logspace(-8, 0, n),
    "outliers": lambda n: np.concatenate([np.linspace(0, 1, n - 3) ** 2, [3.0, 9.0, 30.0]]),
    "cluster": lambda n: np.concatenate([np.linspace(0, 1, n - 4), 2 + 1e-6 * np.arange(4)]),
    "strakos": problems.strakos_eigenvalues,
}


def loss(Q):
    """Return the largest inner product of two columns, with each other or less 1 with itself."""
    Q = Q.astype(np.complex128)
    return float(np.abs(Q.conj().T @ Q - np.eye(Q.shape[1])).max())


# --- the estimate ---------------------------------------------------------------------------------


@st.composite
def spectra(draw):
    name, n = draw(st.sampled_from(list(SPECTRA))), draw(st.integers(12, 60))
    dtype = draw(st.sampled_from(["float64", "float32", "complex128"]))
    seed = draw(st.integers(0, 1000))
    return with_spectrum(SPECTRA[name](n), seed, dtype), normal(seed + 5000, (n, 1), dtype)


@given(spectra())
def test_the_estimate_follows_the_inner_products_while_they_are_lost(problem):
    """Never more than 4 times too small after k steps (rounding errors of unknown sign are taken to
    add up; of 430,000 states none was, the worst .251), nor more than 1000 (k + 1)² times too large
    (at most 270 of them), as it is where the run's own errors happen to cancel."""
    matrix, start = problem
    A = aslinearoperator(matrix, self_adjoint=True)
    vectors = [start / np.linalg.norm(start)]
    for state in lanczos_steps(A, start, reorthogonalize="none", observe=True):
        if not state.alive[0] or state.orthogonality >= 0.1 or state.step == len(matrix) - 1:
            return
        vectors.append(state.following)
        true = max(loss(np.concatenate(vectors, axis=1)), float(np.finfo(start.dtype).eps) / 4)
        assert state.orthogonality >= true / 4
        assert state.orthogonality <= 1000 * (1 + state.step) ** 2 * true


def test_the_estimate_follows_the_loss_of_the_strakos_matrix():
    """T2: from rounding to nothing left, within two orders, at every step."""
    A, start = hessops.Diagonal(problems.strakos_eigenvalues()), np.ones((24, 1))
    vectors = [start / math.sqrt(24)]
    for state in lanczos_steps(A, start, reorthogonalize="none", observe=True):
        vectors.append(state.following)
        true = loss(np.concatenate(vectors, axis=1))
        if state.step >= 3:
            assert true / 2 <= state.orthogonality * (1 + 1e-12) <= max(100 * true, 1e-15)
        if state.step == 17:
            break
    assert state.orthogonality > 0.01


def test_an_estimate_may_begin_from_what_was_measured():
    """As if nothing had been before: the same recurrence, from the same inner products."""
    estimate = OrthogonalityEstimate(1, 2.0**-52)
    alphas, betas = np.arange(1.0, 9.0)[:, None], np.linspace(1, 2, 8)[:, None]
    for k in range(1, 8):
        estimate.advance(alphas[:k], betas[:k])
    other = OrthogonalityEstimate(1, 2.0**-52)
    other.measured(np.concatenate([estimate._latest[0], estimate._next[0]]))
    for one in (estimate, other):
        one.advance(alphas, betas)
    # The guess without chance in it; the last inner products forget what was before.
    one, same = estimate._next[0, :, :5], other._next[0, :, :5]
    np.testing.assert_allclose(same, one, rtol=1e-9)


# --- the menu -------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", BETWEEN)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_half_the_digits_of_orthogonality_are_kept_and_all_of_the_eigenvalues(dtype, name, choice):
    n, eps = 120, float(np.finfo(dtype).eps)
    A = with_spectrum(SPECTRA[name](n), 3, dtype)
    size = np.linalg.norm(A, 2)
    result = hessops.lanczos(A, num_steps=90, reorthogonalize=choice, rng=3)
    full = hessops.lanczos(A, num_steps=len(result.alphas), rng=3)
    assert loss(to_numpy(result.basis)) <= math.sqrt(eps)
    assert 0 < result.num_inner_products < 0.75 * full.num_inner_products
    # Ritz values that have converged are eigenvalues, each as often as with full orthogonality.
    (values, residuals), (expected, others) = result.ritz(), full.ritz()
    rounding = 200 * eps * size
    found, wanted = values[residuals <= rounding], expected[others <= rounding]
    assert abs(len(found) - len(wanted)) <= 2
    exact = np.linalg.eigvalsh(A.astype(np.complex128))
    assert np.abs(found[:, None] - exact).min(axis=1).max(initial=0) <= rounding
    # T is that of an orthonormal basis of the same space, so no copies come.
    assert np.sum(np.abs(values - values[-1]) <= 1e-9 * size) <= max(
        1, np.sum(np.abs(expected - expected[-1]) <= 1e-9 * size)
    )


@given(places(), st.sampled_from(BETWEEN), st.integers(1, 3), st.integers(0, 1000))
def test_the_identity_holds_to_half_the_digits_in_every_library(place, choice, count, seed):
    """A Q = Q T + r e^T: what is taken off in a step is at most that."""
    matrix = with_spectrum(problems.strakos_eigenvalues(20), seed, place.dtype)
    start = normal(seed + 1, (20, count), place.dtype)
    A = aslinearoperator(place.put(matrix), self_adjoint=True)
    wide, size = matrix.astype(np.complex128), np.linalg.norm(matrix, 2)
    *_, state = lanczos_steps(A, place.put(start), reorthogonalize=choice)
    for column in range(count):
        length = state.lengths[column]
        Q = to_numpy(state.basis.vectors(column))[:, :length].astype(np.complex128)
        alphas, betas = state.tridiagonal(column)
        T = np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1)
        rest = wide @ Q - Q @ T
        half = math.sqrt(place.eps)
        assert np.abs(Q.conj().T @ Q - np.eye(length)).max() <= half
        assert np.linalg.norm(rest[:, :-1]) <= 4 * half * size
    assert state.step <= 20


@pytest.mark.parametrize("split", splits(24), ids=str)
@pytest.mark.parametrize("choice", BETWEEN)
def test_split_vectors_give_the_coefficients_of_whole_ones(split, choice):
    matrix, start = with_spectrum(problems.strakos_eigenvalues(24), 3), normal(5, (24, 2))

    def work(comm):
        rows = split[comm.rank]
        A = ShardedMatrix(matrix, comm, rows, SELF_ADJOINT)
        for state in lanczos_steps(A, start[slice(*rows)], reorthogonalize=choice):
            if state.step == 20:
                return state, state.basis.vectors(1)
        return state, state.basis.vectors(1)

    results = run_on_ranks(work, len(split))
    for state, _ in results:
        assert np.array_equal(state.alphas, results[0][0].alphas)
        assert state.num_inner_products == results[0][0].num_inner_products
    assert loss(gathered([part for _, part in results])) <= 1.5e-8


@pytest.mark.parametrize("choice", BETWEEN)
def test_asymmetry_is_caught(choice):
    M = np.random.default_rng(0).standard_normal((20, 20))
    A = aslinearoperator(lambda X: M @ X, shape=20, self_adjoint=True)
    with pytest.raises(NotSelfAdjointError, match="declared self-adjoint, but its products are no"):
        hessops.lanczos(A, num_steps=10, reorthogonalize=choice, rng=0)


def test_true_and_false_are_full_and_none_and_others_are_refused():
    A = problems.matrix_of(np.linspace(-1, 3, 30))
    for flag, name in ((True, "full"), (False, "none")):
        one, other = (
            hessops.lanczos(A, num_steps=8, reorthogonalize=choice, rng=0)
            for choice in (flag, name)
        )
        assert np.array_equal(one.alphas, other.alphas)
        assert (one.basis is None) == (other.basis is None) == (not flag)
    with pytest.raises(
        ValueError, match="reorthogonalize='some' is unknown; choose one of none, f"
    ):
        hessops.lanczos(A, num_steps=8, reorthogonalize="some")


def test_the_history_shows_how_orthogonality_is_lost_and_kept():
    A, start = hessops.Diagonal(problems.strakos_eigenvalues()), np.ones(24)
    lost = {
        choice: hessops.lanczos(A, num_steps=22, start=start, reorthogonalize=choice).history[
            "orthogonality"
        ]
        for choice in ("none", "full", *BETWEEN)
    }
    assert lost["none"][-1] == 1
    assert np.all(np.diff(lost["none"]) >= 0)
    assert lost["full"].max() < 1e-15
    for choice in BETWEEN:
        assert 1e-15 < lost[choice].max() < 1.5e-8


# --- ghosts ---------------------------------------------------------------------------------------


def test_ghosts_are_told_from_eigenvalues():
    """T2, Cullum and Willoughby: of 72 Ritz values the 24 that are left are the eigenvalues."""
    eigenvalues = problems.strakos_eigenvalues()
    A, start = np.diag(eigenvalues), np.ones(24)
    result = hessops.lanczos(A, num_steps=72, start=start, reorthogonalize="none")
    values, ghosts = result.ritz()[0], result.ghosts()
    assert ghosts.dtype == bool
    np.testing.assert_allclose(values[~ghosts], eigenvalues, atol=1e-9)
    # The copies of testbed T2, less the one that stands for the eigenvalue.
    assert np.sum(ghosts & (np.abs(values - 100) < 1e-6)) == 5
    full = hessops.lanczos(A, num_steps=24, start=start)
    assert not full.ghosts().any()


@pytest.mark.parametrize("step", [20, 24, 30, 36, 48])
def test_all_copies_but_one_are_told_from_eigenvalues_before_they_have_converged(step):
    """By a tolerance; how many copies there are by then depends on rounding."""
    result = hessops.lanczos(
        np.diag(problems.strakos_eigenvalues()),
        num_steps=step,
        start=np.ones(24),
        reorthogonalize="none",
    )
    top = np.abs(result.ritz()[0] - 100) < 1e-6
    assert np.sum(result.ghosts(tol=1e-8) & top) == np.sum(top) - 1
    assert np.sum(top) >= (2 if step >= 30 else 1)


def test_an_eigenvalue_of_the_submatrix_alone_is_spurious():
    """Of T = [[1, 0], [0, 2]] the start vector sees 1 only: 2 is one of T without its first row."""
    result = hessops.lanczos(np.eye(2), num_steps=1, start=np.array([1.0, 0.0]))
    assert result.ghosts().tolist() == [False]
    made = {**vars(result), "alphas": np.array([1.0, 2.0]), "betas": np.array([0.0])}
    assert type(result)(**made).ghosts().tolist() == [False, True]
    with pytest.raises(ValueError, match=r"tol=2 must be at least 0 and below 1"):
        result.ghosts(tol=2)
