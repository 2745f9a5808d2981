"""LOBPCG: those of the dense solver, with and without a preconditioner, where others break down."""

import warnings

import numpy as np
import problems
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIBRARIES, Place, normal, places, with_spectrum

import hessops
from hessops import ConvergenceWarning, NonFiniteError, NotSelfAdjointError, aslinearoperator
from hessops.algorithms.eigen.locally_optimal import lobpcg_steps
from hessops.arrays import dtype_name, to_numpy
from hessops.random import Stream
from hessops.structure import POSITIVE_SEMIDEFINITE, SELF_ADJOINT

STREAM = Stream(7, 4)


def wanted(values, k, which):
    ascending = np.sort(values)
    return ascending[:k] if which == "SA" else ascending[::-1][:k]


def positive_definite(seed, n, dtype):
    """Return a preconditioner of moderate condition that has nothing to do with A."""
    return with_spectrum(np.linspace(1, 3, n), seed, dtype)


def cholesky(A):
    """Return the inverse of a sparse positive definite matrix as an operator."""
    factor = scipy.sparse.linalg.splu(sp.csc_matrix(A))
    return aslinearoperator(factor.solve, shape=A.shape, positive_semidefinite=True)


# --- the engine -----------------------------------------------------------------------------------


@st.composite
def blocks(draw):
    """Clusters, copies, and k near n; with a preconditioner or without."""
    place = draw(places())
    n = draw(st.integers(1, 14))
    levels = draw(st.lists(st.integers(-4, 4), min_size=1, max_size=6, unique=True))
    values = np.array([levels[i % len(levels)] for i in range(n)], dtype=float)
    if draw(st.booleans()):
        values = values + 1e-3 * np.arange(n)
    seed = draw(st.integers(0, 1000))
    precond = positive_definite(seed + 1, n, place.dtype) if draw(st.booleans()) else None
    return place, values, with_spectrum(values, seed, place.dtype), precond, seed


@given(blocks(), st.integers(1, 5), st.booleans())
def test_the_identity_of_the_states(problem, count, largest):
    """A X = product, X^H A X = diag(values), X^H X = I, and residual norms that are those."""
    place, values, matrix, precond, seed = problem
    n, count = len(values), min(count, len(values))
    exact = matrix.astype(np.complex128)
    rounding = 300 * n * place.eps * float(np.linalg.norm(matrix)) + 1e-140
    states = lobpcg_steps(
        aslinearoperator(place.put(matrix), self_adjoint=True),
        place.put(normal(seed, (n, count), place.dtype)),
        stream=STREAM,
        preconditioner=None if precond is None else aslinearoperator(
            place.put(precond), positive_semidefinite=True
        ),
        largest=largest,
        tol=100 * place.eps,
    )  # fmt: skip
    before = None
    for state in states:
        X, product = (to_numpy(block).astype(np.complex128) for block in (state.X, state.product))
        assert dtype_name(state.X.dtype) == place.dtype
        assert np.abs(X.conj().T @ X - np.eye(count)).max() <= 300 * n * place.eps
        assert np.abs(exact @ X - product).max() <= rounding
        assert np.abs(X.conj().T @ exact @ X - np.diag(state.values)).max() <= rounding
        residuals = np.linalg.norm(exact @ X - X * state.values, axis=0)
        assert np.all(np.abs(residuals - state.residual_norms) <= rounding)
        assert state.size <= np.linalg.norm(exact, 2) + rounding
        # Of spaces that hold the block before, the Ritz values are no worse.
        if before is not None:
            assert np.all((state.values - before) * (-1 if largest else 1) <= rounding)
        before = state.values
        if state.step == 12:
            break


def test_a_state_is_not_touched_by_later_steps():
    A = aslinearoperator(with_spectrum(np.linspace(1, 4, 30)))
    states = lobpcg_steps(A, normal(0, (30, 3)), stream=STREAM)
    first = next(states)
    X = np.array(first.X)
    for _ in range(5):
        next(states)
    assert np.array_equal(first.X, X)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_combined_products_stay_near_true_ones_over_many_steps(dtype):
    """Neither orthogonality nor products drift off: the basis is straightened now and then."""
    eps = float(np.finfo(dtype).eps)
    A = aslinearoperator(problems.laplacian_1d(400).astype(dtype))
    for state in lobpcg_steps(A, normal(0, (400, 3), dtype), stream=STREAM):
        if state.step == 400:
            break
    assert np.abs(state.X.T @ state.X - np.eye(3)).max() <= 100 * eps
    assert np.abs(A @ state.X - state.product).max() <= 100 * eps


# --- the verb -------------------------------------------------------------------------------------


@given(blocks(), st.sampled_from(["SA", "LA"]), st.data())
def test_against_the_dense_solver(problem, which, data):
    place, values, matrix, precond, seed = problem
    k = data.draw(st.integers(1, min(6, len(values))))
    result = hessops.lobpcg(
        aslinearoperator(place.put(matrix), self_adjoint=True),
        k,
        which=which,
        preconditioner=None if precond is None else aslinearoperator(
            place.put(precond), positive_semidefinite=True
        ),
        rng=seed,
    )  # fmt: skip
    size = max(np.abs(values).max(), 1e-300)
    assert result.converged
    exact = np.linalg.eigvalsh(matrix.astype(np.complex128))
    allowed = 4 * place.eps ** (2 / 3) * size
    np.testing.assert_allclose(result.eigenvalues, wanted(exact, k, which), atol=allowed)
    X = to_numpy(result.eigenvectors).astype(np.complex128)
    assert np.abs(X.conj().T @ X - np.eye(k)).max() <= 500 * place.eps
    true = np.linalg.norm(matrix.astype(np.complex128) @ X - X * result.eigenvalues, axis=0)
    np.testing.assert_allclose(true, result.residual_norms, atol=300 * place.eps * size)
    distance = np.abs(result.eigenvalues[:, None] - exact[None, :]).min(axis=1)
    assert np.all(distance <= result.error_bounds + 40 * place.eps * size)


@pytest.mark.parametrize("library", LIBRARIES)
def test_array_libraries_agree(library):
    place = Place(library, "complex128")
    matrix = with_spectrum(np.linspace(0, 1, 24) ** 2, 0, "complex128")
    precond = positive_definite(1, 24, "complex128")
    serial, found = (
        hessops.lobpcg(put(matrix), 3, preconditioner=put(precond), rng=1)
        for put in (np.asarray, place.put)
    )
    np.testing.assert_allclose(found.eigenvalues, serial.eigenvalues, atol=1e-13)
    assert abs(found.num_products - serial.num_products) <= 4


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_scale_of_operator_and_preconditioner_changes_nothing(scale, dtype):
    matrix, precond = with_spectrum(np.linspace(1, 9, 50) ** 2), positive_definite(1, 50, "float64")
    one, scaled = (
        hessops.lobpcg(
            (c * matrix).astype(dtype),
            3,
            preconditioner=aslinearoperator(
                (precond / c).astype(dtype), positive_semidefinite=True
            ),
            rng=0,
        )
        for c in (1, scale)
    )
    assert scaled.converged
    assert abs(scaled.num_products - one.num_products) <= 8
    atol = 1000 * 81 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(scaled.eigenvalues / scale, one.eigenvalues, atol=atol)


# --- preconditioners -------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5])
def test_a_preconditioner_takes_several_times_fewer_products(k):
    """T5: a factorisation of the Laplacian on a square; at the same tolerance, the same pairs."""
    A = problems.laplacian_2d(30)
    plain = hessops.lobpcg(A, k, rng=0)
    helped = hessops.lobpcg(A, k, preconditioner=cholesky(A), rng=0)
    exact = wanted(problems.laplacian_2d_eigenvalues(30), k, "SA")
    for result in (plain, helped):
        np.testing.assert_allclose(result.eigenvalues, exact, atol=1e-12)
    assert 8 * helped.num_products < plain.num_products
    assert f"with {helped.num_preconditioned} products of M" in helped.status
    assert helped.num_preconditioned > 0


def test_a_diagonal_preconditioner_helps_where_the_diagonal_varies():
    weights = sp.diags_array(np.logspace(0, 1.2, 150))
    A = sp.csr_array(weights @ (problems.laplacian_1d(150) + sp.eye_array(150)) @ weights)
    plain = hessops.lobpcg(A, 3, rng=0, tol=1e-9)
    helped = hessops.lobpcg(
        A, 3, rng=0, tol=1e-9, preconditioner=hessops.Diagonal(1 / A.diagonal())
    )
    assert 4 * helped.num_products < plain.num_products
    exact = np.linalg.eigvalsh(A.toarray())
    np.testing.assert_allclose(helped.eigenvalues, exact[:3], atol=1e-9 * exact[-1])


def test_preconditioners_of_hessops():
    """The inverse of a solver, and a Nyström approximation for the end where that is good."""
    A = aslinearoperator(problems.laplacian_1d(200), positive_semidefinite=True)
    exact = problems.laplacian_1d_eigenvalues(200)
    result = hessops.lobpcg(A, 2, preconditioner=hessops.inverse(A, tol=1e-3), rng=0)
    assert result.num_products < 100
    np.testing.assert_allclose(result.eigenvalues, exact[:2], atol=1e-12)
    decaying = hessops.Diagonal(np.concatenate([np.logspace(3, 0.5, 40), np.linspace(1, 2, 30)]))
    M = hessops.nystrom_preconditioner(decaying, 55, shift=1.0, rng=0)
    plain = hessops.lobpcg(decaying, 3, rng=0)
    helped = hessops.lobpcg(decaying, 3, preconditioner=M, rng=0)
    np.testing.assert_allclose(helped.eigenvalues, np.sort(decaying.values)[:3], atol=1e-9)
    assert 3 * helped.num_products < plain.num_products


def test_takes_no_more_products_than_scipy_with_the_same_block():
    """Within a block more, at the residual norm that SciPy reaches; k = 5 without guards."""
    A, columns = problems.laplacian_2d(20), []
    factor = scipy.sparse.linalg.splu(sp.csc_matrix(A))
    start = normal(0, (400, 5))

    def multiply(X):
        columns.append(X.shape[1] if X.ndim > 1 else 1)
        return A @ X

    operator, precond = (
        scipy.sparse.linalg.LinearOperator((400, 400), matvec=f, matmat=f, dtype=np.float64)
        for f in (multiply, factor.solve)
    )
    values, vectors = scipy.sparse.linalg.lobpcg(
        operator, start, M=precond, tol=1e-8, largest=False, maxiter=200
    )
    reached = np.linalg.norm(A @ vectors - vectors * values, axis=0).max()
    tol = max(reached, 1e-8) / 8
    result = hessops.lobpcg(
        A, 5, preconditioner=cholesky(A), start=start, block_size=5, tol=tol, verify=False, rng=0
    )
    np.testing.assert_allclose(result.eigenvalues, np.sort(values), atol=1e-12)
    assert result.residual_norms.max() <= reached
    assert result.num_products <= sum(columns) + 5


def test_products_are_counted_as_they_are_made():
    calls, helped = [], []
    A, inverse = problems.laplacian_1d(100), cholesky(problems.laplacian_1d(100))

    def multiply(X):
        calls.append(X.shape[1])
        return A @ X

    def precondition(X):
        helped.append(X.shape[1])
        return inverse.apply(X)

    operator = aslinearoperator(multiply, shape=100, self_adjoint=True)
    M = aslinearoperator(precondition, shape=100, positive_semidefinite=True)
    states = []
    result = hessops.lobpcg(operator, 4, preconditioner=M, rng=0, callback=states.append)
    assert sum(calls) == result.num_products
    assert calls[-1] == 4
    assert states[-1].num_preconditioned == sum(helped) == sum(calls[1:-1])
    # Columns that have converged are multiplied no more.
    assert min(calls[1:-1]) < calls[0] == 5


# --- where the basis is hard ------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [4, 6, 7])
def test_start_blocks_that_are_ill_conditioned_or_dependent(columns):
    A = problems.laplacian_1d(300)
    start = np.vander(np.linspace(0, 1, 300), columns, increasing=True)
    start[:, -1] = start[:, 0] + 1e-13 * start[:, 1]
    result = hessops.lobpcg(A, 6, start=start, preconditioner=cholesky(A), rng=0)
    assert result.converged
    np.testing.assert_allclose(
        result.eigenvalues, problems.laplacian_1d_eigenvalues(300)[:6], atol=1e-13
    )


def test_an_inverse_of_high_condition_as_preconditioner():
    """W holds little but one direction, to all digits but a few."""
    values = np.concatenate([[1e-9, 1.1e-9, 2e-9], np.linspace(1, 2, 97)])
    matrix = with_spectrum(values)
    M = with_spectrum(1 / values)
    result = hessops.lobpcg(
        matrix, 3, preconditioner=aslinearoperator(M, positive_semidefinite=True), rng=0
    )
    assert result.converged
    np.testing.assert_allclose(result.eigenvalues, values[:3], atol=1e-14)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_size", [None, 8])
def test_clusters_and_multiple_eigenvalues(seed, block_size):
    values = np.concatenate([[1.0] * 4, 1 + 1e-6 * np.arange(1, 4), np.linspace(2, 5, 80)])
    result = hessops.lobpcg(with_spectrum(values, seed), 6, block_size=block_size, rng=seed)
    assert result.converged
    np.testing.assert_allclose(result.eigenvalues, np.sort(values)[:6], atol=1e-9)


def test_eigenvectors_of_others_as_start_hide_nothing():
    """The wanted have converged at once; a random guard shows that there are smaller ones."""
    values = np.linspace(1, 5, 40)
    matrix = with_spectrum(values)
    start = np.linalg.eigh(matrix)[1][:, 10:13]
    result = hessops.lobpcg(matrix, 3, start=start, rng=0)
    np.testing.assert_allclose(result.eigenvalues, values[:3], atol=1e-9)


@pytest.mark.parametrize("k", [7, 9, 10])
def test_nearly_all_pairs(k):
    values = np.array([-3.0, -1.0, -1.0, 0.0, 0.0, 2.0, 2.0, 2.0, 7.0, 8.0])
    result = hessops.lobpcg(with_spectrum(values), k, rng=0)
    assert result.converged
    np.testing.assert_allclose(result.eigenvalues, values[:k], atol=1e-12)


@pytest.mark.parametrize("A", [np.zeros((5, 5)), np.eye(5), np.ones((1, 1)), -np.ones((4, 4))])
def test_operators_with_one_or_two_eigenvalues(A):
    result = hessops.lobpcg(A, 1, rng=0)
    assert result.converged
    np.testing.assert_allclose(result.eigenvalues, np.linalg.eigvalsh(A)[:1], atol=1e-13)


@pytest.mark.parametrize("split", splits(15), ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_split_vectors_give_what_whole_ones_do(split, dtype):
    matrix = with_spectrum(np.linspace(1, 4, 15) ** 2, 3, dtype)
    precond = positive_definite(1, 15, dtype)
    serial = hessops.lobpcg(matrix, 2, preconditioner=precond, tol=1e-8, rng=5)

    def work(comm):
        A = ShardedMatrix(matrix, comm, split[comm.rank], SELF_ADJOINT)
        M = ShardedMatrix(precond, comm, split[comm.rank], POSITIVE_SEMIDEFINITE)
        # A space is compatible with another of the same ranks.
        M.domain = A.domain
        return hessops.lobpcg(A, 2, preconditioner=M, tol=1e-8, rng=5)

    results = run_on_ranks(work, len(split))
    for result in results:
        np.testing.assert_allclose(result.eigenvalues, serial.eigenvalues, atol=1e-12)
        assert (result.num_products, result.status) == (serial.num_products, serial.status)
    found = gathered([result.eigenvectors for result in results])
    overlap = np.abs(np.sum(found.conj() * serial.eigenvectors, axis=0))
    np.testing.assert_allclose(overlap, 1, atol=1e-10)


# --- the end, and what cannot be used ---------------------------------------------------------------


def test_error_bounds_hold():
    for seed in range(18):
        rng = np.random.default_rng(seed)
        values = rng.uniform(0, 1, 40) ** rng.choice([1, 3])
        matrix = with_spectrum(values, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = hessops.lobpcg(
                matrix, 3, tol=(1e-2, 1e-4, 1e-7)[seed % 3], which=("SA", "LA")[seed % 2], rng=seed
            )
        exact = np.linalg.eigvalsh(matrix)
        distance = np.abs(result.eigenvalues[:, None] - exact[None, :]).min(axis=1)
        assert np.all(distance <= result.residual_norms + 1e-14)
        assert np.all(result.error_bounds <= result.residual_norms + 1e-14)
        for value, residual, bound, error in zip(
            result.eigenvalues, result.residual_norms, result.error_bounds, distance, strict=True
        ):
            within = np.sum(np.abs(exact - value) < residual**2 / bound * (1 - 1e-6))
            assert error <= bound + 1e-14 or within > 1


def test_too_few_steps_give_a_warning_and_what_was_found():
    A = problems.laplacian_1d(200)
    with pytest.warns(ConvergenceWarning, match=r"of 3 pairs converged in 4 steps.*preconditioner"):
        result = hessops.lobpcg(A, 3, max_steps=4, rng=0)
    assert not result.converged
    assert len(result.history) == 4
    true = np.linalg.norm(
        A @ result.eigenvectors - result.eigenvectors * result.eigenvalues, axis=0
    )
    np.testing.assert_allclose(true, result.residual_norms, rtol=1e-9)


def test_a_callback_ends_the_run():
    with pytest.warns(ConvergenceWarning, match="stopped by the callback; 0 of 1 pairs"):
        hessops.lobpcg(problems.laplacian_1d(90), 1, rng=0, callback=lambda s: s.step == 3)


def test_a_preconditioner_that_is_not_definite_is_refused():
    A = problems.laplacian_1d(50)
    for values in (-np.ones(50), np.append(np.ones(25), -np.ones(25)), np.zeros(50)):
        with pytest.raises(
            ValueError, match=r"M is not positive definite: r\^H M r .* use one that"
        ):
            hessops.lobpcg(A, 2, preconditioner=hessops.Diagonal(values), rng=0)


def test_preconditioners_that_do_not_fit_are_refused():
    A = problems.laplacian_1d(50)
    with pytest.raises(NotSelfAdjointError, match="the preconditioner of lobpcg needs a self-adj"):
        hessops.lobpcg(A, 2, preconditioner=aslinearoperator(lambda X: X, shape=50), rng=0)
    with pytest.raises(ValueError, match="does not fit"):
        hessops.lobpcg(A, 2, preconditioner=np.eye(49), rng=0)
    with pytest.raises(ValueError, match="differ in dtype"):
        hessops.lobpcg(A, 2, preconditioner=np.eye(50, dtype=np.float32), rng=0)
    bad = aslinearoperator(lambda X: X * np.nan, shape=50, positive_semidefinite=True)
    with pytest.raises(NonFiniteError, match=r"product \d+ with FunctionOperator.* holds NaN"):
        hessops.lobpcg(A, 2, preconditioner=bad, rng=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k=0 must be a positive integer"),
        ({"k": 7}, "k=7 eigenpairs asked of an operator of dimension 6"),
        ({"which": "LM"}, "which='LM' is unknown; choose one of SA, LA"),
        ({"tol": -1.0}, "tol=-1.0 must be positive"),
        ({"k": 3, "block_size": 2}, "block_size=2 is below k=3"),
        ({"start": np.ones(6)}, r"start must have shape \(n, 2\) or fewer columns"),
        ({"start": np.ones((6, 3))}, r"start must have shape \(n, 2\) or fewer columns"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        hessops.lobpcg(np.eye(6), **{"k": 1, **options}, rng=0)


def test_an_operator_that_is_not_self_adjoint_is_refused():
    A = aslinearoperator(lambda X: np.triu(np.ones((9, 9))) @ X, shape=9, self_adjoint=True)
    with pytest.raises(
        NotSelfAdjointError, match="declared self-adjoint, but its products are not"
    ):
        hessops.lobpcg(A, 2, rng=0)


def test_products_that_are_not_finite_are_refused():
    A = aslinearoperator(lambda X: X * np.inf, shape=9, self_adjoint=True)
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        hessops.lobpcg(A, 2, rng=0)


def test_a_function_that_mixes_the_columns_of_a_block_is_refused():
    diagonal = np.linspace(0, 1, 50) ** 2

    def mixing(X):
        return diagonal[:, None] * X + 0.1 * X.sum(axis=1, keepdims=True) * (X.shape[1] == 2)

    A = aslinearoperator(mixing, shape=50, self_adjoint=True)
    with pytest.raises(ValueError, match=r"not linear.*LOBPCG found the eigenvalue .* gives"):
        hessops.lobpcg(A, 2, block_size=5, rng=0)
