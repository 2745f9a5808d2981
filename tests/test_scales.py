"""Every verb at every scale of the operator: a right result, or a sentence that says how to scale it.

Never a wrong number, a warning of NumPy's, an exception of LAPACK's, or an accusation of the operator.
"""

import re
import warnings

import numpy as np
import problems
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import LIBRARIES, Place, normal, space_at

import hessops
from hessops import ConvergenceWarning, NonFiniteError, aslinearoperator
from hessops.arrays import dtype_name, to_numpy
from hessops.blocks.own_gram import own_gram

N = 12
EXACT = np.linspace(1.0, 2.0, N)
MATRIX = problems.matrix_of(EXACT)
ONES = np.ones(N)
# Decimal exponents, from subnormal numbers to the largest.
EXPONENTS = {"float64": (-318, 305), "float32": (-43, 36)}
TOLERANCES = {"float64": 1e-7, "float32": 1e-3}
# What was wrong before there was one check, or where another reason sets in.
NOTED = {
    "float64": (-310, -200, -165, -150, -77, 0, 77, 141, 160, 200, 300),
    "float32": (-42, -38, -30, -25, -22, -20, 0, 19, 20, 30, 36),
}
REFUSED = r"leaves? the range of|overflows when squared|returned inf at the Ritz value"


def definite(A):
    return aslinearoperator(A, positive_semidefinite=True)


def general(A):
    return aslinearoperator(A, self_adjoint=False)


def norm_of(p):
    return lambda W: np.linalg.norm(np.linalg.eigvalsh(W), p)


def rhs(A):
    return ONES.astype(A.dtype)


def largest(W):
    return np.linalg.eigvalsh(W)[-1]


def two_largest(W):
    return np.linalg.eigvalsh(W)[:-3:-1]


def descending(W):
    return np.linalg.eigvalsh(W)[::-1]


def solved(W):
    return np.linalg.solve(W, ONES)


def all_of_them(_W):
    return N


# What a verb finds, divided by the scale, and what is right.
VALUES = {
    "eigsh": (lambda A, c: hessops.eigsh(A, 2, rng=0).eigenvalues / c, two_largest),
    "lobpcg": (lambda A, c: hessops.lobpcg(A, 1, which="LA", rng=0).eigenvalues / c, largest),
    "power_iteration": (lambda A, c: hessops.power_iteration(A, rng=0).eigenvalues / c, largest),
    "svds": (lambda A, c: hessops.svds(A, 2, rng=0).singular_values / c, two_largest),
    "randomized_svd": (lambda A, c: hessops.randomized_svd(A, N, rng=0).S / c, descending),
    "randomized_eigh": (
        lambda A, c: hessops.randomized_eigh(A, N, rng=0).eigenvalues / c, descending,
    ),
    "nystrom": (lambda A, c: hessops.nystrom(definite(A), N, rng=0).eigenvalues / c, descending),
    "lanczos": (
        lambda A, c: hessops.lanczos(A, num_steps=N, rng=0).ritz()[0] / c, np.linalg.eigvalsh,
    ),
    "spectral_norm": (lambda A, c: hessops.spectral_norm(A, rng=0, rtol=1e-4).value / c, largest),
    "spectral_norm of a general operator": (
        lambda A, c: hessops.spectral_norm(general(A), rng=0, rtol=1e-4).value / c, largest,
    ),
    "condition_number": (
        lambda A, c: hessops.condition_number(A, rng=0, rtol=1e-4).value, np.linalg.cond,
    ),
    "numerical_rank": (
        lambda A, c: round(hessops.numerical_rank(A, 0.5 * c, rng=0).value, 1), all_of_them,
    ),
    "numerical_rank of a general operator": (
        lambda A, c: round(hessops.numerical_rank(general(A), 0.5 * c, rng=0).value, 1), all_of_them,
    ),
    "eigenvalue_count": (
        lambda A, c: round(hessops.eigenvalue_count(A, (0.5 * c, 3 * c), rng=0).value, 1), all_of_them,
    ),
    "cg": (lambda A, c: hessops.cg(definite(A), rhs(A)).solution * c, solved),
    "minres": (lambda A, c: hessops.minres(A, rhs(A)).solution * c, solved),
    "inverse": (lambda A, c: (hessops.inverse(definite(A)) @ rhs(A)) * c, solved),
    "matrix_function": (
        lambda A, c: hessops.matrix_function(definite(A), np.sqrt, rhs(A)).value / np.sqrt(c),
        lambda W: problems.matrix_of(np.sqrt(EXACT)) @ ONES,
    ),
    "trace of rows": (lambda A, c: hessops.trace(A, rng=0).value / c, np.trace),
    "diagonal of rows": (lambda A, c: hessops.diagonal(A, rng=0).values / c, np.diag),
}  # fmt: skip

# With a standard error.
ESTIMATES = {
    "frobenius_norm": (lambda A: hessops.frobenius_norm(A, rng=0), np.linalg.norm),
    "nuclear_norm": (lambda A: hessops.nuclear_norm(A, rng=0), np.trace),
    "nuclear_norm of a general operator": (
        lambda A: hessops.nuclear_norm(general(A), rng=0), np.trace,
    ),
    "nuclear_norm of a definite operator": (
        lambda A: hessops.nuclear_norm(definite(A), rng=0), np.trace,
    ),
    "schatten_norm 3": (
        lambda A: hessops.schatten_norm(A, 3, rng=0), norm_of(3),
    ),
    "schatten_norm 3 of a definite operator": (
        lambda A: hessops.schatten_norm(definite(A), 3, rng=0),
        norm_of(3),
    ),
    "schatten_norm 4": (
        lambda A: hessops.schatten_norm(A, 4, rng=0), norm_of(4),
    ),
    **{
        f"trace by {method}": (
            lambda A, method=method: hessops.trace(
                definite(A), method=method, max_products=8, probe="sphere", rng=0
            ),
            np.trace,
        )
        for method in ("xtrace", "xnystrace", "hutchpp")
    },
    "trace by na-hutchpp": (
        lambda A: hessops.trace(A, method="na-hutchpp", max_products=24, rng=0), np.trace,
    ),
    "trace by hutchinson": (
        lambda A: hessops.trace(A, method="hutchinson", num_probes=8, rng=0), np.trace,
    ),
    "trace by a control": (
        lambda A: hessops.trace(A, control=(A, None), rng=0), np.trace,
    ),
    "diagonal by xdiag": (
        lambda A: hessops.diagonal(A, method="xdiag", max_products=8, rng=0), np.diag,
    ),
    "diagonal by all of xdiag": (
        lambda A: hessops.diagonal(A, method="xdiag", rng=0), np.diag,
    ),
    "diagonal by hutchinson": (
        lambda A: hessops.diagonal(A, method="hutchinson", num_probes=8, rng=0), np.diag,
    ),
}  # fmt: skip

# Of no single number: that they end in either way is all that is asked here.
OTHERS = {
    "spectrum": lambda A, c: hessops.spectrum(A, rng=0),
    "spectral_density": lambda A, c: hessops.spectral_density(A, num_probes=3, rng=0),
    "nystrom_preconditioner": lambda A, c: hessops.nystrom_preconditioner(definite(A), 3, c, rng=0),
    "effective_dimension": lambda A, c: hessops.effective_dimension(A, c, rng=0),
    "logdet": lambda A, c: hessops.logdet(definite(A), rng=0),
    "trace_inverse": lambda A, c: hessops.trace_inverse(definite(A), rng=0),
    "estrada_index": lambda A, c: hessops.estrada_index(A, rng=0),
    "diagonal with a control": lambda A, c: hessops.diagonal(A, control=(A, None), rng=0),
    "a low rank": lambda A, c: hessops.randomized_svd(A, 3, rng=0),
}


def scaled(exponent, dtype):
    """Return the matrix at a scale, what its entries are without it, and the scale."""
    scale = float(10.0**exponent)
    A = (MATRIX * scale).astype(dtype)
    A = (A + A.T) / 2
    return A, A.astype(np.float64) / scale, scale


def outcome(run, *arguments):
    """Return what a run finds; None if it is refused with a sentence that belongs to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            return run(*arguments)
        except (ValueError, NonFiniteError) as error:
            if not re.search(REFUSED, str(error)):
                raise
            return None


def check_value(name, dtype, exponent):
    run, expected = VALUES[name]
    A, W, scale = scaled(exponent, dtype)
    found = outcome(run, A, scale)
    if found is not None:
        np.testing.assert_allclose(found, expected(W), rtol=TOLERANCES[dtype])
    return found is not None


def check_estimate(name, dtype, exponent):
    run, expected = ESTIMATES[name]
    A, W, scale = scaled(exponent, dtype)
    result = outcome(run, A)
    if result is not None:
        # A diagonal has one of each an entry.
        value = result.values if hasattr(result, "values") else result.value
        errors = result.standard_errors if hasattr(result, "values") else result.standard_error
        true, errors = expected(W), np.asarray(errors, dtype=np.float64) / scale
        off = np.abs(np.asarray(value, dtype=np.float64) / scale - true)
        assert np.all(off <= 6 * errors + TOLERANCES[dtype] * np.max(true))
        assert np.max(errors) <= np.max(true)
    return result is not None


def check_other(name, dtype, exponent):
    A, _W, scale = scaled(exponent, dtype)
    return outcome(OTHERS[name], A, scale) is not None


CHECKS = {
    **dict.fromkeys(VALUES, check_value),
    **dict.fromkeys(ESTIMATES, check_estimate),
    **dict.fromkeys(OTHERS, check_other),
}
every_precision = pytest.mark.parametrize("dtype", ["float32", "float64"])
every_verb = pytest.mark.parametrize("name", CHECKS)


@every_precision
@every_verb
def test_a_result_is_right_or_refused_where_it_once_was_neither(name, dtype):
    done = [CHECKS[name](name, dtype, exponent) for exponent in NOTED[dtype]]
    assert done[NOTED[dtype].index(0)]


@every_precision
@every_verb
@given(st.data())
@settings(max_examples=3)
def test_a_result_is_right_or_refused_at_any_scale(name, dtype, data):
    CHECKS[name](name, dtype, data.draw(st.floats(*EXPONENTS[dtype])))


@every_precision
@pytest.mark.parametrize("name", [name for name in CHECKS if name != "estrada_index"])
def test_scales_that_squares_can_bear_are_not_refused(name, dtype):
    # Fourth powers of A where A^H A is used, and the p-th in norms.
    far = 12 if dtype == "float32" else 60
    assert all(CHECKS[name](name, dtype, exponent) for exponent in (-far, far))


def test_every_verb_is_here():
    words = {word for name in CHECKS for word in name.split()}
    others = {
        "aslinearoperator", "cdf_band", "check_operator", "checkpointed", "data_parallel", "gathered",
        "haydock", "kernel_polynomial", "load", "sharded", "to_scipy", "trace_function", "wasserstein",
    }  # fmt: skip
    public = {name for name in hessops.__all__ if name.islower()}
    assert public - words == others


@pytest.mark.parametrize("size", [1e-130, 1e130])
def test_many_steps_at_the_ends_of_the_range(size):
    A = scipy.sparse.diags_array(np.arange(1.0, 801.0) * size).tocsr()
    assert hessops.eigsh(A, 2, rng=0).eigenvalues / size == pytest.approx([800, 799])
    assert hessops.svds(A, 2, rng=0).singular_values / size == pytest.approx([800, 799])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
@pytest.mark.parametrize("size", [1e-30, 1e-22, 1.0, 1e20, 1e30])
def test_own_gram_is_x_adjoint_x_at_every_scale(size, dtype, library):
    place = Place(library, dtype)
    X = (size * normal(0, (7, 3), dtype)).astype(dtype)
    X[:, 1] = 0
    found = own_gram(space_at(place, 7), place.put(X))
    wide = X.astype(np.complex128) / size
    np.testing.assert_allclose(
        to_numpy(found) / size**2,
        wide.conj().T @ wide,
        rtol=1e-5,
        atol=1e-5 if dtype != "float64" else 0,
    )
    assert dtype_name(found.dtype) in {"float64", "complex128"}


@pytest.mark.parametrize("value", [1e-200, 1e200])
def test_a_norm_of_a_product_names_the_operator_and_not_the_product(value):
    A = np.array([[1.0, 2.0], [0.0, 3.0]]) * value
    exponent = -round(np.log10(value))
    with pytest.raises((ValueError, NonFiniteError), match="MatrixOperator") as raised:
        hessops.nuclear_norm(A, rng=0)
    assert "Product" not in str(raised.value)
    assert value > 1 or re.search(rf"work with 1e{exponent - 1}|1e{exponent}", str(raised.value))


def test_zero_is_not_taken_for_an_underflow():
    zero = np.zeros((6, 6))
    assert hessops.nuclear_norm(zero, rng=0).value == 0
    assert hessops.schatten_norm(definite(zero), 3, rng=0).value == 0
    assert hessops.svds(zero, 1, rng=0).singular_values.tolist() == [0.0]
    assert not np.any(hessops.diagonal(zero, method="xdiag", rng=0).values)
