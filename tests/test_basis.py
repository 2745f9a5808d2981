"""The growing basis: what is appended is there, and projecting takes it off."""

import tracemalloc

import numpy as np
import pytest
from doubles import gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import assert_close, blocks, norm, normal, orthonormal, places, sizes, space_at

from hessops import ArraySpace, SerialComm
from hessops.arrays import dtype_name, to_numpy
from hessops.blocks.basis import Basis


def filled(space, bases, put, capacity):
    """Return a basis that holds, for each column j, the columns of `bases[j]`."""
    basis = Basis(space, len(bases), capacity)
    for k in range(bases[0].shape[1]):
        basis.append(put(np.stack([Q[:, k] for Q in bases], axis=1)))
    return basis


@st.composite
def problems(draw):
    place, n, m = draw(places()), draw(sizes(7)), draw(sizes(3))
    size = draw(st.integers(1, n))
    seed = draw(st.integers(0, 2**32 - 1))
    bases = [orthonormal(seed + j, (n, size), place.dtype) for j in range(m)]
    basis = filled(space_at(place, n), bases, place.put, draw(st.integers(1, 4)))
    return place, bases, basis


@given(problems())
def test_what_is_appended_is_there_for_any_first_capacity(problem):
    place, bases, basis = problem
    assert basis.size == bases[0].shape[1]
    for column, Q in enumerate(bases):
        vectors = basis.vectors(column)
        assert np.array_equal(to_numpy(vectors), Q)
        assert dtype_name(vectors.dtype) == place.dtype


@given(problems(), st.data())
def test_projecting_takes_every_column_off_its_own_basis(problem, data):
    place, bases, basis = problem
    n = len(bases[0])
    X = data.draw(blocks(n, len(bases), place.dtype))
    rest, coefficients = basis.project(place.put(X))
    for j, Q in enumerate(bases):
        x, wide = X[:, j], Q.astype(np.complex128)
        assert_close(coefficients[j, :], wide.conj().T @ x, 4 * n * norm(x))
        assert_close(rest[:, j], x - wide @ (wide.conj().T @ x), 4 * n * norm(x))
    assert dtype_name(rest.dtype) == dtype_name(coefficients.dtype) == place.dtype


@given(problems(), st.data())
def test_combinations_are_products_with_the_vectors(problem, data):
    place, bases, basis = problem
    size = bases[0].shape[1]
    C = data.draw(blocks(size, data.draw(sizes(3)), place.dtype))
    for column, Q in enumerate(bases):
        found = basis.combined(place.put(C), column)
        assert_close(found, Q.astype(np.complex128) @ C, 4 * size * norm(C))
        assert dtype_name(found.dtype) == place.dtype


def test_a_snapshot_stays_as_it_was_when_the_basis_grows():
    Q = orthonormal(0, (9, 6))
    basis = Basis(ArraySpace(9), 1, 2)
    snapshots = []
    for k in range(6):
        basis.append(Q[:, [k]])
        snapshots.append(basis.snapshot())
    for k, snapshot in enumerate(snapshots, start=1):
        assert np.array_equal(snapshot.vectors(), Q[:, :k])
        rest, coefficients = snapshot.project(np.ones((9, 1)))
        assert coefficients.shape == (1, k)
        assert_close(rest, np.ones((9, 1)) - Q[:, :k] @ (Q[:, :k].T @ np.ones((9, 1))), 40)


def test_vectors_are_a_view_while_the_first_room_suffices():
    basis = filled(ArraySpace(9), [orthonormal(0, (9, 4))], np.asarray, 4)
    assert np.shares_memory(basis.vectors(), basis.vectors())


def test_growing_takes_an_eighth_more_than_the_basis_at_most():
    """Nothing is copied when the room is used up."""
    n, vector = 2000, np.ones((2000, 1))
    for size in (17, 100, 300):
        tracemalloc.start()
        basis = Basis(ArraySpace(n), 1, 16)
        for _ in range(size):
            basis.append(vector)
        peak = tracemalloc.get_traced_memory()[1] / vector.nbytes
        tracemalloc.stop()
        assert peak <= size + max(16, size / 8) + 1


def test_projecting_takes_one_reduction_for_all_stripes():
    class Counting(SerialComm):
        calls = 0

        def all_reduce(self, array):
            self.calls += 1
            return array

    space = ArraySpace(9, comm=Counting(), rows=(0, 9))
    basis = filled(space, [orthonormal(0, (9, 7))], np.asarray, 2)
    basis.project(np.ones((9, 1)))
    assert space.comm.calls == 1


@pytest.mark.parametrize("split", splits(9), ids=str)
def test_a_basis_of_split_vectors_projects_as_the_whole(split):
    bases = [orthonormal(seed, (9, 4)) for seed in range(2)]
    X = normal(5, (9, 2))
    whole, expected = filled(ArraySpace(9), bases, np.asarray, 2).project(X)

    def project(comm):
        rows = slice(*split[comm.rank])
        space = ArraySpace(9, comm=comm, rows=split[comm.rank])
        return filled(space, [Q[rows] for Q in bases], np.asarray, 2).project(X[rows])

    results = run_on_ranks(project, len(split))
    assert_close(gathered([rest for rest, _ in results]), whole, 4 * norm(X))
    for _, coefficients in results:
        assert_close(coefficients, expected, 4 * norm(X))


@given(places(), sizes(4), st.integers(1, 6), st.integers(0, 1000), st.integers(1, 4))
def test_a_block_is_added_taken_off_and_replaced_by_combinations(place, width, size, seed, room):
    n = 9
    Q = orthonormal(seed, (n, size), place.dtype)
    basis = Basis(space_at(place, n), 1, room, limit=9)
    basis.extend(place.put(Q))
    X = normal(seed + 1, (n, width), place.dtype)
    rest, coefficients = basis.project_block(place.put(X))
    wide = Q.astype(np.complex128)
    assert_close(coefficients, wide.conj().T @ X, 4 * n * norm(X))
    assert_close(rest, X - wide @ (wide.conj().T @ X), 4 * n * norm(X))
    before, kept = basis.snapshot(), min(width, size)
    C = normal(seed + 2, (size, kept), place.dtype)
    basis.replace(place.put(C))
    assert_close(basis.vectors(), wide @ C, 4 * n * norm(C))
    with pytest.raises(RuntimeError, match="replaced by a restart"):
        before.vectors()
    basis.extend(place.put(X[:, : 9 - kept]))
    assert_close(basis.vectors(), np.concatenate([wide @ C, X[:, : 9 - kept]], 1), 4 * n * norm(C))


def test_a_limited_basis_makes_no_room_beyond_it():
    n, limit = 20_000, 21
    tracemalloc.start()
    basis = Basis(ArraySpace(n), 1, 16, limit=limit)
    vector = np.ones((n, 1))
    for _ in range(limit):
        basis.append(vector)
    peak = tracemalloc.get_traced_memory()[1] / (8 * n)
    tracemalloc.stop()
    assert peak <= limit + 2
