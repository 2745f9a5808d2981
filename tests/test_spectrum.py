"""`spectrum`: the identity of its engine, and every number against the dense matrix."""

import math

import numpy as np
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks
from hypothesis import given
from hypothesis import strategies as st
from strategies import PLACES, norm, places, with_spectrum

import hessops
from hessops import ConvergenceWarning, Diagonal, FiniteSum, aslinearoperator, gallery
from hessops.algorithms.spectrum.block_krylov import block_krylov_steps
from hessops.arrays import to_numpy
from hessops.density.compression import probable_bounds
from hessops.random import Stream
from hessops.spectral_function import power, spectral_function
from hessops.structure import SELF_ADJOINT

STREAM = Stream(5, 13)
pytestmark = pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")


@st.composite
def problems(draw):
    """A self-adjoint matrix with clusters and copies, a block width, and a budget."""
    place = draw(places())
    n = draw(st.integers(2, 14))
    levels = draw(st.lists(st.integers(-4, 4), min_size=1, max_size=8, unique=True))
    values = np.array([levels[i % len(levels)] for i in range(n)], dtype=float)
    if draw(st.booleans()):
        values = values + 1e-2 * np.arange(n)
    width = draw(st.integers(1, min(3, n)))
    budget = draw(st.integers(width, n + 4))
    return place, with_spectrum(values, draw(st.integers(0, 99)), place.dtype), width, budget


@given(problems())
def test_the_basis_satisfies_its_identity_and_holds_the_probes(problem):
    """A V = V T + Q B, X = V C, Q orthogonal to V; the compression says the same of Ritz vectors."""
    place, matrix, width, budget = problem
    A = aslinearoperator(place.put(matrix), self_adjoint=True)
    wide, n = matrix.astype(np.complex128), len(matrix)
    allowed = 300 * n * place.eps * max(norm(matrix), 1e-300) + 300 * n * place.eps
    for state in block_krylov_steps(A, stream=STREAM, num_probes=width, max_products=budget):
        assert state.num_products == state.basis.size <= budget
        V = to_numpy(state.basis.vectors()).astype(np.complex128)
        Q = to_numpy(state.following).astype(np.complex128)
        assert norm(wide @ V - V @ state.matrix - Q @ state.coupling) <= allowed
        assert norm(V.conj().T @ Q) <= 300 * n * place.eps
        count = state.coefficients.shape[1]
        X = to_numpy(A.domain.probes(STREAM, range(count), "sphere")).astype(np.complex128)
        assert norm(X - V @ state.coefficients) <= 300 * n * place.eps * norm(X)
        c = state.compression
        Y = to_numpy(state.vectors(np.arange(len(c.nodes)))).astype(np.complex128)
        assert norm(wide @ Y - Y * c.nodes - Q @ c.couplings) <= allowed
        for probe in range(count):
            # Each probe's own rule has the moments of the measure up to its degree.
            single = c.of_probe(probe)
            x = X[:, probe]
            for degree in range(min(2 * len(single.nodes), 4)):
                exact = np.real(np.vdot(x, np.linalg.matrix_power(wide, degree) @ x))
                scale = n * max(norm(matrix), 1.0) ** degree
                assert abs(single.nodes**degree @ single.weights[:, 0] - exact) <= (
                    1e3 * n * place.eps * scale
                )


@given(problems())
def test_a_whole_basis_gives_every_number_exactly(problem):
    place, matrix, width, _ = problem
    values = np.linalg.eigvalsh(matrix.astype(np.complex128))
    n, size = len(values), max(float(np.abs(values).max()), 1e-300)
    allowed = 300 * n * place.eps * size
    A = aslinearoperator(place.put(matrix), self_adjoint=True)
    result = hessops.spectrum(A, budget=n + 3, num_probes=width, num_extremes=n, rng=0)
    assert result.filled
    assert result.num_products == n
    assert np.abs(result.eigenvalues - values).max() <= allowed
    assert abs(float(result.trace) - values.sum()) <= n * allowed
    assert result.trace.standard_error == 0
    assert abs(result.frobenius_norm.value - np.linalg.norm(values)) <= n * allowed
    assert abs(result.function("exp").value - np.exp(values).sum()) <= n * allowed * np.exp(size)
    negative = result.count_below(-0.517)
    assert negative.value == pytest.approx(np.sum(values < -0.517))
    assert negative.bracket.high - negative.bracket.low <= 1e-6


@given(problems())
def test_errors_of_few_products_are_true(problem):
    """Residual norms, certified and probable bounds, and Gauss and Radau brackets of the probes."""
    place, matrix, width, budget = problem
    wide = matrix.astype(np.complex128)
    values = np.linalg.eigvalsh(wide)
    n, allowed = len(values), 1e3 * len(values) * place.eps * max(norm(matrix), 1e-300)
    A = aslinearoperator(place.put(matrix), self_adjoint=True)
    result = hessops.spectrum(A, budget=budget, num_probes=width, rng=1)
    assert result.num_products <= budget
    for value, residual in zip(result.eigenvalues, result.residual_norms, strict=True):
        assert np.min(np.abs(values - value)) <= residual + allowed
    assert result.spectral_norm.lower_bound <= np.abs(values).max() + allowed
    squares = np.linalg.matrix_power(wide, 2)
    count = result.num_probes
    X = to_numpy(A.domain.probes(Stream(1, 13), range(count), "sphere")).astype(np.complex128)
    exact = np.real(np.einsum("ij,ij->j", X.conj(), squares @ X))
    sums = np.concatenate([
        c.nodes**2 @ c.weights + np.sum(np.abs(c.couplings @ c.probes) ** 2, axis=0)
        for c in result.compressions
    ])  # fmt: skip
    assert np.abs(sums - exact).max() <= n * allowed * max(1.0, norm(matrix))


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize(
    "name", ["log", "inverse", "sqrt", "inverse_sqrt", "xlogx", "x^1.5", "exp"]
)
def test_brackets_hold_for_these_probes_and_close(name, width):
    """Block Gauss and Gauss-Radau rules bracket X^H f(A) X for operator convex and concave f."""
    values = np.geomspace(0.1, 4.0, 60)
    A = aslinearoperator(with_spectrum(values, 3), positive_semidefinite=True)
    f = power(1.5) if name == "x^1.5" else name
    widths = []
    for steps in (4, 8, 16, 28) if width == 1 else (3, 6, 12, 17):
        result = hessops.spectrum(A, budget=steps * width, num_probes=width, rng=4)
        found = result.function(f)
        exact = _forms(A, f, result).mean()
        low, high = found.bracket
        assert low - 1e-9 * abs(exact) <= exact <= high + 1e-9 * abs(exact), (
            steps,
            low,
            exact,
            high,
        )
        assert low <= found.value + 1e-12 * abs(exact)
        assert found.value <= high + 1e-12 * abs(exact)
        widths.append(high - low)
    assert np.isfinite(widths[-1])
    assert widths[-1] <= widths[-2] + 1e-9 * abs(exact)


def _forms(A, f, result):
    """Return what perfect quadrature of the same probes would give, settled pairs taken out."""
    function, n = spectral_function(f), A.shape[0]
    X = A.domain.probes(Stream(4, 13), range(result.num_probes), "sphere")
    eigenvalues, U = np.linalg.eigh(A.to_dense())
    weights = (U.T @ X) ** 2
    deflation = result.deflation
    inside = deflation.inside(eigenvalues)
    rest = function(eigenvalues)[~inside] @ weights[~inside]
    factors = (n - len(deflation.nodes)) / weights[~inside].sum(axis=0)
    return factors * rest + function(deflation.nodes).sum()


def test_block_gauss_rules_of_other_functions_have_no_sign():
    """Golub & Meurant: why exp takes the rules of single probes, which are lower bounds of it."""
    off = []
    for seed in range(60):
        values = np.random.default_rng(seed).uniform(0, 4, 5)
        A = Diagonal(values)
        (first, *_) = block_krylov_steps(A, stream=Stream(seed), num_probes=3, max_products=3)
        X = A.domain.probes(Stream(seed), range(3), "sphere")
        c = first.compression
        exact = np.exp(2 * values) @ X**2
        off += (exact - np.exp(2 * c.nodes) @ c.weights).tolist()
        for probe in range(3):
            single = c.of_probe(probe)
            assert float((np.exp(2 * single.nodes) @ single.weights)[0]) <= exact[probe] * (
                1 + 1e-12
            )
    assert min(off) < 0 < max(off)


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 7, 50, 1000])
@pytest.mark.parametrize(
    "problem",
    [
        gallery.laplacian_1d(40), gallery.kneser(5, 2), gallery.clement(21), gallery.strakos(),
        gallery.hypercube(5), gallery.wilkinson(21),
    ],
    ids=lambda problem: repr(problem)[8:18],
)  # fmt: skip
def test_gallery_at_every_budget(problem, budget):
    values = problem.eigenvalues
    size = np.abs(values).max()
    result = hessops.spectrum(problem.operator, budget=budget, rng=0)
    assert 1 <= result.num_products <= budget
    for value, bound in zip(result.eigenvalues, result.residual_norms, strict=True):
        assert np.min(np.abs(values - value)) <= bound + 1e-12 * size
    low, high = result.bounds
    assert low <= values[0] + 1e-12 * size
    assert high >= values[-1] - 1e-12 * size
    page = str(result)
    assert f"Spectrum of {len(values)} eigenvalues" in page
    if result.num_probes == 1 and not result.filled:
        assert not result.converged
        assert "a single probe has no interval" in result.status
        assert result.trace.interval == (-math.inf, math.inf)
    if result.filled:
        assert float(result.trace) == pytest.approx(values.sum(), abs=1e-9 * size)


def test_multiplicities_are_settled_only_where_no_copy_can_be_missing():
    values = np.r_[np.full(3, 9.0), np.full(20, 5.0), np.linspace(0, 1, 177)]
    result = hessops.spectrum(Diagonal(values), budget=200 - 40, num_probes=8, rng=0)
    settled = result.deflation.nodes
    assert np.sum(np.abs(settled - 9) < 1e-8) == 3
    assert np.sum(np.abs(settled - 5) < 1e-8) == 0
    assert float(result.eigenvalues[-1]) == pytest.approx(9)


@pytest.mark.parametrize("matrix", [np.zeros((30, 30)), np.eye(30), -2 * np.eye(30)])
def test_multiples_of_the_identity(matrix):
    result = hessops.spectrum(matrix, budget=20, rng=0)
    value = matrix[0, 0]
    assert np.allclose(result.eigenvalues, value, atol=1e-12)
    assert float(result.trace) == pytest.approx(30 * value, abs=1e-10)
    assert result.bounds.high - result.bounds.low <= 1e-10
    assert result.count_below().value == pytest.approx(30 if value < 0 else 0)
    assert result.count_below().bracket == pytest.approx((result.count_below().value,) * 2)
    assert "exhausted" in result.status
    if value == 0:
        assert result.condition_number is None
        assert math.isnan(result.stable_rank.value)
        assert result.log_determinant is None
    else:
        assert result.condition_number.value == pytest.approx(1)
        assert result.stable_rank.value == pytest.approx(30)


def test_indefinite_and_singular_operators_say_so():
    indefinite = hessops.spectrum(np.diag(np.linspace(-1, 2, 90)), budget=60, rng=0)
    assert indefinite.log_determinant is None
    assert indefinite.condition_number is None
    assert "not positive definite" in str(indefinite)
    with pytest.raises(ValueError, match="log needs eigenvalues above 0"):
        indefinite.function("log")
    singular = hessops.spectrum(np.diag(np.r_[0.0, np.linspace(1, 2, 20)]), budget=100, rng=0)
    assert singular.log_determinant is None
    assert singular.condition_number.value == math.inf
    negative = hessops.spectrum(-np.diag(np.linspace(1, 2, 20)), budget=100, rng=0)
    assert negative.condition_number.value == pytest.approx(2)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_the_scale_of_the_operator_does_not_matter(scale):
    values = np.r_[np.linspace(0.5, 1.5, 60), 4.0, 9.0]
    one, other = (hessops.spectrum(Diagonal(c * values), budget=40, rng=0) for c in (1.0, scale))
    assert other.eigenvalues == pytest.approx(scale * one.eigenvalues, rel=1e-9)
    assert other.bounds == pytest.approx([scale * end for end in one.bounds], rel=1e-6)
    assert other.trace.value == pytest.approx(scale * one.trace.value, rel=1e-9)
    assert other.trace.interval.low == pytest.approx(scale * one.trace.interval.low, rel=1e-6)
    assert len(other.deflation.nodes) == len(one.deflation.nodes)
    assert other.condition_number.upper_bound == pytest.approx(
        one.condition_number.upper_bound, rel=1e-5
    )


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.library}-{place.dtype}")
def test_every_library_and_dtype(place):
    values = np.r_[np.linspace(0.5, 1.5, 38), 4.0, 9.0]
    matrix = with_spectrum(values, 2, place.dtype)
    A = aslinearoperator(place.put(matrix), positive_semidefinite=True)
    result = hessops.spectrum(A, budget=24, num_probes=4, rng=3)
    assert result.eigenvalues[-1] == pytest.approx(9, abs=1e3 * place.eps)
    X = result.eigenvectors
    assert result.error_bounds[-1] <= 1e-3
    residual = norm(matrix.astype(np.complex128) @ to_numpy(X) - to_numpy(X) * result.eigenvalues)
    assert residual <= norm(result.residual_norms) + 1e3 * place.eps
    low, high = result.trace.interval
    assert low - 1 < values.sum() < high + 1
    assert result.log_determinant.bracket.low <= result.log_determinant.bracket.high


def test_finite_sums_and_the_same_numbers_on_any_number_of_ranks():
    matrix = with_spectrum(np.r_[np.linspace(0.5, 1.5, 28), 4.0, 9.0], 1)
    whole = hessops.spectrum(matrix, budget=24, rng=0)
    parts = FiniteSum([aslinearoperator(matrix / 2)] * 2)
    assert hessops.spectrum(parts, budget=24, rng=0).trace.value == pytest.approx(whole.trace.value)
    rows = [(0, 11), (11, 30)]

    def work(comm):
        A = ShardedMatrix(matrix, comm, rows[comm.rank], SELF_ADJOINT)
        options = ({}, {"max_basis": 8}, {"accuracy": 0.2})
        return [hessops.spectrum(A, budget=24, rng=0, **option) for option in options]

    first, second = run_on_ranks(work, len(rows))
    for one, other in zip(first, second, strict=True):
        assert one.trace == other.trace
        assert np.array_equal(one.eigenvalues, other.eigenvalues)
        assert one.bounds == other.bounds
    assert first[0].trace.value == pytest.approx(whole.trace.value, rel=1e-10)
    X = gathered([first[0].eigenvectors, second[0].eigenvectors])
    assert norm(matrix @ X - X * first[0].eigenvalues) <= norm(first[0].residual_norms) + 1e-10


def test_a_budget_beyond_the_basis_keeps_none():
    values = np.r_[np.linspace(0.5, 1.5, 198), 4.0, 9.0]
    result = hessops.spectrum(Diagonal(values), budget=120, max_basis=50, rng=0)
    assert result.num_products <= 120
    assert "without a basis, as max_basis=50" in result.status
    assert result.eigenvectors is None
    assert len(result.deflation.nodes) == 0
    # An eigenvalue is as near as the residual norm; if it is not that at the end, its neighbour is.
    ends = [0, -2, -1]
    away = np.abs(result.eigenvalues[ends] - [0.5, 4, 9])
    assert np.all(away <= result.residual_norms[ends] + [1 / 197, 1e-9, 1e-9])
    assert result.bounds.low <= 0.5
    assert result.bounds.high >= 9
    assert result.trace.interval.low < values.sum() < result.trace.interval.high
    assert result.log_determinant.bracket_kind == "probable"
    assert np.all(np.diff(result.eigenvalues) > 1e-9)  # no copies


def test_accuracy_stops_early_or_says_what_is_missing():
    values = np.r_[np.linspace(0.5, 1.5, 398), 4.0, 9.0]
    with pytest.warns(ConvergenceWarning, match="stopped at the budget of 60 products"):
        short = hessops.spectrum(Diagonal(values), accuracy=1e-3, budget=60, rng=0)
    assert short.num_products <= 60
    assert "products would do" in short.status
    result = hessops.spectrum(Diagonal(values), accuracy=0.02, rng=0)
    assert result.converged
    assert "accuracy 0.02 reached" in result.status
    assert np.all(result.residual_norms <= 0.02 * 9 + 1e-12)
    half = (result.trace.interval.high - result.trace.interval.low) / 2
    assert half <= 0.02 * values.sum() * 1.1
    assert result.num_products < 2000
    limited = hessops.spectrum(Diagonal(values), accuracy=1e-6, max_basis=24, budget=24, rng=0)
    assert not limited.converged


def test_results_are_saved_and_read(tmp_path):
    result = hessops.spectrum(gallery.laplacian_2d(8).operator, budget=40, rng=0)
    loaded = hessops.load(result.save(tmp_path / "spectrum"))
    assert str(loaded) == str(result)
    assert loaded.function("sqrt").value == result.function("sqrt").value
    document = result.to_dict()
    assert {row["quantity"] for row in document["findings"]} >= {"trace", "condition number"}
    assert "nodes" not in document
    assert len(result.history) > 0
    assert hessops.load(result.density.save(tmp_path / "density")).cdf(1.0) == result.density.cdf(
        1.0
    )


def test_callbacks_and_plots():
    seen = []
    A = Diagonal(np.linspace(1, 2, 200))
    result = hessops.spectrum(
        A, budget=100, rng=0, callback=lambda s: seen.append(s) or s.step == 3
    )
    assert [state.step for state in seen] == [1, 2, 3]
    assert "stopped by the callback" in result.status
    pytest.importorskip("matplotlib")
    ax = result.plot()
    assert ax.get_legend() is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget=0 must be a positive integer"),
        ({"accuracy": 0.0}, "accuracy=0.0 must be positive"),
        ({"budget": 4, "num_probes": 5}, "num_probes=5 take a product each, and budget=4"),
        ({"max_basis": 2}, "max_basis=2 has no room for a block of 8 probes"),
        ({"num_extremes": 0}, "num_extremes=0 must be a positive integer"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        hessops.spectrum(np.eye(20), **options)


def test_bad_operators():
    with pytest.raises(hessops.NotSelfAdjointError, match="spectrum needs a self-adjoint"):
        hessops.spectrum(np.triu(np.ones((4, 4))))
    wrong = aslinearoperator(lambda X: np.triu(np.ones((9, 9))) @ X, shape=9, self_adjoint=True)
    with pytest.raises(hessops.NotSelfAdjointError, match="differ by"):
        hessops.spectrum(wrong, rng=0)
    with pytest.raises(hessops.NonFiniteError, match="NaN"):
        hessops.spectrum(Diagonal(np.array([1.0, np.nan, 2.0])), rng=0)
    with pytest.raises(ValueError, match="leave the range of double precision"):
        hessops.spectrum(1e-200 * np.eye(9), rng=0)


def test_bounds_of_an_invariant_space_are_its_ritz_values():
    (*_, state) = block_krylov_steps(
        Diagonal(np.array([1.0, 2.0, 2.0, 5.0])), stream=STREAM, num_probes=2, max_products=4
    )
    assert probable_bounds([state.compression], 0.1) == pytest.approx((1.0, 5.0))
