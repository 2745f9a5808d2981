"""The Lanczos recurrence: its identity at every step, its end, and what rounding does to it."""

import numpy as np
import problems
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import eigh_tridiagonal

import hessops
from hessops import NonFiniteError, NotSelfAdjointError, aslinearoperator
from hessops.algorithms.krylov.lanczos import lanczos_steps

DTYPES = (np.float64, np.float32, np.complex128, np.complex64)


def block(n, count, rng, dtype):
    rng = np.random.default_rng(rng)
    B = rng.standard_normal((n, count))
    if np.issubdtype(dtype, np.complexfloating):
        B = B + 1j * rng.standard_normal((n, count))
    return B.astype(dtype)


@st.composite
def self_adjoint_problems(draw):
    """Draw a self-adjoint matrix, with repeated eigenvalues as often as not, and start vectors."""
    n, count = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from(DTYPES))
    levels = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))
    spread = draw(st.sampled_from([0.0, 0.1]))
    seed = draw(st.integers(0, 1000))
    eigenvalues = np.array(levels) + spread * np.arange(n)
    # The same seed would make the first start vector an eigenvector.
    return problems.matrix_of(eigenvalues, seed, dtype), block(n, count, seed + 5000, dtype)


def tridiagonal(alphas, betas):
    return np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1)


@given(self_adjoint_problems())
def test_the_identity_of_every_state(problem):
    """A Q = Q T + r e_k^T with Q orthonormal, r orthogonal to Q and its norm the last beta."""
    A, start = problem
    size = max(np.linalg.norm(A, 2), 1e-30)
    rounding = 200 * float(np.finfo(A.dtype).eps) * len(A)
    for state in lanczos_steps(aslinearoperator(A, self_adjoint=True), start):
        assert state.num_products == state.step * start.shape[1]
        for column in range(start.shape[1]):
            length = state.lengths[column]
            Q = np.asarray(state.basis.vectors(column))[:, :length]
            T = tridiagonal(*state.tridiagonal(column))
            rest = A @ Q - Q @ T
            assert np.linalg.norm(Q.conj().T @ Q - np.eye(length)) <= rounding
            assert np.linalg.norm(rest[:, :-1]) <= rounding * size
            if state.alive[column]:
                residual = state.residual[:, column]
                assert np.linalg.norm(rest[:, -1] - residual) <= rounding * size
                assert np.linalg.norm(Q.conj().T @ residual) <= rounding * size
                norm = np.linalg.norm(residual)
                assert abs(state.residual_norm(column) - norm) <= rounding * size
            else:
                assert np.linalg.norm(rest[:, -1]) <= rounding * size
                assert state.residual_norm(column) <= state.rounding


@given(self_adjoint_problems())
def test_the_run_ends_when_every_eigenvalue_was_seen_and_the_space_is_full_at_the_latest(problem):
    """Each step multiplies rounding by the ratio of scale and beta, so that a Krylov space that is
    exhausted in exact arithmetic may go on, in vectors of rounding, to find the copies."""
    A, start = problem
    states = list(lanczos_steps(aslinearoperator(A, self_adjoint=True), start))
    distinct = len(np.unique(np.linalg.eigvalsh(A.astype(complex)).round(3)))
    assert distinct <= states[-1].step <= len(A)
    assert not states[-1].alive.any()
    eigenvalues = eigh_tridiagonal(*states[-1].tridiagonal())[0]
    missed = np.abs(eigenvalues[:, None] - np.linalg.eigvalsh(A)[None, :]).min(axis=0)
    assert missed.max() <= 1e-3


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_columns_in_lock_step_are_runs_of_their_own(dtype, reorthogonalize):
    A = problems.matrix_of(np.linspace(-1, 2, 40), dtype=dtype)
    operator, start = aslinearoperator(A), block(40, 3, 1, dtype)
    # The last column ends after two steps: its Krylov space holds two eigenvectors only.
    vectors = np.linalg.eigh(A)[1]
    start[:, 2] = vectors[:, 3] + 2 * vectors[:, 20]

    def after(steps, columns):
        states = lanczos_steps(operator, columns, reorthogonalize=reorthogonalize)
        return [state for _, state in zip(range(steps), states, strict=False)][-1]

    together = after(12, start)
    assert together.lengths.tolist() == [12, 12, 2]
    for column, length in enumerate(together.lengths):
        alone = after(12, start[:, [column]])
        assert alone.lengths[0] == length
        for ours, theirs in zip(together.tridiagonal(column), alone.tridiagonal(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-11)


# --- T2, Strakoš: what rounding does ----------------------------------------------------------


def test_full_reorthogonalisation_finds_all_eigenvalues():
    """T2."""
    eigenvalues = problems.strakos_eigenvalues()
    result = hessops.lanczos(np.diag(eigenvalues), num_steps=24, start=np.ones(24))
    np.testing.assert_allclose(result.ritz()[0], eigenvalues, rtol=0, atol=1e-12)
    assert np.linalg.norm(result.basis.T @ result.basis - np.eye(24)) < 1e-13


@pytest.fixture(scope="module")
def unorthogonal():
    """States of T2 without reorthogonalisation by step, each with the basis it went through."""
    operator = hessops.Diagonal(problems.strakos_eigenvalues())
    vectors, states = [np.full(24, 24**-0.5)], {}
    for state in lanczos_steps(operator, np.ones((24, 1)), reorthogonalize=False):
        states[state.step] = (state, np.stack(vectors, axis=1))
        if state.step == 74:
            return states
        vectors.append(state.residual[:, 0] / state.betas[-1, 0])
    return states


def test_orthogonality_is_lost_as_known_without_reorthogonalisation(unorthogonal):
    """T2: the orders depend on rounding, so a factor of ten is allowed."""
    for step, loss in {12: 3e-10, 16: 4e-4, 20: 1.4, 24: 2.4, 36: 5.5}.items():
        Q = unorthogonal[step][1]
        assert loss / 10 < np.linalg.norm(Q.T @ Q - np.eye(step)) < loss * 10, step


def test_copies_of_the_largest_eigenvalue_appear_without_reorthogonalisation(unorthogonal):
    """T2. One rounding more or less, as processors differ in, moves a copy by a step or two."""
    copies = {
        step: int(np.sum(np.abs(eigh_tridiagonal(*state.tridiagonal())[0] - 100) < 1e-6))
        for step, (state, _) in unorthogonal.items()
    }
    for step, expected in {20: 1, 24: 2, 30: 2, 36: 3, 48: 4, 72: 6}.items():
        assert copies[step - 2] <= expected <= copies[step + 2], step


def test_quadrature_survives_the_loss_of_orthogonality(unorthogonal):
    """T2: orders allowed to be ten times larger; Greenbaum (1989) and Knizhnerman (1996) say why."""
    eigenvalues = problems.strakos_eigenvalues()
    log_errors = {24: 1.5e-5, 30: 1.2e-7, 36: 1e-13, 48: 1e-13, 72: 1e-13}
    inverse_errors = {24: 4.3e-4, 30: 4.7e-6, 36: 1e-12, 48: 1e-12, 72: 1e-12}
    for step, log_error in log_errors.items():
        nodes, vectors = eigh_tridiagonal(*unorthogonal[step][0].tridiagonal())
        weights = vectors[0] ** 2
        assert abs(weights @ np.log(nodes) - np.mean(np.log(eigenvalues))) < 10 * log_error
        ratio = (weights @ (1 / nodes)) / np.mean(1 / eigenvalues)
        assert abs(ratio - 1) < 10 * inverse_errors[step]
        assert nodes.min() > 0.1 - 1e-12
        assert nodes.max() < 100 + 1e-11


def test_nothing_is_stored_without_reorthogonalisation(unorthogonal):
    assert unorthogonal[72][0].basis is None
    assert hessops.lanczos(np.eye(3), num_steps=1, reorthogonalize=False, rng=0).basis is None


# --- exhausted Krylov spaces ------------------------------------------------------------------


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_kneser_graph_has_five_eigenvalues(seed, reorthogonalize):
    """T9."""
    result = hessops.lanczos(
        problems.kneser(11, 4), num_steps=50, rng=seed, reorthogonalize=reorthogonalize
    )
    assert result.num_products == 5
    assert "exhausted after 5 steps" in result.status
    assert result.residual_norm <= 32 * np.finfo(float).eps * 60
    np.testing.assert_allclose(result.ritz()[0], [-20, -4, 1, 10, 35], atol=1e-8)
    assert np.all(result.ritz()[1] <= result.residual_norm)


@pytest.mark.parametrize("seed", range(5))
def test_hypercube_has_eleven_eigenvalues(seed):
    """T10."""
    result = hessops.lanczos(problems.hypercube(10), num_steps=50, rng=seed)
    assert result.num_products == 11
    np.testing.assert_allclose(result.ritz()[0], np.arange(-10, 11, 2), atol=1e-8)


def test_clement_matrix():
    """T11, from a start vector that sees all eigenvalues."""
    off_diagonal = problems.clement(21)[1]
    A = np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    result = hessops.lanczos(A, num_steps=21, start=np.eye(21)[0])
    np.testing.assert_allclose(result.ritz()[0], np.arange(-20, 21, 2), atol=1e-11)
    # From the first unit vector T is the matrix itself.
    np.testing.assert_allclose(result.betas, off_diagonal, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e-5, 1.0, 1e5, 1e12, 1e25])
def test_the_end_is_recognised_at_every_scale(scale, reorthogonalize, dtype):
    A = scale * problems.matrix_of(np.repeat([-1.0, 0.5, 2.0, 5.0], [10, 12, 6, 2]))
    result = hessops.lanczos(A.astype(dtype), num_steps=20, rng=0, reorthogonalize=reorthogonalize)
    tolerance = 100 * float(np.finfo(dtype).eps)
    assert result.num_products == 4
    np.testing.assert_allclose(result.ritz()[0] / scale, [-1, 0.5, 2, 5], atol=tolerance)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_coefficients_scale_with_the_operator(scale):
    A = problems.matrix_of(np.linspace(-1, 3, 30))
    one, scaled = (hessops.lanczos(c * A, num_steps=12, rng=0) for c in (1.0, scale))
    np.testing.assert_allclose(scaled.alphas / scale, one.alphas, atol=1e-12)
    np.testing.assert_allclose(scaled.betas / scale, one.betas, atol=1e-12)


def test_a_small_beta_is_no_end():
    """A weakly coupled vector, 10^-9 of the scale, belongs to the Krylov space."""
    A = np.array([[1.0, 1e-9], [1e-9, 2.0]])
    result = hessops.lanczos(A, num_steps=5, start=np.array([1.0, 0.0]))
    assert result.num_products == 2
    np.testing.assert_allclose(result.betas, [1e-9], rtol=1e-12)


def test_the_residual_norm_of_an_exhausted_space_is_the_true_one():
    """A coupling of 10^-15 ends the space, but it is there."""
    A = np.array([[1.0, 1e-15], [1e-15, 2.0]])
    for reorthogonalize in (True, False):
        result = hessops.lanczos(
            A, num_steps=5, start=np.array([1.0, 0.0]), reorthogonalize=reorthogonalize
        )
        assert result.num_products == 1
        np.testing.assert_allclose(result.residual_norm, 1e-15, rtol=1e-12)
        np.testing.assert_allclose(result.ritz()[1], [1e-15], rtol=1e-12)
        assert result.history["error"].tolist() == [result.residual_norm]


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_an_ended_recurrence_stays_as_it_was_while_others_go_on(reorthogonalize):
    A = np.diag(np.arange(1.0, 9.0))
    A[0, 1] = A[1, 0] = 1e-15
    start = np.stack([np.eye(8)[0], np.ones(8)], axis=1)
    for state in lanczos_steps(aslinearoperator(A), start, reorthogonalize=reorthogonalize):
        assert state.lengths.tolist() == [1, state.step]
        np.testing.assert_allclose(state.residual_norm(0), 1e-15, rtol=1e-12)
        assert state.tridiagonal(0)[0].tolist() == [1.0]
        for ended in (state.alphas[1:], state.betas[1:], state.following, state.residual):
            assert not np.any(ended[:, 0])
        if state.step == 6:
            return


def test_the_zero_operator_ends_after_one_step():
    for reorthogonalize in (True, False):
        result = hessops.lanczos(
            np.zeros((6, 6)), num_steps=5, rng=0, reorthogonalize=reorthogonalize
        )
        assert result.num_products == 1
        assert result.alphas.tolist() == [0.0]


def test_one_dimension():
    result = hessops.lanczos(np.array([[-3.0]]), num_steps=5, rng=0)
    np.testing.assert_allclose(result.ritz()[0], [-3.0])


# --- T3, Wilkinson: one start vector sees one copy ----------------------------------------------


def test_nearly_equal_eigenvalues_appear_once_until_the_space_is_full():
    """T3: the two largest differ by 7e-14, so no Krylov space short of all 21 dimensions tells them
    apart, and none may show two."""
    diagonal, off_diagonal = problems.wilkinson()
    A = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    seen = {}

    def count(state):
        values, vectors = eigh_tridiagonal(*state.tridiagonal())
        converged = state.residual_norm() * np.abs(vectors[-1]) < 1e-3
        seen[state.step] = int(np.sum(converged & (np.abs(values - values[-1]) < 1e-2)))

    result = hessops.lanczos(A, num_steps=30, rng=0, callback=count)
    assert max(seen[step] for step in range(1, 17)) == 1
    assert result.num_products == 21
    np.testing.assert_allclose(result.ritz()[0], problems.wilkinson_eigenvalues(), atol=1e-13)


# --- start vectors ------------------------------------------------------------------------------


def test_the_start_vector_needs_no_particular_norm():
    A, start = problems.matrix_of(np.linspace(-1, 3, 20)), np.arange(1.0, 21.0)
    small, large = (hessops.lanczos(A, num_steps=8, start=c * start) for c in (1e-100, 1e100))
    np.testing.assert_allclose(small.alphas, large.alphas, rtol=1e-10)
    np.testing.assert_allclose(np.abs(small.basis[:, 0]), start / np.linalg.norm(start), rtol=1e-12)


def test_an_eigenvector_ends_the_run_at_once():
    A = problems.matrix_of([1.0, 2.0, 4.0, 4.0])
    values, vectors = np.linalg.eigh(A)
    result = hessops.lanczos(A, num_steps=4, start=vectors[:, 1])
    assert result.num_products == 1
    np.testing.assert_allclose(result.alphas, values[1], rtol=1e-14)


def test_the_seed_of_a_result_repeats_it():
    A = problems.laplacian_1d(30)
    first = hessops.lanczos(A, num_steps=5)
    assert np.array_equal(hessops.lanczos(A, num_steps=5, rng=first.seed).alphas, first.alphas)
    assert not np.array_equal(hessops.lanczos(A, num_steps=5).alphas, first.alphas)


def test_the_start_vector_is_left_as_it_was():
    start = np.arange(1.0, 31.0)
    start.setflags(write=False)
    hessops.lanczos(problems.laplacian_1d(30), num_steps=5, start=start)
    assert start[-1] == 30.0


# --- promises that are not kept -----------------------------------------------------------------


def pretending(M):
    """Return products with M as an operator that is declared self-adjoint."""
    return aslinearoperator(lambda X: M @ X, shape=len(M), dtype=M.dtype, self_adjoint=True)


RNG = np.random.default_rng(0)
NOT_SELF_ADJOINT = {
    "general": RNG.standard_normal((20, 20)),
    "triangular": np.triu(RNG.standard_normal((20, 20))),
    "slightly off": problems.matrix_of(np.arange(20.0)) + 1e-4 * RNG.standard_normal((20, 20)),
    "small": np.array([[1.0, 2.0], [0.0, 1.5]]),
    "skew": np.array([[1.0, 2.0, 0.0], [-2.0, 1.0, 1.0], [0.0, 1.0, 3.0]]),
    "imaginary shift": problems.matrix_of(np.arange(8.0), dtype=np.complex128) + 1j * np.eye(8),
}


@pytest.mark.parametrize("name", NOT_SELF_ADJOINT)
@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("lanczos", {"num_steps": 10}),
        ("lanczos", {"num_steps": 10, "reorthogonalize": False}),
        ("eigsh", {"k": 1}),
        ("spectral_density", {}),
        ("spectral_density", {"num_probes": 1}),
        ("spectral_density", {"num_probes": 1, "reorthogonalize": True}),
    ],
)
def test_an_operator_that_only_says_it_is_self_adjoint_is_caught(verb, options, name):
    operator = pretending(NOT_SELF_ADJOINT[name])
    with pytest.raises(NotSelfAdjointError, match="declared self-adjoint, but its products are no"):
        getattr(hessops, verb)(operator, rng=0, **options)


@pytest.mark.parametrize("name", ["general", "triangular", "slightly off"])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_asymmetry_is_caught_at_every_scale_without_reorthogonalisation(dtype, scale, name):
    M = NOT_SELF_ADJOINT[name]
    if dtype == np.float32 and name == "slightly off":
        M = M + 0.1 * NOT_SELF_ADJOINT["general"]  # half the digits are fewer
    with pytest.raises(NotSelfAdjointError):
        hessops.lanczos(
            pretending((scale * M).astype(dtype)), num_steps=10, reorthogonalize=False, rng=0
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e12, 1e25])
def test_lost_orthogonality_is_not_taken_for_asymmetry(scale, dtype):
    """Orthogonality to all but the last two vectors is gone after 30 of these 200 steps."""
    eigenvalues = scale * problems.strakos_eigenvalues(30)
    A = problems.matrix_of(eigenvalues, dtype=dtype)
    for seed in range(5):
        result = hessops.lanczos(A, num_steps=200, reorthogonalize=False, rng=seed)
        assert len(result.alphas) == 200
        hessops.spectral_density(A, num_probes=1, num_steps=200, rng=seed)


@given(self_adjoint_problems(), st.sampled_from([1e-12, 1e12]))
def test_no_self_adjoint_matrix_is_taken_for_another(problem, scale):
    A, start = problem
    operator = aslinearoperator((scale * A).astype(A.dtype), self_adjoint=True)
    for state in lanczos_steps(operator, start[:, :1], reorthogonalize=False):
        if state.step == 60:
            return


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_not_taken_for_asymmetry(dtype):
    """Also where betas are small and vectors are made of rounding."""
    for eigenvalues in (
        problems.strakos_eigenvalues(40, 1e-3, 100.0, 0.6),
        np.repeat([1.0, 1 + 1e-6, 1000.0], 10),
        np.logspace(-8, 0, 40),
    ):
        A = problems.matrix_of(eigenvalues, dtype=dtype)
        hessops.lanczos(A, num_steps=40, rng=0)
        hessops.spectral_density(A, num_probes=4, num_steps=60, rng=0)


# NumPy warns of inf - inf on the way to our own error.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_a_product_that_is_not_finite_is_named(reorthogonalize, bad):
    calls = []

    def multiply(X):
        calls.append(1)
        return X * np.arange(10.0)[:, None] if len(calls) < 3 else X * bad

    operator = aslinearoperator(multiply, shape=10, self_adjoint=True)
    with pytest.raises(NonFiniteError, match=r"product 3 with FunctionOperator\(10x10"):
        hessops.lanczos(operator, num_steps=8, rng=0, reorthogonalize=reorthogonalize)


# --- the verb -----------------------------------------------------------------------------------


def test_a_callback_ends_the_run():
    result = hessops.lanczos(
        problems.laplacian_1d(30), num_steps=20, rng=0, callback=lambda state: state.step == 4
    )
    assert result.num_products == len(result.alphas) == 4
    assert len(result.betas) == 3
    assert result.basis.shape == (30, 4)
    assert result.status == "stopped by the callback"


def test_history_and_ritz_values():
    A = problems.matrix_of(np.linspace(-1, 3, 30))
    result = hessops.lanczos(A, num_steps=12, rng=0)
    assert result.history["step"].tolist() == list(range(1, 13))
    np.testing.assert_array_equal(result.history["estimate"], result.alphas)
    np.testing.assert_array_equal(result.history["error"][:-1], result.betas)
    assert result.history["error"][-1] == result.residual_norm
    values, residuals = result.ritz()
    vectors = result.basis @ np.linalg.eigh(tridiagonal(result.alphas, result.betas))[1]
    true_residuals = np.linalg.norm(A @ vectors - vectors * values, axis=0)
    np.testing.assert_allclose(residuals, true_residuals, atol=1e-12)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    A = problems.matrix_of(np.linspace(-1, 3, 30))
    start = np.random.default_rng(0).standard_normal(30)
    ours = hessops.lanczos(A, num_steps=12, start=start)
    theirs = hessops.lanczos(torch.from_numpy(A), num_steps=12, start=torch.from_numpy(start))
    np.testing.assert_allclose(theirs.alphas, ours.alphas, atol=1e-12)
    np.testing.assert_allclose(theirs.betas, ours.betas, atol=1e-12)
    assert isinstance(theirs.basis, torch.Tensor)
    assert isinstance(theirs.alphas, np.ndarray)
