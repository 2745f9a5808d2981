"""Eigenpairs at the ends of the spectrum: right, multiple where they are, honest of their errors."""

import os
import re
import warnings
from pathlib import Path

import numpy as np
import problems
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
from doubles import ShardedMatrix, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import with_spectrum

import hessops
from hessops import ConvergenceWarning, Diagonal, aslinearoperator
from hessops.cli.matrix_file import read_matrix
from hessops.structure import SELF_ADJOINT

DATA = os.environ.get("HESSOPS_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
MATRICES = Path(DATA) / "matrices"
WHICH = ("LM", "LA", "SA", "BE")


def wanted(eigenvalues, k, which):
    """Return the k eigenvalues asked for, in the order of the result."""
    ascending = np.sort(eigenvalues)
    if which == "LM":
        return ascending[np.argsort(-np.abs(ascending), kind="stable")][:k]
    if which == "LA":
        return ascending[::-1][:k]
    if which == "SA":
        return ascending[:k]
    low = k // 2
    return np.concatenate([ascending[:low], ascending[len(ascending) - (k - low) :]])


def true_residuals(A, result):
    vectors = np.asarray(result.eigenvectors)
    return np.linalg.norm(A @ vectors - vectors * result.eigenvalues, axis=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128, np.complex64])
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_against_the_dense_solver(k, which, dtype):
    A = problems.matrix_of(np.linspace(-2, 3, 40) ** 3, rng=1, dtype=dtype)
    result = hessops.eigsh(A, k, which=which, rng=0)
    eps = float(np.finfo(dtype).eps)
    exact = wanted(np.linalg.eigvalsh(A.astype(np.complex128)), k, which)
    assert result.converged
    assert result.eigenvalues.dtype == np.float64
    assert result.eigenvectors.shape == (40, k)
    assert result.eigenvectors.dtype == dtype
    np.testing.assert_allclose(result.eigenvalues, exact, atol=50 * 27 * eps)
    gram = result.eigenvectors.conj().T @ result.eigenvectors
    np.testing.assert_allclose(gram, np.eye(k), atol=100 * eps)
    # The product made here rounds in its own way.
    np.testing.assert_allclose(
        true_residuals(A, result), result.residual_norms, atol=100 * 27 * eps
    )


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    A = problems.matrix_of(np.linspace(-2, 3, 40) ** 3, rng=1)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        result = hessops.eigsh(torch.from_numpy(A).to(dtype), 3, which="BE", rng=0)
        exact = wanted(np.linalg.eigvalsh(A), 3, "BE")
        np.testing.assert_allclose(result.eigenvalues, exact, atol=tolerance)
        assert result.eigenvectors.dtype == dtype
        assert isinstance(result.eigenvalues, np.ndarray)


# --- multiple eigenvalues ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_an_eigenvalue_of_the_kneser_graph(seed):
    """T9."""
    result = hessops.eigsh(problems.kneser(11, 4), 6, which="LA", rng=seed)
    np.testing.assert_allclose(result.eigenvalues, [35, 10, 10, 10, 10, 10], atol=1e-8)
    assert result.converged
    assert "no copies of multiple eigenvalues are missing" in result.status


@pytest.mark.parametrize("seed", range(3))
def test_both_ends_of_the_hypercube(seed):
    """T10."""
    result = hessops.eigsh(problems.hypercube(8), 6, which="BE", rng=seed)
    np.testing.assert_allclose(result.eigenvalues, [-8, -6, -6, 6, 6, 8], atol=1e-8)


def test_copies_of_zero():
    """Within a null space products are rounding, and are not to be taken for a spectrum."""
    A = problems.matrix_of(np.repeat([0.0, 1.0], [12, 4]))
    result = hessops.eigsh(A, 6, which="SA", rng=0)
    np.testing.assert_allclose(result.eigenvalues, 0, atol=1e-14)
    result = hessops.eigsh(A, 6, which="LA", rng=0)
    np.testing.assert_allclose(result.eigenvalues, [1, 1, 1, 1, 0, 0], atol=1e-14)


@st.composite
def spectra_with_copies(draw):
    levels = draw(st.lists(st.integers(-5, 5), min_size=1, max_size=5, unique=True))
    copies = [draw(st.integers(1, 6)) for _ in levels]
    eigenvalues = np.repeat(np.array(levels, dtype=float), copies)
    k = draw(st.integers(1, len(eigenvalues)))
    return eigenvalues, k, draw(st.sampled_from(WHICH)), draw(st.integers(0, 1000))


def claims_hold(result, eigenvalues, k, which):
    """Check what the status says of multiple eigenvalues against the spectrum."""
    if "no copies of multiple eigenvalues are missing" in result.status:
        expected = wanted(eigenvalues, k, which)
        if which == "LM":  # +λ and -λ may come in either order
            return np.allclose(np.abs(result.eigenvalues), np.abs(expected), atol=1e-8)
        return np.allclose(result.eigenvalues, expected, atol=1e-8)
    distances = np.abs(result.eigenvalues[:, None] - eigenvalues[None, :]).min(axis=1)
    return "a multiple eigenvalue would appear once" in result.status and np.all(distances < 1e-8)


@given(spectra_with_copies())
def test_what_the_status_says_of_copies_is_true(problem):
    eigenvalues, k, which, seed = problem
    result = hessops.eigsh(problems.matrix_of(eigenvalues, seed), k, which=which, rng=seed)
    assert result.converged
    assert claims_hold(result, eigenvalues, k, which)


@given(spectra_with_copies(), st.data())
def test_a_special_start_vector_hides_nothing_that_is_claimed(problem, data):
    """Start in the span of a few eigenvectors, whose Krylov space is soon exhausted."""
    eigenvalues, k, which, seed = problem
    A = problems.matrix_of(eigenvalues, seed)
    n = len(eigenvalues)
    chosen = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3, unique=True))
    start = np.linalg.eigh(A)[1][:, chosen].sum(axis=1)
    result = hessops.eigsh(A, k, which=which, start=start, rng=seed)
    assert result.converged
    assert claims_hold(result, eigenvalues, k, which)


@pytest.mark.parametrize("index", [0, 7, 29])
def test_an_eigenvector_as_start_vector(index):
    A = problems.matrix_of(np.linspace(-1, 5, 30))
    start = np.linalg.eigh(A)[1][:, index]
    result = hessops.eigsh(A, 3, which="LA", start=start, rng=0)
    np.testing.assert_allclose(result.eigenvalues, np.linspace(5, -1, 30)[:3], atol=1e-10)


def test_wilkinson_pairs_are_found_twice_or_said_to_appear_once():
    """T3: pairs of eigenvalues that differ by rounding."""
    for n in (21, 101):
        diagonal, off_diagonal = problems.wilkinson(n)
        A = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
        result = hessops.eigsh(A, 4, which="LA", rng=0)
        exact = problems.wilkinson_eigenvalues(n)[::-1]
        complete = np.allclose(result.eigenvalues, exact[:4], atol=1e-9)
        once = np.allclose(result.eigenvalues, exact[:8:2], atol=1e-9)
        assert complete or (once and "would appear once" in result.status)


# --- errors -------------------------------------------------------------------------------------


def distance_to_spectrum(result, eigenvalues):
    return np.abs(result.eigenvalues[:, None] - eigenvalues[None, :]).min(axis=1)


@pytest.mark.parametrize("gap", [1e-1, 1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("tol", [1e-2, 1e-5, None])
def test_an_eigenvalue_lies_within_every_residual_norm(tol, gap):
    """Also in clusters at both ends, resolved or not: nothing is assumed of the spectrum."""
    for seed in range(25):
        rng = np.random.default_rng(seed)
        cluster = gap * rng.uniform(0, 1, 6)
        eigenvalues = np.concatenate([rng.uniform(0, 1, 30), 2 + cluster[:3], -2 - cluster[3:]])
        A = problems.matrix_of(eigenvalues, seed)
        result = hessops.eigsh(A, 4, which=WHICH[seed % 4], tol=tol, rng=seed)
        distance = distance_to_spectrum(result, np.linalg.eigvalsh(A))
        assert np.all(distance <= result.residual_norms + 1e-14)


SPECTRA = {
    "separated": lambda rng, n: np.arange(n) + rng.uniform(-0.2, 0.2, n) - rng.integers(0, n),
    "random": lambda rng, n: rng.uniform(-1, 1, n),
    "clustered": lambda rng, n: np.concatenate(
        [rng.uniform(0, 1, n), 2 + 10 ** rng.uniform(-10, -1) * rng.uniform(0, 1, 3)]
    ),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, None])
@pytest.mark.parametrize("name", SPECTRA)
def test_error_bounds_hold_where_no_eigenvalue_was_missed(name, tol, dtype):
    """Residual² / gap of Kato and Temple, on 75 spectra each: where the gap holds one eigenvalue
    only, which the bound has to assume, it is true; and so is the residual anywhere."""
    sharper = missed = 0
    for seed in range(75):
        rng = np.random.default_rng(seed)
        A = problems.matrix_of(SPECTRA[name](rng, int(rng.integers(5, 60))), seed, dtype)
        exact = np.linalg.eigvalsh(A.astype(np.float64))
        result = hessops.eigsh(A, int(rng.integers(1, 5)), which=WHICH[seed % 4], tol=tol, rng=seed)
        rounding = 40 * float(np.finfo(dtype).eps) * np.abs(exact).max()
        distance = distance_to_spectrum(result, exact)
        assert np.all(result.error_bounds <= result.residual_norms + rounding)
        assert np.all(distance <= result.residual_norms + rounding)
        for value, residual, bound, error in zip(
            result.eigenvalues, result.residual_norms, result.error_bounds, distance, strict=True
        ):
            if bound <= rounding or bound > 0.999 * residual:
                continue
            within = exact[np.abs(exact - value) < residual**2 / bound * (1 - 1e-6)]
            alone = len(within) == 0 or np.ptp(within) <= rounding
            sharper += 1
            missed += not alone
            assert error <= bound + rounding or not alone
    assert sharper > 0 or tol is None or dtype == np.float32
    assert missed == 0 or name != "separated"


def test_unverified_residuals_are_those_of_the_recurrence():
    A = problems.matrix_of(np.linspace(-1, 5, 60))
    checked = hessops.eigsh(A, 3, tol=1e-6, rng=0)
    unchecked = hessops.eigsh(A, 3, tol=1e-6, rng=0, verify=False)
    assert checked.num_products == unchecked.num_products + 3
    np.testing.assert_allclose(unchecked.residual_norms, checked.residual_norms, atol=1e-13)


@pytest.mark.parametrize("tol", [1e-3, 1e-5])
def test_unverified_residuals_do_not_vanish_with_an_exhausted_space(tol):
    """A coupling of 10^-9, less than half the digits, ends the first Krylov space."""
    A = np.diag([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    A[2, 3] = A[3, 2] = 1e-9
    start = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    result = hessops.eigsh(A, 3, tol=tol, start=start, rng=0, verify=False, which="LA")
    assert result.num_products > 3
    np.testing.assert_allclose(result.residual_norms, true_residuals(A, result), atol=1e-14)
    assert result.residual_norms.max() > 5e-10


# --- cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-10])
def test_takes_no_more_products_than_arpack_on_a_gapped_spectrum(tol, k):
    """Ten outliers over a bulk; ARPACK only looks when it restarts."""
    diagonal = np.concatenate([np.linspace(0, 1, 990), [2, 3, 4, 5, 6, 8, 10, 12, 14, 16]])
    calls = []

    def multiply(x):
        calls.append(1)
        return diagonal * x.ravel()

    arpack = scipy.sparse.linalg.LinearOperator((1000, 1000), matvec=multiply, dtype=np.float64)
    v0 = np.random.default_rng(0).standard_normal(1000)
    scipy.sparse.linalg.eigsh(arpack, k=k, which="LM", tol=tol, v0=v0)
    result = hessops.eigsh(Diagonal(diagonal), k, tol=tol, start=v0, verify=False)
    np.testing.assert_allclose(result.eigenvalues, diagonal[::-1][:k], atol=20 * tol)
    assert result.num_products <= len(calls)


def test_products_are_counted_as_they_are_made():
    columns = []
    diagonal = np.linspace(0, 1, 200) ** 2

    def multiply(X):
        columns.append(X.shape[1])
        return diagonal[:, None] * X

    operator = aslinearoperator(multiply, shape=200, self_adjoint=True)
    result = hessops.eigsh(operator, 4, rng=0)
    assert sum(columns) == result.num_products
    assert columns[-1] == 4
    assert result.history["num_products"].tolist() == list(range(1, len(result.history) + 1))
    # The history ends with the step that converged, and not later.
    assert np.sum(result.history["error"] <= 3.7e-11) == 1


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_scale_of_the_operator_changes_nothing(scale, dtype):
    """An absolute test of the residual would never or always be met."""
    A = problems.matrix_of(np.linspace(-1, 5, 60) ** 3)
    one, scaled = (hessops.eigsh((c * A).astype(dtype), 3, which="BE", rng=0) for c in (1.0, scale))
    assert abs(scaled.num_products - one.num_products) <= 1
    rounding = 1000 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(scaled.eigenvalues / scale, one.eigenvalues, atol=125 * rounding)
    assert scaled.converged


def test_a_smaller_tolerance_takes_more_steps_and_is_met():
    A = problems.matrix_of(np.linspace(0, 1, 150) ** 2)
    steps = []
    for tol in (1e-2, 1e-5, 1e-10):
        result = hessops.eigsh(A, 2, tol=tol, rng=0)
        assert np.all(result.residual_norms <= tol * 1.001)
        steps.append(len(result.history))
    assert steps == sorted(set(steps))


# --- the end ------------------------------------------------------------------------------------


def test_too_few_steps_give_a_warning_and_what_was_found():
    A = problems.matrix_of(np.linspace(0, 1, 100))
    with pytest.warns(ConvergenceWarning, match=r"of 3 pairs converged in 10 steps.*asked for"):
        result = hessops.eigsh(A, 3, max_steps=10, rng=0)
    assert not result.converged
    assert len(result.history) == 10
    np.testing.assert_allclose(true_residuals(A, result), result.residual_norms, rtol=1e-6)
    distance = distance_to_spectrum(result, np.linalg.eigvalsh(A))
    assert np.all(distance <= result.residual_norms + 1e-14)
    with pytest.raises(hessops.ConvergenceError, match="raise max_steps or tol"):
        result.raise_if_failed()


def test_fewer_steps_than_pairs():
    with pytest.warns(ConvergenceWarning, match="of 6 pairs converged in 2 steps"):
        result = hessops.eigsh(problems.laplacian_1d(30), 6, max_steps=2, rng=0)
    assert len(result.eigenvalues) == len(result.residual_norms) == 2


@pytest.mark.parametrize("which", WHICH)
def test_all_pairs(which):
    eigenvalues = np.array([-3.0, -1.0, -1.0, 0.0, 2.0, 2.0, 2.0, 7.0])
    result = hessops.eigsh(problems.matrix_of(eigenvalues), 8, which=which, rng=0)
    np.testing.assert_allclose(result.eigenvalues, wanted(eigenvalues, 8, which), atol=1e-12)
    assert result.converged
    assert len(result.history) == 8


def test_a_callback_ends_the_run():
    A = problems.matrix_of(np.linspace(0, 1, 100))
    with pytest.warns(ConvergenceWarning, match="stopped by the callback; 0 of 1 pairs"):
        result = hessops.eigsh(A, 1, rng=0, callback=lambda state: state.step == 5)
    assert len(result.history) == 5


@pytest.mark.parametrize("A", [np.zeros((5, 5)), np.eye(5), np.ones((5, 5)), -np.ones((5, 5))])
def test_operators_with_one_or_two_eigenvalues(A):
    result = hessops.eigsh(A, 3, which="LM", rng=0)
    exact = wanted(np.linalg.eigvalsh(A), 3, "LM")
    np.testing.assert_allclose(result.eigenvalues, exact, atol=1e-13)
    assert result.converged


def test_the_seed_of_a_result_repeats_it():
    A = problems.laplacian_1d(30)
    first = hessops.eigsh(A, 2, tol=1e-3)
    again = hessops.eigsh(A, 2, tol=1e-3, rng=first.seed)
    assert np.array_equal(first.eigenvectors, again.eigenvectors)


# --- real data ----------------------------------------------------------------------------------


def read(name):
    path = MATRICES / name
    if path.suffix == ".mtx":
        return sp.csr_array(read_matrix(str(path)), dtype=np.float64)
    return sp.csr_array(read_matrix(f"{path}:A"), dtype=np.float64)


@pytest.mark.data
@pytest.mark.skipif(
    not MATRICES.is_dir(), reason="needs the matrices in ../shared/data or HESSOPS_DATA"
)
@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("1138_bus.mtx", "LA"), ("1138_bus.mtx", "LM"), ("airfoil.mat", "LA"),
        ("airfoil.mat", "SA"), ("airfoil.mat", "BE"), ("unit_cube.mat", "LA"),
        ("unit_cube.mat", "SA"), ("unit_cube.mat", "BE"),
    ],
)  # fmt: skip
def test_against_scipy_on_real_matrices(name, which):
    A = read(name)
    theirs = scipy.sparse.linalg.eigsh(A, 5, which=which, return_eigenvectors=False)
    ours = hessops.eigsh(A, 5, which=which, rng=0)
    scale = np.abs(ours.eigenvalues).max()
    assert ours.converged
    np.testing.assert_allclose(np.sort(ours.eigenvalues), np.sort(theirs), atol=1e-11 * scale)


@pytest.mark.data
@pytest.mark.skipif(
    not MATRICES.is_dir(), reason="needs the matrices in ../shared/data or HESSOPS_DATA"
)
def test_a_hard_matrix_is_not_said_to_have_converged():
    """The smallest eigenvalues of bloweybq lie within 1e-5 of each other, relatively."""
    A = read("bloweybq.mtx")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = hessops.eigsh(A, 5, which="SA", max_steps=100, rng=0)
    assert [warning.category for warning in caught] == [ConvergenceWarning]
    assert not result.converged
    np.testing.assert_allclose(true_residuals(A, result), result.residual_norms, rtol=1e-8)


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_copies_of_multiple_eigenvalues_are_found_in_small_spectra(which) -> None:
    """A handful of distinct eigenvalues exhausts the Krylov space, and the copies must follow.

    The last residual is rounding amplified by small earlier ones, so it is seldom exactly at
    machine precision; this must not be taken for a space that goes on.
    """
    for seed in range(100):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.normal(size=5) * 10 ** rng.uniform(-2, 2), rng.integers(1, 6, 5))
        basis = np.linalg.qr(rng.normal(size=(len(values),) * 2))[0]
        k = min(6, len(values))
        result = hessops.eigsh((basis * values) @ basis.T, k, which=which, rng=seed)
        order = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
        expected = values[np.argsort(order, kind="stable")][:k]
        np.testing.assert_allclose(
            np.sort(result.eigenvalues), np.sort(expected), atol=1e-9 * np.abs(values).max()
        )


# --- blocks, restarts, bounded memory -------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"block_size": 2}, {"max_basis": 16}])
def test_strakos_eigenvalues(options):
    """T2."""
    exact = problems.strakos_eigenvalues(24)
    result = hessops.eigsh(np.diag(exact), 6, which="LA", rng=0, **options)
    np.testing.assert_allclose(result.eigenvalues, np.sort(exact)[::-1][:6], atol=1e-12)


@pytest.mark.parametrize("n", [21, 101])
@pytest.mark.parametrize("max_basis", [None, 20])
def test_a_block_of_two_finds_the_pairs_of_wilkinson(n, max_basis):
    """T3."""
    diagonal, off_diagonal = problems.wilkinson(n)
    A = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    result = hessops.eigsh(A, 4, which="LA", block_size=2, max_basis=max_basis, rng=0)
    exact = problems.wilkinson_eigenvalues(n)[::-1][:4]
    assert result.converged
    np.testing.assert_allclose(result.eigenvalues, exact, atol=1e-9)


@pytest.mark.parametrize("block_size", [5, 10, 12])
@pytest.mark.parametrize("max_basis", [None, 30])
def test_a_block_finds_the_copies_of_the_kneser_graph(block_size, max_basis):
    """T9."""
    result = hessops.eigsh(
        problems.kneser(11, 4), 6, which="LA", block_size=block_size, max_basis=max_basis, rng=0
    )
    np.testing.assert_allclose(result.eigenvalues, [35, 10, 10, 10, 10, 10], atol=1e-8)
    assert result.converged


@pytest.mark.parametrize("options", [{}, {"block_size": 3}, {"block_size": 3, "max_basis": 14}])
def test_eigenvalues_of_the_clement_matrix(options):
    """T11."""
    diagonal, off_diagonal = problems.clement(21)
    A = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    result = hessops.eigsh(A, 6, which="BE", rng=0, **options)
    np.testing.assert_allclose(result.eigenvalues, [-20, -18, -16, 16, 18, 20], atol=1e-11)


@pytest.mark.parametrize("which", ["LA", "SA", "BE"])
@pytest.mark.parametrize("max_basis", [None, 40])
def test_double_eigenvalues_of_the_laplacian_on_a_square(which, max_basis):
    """T5, whose symmetry makes most eigenvalues double."""
    result = hessops.eigsh(
        problems.laplacian_2d(20), 7, which=which, block_size=2, max_basis=max_basis, rng=0
    )
    exact = wanted(problems.laplacian_2d_eigenvalues(20), 7, which)
    assert result.converged
    assert "at most twice" in result.status
    np.testing.assert_allclose(result.eigenvalues, exact, atol=1e-10)


@st.composite
def blocks_of_the_multiplicity(draw):
    """Clusters and copies, no more of them than the block has vectors."""
    block = draw(st.integers(1, 4))
    levels = draw(st.lists(st.integers(-9, 9), min_size=4, max_size=12, unique=True))
    values = [
        level + (1e-5 * copy if draw(st.booleans()) else 0.0)
        for level in levels
        for copy in range(draw(st.integers(1, block)))
    ]
    k = draw(st.integers(1, min(6, len(values))))
    max_basis = draw(st.sampled_from([None, min(2 * k + 4 * block, len(values))]))
    return np.array(values), k, draw(st.sampled_from(["LA", "SA", "BE"])), block, max_basis


@given(blocks_of_the_multiplicity(), st.integers(0, 1000))
def test_blocks_of_the_multiplicity_against_the_dense_solver(problem, seed):
    """Also when a tiny basis forces restarts; no eigenvalue is missed."""
    values, k, which, block, max_basis = problem
    A = problems.matrix_of(values, seed)
    result = hessops.eigsh(
        A, k, which=which, block_size=block, max_basis=max_basis, tol=1e-8, rng=seed
    )
    assert result.converged
    np.testing.assert_allclose(result.eigenvalues, wanted(values, k, which), atol=1e-7)
    distance = distance_to_spectrum(result, np.linalg.eigvalsh(A))
    assert np.all(distance <= result.error_bounds + 1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128, np.complex64])
@pytest.mark.parametrize(("block_size", "max_basis"), [(1, 12), (1, 30), (3, 18)])
def test_restarts_converge_in_every_precision(block_size, max_basis, dtype):
    A = problems.matrix_of(np.linspace(0, 1, 200) ** 3, 3, dtype)
    limits = []
    result = hessops.eigsh(
        A, 4, which="BE", block_size=block_size, max_basis=max_basis, tol=1e-4, rng=1,
        callback=lambda state: limits.append((state.basis.size, state.num_restarts)),
    )  # fmt: skip
    assert result.converged
    assert max(size for size, _ in limits) == max_basis
    assert limits[-1][1] > 0
    assert np.all(true_residuals(A, result) <= 1.1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("options", [{"max_basis": 12}, {"block_size": 3, "max_basis": 20}])
def test_the_scale_changes_nothing_of_blocks_and_restarts(scale, options):
    A = problems.matrix_of(np.linspace(-1, 5, 60) ** 3)
    one, scaled = (
        hessops.eigsh(c * A, 3, which="LM", tol=1e-6, rng=0, **options) for c in (1, scale)
    )
    assert one.converged
    assert scaled.converged
    assert abs(scaled.num_products - one.num_products) <= 3 * options.get("block_size", 1)
    np.testing.assert_allclose(scaled.eigenvalues / scale, one.eigenvalues, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 3},
        {"max_basis": 7},
        {"block_size": 2, "max_basis": 8},
        {"check_completeness": 1},
    ],
)
@pytest.mark.parametrize("split", splits(12), ids=str)
def test_split_vectors_give_what_whole_ones_do(split, options):
    matrix = with_spectrum(np.linspace(-1, 2, 12) ** 3, 3)
    serial = hessops.eigsh(matrix, 2, tol=1e-8, rng=5, **options)

    def work(comm):
        A = ShardedMatrix(matrix, comm, split[comm.rank], SELF_ADJOINT)
        return hessops.eigsh(A, 2, tol=1e-8, rng=5, **options)

    for result in run_on_ranks(work, len(split)):
        np.testing.assert_allclose(result.eigenvalues, serial.eigenvalues, atol=1e-12)
        assert (result.num_products, result.status) == (serial.num_products, serial.status)


def test_a_basis_too_small_for_the_pairs_is_refused():
    with pytest.raises(
        ValueError, match=r"max_basis=6 is too small for k=5 pairs in blocks of 2.*9"
    ):
        hessops.eigsh(np.eye(30), 5, block_size=2, max_basis=6)


@pytest.mark.parametrize("option", ["block_size", "max_basis"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_options_of_the_basis_are_positive_integers(option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r} must be a positive integer"):
        hessops.eigsh(np.eye(30), 2, **{option: value})


# --- what was missed ------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["LA", "LM", "BE", "SA"])
@pytest.mark.parametrize("seed", range(5))
def test_a_check_finds_copies_that_a_single_vector_cannot_see(which, seed):
    """Three copies at each end of a spectrum too long to be exhausted."""
    values = np.concatenate([np.linspace(-1, 1, 300), [2.0] * 3, [-2.5] * 3])
    A = problems.matrix_of(values, seed)
    plain = hessops.eigsh(A, 4, which=which, rng=seed)
    assert "would appear once" in plain.status
    checked = hessops.eigsh(A, 4, which=which, check_completeness=True, rng=seed)
    assert checked.converged
    assert "with probability 0.99 no eigenvalue" in checked.status
    np.testing.assert_allclose(checked.eigenvalues, wanted(values, 4, which), atol=1e-9)
    assert np.all(true_residuals(A, checked) <= 1e-9)
    assert len(checked.history) == checked.num_products - 4


def test_a_check_that_finds_nothing_costs_few_products_where_the_rest_is_far():
    values = np.concatenate([np.linspace(0, 1, 500), [10.0, 14.0, 20.0]])
    A = hessops.Diagonal(values)
    plain = hessops.eigsh(A, 3, rng=0)
    checked = hessops.eigsh(A, 3, check_completeness=True, rng=0)
    assert 0 < checked.num_products - plain.num_products <= 20
    assert "with probability 0.99 no eigenvalue is missing, by a check of" in checked.status
    np.testing.assert_allclose(checked.eigenvalues, plain.eigenvalues, atol=1e-9)


def test_a_check_says_what_it_leaves_in_doubt():
    """Neighbours too close for few steps: the claim is of what lies beyond."""
    result = hessops.eigsh(
        problems.laplacian_1d(400), 2, which="LA", tol=1e-3, check_completeness=True, rng=0
    )
    match = re.search(r"no eigenvalue above ([\d.]+) is missing", result.status)
    assert match
    assert result.eigenvalues[0] < float(match[1]) < 4.3


@pytest.mark.slow
def test_checks_are_as_right_as_they_say():
    """A special start hides the largest eigenvalue. Of 300 checks, each of which misses it with a
    probability of at most 1 %, more than 10 do so with a probability below 3e-4."""
    values = np.append(np.linspace(0, 1, 200), 1.3)
    A, missed = hessops.Diagonal(values), 0
    start = np.ones(201)
    start[-1] = 0
    for seed in range(300):
        result = hessops.eigsh(
            A, 1, which="LA", tol=1e-3, start=start, check_completeness=True, rng=seed
        )
        claimed = re.search(r"above ([\d.]+) is missing", result.status)
        bound = float(claimed[1]) if claimed else result.eigenvalues[0] + 2e-3
        missed += bound < 1.3
    assert missed <= 10


# --- operators that are not what they say ---------------------------------------------------------


def test_clustered_spectra_keep_their_bounds_without_verification():
    """The residual that ended a Krylov space bounds that of its pairs: it is not zero."""
    for seed in range(20):
        values = 1 + 1e-9 * np.random.default_rng(seed).standard_normal(29)
        A = problems.matrix_of(values, seed)
        for k in (18, 29):
            result = hessops.eigsh(A, k, which="SA", verify=False, rng=seed)
            distance = distance_to_spectrum(result, np.linalg.eigvalsh(A))
            rounding = 29 * np.finfo(np.float64).eps
            assert np.all(true_residuals(A, result) <= result.residual_norms + rounding)
            assert np.all(distance <= result.residual_norms + rounding)
            assert np.all(result.residual_norms > 0)
            # Of some, others may lie in the gap that the sharper bounds are made of.
            assert k < 29 or np.all(distance <= result.error_bounds + rounding)


def test_a_function_that_mixes_the_columns_of_a_block_is_refused():
    """It is linear on single vectors, so that only a product with several shows it."""
    diagonal = np.linspace(0, 1, 50) ** 2

    def mixing(X):
        return diagonal[:, None] * X + 0.1 * X.sum(axis=1, keepdims=True) * (X.shape[1] > 1)

    A = aslinearoperator(mixing, shape=50, self_adjoint=True)
    with pytest.raises(ValueError, match=r"not linear.*Lanczos found the eigenvalue .* gives"):
        hessops.eigsh(A, 3, rng=0)
