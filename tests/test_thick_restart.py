"""The engine behind `eigsh`: its identity, in blocks, after restarts, where blocks lose rank."""

import tracemalloc

import numpy as np
import problems
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import COMPLEX, normal, places, space_at, with_spectrum

import hessops
from hessops import aslinearoperator
from hessops.algorithms.eigen._block_orthonormal import orthonormal_rest
from hessops.algorithms.eigen._block_tridiagonal import BlockTridiagonal
from hessops.algorithms.eigen.eigsh_state import known_pairs
from hessops.algorithms.eigen.thick_restart import eigsh_steps
from hessops.arrays import dtype_name, to_numpy
from hessops.blocks.basis import Basis
from hessops.random import Stream
from hessops.structure import SELF_ADJOINT

STREAM = Stream(7, 4)


@st.composite
def runs(draw):
    """A self-adjoint matrix with clusters and copies, a block of start vectors, and a full basis."""
    place = draw(places())
    n = draw(st.integers(6, 14))
    levels = draw(st.lists(st.integers(-4, 4), min_size=2, max_size=8, unique=True))
    values = np.array([levels[i % len(levels)] for i in range(n)], dtype=float)
    if draw(st.booleans()):
        values = values + 1e-3 * np.arange(n)
    block = draw(st.integers(1, 3))
    limit = draw(st.sampled_from([n, 2 * block + 2, n // 2 + block]))
    seed = draw(st.integers(0, 1000))
    return place, with_spectrum(values, seed, place.dtype), block, min(limit, n), seed


@given(runs())
def test_every_ritz_pair_has_the_residual_it_says(problem):
    """A V s - θ V s has the norm ‖B s‖, in every step, before and after restarts."""
    place, matrix, block, limit, seed = problem
    A = aslinearoperator(place.put(matrix), self_adjoint=True)
    n, wide = len(matrix), matrix.astype(np.complex128)
    rounding = 500 * n * place.eps * np.linalg.norm(matrix)
    start = place.put(normal(seed, (n, block), place.dtype))
    states = eigsh_steps(A, start, stream=STREAM, num_ends=2, max_basis=limit)
    for state in states:
        V = to_numpy(state.basis.vectors()).astype(np.complex128)
        assert state.basis.size <= limit
        assert dtype_name(state.basis.vectors().dtype) == place.dtype
        assert np.abs(V.conj().T @ V - np.eye(V.shape[1])).max() <= 200 * n * place.eps
        X = V @ state.coefficients
        true = np.linalg.norm(wide @ X - X * state.values, axis=0)
        assert np.all(np.abs(true - state.residual_norms) <= rounding)
        if state.step == 25:
            break


@given(runs())
def test_error_bounds_of_a_state_are_at_most_its_residuals(problem):
    place, matrix, block, limit, seed = problem
    A = aslinearoperator(place.put(matrix), self_adjoint=True)
    start = place.put(normal(seed, (len(matrix), block), place.dtype))
    exact = np.linalg.eigvalsh(matrix.astype(np.complex128))
    rounding = 500 * len(matrix) * place.eps * np.linalg.norm(matrix)
    for state in eigsh_steps(A, start, stream=STREAM, num_ends=2, max_basis=limit):
        distance = np.abs(state.values[:, None] - exact[None, :]).min(axis=1)
        assert np.all(distance <= state.residual_norms + rounding)
        assert np.all(state.error_bounds() <= state.residual_norms + rounding)
        if state.step == 12:
            break


def test_a_basis_without_limit_is_not_restarted_and_fills_the_space():
    A = aslinearoperator(problems.matrix_of(np.linspace(-1, 1, 20) ** 3))
    *_, last = eigsh_steps(A, np.ones((20, 1)), stream=STREAM, num_ends=3)
    assert (last.step, last.num_restarts, last.filled) == (20, 0, True)


def test_a_state_of_before_a_restart_says_that_its_vectors_are_gone():
    A = aslinearoperator(problems.matrix_of(np.linspace(-1, 1, 20)))
    states = eigsh_steps(A, np.ones((20, 1)), stream=STREAM, num_ends=1, max_basis=6)
    before = [next(states) for _ in range(6)][-1]
    before.basis.vectors()
    assert next(states).num_restarts == 1
    with pytest.raises(RuntimeError, match="replaced by a restart"):
        before.basis.vectors()


@pytest.mark.parametrize("limit", [None, 14])
@pytest.mark.parametrize("copies", [2, 3])
def test_a_block_of_the_multiplicity_finds_all_copies(limit, copies):
    values = np.repeat(np.linspace(0, 1, 30) ** 2, copies)
    A = aslinearoperator(problems.matrix_of(values))
    start = normal(0, (len(values), copies))
    states = eigsh_steps(A, start, stream=STREAM, num_ends=copies + 1, max_basis=limit)
    for state in states:
        top = np.argsort(state.values)[-copies:]
        if state.residual_norms[top].max() < 1e-10:
            break
    np.testing.assert_allclose(state.values[top], 1, atol=1e-12)
    assert state.num_products < len(values) or limit is not None
    assert (state.num_restarts > 0) == (limit is not None)


def test_dependent_columns_of_a_start_block_are_dropped():
    A = aslinearoperator(problems.matrix_of(np.linspace(-1, 1, 20)))
    start = np.ones((20, 3))
    state = next(eigsh_steps(A, start, stream=STREAM, num_ends=1))
    assert state.num_products == 1


def test_an_exhausted_block_space_goes_on_from_random_vectors():
    """T9: a block of 10 from five eigenspaces has the dimension 1 + 10 + 10 + 10 + 10."""
    A = aslinearoperator(problems.kneser(11, 4))
    for state in eigsh_steps(A, normal(0, (330, 10)), stream=STREAM, num_ends=6):
        if state.exhausted:
            break
    assert state.basis.size == 41
    assert state.residual_norms.max() < 1e-11
    np.testing.assert_allclose(np.sort(state.values)[-6:], [10] * 5 + [35], atol=1e-11)


def test_known_pairs_are_kept_and_stayed_orthogonal_to():
    values = np.concatenate([np.linspace(0, 1, 40), [3.0, 3.0]])
    matrix = problems.matrix_of(values)
    A = aslinearoperator(matrix)
    for state in eigsh_steps(A, normal(0, (42, 1)), stream=STREAM, num_ends=2):
        if state.residual_norms[-1] < 1e-12:
            break
    known = known_pairs(state, np.array([len(state.values) - 1]))
    others = eigsh_steps(A, normal(1, (42, 1)), stream=STREAM, num_ends=2, known=known, max_basis=9)
    for state in others:
        if state.values[-2] > 2.9 and state.residual_norms[-2:].max() < 1e-10:
            break
    np.testing.assert_allclose(state.values[-2:], 3, atol=1e-12)
    assert state.num_restarts > 0


@pytest.mark.parametrize("split", splits(12), ids=str)
@pytest.mark.parametrize("block", [1, 3])
def test_split_vectors_give_the_pairs_of_whole_ones(split, block):
    matrix, start = with_spectrum(np.linspace(-1, 2, 12) ** 3, 3), normal(5, (12, block))

    def work(comm):
        rows = split[comm.rank]
        A = ShardedMatrix(matrix, comm, rows, SELF_ADJOINT)
        states = eigsh_steps(A, start[slice(*rows)], stream=STREAM, num_ends=2, max_basis=8)
        for state in states:
            if state.step == 12 // block:
                break
        wanted = A.domain.from_host(state.coefficients[:, -2:])
        return state, state.basis.combined(wanted)

    whole, vectors = run_on_ranks(lambda comm: work_whole(matrix, start, block), 1)[0]
    results = run_on_ranks(work, len(split))
    for state, _ in results:
        np.testing.assert_allclose(state.values, whole.values, atol=1e-10)
        assert state.num_products == whole.num_products
        assert np.array_equal(state.coefficients, results[0][0].coefficients)
    found = gathered([part for _, part in results])
    assert np.linalg.norm(matrix @ found[:, 1] - whole.values[-1] * found[:, 1]) == pytest.approx(
        np.linalg.norm(matrix @ vectors[:, 1] - whole.values[-1] * vectors[:, 1]), abs=1e-8
    )


def work_whole(matrix, start, block):
    A = aslinearoperator(matrix)
    for state in eigsh_steps(A, start, stream=STREAM, num_ends=2, max_basis=8):
        if state.step == 12 // block:
            return state, state.basis.combined(state.coefficients[:, -2:])
    return None


# --- parts ----------------------------------------------------------------------------------------


@given(places(), st.integers(1, 4), st.integers(0, 1000), st.sampled_from([0, 1e-4, 1e-9, 1e-13]))
def test_a_block_is_split_into_what_lies_along_the_basis_and_an_orthonormal_rest(
    place, width, seed, small
):
    """Also where columns are nearly dependent, and nearly within the basis."""
    n, size = 20, 5
    V = np.linalg.qr(normal(seed, (n, size), place.dtype))[0].astype(place.dtype)
    W = V @ normal(seed + 1, (size, width), place.dtype)
    W = W + small * normal(seed + 2, (n, width), place.dtype)
    W[:, 1:] = W[:, :1] + small * W[:, 1:]
    W = W.astype(place.dtype)
    basis = Basis(space_at(place, n), 1)
    basis.extend(place.put(V))
    limit = 32 * place.eps * np.linalg.norm(W, 2)
    rest = orthonormal_rest(basis, place.put(W), lambda _inner, _gram: limit)
    Q = to_numpy(rest.block).astype(np.complex128)
    assert Q.shape[1] == rest.factor.shape[0] <= width
    assert np.abs(V.conj().T @ Q).max(initial=0) <= 100 * place.eps
    assert np.abs(Q.conj().T @ Q - np.eye(Q.shape[1])).max(initial=0) <= 100 * place.eps
    error = W - V @ rest.coefficients - Q @ rest.factor
    allowed = rest.dropped + 50 * place.eps * np.linalg.norm(W, 2)
    assert np.all(np.linalg.norm(error, axis=0) <= allowed)
    assert np.all(rest.dropped <= 4 * limit)


@given(st.integers(1, 9), st.integers(0, 4), st.booleans(), st.integers(0, 1000))
def test_a_restart_keeps_the_pairs_and_the_band(size, width, complex_valued, seed):
    """T of the pairs kept has their values, the bandwidth of the block, and couples at its end."""
    dtype = COMPLEX[0] if complex_valued and width > 1 else "float64"
    small = BlockTridiagonal(np.zeros(0), np.zeros(0), width)
    for step in range(4):
        if width == 0:
            return
        own = normal(seed + step, (width, width), dtype)
        coefficients = np.concatenate(
            [
                np.zeros((max(0, small.size - width), width)),
                small.coupling.conj().T,
                own + own.conj().T,
            ]
        )
        small.grow(coefficients, normal(seed + 9 + step, (width, width), dtype), np.zeros(width))
    pairs = small.pairs()
    before = small.coupling @ pairs.vectors[small.size - small.coupling.shape[1] :]
    chosen = np.arange(min(size, small.size))
    kept = small.restart(type(pairs)(*(part[..., chosen] for part in vars(pairs).values())))
    np.testing.assert_allclose(kept.conj().T @ kept, np.eye(len(chosen)), atol=1e-13)
    np.testing.assert_allclose(np.linalg.eigvalsh(small.matrix), pairs.values[chosen], atol=1e-12)
    assert not np.triu(small.matrix, width + 1).any()
    after = small.pairs()
    np.testing.assert_allclose(
        after.residual_norms, np.linalg.norm(before[:, chosen], axis=0), atol=1e-9
    )


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "block"), [(30, 1), (60, 1), (40, 4)])
def test_memory_is_the_basis_and_a_few_blocks(limit, block):
    """Whatever the number of products: basis, block, product, next, and pairs with their products."""
    n, k = 40_000, 3
    A = hessops.Diagonal(np.linspace(1.0, 2.0, n) ** 2)
    tracemalloc.start()
    with pytest.warns(hessops.ConvergenceWarning):
        result = hessops.eigsh(
            A, k, max_basis=limit, block_size=block, max_steps=200, tol=1e-15, rng=0
        )
    peak = tracemalloc.get_traced_memory()[1] / (8 * n)
    tracemalloc.stop()
    assert result.num_products >= 200 * block
    assert limit <= peak <= limit + 5 * max(block, k) + 7
