"""The growing basis: what is appended is there, and projecting takes it off."""

import numpy as np
import pytest
from doubles import gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import assert_close, blocks, norm, normal, orthonormal, places, sizes, space_at

from hessops import ArraySpace
from hessops.arrays import dtype_name, to_numpy
from hessops.basis import Basis


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
