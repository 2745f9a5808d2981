"""Orthonormal bases by Gram matrices alone."""

import numpy as np
import pytest
from doubles import gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import blocks, norm, normal, orthonormal, places, sizes, space_at

from hessops import ArraySpace, power_iteration
from hessops.arrays import dtype_name, to_numpy
from hessops.blocks.orthogonalize import complete_orthonormal, orthonormalize
from hessops.random import Stream


def wide(block):
    return to_numpy(block).astype(np.complex128)


def assert_orthonormal(Q, eps, roundings=64):
    gram = wide(Q).conj().T @ wide(Q)
    assert norm(gram - np.eye(len(gram))) <= roundings * len(wide(Q)) * eps


@given(places(), sizes(), sizes(4), st.data())
def test_the_result_is_orthonormal_and_spans_the_block(place, n, k, data):
    X = data.draw(blocks(n, k, place.dtype))
    Q = orthonormalize(space_at(place, n), place.put(X))
    assert dtype_name(Q.dtype) == place.dtype
    assert Q.shape[1] <= min(n, k)
    assert_orthonormal(Q, place.eps)
    # Directions whose share of a column is below rounding are dropped: sqrt, as the Gram matrix
    # squares them.
    lost = X - wide(Q) @ (wide(Q).conj().T @ X)
    assert norm(lost) <= 10 * k * np.sqrt(place.eps) * norm(X)


@given(places(), sizes(3), st.data())
def test_dependent_and_zero_columns_are_dropped(place, r, data):
    n = 6
    B = orthonormal(data.draw(st.integers(0, 99)), (n, r), place.dtype)
    X = np.concatenate([B, np.zeros((n, 2)), 3 * B, B[:, :1]], axis=1)
    Q = orthonormalize(space_at(place, n), place.put(X))
    assert Q.shape[1] == r
    assert_orthonormal(Q, place.eps)
    assert norm(B - wide(Q) @ (wide(Q).conj().T @ B)) <= 200 * np.sqrt(r) * place.eps


@pytest.mark.parametrize("scales", [(1e-150, 1.0, 1e150), (1e-8, 1e-4, 1e8)])
def test_columns_of_very_different_length_do_not_hide_each_other(scales):
    X = normal(0, (8, 3)) * np.array(scales)
    Q = orthonormalize(ArraySpace(8), X)
    assert Q.shape == (8, 3)
    assert_orthonormal(Q, 2e-16)


@given(places(), sizes(), sizes(3))
def test_nothing_has_an_empty_basis(place, n, k):
    zero = place.put(np.zeros((n, k)))
    assert tuple(orthonormalize(space_at(place, n), zero).shape) == (n, 0)
    none = place.put(np.zeros((n, 0)))
    assert tuple(orthonormalize(space_at(place, n), none).shape) == (n, 0)


def test_power_iteration_on_zero_finds_zero():
    result = power_iteration(np.zeros((3, 3)), rng=0)
    assert result.converged
    assert result.eigenvalues.tolist() == [0.0]


@given(places(), st.integers(0, 5), st.integers(0, 6), st.integers(0, 2**32))
def test_completing_keeps_what_is_there(place, r, extra, seed):
    n = 7
    count = min(r + extra, n)
    start = place.put(orthonormal(seed, (n, r), place.dtype))
    Q = complete_orthonormal(space_at(place, n), start, count, Stream(seed))
    assert tuple(Q.shape) == (n, max(count, r))
    assert np.array_equal(to_numpy(Q)[:, :r], to_numpy(start))
    assert_orthonormal(Q, place.eps)


@pytest.mark.parametrize("split", splits(9), ids=str)
def test_split_blocks_are_orthonormalized_as_the_whole(split):
    X = normal(0, (9, 4))
    X[:, 3] = X[:, 0] - X[:, 1]
    expected = orthonormalize(ArraySpace(9), X)

    def work(comm):
        rows = split[comm.rank]
        space = ArraySpace(9, comm=comm, rows=rows)
        Q = orthonormalize(space, X[slice(*rows)])
        return complete_orthonormal(space, Q, 5, Stream(1))

    Q = gathered(run_on_ranks(work, len(split)))
    assert Q.shape == (9, 5)
    assert_orthonormal(Q, 2e-16)
    assert np.allclose(Q[:, :3] @ Q[:, :3].T, expected @ expected.T, atol=1e-14)
