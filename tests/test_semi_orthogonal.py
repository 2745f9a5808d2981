"""`eigsh` with a basis that is as orthogonal as the tolerance needs, looked at when it may be time."""

import math

import numpy as np
import problems
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, places, with_spectrum

import hessops
from hessops import aslinearoperator
from hessops.algorithms.eigen._semi_orthogonal import SemiOrthogonal
from hessops.algorithms.eigen.thick_restart import eigsh_steps
from hessops.arrays import to_numpy
from hessops.blocks.basis import Basis
from hessops.random import Stream

STREAM = Stream(7, 4)
SPECTRA = {
    "even": np.linspace(-1, 1, 80),
    "outliers": np.concatenate([np.linspace(0, 1, 76) ** 2, [3.0, 5.0, 9.0, 30.0]]),
    "graded": np.logspace(-6, 0, 80),
    "copies": np.repeat(np.linspace(0, 1, 40) ** 2, 2),
}


@given(
    places(("float64", "complex128")),
    st.sampled_from(list(SPECTRA)),
    st.sampled_from([1e-3, 1e-6, 1e-9, 1e-11]),
    st.sampled_from([None, 24]),
    st.integers(0, 1000),
)
def test_residuals_are_true_and_the_loss_stays_below_the_tolerance(place, name, tol, limit, seed):
    """At every step, before and after restarts: what is taken off counts, and is less than a share."""
    matrix = with_spectrum(SPECTRA[name], seed, place.dtype)
    A, wide = aslinearoperator(place.put(matrix), self_adjoint=True), matrix.astype(np.complex128)
    start = place.put(normal(seed + 1, (80, 1), place.dtype))
    size, rounding = np.linalg.norm(matrix, 2), 1e-12 * np.linalg.norm(matrix, 2)
    states = eigsh_steps(A, start, stream=STREAM, num_ends=3, tol=tol, max_basis=limit)
    for state in states:
        if state.exhausted or state.step > 60:
            break
        if state.step % 13:
            continue
        V = to_numpy(state.basis.vectors()).astype(np.complex128)
        assert np.abs(V.conj().T @ V - np.eye(V.shape[1])).max() <= math.sqrt(place.eps)
        X = V @ state.coefficients
        true = np.linalg.norm(wide @ X - X * state.values, axis=0)
        assert np.all(true <= state.residual_norms * (1 + 1e-6) + rounding)
        assert np.all(state.residual_norms <= true + tol * size + rounding)


def test_few_vectors_are_taken_off_all_others(monkeypatch):
    """In a quarter of the steps at most; with a basis orthogonal to rounding, in all, twice."""
    sweeps = []
    project = Basis.project_block

    def counted(self, X, ranges=None):
        if ranges is None and self.size > 16:
            sweeps.append(self.size)
        return project(self, X, ranges)

    monkeypatch.setattr(Basis, "project_block", counted)
    A = hessops.Diagonal(np.append(np.linspace(0, 1, 3000), [1.2, 1.5]))
    with pytest.warns(hessops.ConvergenceWarning):
        hessops.eigsh(A, 4, which="LA", tol=1e-6, max_steps=150, rng=0)
    assert 0 < len(sweeps) < 150 / 4
    sweeps.clear()
    with pytest.warns(hessops.ConvergenceWarning):
        hessops.eigsh(A, 4, which="LA", tol=1e-15, max_steps=150, rng=0)
    assert len(sweeps) == 2 * (150 - 16)


def test_no_room_is_seen_where_the_tolerance_is_near_rounding():
    assert SemiOrthogonal.pays(2.0**-52, 1e-14) is None
    assert SemiOrthogonal.pays(2.0**-23, 2.4e-5) is None
    assert SemiOrthogonal.pays(2.0**-52, 3.7e-11) == pytest.approx(3.7e-11 / 32)
    assert SemiOrthogonal.pays(2.0**-52, 0.1) == 2.0**-26 / 4


def test_the_history_shows_the_level():
    A = problems.matrix_of(np.linspace(0, 1, 200) ** 2)
    losses = hessops.eigsh(A, 3, tol=1e-6, rng=0).history["orthogonality"]
    assert np.all(losses <= 1.5e-8)
    assert losses[-1] > 1e-12
    assert np.all(np.isnan(hessops.eigsh(A, 3, tol=1e-15, rng=0).history["orthogonality"]))


@pytest.mark.parametrize("name", ["even", "outliers", "copies"])
@pytest.mark.parametrize("which", ["LA", "BE", "LM"])
def test_the_end_is_noticed_a_few_steps_late_at_most(which, name):
    """Against a run that is looked at in every step, as one with a callback is."""
    values = np.concatenate([SPECTRA[name], np.linspace(0, 0.5, 700)])
    A, options = hessops.Diagonal(values), {"which": which, "tol": 1e-8, "rng": 1}
    result = hessops.eigsh(A, 4, **options)
    watched = hessops.eigsh(A, 4, callback=lambda _: None, **options)
    late = result.num_products - watched.num_products
    assert 0 <= late <= 2 + len(watched.history) / 16
    assert result.converged
    np.testing.assert_allclose(result.eigenvalues, watched.eigenvalues, atol=1e-8)


def test_states_between_looks_hold_the_pairs_of_the_last():
    A = aslinearoperator(problems.matrix_of(np.linspace(0, 1, 60) ** 3))
    matrix = np.asarray(A.apply(np.eye(60)))
    states = eigsh_steps(A, np.ones((60, 1)), stream=STREAM, num_ends=2, pace=lambda _: 5)
    seen = set()
    for state in states:
        seen.add(tuple(state.values))
        X = state.basis.vectors() @ state.coefficients
        true = np.linalg.norm(matrix @ X - X * state.values, axis=0)
        np.testing.assert_allclose(true, state.residual_norms, atol=1e-13)
        if state.step == 31:
            break
    assert len(seen) == 7
