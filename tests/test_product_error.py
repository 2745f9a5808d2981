"""Operators whose products are computed in a lower precision than their dtype's, and say so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hessops
from hessops import ArraySpace, LinearOperator, aslinearoperator
from hessops.operators.algebra import Adjoint
from hessops.operators.block_diagonal import BlockDiagonal
from hessops.operators.projected import Projected
from hessops.structure import SELF_ADJOINT


class Rounded(LinearOperator):
    """A symmetric matrix whose products are rounded to a relative error, differently each row."""

    def __init__(self, matrix, error, *, told=True):
        super().__init__(ArraySpace(len(matrix)), structure=SELF_ADJOINT)
        self.matrix = matrix
        self.error = error
        self._product_error = error if told else 0.0

    def _apply(self, X):
        # As where vectors and matrix are rounded to a few digits: errors depend on both.
        digits = 2.0 ** -np.floor(np.log2(self.error))
        mantissa, exponent = np.frexp(X)
        rounded = np.ldexp(np.round(mantissa * digits) / digits, exponent)
        return self.matrix @ rounded


def symmetric(seed, n=60):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = np.concatenate([[10.0, 7.0, -5.0], rng.uniform(-1, 1, n - 3)])
    return basis @ (values[:, None] * basis.T)


COMPOSITIONS = {
    "sum": lambda A: A + aslinearoperator(np.eye(60)),
    "shift": lambda A: A - 2.0 * hessops.Identity(A.domain),
    "multiple": lambda A: 3.0 * A,
    "adjoint": Adjoint,
    "declared": lambda A: aslinearoperator(A, positive_semidefinite=True),
    "finite sum": lambda A: hessops.FiniteSum([A, A], [0.5, 0.5]),
    "blocks": lambda A: BlockDiagonal([aslinearoperator(np.eye(2)), A]),
    "deflated": lambda A: Projected(A, np.eye(60, 1)),
}


@pytest.mark.parametrize("composition", COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
def test_compositions_keep_it(composition):
    assert composition(Rounded(symmetric(0), 1e-3)).product_error == 1e-3
    assert composition(Rounded(symmetric(0), 1e-3, told=False)).product_error == 0.0


def test_there_is_no_inverse_with_an_unknown_error():
    # Its relative error is larger by up to the condition number.
    with pytest.raises(ValueError, match=r"off by 0.001 of their norm.*in full precision"):
        hessops.inverse(Rounded(symmetric(0), 1e-3))
    assert hessops.inverse(Rounded(symmetric(0), 1e-3, told=False)).product_error == 0


def test_factors_add_theirs():
    A = Rounded(symmetric(0), 1e-3)
    assert (A @ A @ aslinearoperator(np.eye(60))).product_error == 2e-3


VERBS = {
    "eigsh": lambda A, seed: hessops.eigsh(A, k=3, rng=seed),
    "eigsh in blocks": lambda A, seed: hessops.eigsh(A, k=3, block_size=2, rng=seed),
    "lobpcg": lambda A, seed: hessops.lobpcg(A, k=2, which="LA", rng=seed),
    "power iteration": lambda A, seed: hessops.power_iteration(A, tol=A.error, rng=seed),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
@given(seed=st.integers(0, 2**32 - 1), digits=st.sampled_from([5, 7, 10]))
def test_bounds_of_eigenvalues_hold_it(verb, seed, digits):
    matrix = symmetric(seed)
    operator = Rounded(matrix, 2.0**-digits)
    result = verb(operator, seed)
    exact = np.linalg.eigvalsh(matrix)
    distance = np.min(np.abs(exact[:, None] - result.eigenvalues), axis=0)
    assert result.converged
    assert np.all(distance <= result.error_bounds)
    assert np.all(result.error_bounds >= 2.0**-digits)


def test_without_it_such_products_are_no_operator():
    with pytest.raises(hessops.NotSelfAdjointError):
        hessops.eigsh(Rounded(symmetric(0), 2.0**-5, told=False), k=3, rng=0)


@given(seed=st.integers(0, 2**32 - 1), digits=st.sampled_from([5, 7, 10]))
def test_singular_values_and_solves_go_on(seed, digits):
    matrix = symmetric(seed)
    operator = Rounded(matrix, 2.0**-digits)
    triplets = hessops.svds(operator, k=2, rng=seed)
    assert np.all(np.abs(triplets.singular_values - [10.0, 7.0]) <= triplets.error_bounds)
    shifted = operator + 12.0 * hessops.Identity(operator.domain)
    rhs = np.ones(60)
    found = hessops.cg(shifted, rhs)
    assert found.converged
    exact = np.linalg.solve(matrix + 12.0 * np.eye(60), rhs)
    assert np.linalg.norm(found.solution - exact) <= 0.5 * np.linalg.norm(exact)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_check_allows_for_it_and_for_no_more(seed):
    matrix = symmetric(seed)
    assert hessops.check_operator(Rounded(matrix, 1e-3), rng=seed).passed
    assert not hessops.check_operator(Rounded(matrix, 1e-3, told=False), rng=seed).passed


@pytest.mark.parametrize("method", ["block", "deflated"])
@given(seed=st.integers(0, 2**32 - 1), digits=st.sampled_from([5, 7, 10]))
def test_power_iteration_asks_for_what_is_to_be_had(method, seed, digits):
    operator = Rounded(symmetric(seed), 2.0**-digits)
    result = hessops.power_iteration(operator, method=method, rng=seed)
    assert result.converged
    assert abs(result.eigenvalues[0] - 10.0) <= result.error_bounds[0]
    with pytest.raises(ValueError, match=r"tol=1e-05 is not to be had: .* off by"):
        hessops.power_iteration(operator, tol=1e-5, rng=seed)


@pytest.mark.parametrize("verb", ["condition_number", "spectral_norm", "inverse"])
def test_what_is_certain_of_exact_products_alone_is_refused(verb):
    A = Rounded(symmetric(0), 1e-3)
    with pytest.raises(ValueError, match=r"are off by 0.001 of their norm, and .*full precision"):
        getattr(hessops, verb)(A)
