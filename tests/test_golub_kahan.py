"""The engine behind `svds`: its identity, after restarts, at low rank, with triplets known before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, orthonormal, places

from hessops import aslinearoperator
from hessops.algorithms.eigen._bidiagonal import Bidiagonal, SmallTriplets
from hessops.algorithms.eigen.golub_kahan import known_triplets, svds_steps
from hessops.arrays import dtype_name, to_numpy
from hessops.random import Stream

STREAM = Stream(7, 4)


def with_singular_values(values, m, n, seed=0, dtype="float64"):
    """Return a matrix of shape (m, n) with these singular values, others zero."""
    count = len(values)
    left, right = orthonormal(seed, (m, count), dtype), orthonormal(seed + 1, (n, count), dtype)
    return ((left * np.asarray(values)) @ right.conj().T).astype(dtype)


@st.composite
def runs(draw):
    """A tall matrix with clusters, copies and zeros, and how many vectors to keep."""
    place = draw(places())
    n = draw(st.integers(4, 12))
    m = n + draw(st.integers(0, 5))
    levels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=6, unique=True))
    values = np.array([levels[i % len(levels)] for i in range(n)], dtype=float)
    if draw(st.booleans()):
        values = values + 1e-3 * np.arange(n)
    limit = draw(st.sampled_from([n, 4, n // 2 + 2]))
    seed = draw(st.integers(0, 1000))
    return place, with_singular_values(values, m, n, seed, place.dtype), min(limit, n), seed


def wide(basis, coefficients=None):
    vectors = to_numpy(basis.vectors()).astype(np.complex128)
    return vectors if coefficients is None else vectors @ coefficients


@given(runs(), st.booleans())
def test_every_ritz_triplet_has_the_residual_it_says(problem, smallest):
    """In every step, before and after restarts: A V = U B but for rounding."""
    place, matrix, limit, seed = problem
    A = aslinearoperator(place.put(matrix))
    n, exact = matrix.shape[1], matrix.astype(np.complex128)
    rounding = 500 * n * place.eps * float(np.linalg.norm(matrix)) + 1e-140
    start = place.put(normal(seed, (n, 1), place.dtype))
    states = svds_steps(A, start, stream=STREAM, count=2, smallest=smallest, max_basis=limit)
    for state in states:
        assert state.left.size == state.right.size <= limit
        for basis in (state.left, state.right):
            assert dtype_name(basis.vectors().dtype) == place.dtype
            gram = wide(basis).conj().T @ wide(basis)
            assert np.abs(gram - np.eye(len(gram))).max() <= 200 * n * place.eps
        U, V = (
            wide(state.left, state.left_coefficients),
            wide(state.right, state.right_coefficients),
        )
        first = np.linalg.norm(exact @ V - U * state.values, axis=0)
        second = np.linalg.norm(exact.conj().T @ U - V * state.values, axis=0)
        assert np.all(first <= rounding)
        assert np.all(np.abs(np.hypot(first, second) - state.residual_norms) <= rounding)
        assert state.num_products == 2 * state.step
        if state.step == 16:
            break


@pytest.mark.parametrize("limit", [None, 7])
def test_the_identity_of_the_recurrence(limit):
    """A V = U B and A^H U = V B^T + r e^T: nothing of A^H U is off V but in the last column."""
    matrix = normal(3, (20, 14), "complex128")
    A = aslinearoperator(matrix)
    for state in svds_steps(A, normal(4, (14, 1), "complex128"), stream=STREAM, count=2,
                            max_basis=limit):  # fmt: skip
        U, V = wide(state.left), wide(state.right)
        B = U.conj().T @ matrix @ V
        assert np.abs(matrix @ V - U @ B).max() < 1e-12
        assert np.abs(np.tril(B, -1)).max() < 1e-12
        assert np.abs(np.triu(B, 2)).max() < 1e-12
        assert np.abs(B.imag).max() < 1e-12
        rest = matrix.conj().T @ U - V @ B.conj().T
        assert np.abs(rest[:, :-1]).max(initial=0) < 1e-12
        if state.step == 12:
            break
    assert (state.num_restarts > 0) == (limit is not None)


def test_without_limit_nothing_is_restarted_and_the_domain_is_filled():
    matrix = normal(0, (25, 20))
    *_, last = svds_steps(aslinearoperator(matrix), np.ones((20, 1)), stream=STREAM, count=20)
    assert (last.step, last.num_restarts, last.filled) == (20, 0, True)
    exact = np.linalg.svd(matrix, compute_uv=False)[::-1]
    np.testing.assert_allclose(last.values, exact, atol=1e-13)


def test_an_operator_of_low_rank_exhausts_its_krylov_space():
    matrix = with_singular_values([5.0, 3.0, 2.0], 30, 20)
    states = svds_steps(aslinearoperator(matrix), normal(0, (20, 1)), stream=STREAM, count=6)
    state = next(state for state in states if state.exhausted)
    # From a random vector, which has a part in the null space.
    assert state.lengths == (4,)
    np.testing.assert_allclose(state.values, [0, 2, 3, 5], atol=1e-13)
    assert state.residual_norms[1:].max() < 1e-12


def test_wide_operators_are_refused():
    A = aslinearoperator(np.ones((2, 3)))
    with pytest.raises(ValueError, match="fewer rows than columns; take its adjoint"):
        next(svds_steps(A, np.ones((3, 1)), stream=STREAM, count=1))


def test_a_state_of_before_a_restart_says_that_its_vectors_are_gone():
    A = aslinearoperator(normal(0, (25, 20)))
    states = svds_steps(A, np.ones((20, 1)), stream=STREAM, count=1, max_basis=6)
    before = [next(states) for _ in range(6)][-1]
    before.left.vectors()
    assert next(states).num_restarts == 1
    with pytest.raises(RuntimeError, match="replaced by a restart"):
        before.left.vectors()


def test_known_triplets_are_kept_and_stayed_orthogonal_to():
    values = np.concatenate([np.linspace(0, 1, 38), [3.0, 3.0]])
    A = aslinearoperator(with_singular_values(values, 45, 42))
    for state in svds_steps(A, normal(0, (42, 1)), stream=STREAM, count=2):
        if state.residual_norms[-1] < 1e-12:
            break
    known = known_triplets(state, np.array([len(state.values) - 1]))
    others = svds_steps(A, normal(1, (42, 1)), stream=STREAM, count=2, known=known, max_basis=9)
    for state in others:
        if state.values[-2] > 2.9 and state.residual_norms[-2:].max() < 1e-10:
            break
    np.testing.assert_allclose(state.values[-2:], 3, atol=1e-12)
    assert state.num_restarts > 0


@given(st.integers(1, 9), st.integers(0, 1000), st.booleans())
def test_a_restart_keeps_the_triplets_and_the_bidiagonal(size, seed, exhausted):
    rng = np.random.default_rng(seed)
    small = Bidiagonal(np.zeros(0), np.zeros(0))
    for step in range(10):
        inner = np.zeros(step)
        inner[-1:] = small.coupling
        back = np.zeros(step + 1)
        alpha, beta = rng.uniform(0.1, 1, 2) * (0 if exhausted and step == 4 else 1)
        back[-1] = alpha
        small.grow((inner, alpha, 0.0), (back, beta, 0.0))
    triplets = small.triplets()
    chosen = np.sort(rng.permutation(10)[:size])
    kept = SmallTriplets(*(part[..., chosen] for part in vars(triplets).values()))
    before = small.matrix
    coupling = small.coupling * np.linalg.norm(triplets.left[-1, chosen])
    left, right = small.restart(kept)
    for turn in (left, right):
        np.testing.assert_allclose(turn.T @ turn, np.eye(size), atol=1e-13)
    np.testing.assert_allclose(left.T @ before @ right, small.matrix, atol=1e-13)
    after = small.triplets()
    np.testing.assert_allclose(after.values, kept.values, atol=1e-13)
    np.testing.assert_allclose(after.residual_norms, kept.residual_norms, atol=1e-12)
    assert abs(small.coupling) == pytest.approx(coupling, abs=1e-13)


@pytest.mark.parametrize("smallest", [False, True])
@pytest.mark.parametrize("tiny", [1.0, 1e-4, 1e-8, 1e-9, 1e-11, 0.0])
def test_outermost_triplets_are_those_of_the_dense_matrix(smallest, tiny):
    small = Bidiagonal(np.linspace(1, 3, 30) * np.append(np.ones(29), tiny), np.zeros(30))
    small.betas = np.random.default_rng(0).uniform(-1, 1, 29)
    found = small.outermost(3, smallest=smallest)
    dense = np.linalg.svd(small.matrix, compute_uv=False)[::-1]
    expected = np.append(dense[:3], dense[-1]) if smallest else dense[-3:]
    np.testing.assert_allclose(found.values, expected, atol=1e-14 * dense[-1])
    B, scale = small.matrix, dense[-1]
    assert np.abs(B @ found.right - found.left * found.values).max() < 1e-13 * scale
    assert np.abs(B.T @ found.left - found.right * found.values).max() < 1e-13 * scale
