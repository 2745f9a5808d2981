"""A step of Lanczos against two vectors: the one sum of split vectors is as good as two sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, normal, self_adjoint_matrices, sizes, with_spectrum

import hessops
from hessops.algorithms.krylov import _local_step
from hessops.algorithms.krylov._local_step import _by_one_sum, _by_two_sums
from hessops.algorithms.krylov.lanczos import lanczos_steps

SHIFTS = [0.0, 1.0, -30.0, 1e4]


def step(way, matrix, Q, previous, beta):
    A = hessops.aslinearoperator(matrix)
    left, host = way(A, A.apply(Q.copy()), Q, previous, beta)
    return np.array(left), host


def unit(block):
    return block / np.linalg.norm(block, axis=0)


@given(data=st.data(), n=sizes(8), dtype=st.sampled_from(DTYPES), shift=st.sampled_from(SHIFTS))
def test_one_sum_gives_what_two_give(data, n, dtype, shift):
    real = np.finfo(dtype).dtype
    matrix = data.draw(self_adjoint_matrices(n, dtype)) + shift * np.eye(n, dtype=dtype)
    matrix = matrix.astype(dtype)
    Q = unit(normal(1, (n, 2), dtype)).astype(dtype)
    # As if a step had gone before: orthogonal to Q, and coupled as A couples them.
    previous = normal(2, (n, 2), dtype)
    previous = (previous - Q * np.sum(Q.conj() * previous, axis=0)).astype(dtype)
    norms = np.linalg.norm(previous, axis=0)
    previous = (previous / np.where(norms > 1e-3, norms, 1)).astype(dtype)
    beta = np.abs(np.sum(previous.conj() * (matrix @ Q), axis=0)).astype(real)

    left, host = step(_by_one_sum, matrix, Q, previous, beta)
    expected, other = step(_by_two_sums, matrix, Q, previous, beta)
    allowed = 32 * n * np.finfo(dtype).eps * max(np.linalg.norm(matrix), 1e-30)
    assert np.max(np.abs(left - expected)) <= allowed
    alpha, _, imaginary, stray = np.abs(host - other)
    assert max(alpha.max(), imaginary.max(), stray.max() / max(1, beta.max())) <= allowed
    # The norm is that of what is left, to its own digits.
    exact = np.linalg.norm(left.astype(np.complex128), axis=0)
    assert np.all(np.abs(host[1] - exact) <= allowed * 1e-3 + 64 * np.finfo(dtype).eps * exact)


def test_a_recurrence_that_has_ended_stays_at_zero():
    matrix, Q = np.diag([1.0, 2.0, 3.0]), np.zeros((3, 2))
    Q[0, 0], Q[:, 1] = 0.0, 3**-0.5
    _, host = step(_by_one_sum, matrix, Q, np.zeros((3, 2)), np.zeros(2))
    assert np.array_equal(host[:, 0], np.zeros(4))
    assert host[0, 1] == pytest.approx(2.0, rel=1e-15)


@pytest.mark.parametrize("lowest", [0.0, 0.9, 0.999])
def test_vectors_stay_normal_and_next_ones_orthogonal(monkeypatch, lowest):
    # Had |Q|^2 been taken for 1, errors would grow by (alpha / beta)^2 >= 4 in every step.
    monkeypatch.setattr(_local_step, "_by_two_sums", _by_one_sum)
    A = with_spectrum(lowest + (1 - lowest) * np.linspace(0, 1, 300))
    worst, before = 0.0, None
    for state in lanczos_steps(
        hessops.aslinearoperator(A), normal(0, (300, 2)), reorthogonalize="none"
    ):
        q = np.asarray(state.following)
        worst = max(worst, np.max(np.abs(np.linalg.norm(q, axis=0) - 1)))
        if before is not None:
            local = np.abs(np.sum(q * before, axis=0)) * state.betas[-1] / state.scale
            worst = max(worst, np.max(local))
        before = q.copy()
        if state.step == 150:
            break
    # Four bits are what the difference may lose.
    assert worst <= 16 * 8 * np.finfo(np.float64).eps
