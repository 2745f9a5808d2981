"""Conjugate gradients and MINRES: laws against dense solves, bounds, endings, ranks, bad input."""

import math
import tracemalloc
from functools import partial

import numpy as np
import problems
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    LIBRARIES,
    Place,
    normal,
    orthonormal,
    places,
    psd_matrices,
    self_adjoint_matrices,
    sizes,
    with_spectrum,
)

from hessops import (
    ConvergenceWarning,
    Diagonal,
    NonFiniteError,
    NotSelfAdjointError,
    aslinearoperator,
    bounds,
    cg,
    load,
    minres,
)
from hessops.algorithms.solvers.conjugate_gradient import cg_steps
from hessops.algorithms.solvers.minres import minres_steps
from hessops.arrays import to_numpy
from hessops.structure import SELF_ADJOINT

SOLVERS = {"cg": cg, "minres": minres}
ENGINES = {"cg": cg_steps, "minres": minres_steps}
both = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)


def relative_residuals(A, X, B, shift=0.0):
    wide = [to_numpy(array).astype(np.complex128) for array in (A, X, B)]
    A, X, B = wide
    sizes = np.linalg.norm(B, axis=0)
    return np.linalg.norm(B - A @ X - shift * X, axis=0) / np.where(sizes > 0, sizes, 1)


def indefinite(n, seed=0, dtype="float64"):
    """Eigenvalues in [-2, -1] and [1, 3]."""
    return with_spectrum(
        np.concatenate([np.linspace(-2, -1, n // 2), np.linspace(1, 3, n - n // 2)]), seed, dtype
    )


# Laws against dense solves.


@given(st.data(), places(), sizes(), st.integers(1, 3))
def test_positive_definite_systems_are_solved_by_both(data, place, n, count):
    A = data.draw(psd_matrices(n, place.dtype)) + np.eye(n, dtype=place.dtype)
    B = normal(data.draw(st.integers(0, 99)), (n, count), place.dtype)
    exact = np.linalg.solve(A.astype(np.complex128), B.astype(np.complex128))
    # The smallest eigenvalue is 1, so that errors are at most residuals.
    tol = 4 * place.eps * np.linalg.cond(A.astype(np.complex128)) * n
    for solve in SOLVERS.values():
        result = solve(aslinearoperator(place.put(A), self_adjoint=True), place.put(B), tol=tol)
        assert result.solution.dtype == place.dtype_object
        errors = np.linalg.norm(to_numpy(result.solution) - exact, axis=0)
        # What comes from the residual's own rounding, in entries of the size of A x.
        rounding = 8 * n * place.eps * np.linalg.norm(A) * np.linalg.norm(exact, axis=0)
        assert np.all(errors <= tol * np.linalg.norm(B, axis=0) + rounding)


@given(st.data(), places(), sizes(), st.integers(1, 3))
def test_indefinite_systems_are_solved_by_minres(data, place, n, count):
    A = data.draw(self_adjoint_matrices(n, place.dtype))
    values, vectors = np.linalg.eigh(A)
    values = np.where(values < 0, values - 1, values + 1)
    A = ((vectors * values) @ vectors.conj().T).astype(place.dtype)
    A = (A + A.conj().T) / 2
    B = normal(data.draw(st.integers(0, 99)), (n, count), place.dtype)
    tol = 4 * place.eps * n * np.max(np.abs(values))
    operator = aslinearoperator(place.put(A), self_adjoint=True)
    result = minres(operator, place.put(B), tol=tol)
    exact = np.linalg.solve(A.astype(np.complex128), B.astype(np.complex128))
    errors = np.linalg.norm(to_numpy(result.solution) - exact, axis=0)
    rounding = 8 * n * place.eps * np.linalg.norm(A) * np.linalg.norm(exact, axis=0)
    assert np.all(errors <= 2 * tol * np.linalg.norm(B, axis=0) + rounding)


@given(st.integers(0, 999), st.integers(2, 12), st.integers(1, 11))
def test_minres_finds_the_shortest_solution_of_singular_systems_that_have_one(seed, n, rank):
    rank = min(rank, n - 1)
    values = np.zeros(n)
    values[:rank] = np.where(np.arange(rank) % 2, -1, 1) * np.linspace(1, 2, rank)
    A = with_spectrum(values, seed)
    B = A @ normal(seed + 1, (n, 2))
    result = minres(A, B, tol=1e-12)
    shortest = np.linalg.pinv(A, rcond=1e-8) @ B
    assert np.linalg.norm(result.solution - shortest) <= 1e-10 * np.linalg.norm(B)


@both
def test_iterates_are_the_best_of_the_krylov_space(solve):
    """CG: smallest error in the A-norm; MINRES: smallest residual. And both know their residual."""
    definite = solve is cg
    A = with_spectrum(np.linspace(1, 30, 30), 0) if definite else indefinite(30)
    b, exact_root = normal(1, (30, 1)), None
    if definite:
        exact_root = np.linalg.cholesky(A).T
    steps = cg_steps if definite else minres_steps
    krylov = b / np.linalg.norm(b)
    for state in steps(aslinearoperator(A), b):
        residual = np.linalg.norm(b - A @ state.solution)
        assert state.residual_norms[0] == pytest.approx(residual, rel=1e-9)
        if state.step == 8:
            break
        if state.step == 0:
            assert residual == pytest.approx(np.linalg.norm(b))
            continue
        if definite:
            x = np.linalg.solve(A, b)
            best = np.linalg.lstsq(exact_root @ krylov, exact_root @ x, rcond=None)[0]
        else:
            best = np.linalg.lstsq(A @ krylov, b, rcond=None)[0]
        assert state.solution == pytest.approx(krylov @ best, abs=1e-9)
        krylov = np.linalg.qr(np.hstack([krylov, A @ krylov[:, -1:]]))[0]


def test_the_bound_of_conjugate_gradients_holds_over_the_history():
    """In the A-norm, by the iterates; and sqrt(kappa) times it for the residuals of the history."""
    values = np.linspace(1, 400, 200)
    A, b = Diagonal(values), normal(0, (200, 1))
    kappa, errors = 400.0, []

    def watch(state):
        errors.append(
            np.sqrt(np.sum(values[:, None] * (state.solution - b / values[:, None]) ** 2))
        )

    result = cg(A, b, tol=1e-8, callback=watch)
    bound = bounds.conjugate_gradient_error(result.history["step"], kappa)
    assert np.all(np.array(errors) <= errors[0] * bound * (1 + 1e-9) + 1e-12)
    assert np.all(result.history["error"] <= math.sqrt(kappa) * bound * (1 + 1e-9))
    # And not for nothing: that of a condition number sixteen times smaller does not hold.
    smaller = bounds.conjugate_gradient_error(result.history["step"], kappa / 16)
    assert np.any(np.array(errors) > errors[0] * smaller)


def test_residuals_of_minres_never_grow():
    result = minres(indefinite(60), normal(3, (60, 1)), tol=1e-12)
    assert np.all(np.diff(result.history["error"]) <= 1e-15)


# Invariances.


@both
@pytest.mark.parametrize("scale_B", [1e-12, 1e12])
@pytest.mark.parametrize("scale_A", [1e-12, 1e12])
def test_scale(solve, scale_A, scale_B):
    A, B = with_spectrum(np.linspace(1, 50, 40), 0), normal(1, (40, 2))
    one, other = solve(A, B, tol=1e-8), solve(scale_A * A, scale_B * B, tol=1e-8)
    assert other.num_steps == one.num_steps
    assert other.solution == pytest.approx(scale_B / scale_A * one.solution, rel=1e-6)


@both
def test_a_block_is_its_columns(solve):
    """Each column has its own recurrence, ends on its own, and then costs nothing more."""
    A = with_spectrum(np.linspace(1, 50, 40), 0) if solve is cg else indefinite(40)
    easy = np.linalg.eigh(A)[1][:, 3]
    B = np.stack([easy, normal(1, 40), np.zeros(40), 1e6 * normal(2, 40)], axis=1)
    together = solve(A, B, tol=1e-10)
    alone = [solve(A, B[:, j], tol=1e-10) for j in range(4)]
    for j, single in enumerate(alone):
        assert single.solution.shape == (40,)
        assert together.solution[:, j] == pytest.approx(
            single.solution, rel=1e-8, abs=1e-8 * np.linalg.norm(B[:, j])
        )
    assert together.num_products == sum(single.num_products for single in alone)
    assert alone[0].num_steps <= 2
    assert alone[2].num_steps == 0


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_libraries_agree(solve, dtype):
    A = with_spectrum(np.linspace(1, 20, 25), 0, dtype) - (0 if solve is cg else 1) * 7.3 * np.eye(
        25
    )
    B = normal(1, (25, 2), dtype)
    M = with_spectrum(np.linspace(1, 2, 25), 2, dtype)
    expected = None
    for library in LIBRARIES:
        place = Place(library, dtype)
        operator, M_there = (aslinearoperator(place.put(X), self_adjoint=True) for X in (A, M))
        B_there = place.put(B)
        result = solve(operator, B_there, preconditioner=M_there, tol=1000 * place.eps)
        assert type(result.solution) is type(B_there)
        assert result.solution.dtype == place.dtype_object
        expected = to_numpy(result.solution) if expected is None else expected
        off = np.linalg.norm(to_numpy(result.solution) - expected)
        # Residuals of either of 1000 roundings, over the smallest eigenvalue of 0.11 in modulus.
        assert off <= 2 * 1000 * place.eps * np.linalg.norm(B) / 0.11


@both
@pytest.mark.parametrize("split", splits(37), ids=str)
def test_ranks_agree(solve, split):
    matrix = with_spectrum(np.linspace(1, 9, 37), 0) if solve is cg else indefinite(37)
    B = np.stack([normal(1, 37), np.linalg.eigh(matrix)[1][:, 0], normal(2, 37)], axis=1)
    M = with_spectrum(np.linspace(1, 2, 37), 3)
    serial = solve(matrix, B, preconditioner=M, tol=1e-12, shift=0.1)

    def work(comm):
        rows = split[comm.rank]
        sharded = partial(ShardedMatrix, comm=comm, rows=rows, structure=SELF_ADJOINT)
        # One space, as the ranks of two would not be seen to be the same.
        A, preconditioner = sharded(matrix), sharded(M)
        return solve(A, B[slice(*rows)], preconditioner=preconditioner, tol=1e-12, shift=0.1)

    results = run_on_ranks(work, len(split))
    whole = gathered([result.solution for result in results])
    assert np.linalg.norm(whole - serial.solution) <= 1e-10 * np.linalg.norm(serial.solution)
    assert len({result.num_products for result in results}) == 1


# Options.


@both
def test_shift_adds_to_the_operator(solve):
    A, B = with_spectrum(np.linspace(0, 5, 30), 0), normal(1, (30, 2))
    result = solve(A, B, shift=0.5, tol=1e-11)
    assert result.solution == pytest.approx(np.linalg.solve(A + 0.5 * np.eye(30), B), abs=1e-9)


@both
def test_a_first_guess_saves_steps_and_its_residual_costs_a_product(solve):
    A, b = with_spectrum(np.linspace(1, 30, 30), 0), normal(1, 30)
    exact = np.linalg.solve(A, b)
    result = solve(A, b, x0=exact)
    assert (result.num_steps, result.num_products) == (0, 2)
    cold, warm = (
        solve(A, b, tol=1e-10),
        solve(A, b, x0=exact * (1 + 1e-6 * normal(2, 30)), tol=1e-10),
    )
    assert warm.num_steps < cold.num_steps
    assert warm.solution == pytest.approx(exact, abs=1e-8)


@both
def test_an_exact_preconditioner_takes_one_step(solve):
    A, b = with_spectrum(np.logspace(0, 5, 30), 0), normal(1, 30)
    M = np.linalg.inv(A)
    result = solve(A, b, preconditioner=(M + M.T) / 2, tol=1e-8)
    assert result.num_steps <= 2
    assert relative_residuals(A, result.solution[:, None], b[:, None])[0] <= 1e-8


def test_an_indefinite_system_with_a_preconditioner():
    """The absolute value of A, inverted, leaves eigenvalues of 1 and -1: two steps."""
    A, b = indefinite(40), normal(1, 40)
    values, vectors = np.linalg.eigh(A)
    M = (vectors / np.abs(values)) @ vectors.T
    result = minres(A, b, preconditioner=(M + M.T) / 2, tol=1e-10)
    assert result.num_steps == 2
    assert relative_residuals(A, result.solution[:, None], b[:, None])[0] <= 1e-10


@both
def test_residuals_are_true_ones(solve):
    """With a preconditioner, too, where the recurrences know another norm."""
    A, B = with_spectrum(np.logspace(0, 6, 80), 0), normal(1, (80, 2))
    M = Diagonal(np.linspace(1, 5, 80))
    for tol in (1e-3, 1e-9):
        result = solve(A, B, tol=tol, preconditioner=M)
        true = relative_residuals(A, result.solution, B)
        assert result.verified
        assert np.all(true <= tol * (1 + 1e-6))
        # One rounding of A x, with a condition number of 1e6.
        assert result.residual_norms == pytest.approx(true, abs=1e-14 * 1e6)


@both
def test_without_verification_the_last_product_is_saved(solve):
    A, b = with_spectrum(np.linspace(1, 30, 30), 0), normal(1, 30)
    checked, trusted = solve(A, b), solve(A, b, verify=False)
    assert trusted.num_products == checked.num_products - 1
    assert not trusted.verified
    assert "residual of the recurrence" in str(trusted)


@both
def test_a_callback_ends_the_run(solve):
    A, b = with_spectrum(np.logspace(0, 4, 60), 0), normal(1, 60)
    with pytest.warns(ConvergenceWarning, match="stopped by the callback after 5 steps"):
        result = solve(A, b, callback=lambda state: state.step == 5)
    assert result.num_steps == 5
    assert result.endings.tolist() == ["unfinished"]


# Endings.


@both
def test_dimension_one_and_zero_right_hand_sides(solve):
    assert solve(np.array([[4.0]]), np.array([2.0])).solution == pytest.approx([0.5], rel=1e-15)
    nothing = solve(np.eye(3), np.zeros((3, 2)))
    assert (nothing.converged, nothing.num_steps) == (True, 0)
    assert np.array_equal(nothing.solution, np.zeros((3, 2)))
    assert np.array_equal(nothing.residual_norms, np.zeros(2))


@both
def test_an_exhausted_krylov_space_is_the_end(solve):
    """Three distinct eigenvalues: three steps, and nothing is divided by what is left."""
    A = with_spectrum(np.repeat([1.0, 2.0, 5.0], 10), 0)
    result = solve(A, normal(1, (30, 2)), tol=1e-13)
    assert result.num_steps <= 4
    assert result.converged
    # In integers the remainder is exactly zero.
    assert solve(np.diag([2.0, 2.0, 2.0]), np.array([2.0, 0.0, 4.0])).num_steps == 1


@both
def test_an_accuracy_that_cannot_be_had_is_named(solve):
    A, b = with_spectrum(np.logspace(0, 8, 60), 0), normal(1, 60)
    with pytest.warns(ConvergenceWarning, match="stagnated at a relative residual of .*attainable"):
        result = solve(A, b, tol=1e-17)
    assert result.endings.tolist() == ["stagnated"]
    assert result.residual_norms[0] <= 100 * np.finfo(float).eps * 1e8


def test_negative_curvature_is_named_with_its_value():
    A = with_spectrum([-0.5, *np.linspace(1, 3, 39)], 0)
    B = np.stack([np.linalg.eigh(A)[1][:, 5], normal(1, 40)], axis=1)
    with pytest.warns(
        ConvergenceWarning, match="negative curvature -0.* use hessops.minres, or a sh"
    ):
        result = cg(A, B, tol=1e-10)
    assert result.endings.tolist() == ["converged", "negative curvature"]
    # A Rayleigh quotient: between the smallest eigenvalue and 0.
    assert -0.5 - 1e-12 <= result.curvature < 0
    assert result.residual_norms == pytest.approx(
        relative_residuals(A, result.solution, B), abs=1e-12
    )
    assert minres(A, B, tol=1e-10).converged


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_zero_curvature_is_named(scale):
    """A system without solution, and an indefinite one whose first curvature is 0."""
    singular = scale * with_spectrum(np.append(np.zeros(3), np.linspace(1, 3, 30)), 0)
    with pytest.warns(ConvergenceWarning, match="flat .*singular along a search direction"):
        result = cg(singular, normal(1, 33), tol=1e-10)
    assert result.endings.tolist() == ["flat"]
    swap = scale * np.array([[0.0, 1.0], [1.0, 0.0]])
    with pytest.warns(ConvergenceWarning, match="flat"):
        result = cg(swap, np.array([1.0, 0.0]))
    assert result.curvature == 0
    assert minres(swap, np.array([1.0, 0.0])).solution * scale == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_minres_stops_at_least_squares_where_there_is_no_solution(scale, dtype):
    values = np.concatenate([np.zeros(5), np.linspace(-2, -1, 20), np.linspace(1, 3, 35)])
    Q, b = orthonormal(0, (60, 60), dtype), normal(1, 60, dtype)
    A = ((Q * values) @ Q.conj().T).astype(dtype)
    A = (A + A.conj().T) / 2 * np.asarray(scale, dtype=dtype).real
    least = np.linalg.norm(Q[:, :5].conj().T @ b) / np.linalg.norm(b)
    with pytest.warns(ConvergenceWarning, match="least squares at a relative residual"):
        result = minres(A, b, tol=100 * float(np.finfo(dtype).eps))
    assert result.endings.tolist() == ["least squares"]
    # The excess is quadratic in ‖A r‖, which is 4 roots of the precision.
    assert result.residual_norms[0] == pytest.approx(least, rel=64 * float(np.finfo(dtype).eps) * 9)
    # Twice the steps to the least residual, and twenty.
    assert result.num_steps <= 150


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("nullity", [1, 5])
def test_minres_does_not_run_off_along_null_vectors(dtype, nullity):
    """Over 30 systems without solution: how rounding falls out decides where a run would go astray."""
    values = np.concatenate([np.zeros(nullity), np.linspace(-2, -1, 20), np.linspace(1, 3, 35)])
    dim = len(values)
    for seed in range(30):
        Q, b = orthonormal(seed, (dim, dim)), normal(seed + 1, dim).astype(dtype)
        A = ((Q * values) @ Q.T).astype(dtype)
        least = np.linalg.norm(Q[:, :nullity].T @ b) / np.linalg.norm(b)
        with pytest.warns(ConvergenceWarning):
            result = minres((A + A.T) / 2, b, tol=100 * float(np.finfo(dtype).eps))
        assert result.residual_norms[0] <= 1.001 * least


def test_minres_does_not_take_an_ill_conditioned_system_for_one_without_solution():
    A, b = with_spectrum([1e-9, *np.linspace(1, 3, 39)], 0), normal(1, 40)
    assert minres(A, b, tol=1e-6).converged


@both
def test_too_few_steps_give_what_there_is(solve):
    A, b = problems.laplacian_2d(12), normal(1, 144)
    with pytest.warns(ConvergenceWarning, match="not converged in 8 steps.*raise max_steps or tol"):
        result = solve(A, b, max_steps=8)
    assert (result.num_steps, result.num_products) == (8, 9)
    assert result.residual_norms[0] == pytest.approx(
        np.linalg.norm(b - A @ result.solution) / np.linalg.norm(b)
    )


@pytest.mark.parametrize(("solve", "most"), [(cg, 7.5), (minres, 9.5)])
def test_no_basis_is_kept(solve, most):
    diagonal = np.linspace(1.0, 2.0, 100_000)
    operator = aslinearoperator(
        lambda X: X * diagonal[:, None], shape=len(diagonal), like=diagonal, self_adjoint=True
    )
    B = normal(0, (len(diagonal), 2))
    tracemalloc.start()
    try:
        solve(operator, B)
        blocks = tracemalloc.get_traced_memory()[1] / B.nbytes
    finally:
        tracemalloc.stop()
    assert blocks < most


# Refusals.


@both
def test_asymmetry_is_seen(solve):
    B = np.triu(with_spectrum(np.linspace(1, 5, 20), 0))
    liar = aslinearoperator(lambda X: B @ X, shape=20, self_adjoint=True)
    with pytest.raises(NotSelfAdjointError, match="declared self-adjoint, but"):
        solve(liar, normal(1, 20), tol=1e-10)


@both
def test_an_indefinite_preconditioner_is_refused(solve):
    with pytest.raises(ValueError, match=r"preconditioner M is not positive definite: .* = -1"):
        solve(np.eye(4), np.ones(4), preconditioner=-np.eye(4))


@both
@pytest.mark.parametrize(
    ("B", "error", "message"),
    [
        ([1.0, 2.0, 3.0], TypeError, "B must be an array, got list"),
        (np.ones((3, 1, 1)), ValueError, r"B must have shape \(n,\) or \(n, m\)"),
        (np.ones((3, 0)), ValueError, r"B must have shape \(n,\) or \(n, m\)"),
        (np.ones(4), ValueError, "expected 3 rows"),
        (np.array([1.0, np.nan, 0.0]), NonFiniteError, "B holds NaN or infinity"),
        (np.array([1e-200, 0.0, 0.0]), ValueError, "squares underflow; scale B up"),
    ],
)
def test_bad_right_hand_sides(solve, B, error, message):
    with pytest.raises(error, match=message):
        solve(np.diag([1.0, 2.0, 3.0]), B)


@both
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tol": 0}, ValueError, "tol=0 must be positive"),
        ({"tol": "small"}, TypeError, "tol='small' must be a real number"),
        ({"shift": math.inf}, ValueError, "shift=inf must be finite"),
        ({"shift": 1j}, TypeError, "shift=1j must be a real number"),
        ({"max_steps": 0}, ValueError, "max_steps=0 must be a positive integer"),
        ({"x0": np.ones(4)}, ValueError, r"x0 must have the shape \(3,\) of B, got \(4,\)"),
        ({"x0": [1.0]}, ValueError, r"x0 must have the shape \(3,\) of B, got list"),
        ({"preconditioner": np.eye(4)}, ValueError, "does not fit"),
        ({"preconditioner": np.eye(3, dtype=np.float32)}, ValueError, "differ in dtype"),
        (
            {"preconditioner": np.triu(np.ones((3, 3)))},
            NotSelfAdjointError,
            "the preconditioner of .* needs a self-adjoint operator",
        ),
    ],
)
def test_bad_options(solve, options, error, message):
    with pytest.raises(error, match=message):
        solve(np.diag([1.0, 2.0, 3.0]), np.ones(3), **options)


@both
def test_bad_operators(solve):
    with pytest.raises(NotSelfAdjointError, match="needs a self-adjoint operator"):
        solve(np.triu(np.ones((3, 3))), np.ones(3))
    broken = aslinearoperator(lambda X: X * np.nan, shape=3, self_adjoint=True)
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        solve(broken, np.ones(3))
    with pytest.raises(ValueError, match="squares of that leave the range"):
        solve(1e-170 * np.eye(3), np.ones(3))


@both
def test_a_result_comes_back_from_its_file(solve, tmp_path):
    result = solve(np.diag([1.0, 2.0, 3.0]), np.ones((3, 2)))
    again = load(result.save(tmp_path / "solution"))
    assert np.array_equal(again.solution, result.solution)
    assert again.endings.tolist() == ["converged", "converged"]
    assert str(again) == str(result)
