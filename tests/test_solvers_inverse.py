"""The inverse as an operator, shift-and-invert, and the randomised Nyström preconditioner."""

import math

import numpy as np
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from strategies import COMPLEX, DTYPES, LIBRARIES, Place, normal, with_spectrum

from hessops import (
    ConvergenceError,
    Diagonal,
    Identity,
    NotSelfAdjointError,
    aslinearoperator,
    cg,
    check_operator,
    eigsh,
    gallery,
    inverse,
    minres,
    nystrom_preconditioner,
)
from hessops.arrays import to_numpy
from hessops.structure import POSITIVE_SEMIDEFINITE, SELF_ADJOINT

# The inverse.


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("definite", [True, False])
def test_the_inverse_keeps_its_promises_up_to_its_tolerance(library, dtype, definite):
    place, n = Place(library, dtype), 20
    values = np.linspace(1, 5, n) * (1 if definite else np.where(np.arange(n) % 2, -1, 1))
    A = with_spectrum(values, 0, dtype)
    structure = {"positive_semidefinite": True} if definite else {"self_adjoint": True}
    operator = aslinearoperator(place.put(A), **structure)
    inverted = inverse(operator)
    assert inverted.tol == pytest.approx(place.eps**0.75)
    assert inverted.method == ("cg" if definite else "minres")
    assert inverted.structure == operator.structure
    assert inverted.H is inverted
    # What a solve is off by is a residual over the smallest eigenvalue, 1; products are 1/5 or more.
    check_operator(inverted, tol=2 * 5 * inverted.tol, rng=0).raise_if_failed()
    B = normal(1, (n, 3), dtype)
    exact = np.linalg.solve(A.astype(np.complex128), B)
    off = np.linalg.norm(to_numpy(inverted @ place.put(B)) - exact, axis=0)
    # Moving A to its precision costs roundings.
    assert np.all(off <= (inverted.tol + 32 * n * place.eps) * np.linalg.norm(B, axis=0))
    assert inverted.num_solver_products > 0


@pytest.mark.parametrize("sigma", [0.5, 1.7, 3.3])
def test_shift_and_invert_finds_interior_eigenvalues_of_the_laplacian(sigma):
    problem = gallery.laplacian_1d(120)
    A = problem.operator
    inverted = inverse(A - sigma * Identity(A.domain))
    assert inverted.structure == SELF_ADJOINT
    found = eigsh(inverted, 3, which="LM", rng=0)
    assert found.converged
    nearest = problem.eigenvalues[np.argsort(np.abs(problem.eigenvalues - sigma))[:3]]
    # |d lambda| = (lambda - sigma)^2 |d theta|, with the error of theta a residual norm and the
    # tolerance of the solves, over the distance to sigma.
    theta = found.eigenvalues
    allowed = (found.residual_norms + inverted.tol * np.abs(theta).max()) / theta**2
    assert np.all(np.abs(sigma + 1 / theta - nearest) <= allowed + 1e-14)
    assert np.max(allowed) < 1e-9


def test_the_inverse_takes_a_preconditioner():
    A = with_spectrum(np.logspace(0, 4, 60), 0)
    M = np.linalg.inv(A)
    plain = inverse(aslinearoperator(A, positive_semidefinite=True), tol=1e-10)
    helped = inverse(
        aslinearoperator(A, positive_semidefinite=True), tol=1e-10, preconditioner=(M + M.T) / 2
    )
    b = normal(1, 60)
    assert helped @ b == pytest.approx(plain @ b, abs=1e-9)
    assert helped.num_solver_products < plain.num_solver_products / 5


def test_a_product_that_misses_its_tolerance_raises():
    A = with_spectrum(np.logspace(0, 4, 60), 0)
    with pytest.raises(ConvergenceError, match="not accurate to its tol: not converged in 3 steps"):
        inverse(A, max_steps=3) @ normal(1, 60)
    with pytest.raises(ConvergenceError, match="least squares"):
        inverse(np.diag([0.0, 1.0, 2.0])) @ np.ones(3)
    with pytest.raises(ConvergenceError, match="negative curvature"):
        inverse(np.diag([-1.0, 1.0, 2.0]), method="cg") @ np.ones(3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "lu"}, ValueError, "method='lu' is unknown; choose 'auto', 'cg' or 'minres'"),
        ({"tol": -1.0}, ValueError, "tol=-1.0 must be positive"),
        ({"max_steps": 0}, ValueError, "max_steps=0 must be a positive integer"),
        ({"preconditioner": np.eye(2)}, ValueError, "the preconditioner .* does not fit"),
    ],
)
def test_bad_options_of_the_inverse(options, error, message):
    with pytest.raises(error, match=message):
        inverse(np.eye(3), **options)


def test_the_inverse_of_what_is_not_self_adjoint_is_refused():
    with pytest.raises(NotSelfAdjointError, match="inverse needs a self-adjoint operator"):
        inverse(np.triu(np.ones((3, 3))))


# The preconditioner.


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_preconditioner_is_the_formula_of_the_paper(library, dtype):
    place, n, shift = Place(library, dtype), 40, 1e-2
    A = with_spectrum(0.7 ** np.arange(n), 0, dtype)
    M = nystrom_preconditioner(
        aslinearoperator(place.put(A), positive_semidefinite=True), 10, shift, rng=0
    )
    U, values = to_numpy(M.result.eigenvectors).astype(np.complex128), M.result.eigenvalues
    outer = np.eye(n) - U @ U.conj().T
    dense = (values[-1] + shift) * (U / (values + shift)) @ U.conj().T + outer
    assert np.linalg.norm(to_numpy(M.to_dense()) - dense) <= 100 * n * place.eps
    assert M.structure == POSITIVE_SEMIDEFINITE
    assert M.H is M
    assert M.dtype == place.dtype_object
    assert (dtype in COMPLEX) == np.iscomplexobj(to_numpy(M.to_dense()))
    check_operator(M, rng=0).raise_if_failed()


def condition(A, M, shift):
    """Condition number of M^1/2 (A + shift) M^1/2."""
    values, vectors = np.linalg.eigh(M)
    root = (vectors * np.sqrt(values)) @ vectors.T
    spectrum = np.linalg.eigvalsh(root @ (A + shift * np.eye(len(A))) @ root)
    return spectrum[-1] / spectrum[0]


def test_the_condition_number_is_what_theory_says_and_steps_are_few():
    """Theorem 1.1 of Frangella, Tropp & Udell: expected condition below 28.

    By the mean over 30 seeds, whose standard error is far below the distance to 28. The bound with
    test probes fails with probability 0.01 each: more than 3 of 30 do with probability 2e-4.
    """
    n, shift = 200, 1e-6
    values = np.arange(1.0, n + 1) ** -4.0
    A = np.diag(values)
    operator = Diagonal(values)
    effective = np.sum(values / (values + shift))
    rank = 2 * math.ceil(1.5 * effective) + 1
    assert rank < n / 2 + 20  # or there would be nothing to approximate
    conditions, broken, steps = [], 0, []
    tol = 1e-6
    b = normal(0, n)
    for seed in range(30):
        M = nystrom_preconditioner(operator, rank, shift, rng=seed)
        assert M.num_products == rank + 10
        dense = M.to_dense()
        kappa = condition(A, dense, shift)
        conditions.append(kappa)
        broken += conditions[-1] > M.condition_bound * (1 + 1e-6)
        helped = cg(operator, b, shift=shift, preconditioner=M, tol=tol)
        steps.append(helped.num_steps)
        # The bound of conjugate gradients, from the norm of the error to that of the residual.
        first = 2 * math.sqrt(kappa * np.linalg.cond(dense)) / tol
        assert helped.num_steps <= math.ceil(math.log(first) * math.sqrt(kappa) / 2)
        assert helped.solution == pytest.approx(b / (values + shift), rel=1e-4, abs=1.0)
    error = np.std(conditions, ddof=1) / math.sqrt(len(conditions))
    assert np.mean(conditions) + 4 * error <= 28
    assert broken <= 3
    plain = cg(operator, b, shift=shift, tol=tol)
    assert np.mean(steps) < plain.num_steps / 4


def test_an_operator_of_low_rank_is_taken_down_to_the_shift():
    """What is left out is 0: all eigenvalues become the shift, and one step is enough."""
    A = with_spectrum(np.append([5.0, 3.0, 1.0], np.zeros(27)), 0)
    operator, b = aslinearoperator(A, positive_semidefinite=True), normal(1, 30)
    M = nystrom_preconditioner(operator, 8, 1e-3, rng=0)
    assert M.result.rank == 3
    assert M.condition_bound == pytest.approx(1, abs=1e-6)
    for solve in (cg, minres):
        assert solve(operator, b, shift=1e-3, preconditioner=M).num_steps <= 2


@pytest.mark.parametrize("split", splits(40), ids=str)
def test_ranks_agree_on_the_preconditioner_and_the_inverse(split):
    matrix, B = with_spectrum(0.7 ** np.arange(40) + 0.1, 0), normal(1, (40, 2))

    def work(operator, rows):
        M = nystrom_preconditioner(operator, 12, 0.1, rng=0)
        preconditioned = cg(operator, B[rows], shift=0.1, preconditioner=M, tol=1e-12).solution
        return preconditioned, inverse(operator, tol=1e-12) @ B[rows]

    serial = work(aslinearoperator(matrix, positive_semidefinite=True), slice(None))
    results = run_on_ranks(
        lambda comm: work(
            ShardedMatrix(matrix, comm, split[comm.rank], POSITIVE_SEMIDEFINITE),
            slice(*split[comm.rank]),
        ),
        len(split),
    )
    for parts, expected in zip(zip(*results, strict=True), serial, strict=True):
        assert np.linalg.norm(gathered(parts) - expected) <= 1e-10 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("rank", "shift", "error", "message"),
    [
        (3, 0.0, ValueError, "shift=0.0 must be positive and finite"),
        (3, math.nan, ValueError, "shift=nan must be positive and finite"),
        (3, "1", TypeError, "shift='1' must be a real number"),
        (0, 1.0, ValueError, "rank=0 must be"),
    ],
)
def test_bad_options_of_the_preconditioner(rank, shift, error, message):
    with pytest.raises(error, match=message):
        nystrom_preconditioner(Diagonal(np.arange(1.0, 6.0)), rank, shift)
