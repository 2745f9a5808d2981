"""f(A) v by Lanczos: equal to dense algebra, with errors that say how far it is."""

import math
import tracemalloc
import warnings
from functools import partial

import array_api_strict
import numpy as np
import problems
import pytest
import scipy.linalg
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, psd_matrices, self_adjoint_matrices, with_spectrum

from hessops import (
    ConvergenceWarning,
    Diagonal,
    NonFiniteError,
    NotSelfAdjointError,
    aslinearoperator,
    load,
)
from hessops.algorithms.functions.matrix_function import matrix_function
from hessops.structure import SELF_ADJOINT

FUNCTIONS = {
    "log": np.log,
    "inverse": lambda x: 1 / x,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "inverse_sqrt": lambda x: x**-0.5,
    "square": lambda x: x**2,
    "abs": np.abs,
}


def dense(A, f, v):
    values, vectors = np.linalg.eigh(np.asarray(A))
    return vectors @ (f(values)[:, None] * (vectors.conj().T @ v))


def gauss(shape, seed=0, dtype=np.float64):
    block = np.random.default_rng(seed).standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        block = block + 1j * np.random.default_rng(seed + 1).standard_normal(shape)
    return block.astype(dtype)


@pytest.mark.parametrize("two_pass", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_dense_algebra(name, two_pass):
    """T5, with a column of zeros; the differences bound the errors where they fall fast."""
    A, v = problems.laplacian_2d(12), gauss((144, 3))
    v[:, 1] = 0
    result = matrix_function(A, name, v, tol=1e-9, two_pass=two_pass)
    exact = dense(A.toarray(), FUNCTIONS[name], v)
    error = np.linalg.norm(result.value - exact, axis=0)
    assert result.converged
    assert np.all(result.value[:, 1] == 0)
    assert result.errors[1] == 0
    if name == "inverse":
        assert result.error_kind == "residual"
        residual = np.linalg.norm(v - A @ result.value, axis=0)
        assert result.errors == pytest.approx(residual, rel=1e-3, abs=1e-12)
    else:
        assert result.error_kind == "difference"
        assert np.all(error <= result.errors + 1e-12 * np.linalg.norm(exact))
    assert np.all(error <= 1e-7 * np.linalg.norm(v))
    products = 3 * result.num_steps + two_pass * 3 * (result.num_steps - 1)
    assert result.num_products == products


@given(st.data(), st.sampled_from(DTYPES), st.sampled_from(["exp", "square", "abs"]), st.booleans())
def test_any_matrix(data, dtype, name, two_pass):
    """Against scipy.linalg.funm, after as many steps as rows, in every precision."""
    A = data.draw(self_adjoint_matrices(5, dtype))
    A = A / max(float(np.linalg.norm(A)), 1.0)
    v = gauss((5, 2), data.draw(st.integers(0, 99)), np.dtype(dtype))
    wide = A.astype(np.complex128)
    exact = dense(wide, FUNCTIONS[name], v)
    if name == "exp":
        assert exact == pytest.approx(scipy.linalg.expm(wide) @ v, abs=1e-9)
    operator = aslinearoperator(A, self_adjoint=True)
    with warnings.catch_warnings():
        # Without a basis, no recurrence knows that a space of five dimensions ends.
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = matrix_function(operator, name, v, tol=1e-13, max_steps=5, two_pass=two_pass)
    assert result.value.dtype == v.dtype
    # A recurrence ends at 32 roundings; |x| doubles those that cross zero.
    allowed = 500 * float(np.finfo(dtype).eps) * np.linalg.norm(v)
    assert np.linalg.norm(result.value - exact) <= allowed


@given(psd_matrices(5), st.sampled_from(["log", "inverse", "sqrt", "inverse_sqrt"]))
def test_any_positive_definite_matrix(matrix, name):
    matrix = matrix / max(np.linalg.norm(matrix, 2), 1e-3) + 0.1 * np.eye(5)
    v = gauss((5, 2))
    result = matrix_function(matrix, name, v, tol=1e-12)
    reference = {"log": scipy.linalg.logm, "inverse": np.linalg.inv, "sqrt": scipy.linalg.sqrtm}
    exact = reference.get(name, lambda A: np.linalg.inv(scipy.linalg.sqrtm(A)))(matrix) @ v
    assert np.linalg.norm(result.value - exact) <= 1e-10 * np.linalg.norm(v)


@pytest.mark.parametrize("name", ["inverse_sqrt", "log", "sqrt"])
@pytest.mark.parametrize("tol", [0.1, 1e-3])
def test_slow_convergence_is_not_taken_for_convergence(name, tol):
    """At a condition number of 65,000, one step changes x by a hundredth of its error."""
    A, v = problems.laplacian_1d(400), gauss(400)
    result = matrix_function(A, name, v, tol=tol, max_steps=400)
    exact = dense(A.toarray(), FUNCTIONS[name], v[:, None])[:, 0]
    assert result.converged
    # The estimate is no bound: a factor of 4 is what it may be wrong by here.
    assert np.linalg.norm(result.value - exact) <= 4 * tol * np.linalg.norm(exact)
    assert np.linalg.norm(result.value - exact) <= 4 * result.errors[0]


def test_polynomials_are_exact_after_as_many_steps_as_their_degree_plus_one():
    A, v = problems.matrix_of(np.linspace(-1, 1, 50)), gauss((50, 1))
    exact = A @ (A @ (A @ v))
    with pytest.warns(ConvergenceWarning):
        result = matrix_function(A, lambda x: x**3, v, max_steps=4, tol=1e-12)
    assert result.value == pytest.approx(exact, abs=1e-13)


def test_the_sum_of_the_inverse_of_the_laplacian():
    """T4: 1^T A^-1 1 = n (n + 1) (n + 2) / 12, by the symmetry of 1 after n / 2 steps."""
    result = matrix_function(problems.laplacian_1d(100), "inverse", np.ones(100), tol=1e-12)
    assert result.value.shape == (100,)
    assert result.value.sum() == pytest.approx(100 * 101 * 102 / 12, rel=1e-10)
    assert result.num_steps == 50
    assert "exhausted after 50 steps" in result.status


def test_an_exhausted_space_leaves_rounding():
    """Of sqrt at 0, half of the digits."""
    values = np.array([0.0, 1.0, 2.0])
    result = matrix_function(np.diag(values), "sqrt", np.ones(3))
    error = np.linalg.norm(result.value - np.sqrt(values))
    assert error <= result.errors[0] < 1e-6
    result = matrix_function(np.diag(values), "exp", np.ones(3))
    assert np.linalg.norm(result.value - np.exp(values)) <= result.errors[0] < 1e-12


def test_columns_do_not_know_of_each_other():
    """Lock-step: a column that ends early leaves the others alone."""
    A = Diagonal(np.linspace(1.0, 2.0, 30))
    easy, hard = np.eye(30)[:, 3], gauss(30)
    together = matrix_function(A, "log", np.stack([easy, hard], axis=1), tol=1e-10)
    alone = matrix_function(A, "log", hard, tol=1e-10)
    assert together.value[:, 0] == pytest.approx(np.log(np.linspace(1, 2, 30))[3] * easy, abs=1e-14)
    assert together.value[:, 1] == pytest.approx(alone.value, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale(scale):
    A, v = problems.matrix_of(np.linspace(0.5, 2, 40)), gauss((40, 2))
    one, other = (matrix_function(c * A, "sqrt", v) for c in (1.0, scale))
    assert other.value == pytest.approx(math.sqrt(scale) * one.value, rel=1e-9)
    assert other.num_steps == one.num_steps


def test_too_few_steps_give_what_there_is():
    A, v = problems.laplacian_2d(12), gauss(144)
    with pytest.warns(
        ConvergenceWarning, match="the relative residual is .*raise max_steps or tol"
    ):
        result = matrix_function(A, "inverse", v, max_steps=8)
    assert not result.converged
    assert result.num_steps == 8
    assert result.errors[0] == pytest.approx(np.linalg.norm(v - A @ result.value), rel=1e-8)


def test_a_tolerance_is_kept_by_the_residual():
    A, v = problems.laplacian_2d(12), gauss((144, 2))
    steps = []
    for tol in (1e-2, 1e-5, 1e-9):
        result = matrix_function(A, "inverse", v, tol=tol)
        residual = np.linalg.norm(v - A @ result.value, axis=0)
        assert np.all(residual <= tol * np.linalg.norm(v, axis=0) * (1 + 1e-6))
        steps.append(result.num_steps)
    assert steps == sorted(set(steps))


def test_libraries_agree():
    A, v = problems.matrix_of(np.linspace(0.5, 2, 40)), gauss((40, 2))
    expected = matrix_function(A, "log", v)
    torch = pytest.importorskip("torch")
    for put in (array_api_strict.asarray, torch.tensor):
        operator = aslinearoperator(put(A), self_adjoint=True)
        for two_pass in (False, True):
            result = matrix_function(operator, "log", put(v), two_pass=two_pass)
            assert type(result.value) is type(put(v))
            assert np.asarray(result.value) == pytest.approx(expected.value, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("two_pass", [False, True])
@pytest.mark.parametrize("split", splits(37), ids=str)
def test_ranks_agree(split, two_pass):
    """T26."""
    matrix, v = with_spectrum(np.linspace(0.5, 3.0, 37), 0), gauss((37, 2))
    verb = partial(matrix_function, f="log", two_pass=two_pass)
    serial = verb(aslinearoperator(matrix, self_adjoint=True), v=v)

    def work(comm):
        A = ShardedMatrix(matrix, comm, split[comm.rank], SELF_ADJOINT)
        return verb(A, v=v[slice(*split[comm.rank])])

    results = run_on_ranks(work, len(split))
    assert gathered([result.value for result in results]) == pytest.approx(serial.value, abs=1e-11)
    assert {result.num_steps for result in results} == {serial.num_steps}


def test_history_and_text():
    result = matrix_function(problems.laplacian_2d(6), "exp", gauss((36, 2)))
    assert result.history["step"].tolist()[:4] == [1, 2, 3, 4]
    assert "exp(A) v of shape (36, 2): largest difference" in str(result)
    assert result.history["estimate"][-1] == pytest.approx(
        np.linalg.norm(result.value, axis=0).max(), rel=1e-12
    )


def test_two_passes_keep_no_basis():
    """Seven blocks of vectors at the peak."""
    diagonal = np.linspace(1.0, 2.0, 200_000)
    operator = aslinearoperator(
        lambda X: X * diagonal[:, None], shape=len(diagonal), like=diagonal, self_adjoint=True
    )
    v = gauss((len(diagonal), 2))
    tracemalloc.start()
    try:
        matrix_function(operator, "log", v, two_pass=True)
        blocks = tracemalloc.get_traced_memory()[1] / v.nbytes
    finally:
        tracemalloc.stop()
    assert blocks < 7.5


def test_a_result_comes_back_from_its_file(tmp_path):
    result = matrix_function(problems.laplacian_2d(6), "exp", gauss((36, 2)))
    again = load(result.save(tmp_path / "product"))
    assert np.array_equal(again.value, result.value)
    assert str(again) == str(result)


# Bad input, in sentences.


@pytest.mark.parametrize(
    ("v", "error", "message"),
    [
        ([1.0, 2.0, 3.0], TypeError, "v must be an array, got list"),
        (np.ones((3, 1, 1)), ValueError, r"v must have shape \(n,\) or \(n, m\)"),
        (np.ones((3, 0)), ValueError, r"v must have shape \(n,\) or \(n, m\)"),
        (np.ones(4), ValueError, "expected 3 rows"),
        (np.array([1.0, np.nan, 0.0]), NonFiniteError, "holds NaN or infinity"),
    ],
)
def test_bad_vectors(v, error, message):
    with pytest.raises(error, match=message):
        matrix_function(np.diag([1.0, 2.0, 3.0]), "exp", v)


def test_bad_operators_and_options():
    v = np.ones(3)
    with pytest.raises(NotSelfAdjointError, match="matrix_function needs a self-adjoint operator"):
        matrix_function(np.triu(np.ones((3, 3))), "exp", v)
    with pytest.raises(ValueError, match="log needs eigenvalues above 0"):
        matrix_function(np.diag([-1.0, 1.0, 2.0]), "log", v)
    with pytest.raises(ValueError, match="tol=0 must be positive"):
        matrix_function(np.eye(3), "exp", v, tol=0)
    with pytest.raises(ValueError, match="max_steps=0 must be a positive integer"):
        matrix_function(np.eye(3), "exp", v, max_steps=0)
    with pytest.raises(ValueError, match="f='cos' is unknown"):
        matrix_function(np.eye(3), "cos", v)
