"""The gallery against published figures, exact arithmetic, laws of random matrices and PyTorch."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from strategies import normal

from hessops import gallery
from hessops.array_space import ArraySpace
from hessops.arrays import to_numpy
from hessops.gallery.tridiagonal import Tridiagonal


def inverse(x):
    return 1 / x


def test_laplacians():
    line, square = gallery.laplacian_1d(100), gallery.laplacian_2d(30)
    assert line.logdet == math.log(101)
    assert math.fsum(np.log(line.eigenvalues)) == pytest.approx(math.log(101), abs=1e-12)
    assert line.trace_of(inverse) == pytest.approx(1700, rel=1e-12)
    assert line.trace_of(np.square) == pytest.approx(598, rel=1e-13)
    assert square.logdet == pytest.approx(1065.0006883542344, rel=1e-13)
    assert square.trace_of(inverse) == pytest.approx(512.6441819996354, rel=1e-12)
    assert square.trace_of(lambda x: np.exp(-x)) == pytest.approx(81.98578441457524, rel=1e-13)
    assert square.eigenvalues[[0, -1]] == pytest.approx([0.02052270643241938, 7.97947729356758])
    values, multiplicities = square.levels()
    assert multiplicities[np.abs(values - 4) < 1e-9] == [30]
    # The logarithm per site tends to 4 / pi times Catalan's constant, by 2 ln(1 + sqrt 2) per row.
    large = gallery.laplacian_2d(400).logdet / 400**2
    assert large == pytest.approx(1.16624361612, abs=2 * math.log(1 + math.sqrt(2)) / 400)


def test_strakos():
    problem = gallery.strakos()
    assert problem.trace == pytest.approx(415.54322218656387, rel=1e-13)
    assert problem.logdet == pytest.approx(30.487035536063914, rel=1e-13)
    assert problem.trace_of(inverse) == pytest.approx(37.3591700213145, rel=1e-13)


def eigenvalues_below(half, x):
    """Count the eigenvalues of Wilkinson's matrix below x, in exact arithmetic (Sturm)."""
    pivot, negative = None, 0
    for entry in [abs(i) for i in range(-half, half + 1)]:
        pivot = entry - x - (0 if pivot is None else 1 / pivot)
        assert pivot != 0
        negative += pivot < 0
    return negative


@pytest.mark.parametrize("n", [3, 21, 41])
def test_wilkinson_eigenvalues_are_correct_to_half_a_unit_in_the_last_place(n):
    for index, value in enumerate(gallery.wilkinson(n).eigenvalues):
        reach = Fraction(math.ulp(value)) * Fraction(501, 1000)
        below, above = (eigenvalues_below(n // 2, Fraction(value) + s * reach) for s in (-1, 1))
        assert below <= index < above


def test_wilkinson_pairs():
    top = gallery.wilkinson(21).eigenvalues
    assert top[-2:].tolist() == [10.746194182903322, 10.746194182903393]
    assert top[-4:-2].tolist() == [9.210678647304919, 9.210678647361332]
    # Published to 5e-15: the figure of a double precision solver.
    assert top[0] == pytest.approx(-1.1254415221199854, rel=1e-14)


def test_toeplitz_gram():
    problem = gallery.toeplitz_gram(1000)
    assert problem.logdet == 2000 * math.log(2)
    assert math.fsum(np.log(problem.eigenvalues)) == pytest.approx(problem.logdet, rel=1e-13)
    assert problem.trace == 4999
    q = 1 / 2
    inverse_trace = (1000 - q**2 * (1 - q**2000) / (1 - q**2)) / (4 - 1)
    assert problem.trace_of(inverse) == pytest.approx(inverse_trace, rel=1e-13)
    assert problem.eigenvalues[0] > 1
    assert problem.eigenvalues[-1] < 9


def second_difference(n):
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


def wilkinson_by_entries(n):
    return np.diag(np.abs(np.arange(n) - n // 2)) + np.eye(n, k=1) + np.eye(n, k=-1)


def clement_by_entries(n):
    i = np.arange(1, n)
    upper = np.diag(np.sqrt(i * (n - i)), 1)
    return upper + upper.T


def gram_by_factor(n, a, b):
    B = a * np.eye(n) + b * np.eye(n, k=1)
    return B.T @ B


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (gallery.laplacian_1d(5), second_difference(5)),
        (
            gallery.laplacian_2d(3, 4),
            np.kron(second_difference(3), np.eye(4)) + np.kron(np.eye(3), second_difference(4)),
        ),
        (gallery.wilkinson(7), wilkinson_by_entries(7)),
        (gallery.clement(6), clement_by_entries(6)),
        (gallery.toeplitz_gram(5, 2.5, 0.5), gram_by_factor(5, 2.5, 0.5)),
        (
            gallery.hypercube(4),
            [[float((i ^ j).bit_count() == 1) for i in range(16)] for j in range(16)],
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_matrices_are_as_described(problem, expected):
    np.testing.assert_allclose(problem.operator.to_dense(), expected, rtol=0, atol=1e-14)


def test_kneser():
    problem = gallery.kneser(11, 4)
    values, multiplicities = problem.levels()
    assert values.tolist() == [-20, -4, 1, 10, 35]
    assert multiplicities.tolist() == [10, 110, 165, 44, 1]
    assert problem.trace_of(np.square) == 11550
    assert problem.trace_of(lambda x: np.exp(x / 10)) == pytest.approx(410.16161178965865)
    assert problem.shifted(-21).logdet == pytest.approx(976.7962613383875, rel=1e-13)


@given(st.integers(1, 3), st.integers(0, 2), st.data())
def test_kneser_graph_joins_disjoint_subsets(k, more, data):
    n = 2 * k + more
    dense = gallery.kneser(n, k).operator.to_dense()
    subsets = [s for s in range(2**n) if s.bit_count() == k]
    i, j = (data.draw(st.integers(0, len(subsets) - 1)) for _ in range(2))
    assert dense[i, j] == (subsets[i] & subsets[j] == 0)


def test_hypercube():
    problem = gallery.hypercube(10)
    assert problem.trace_of(np.exp) == pytest.approx((2 * math.cosh(1)) ** 10, rel=1e-13)
    assert problem.scaled(-1).shifted(-12).logdet == pytest.approx(2504.4853773661307, rel=1e-13)
    assert problem.levels()[1].tolist() == [math.comb(10, i) for i in range(11)]


def test_clement():
    assert gallery.clement(21).eigenvalues.tolist() == list(range(-20, 21, 2))


def test_transverse_field_ising():
    assert gallery.transverse_field_ising(8).eigenvalues[0] == pytest.approx(-10.251661790966)
    problem = gallery.transverse_field_ising(10)
    assert problem.eigenvalues[0] == pytest.approx(-2 / math.sin(math.pi / 20), rel=1e-14)
    assert problem.eigenvalues[1] == pytest.approx(-12.62750302935, rel=1e-12)
    for beta, expected in ((0.6, 10.035528609005526), (3, 38.87472015968998)):
        found = math.log(problem.trace_of(lambda x, beta=beta: np.exp(-beta * x)))
        assert found == pytest.approx(expected, rel=1e-13)


def test_transverse_field_ising_is_the_sum_of_spin_matrices():
    x, z, one = np.array([[0, 1], [1, 0]]), np.diag([1, -1]), np.eye(2)

    def at(sites):
        product = np.eye(1)
        for i in range(3):
            product = np.kron(sites.get(i, one), product)
        return product

    bonds = sum(at({i: z, (i + 1) % 3: z}) for i in range(3))
    expected = -bonds - 0.3 * sum(at({i: x}) for i in range(3))
    found = gallery.transverse_field_ising(3, 0.3).operator.to_dense()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


XTRACE = {
    "flat": (2000.0, 4334.000667),
    "poly": (1.6439345666815601, 1.08232323),
    "slowexp": (10.0, 5.2631579),
    "fastexp": (10 / 3, 1.9607843),
    "smallstep": (50.95, 50.00095),
    "bigstep": (50.0000095, 50.0),
}


@pytest.mark.parametrize("name", XTRACE)
def test_xtrace_spectra(name):
    problem = gallery.xtrace_matrix(name, rng=0)
    trace, squares = XTRACE[name]
    assert problem.trace == pytest.approx(trace, rel=1e-12)
    assert problem.trace_of(np.square) == pytest.approx(squares, rel=1e-8)


def test_rotation_spreads_a_direction_over_all_rows():
    # A = q q^T for a random direction q: n q_i^2 should look like squared normal numbers, of mean 1
    # and variance 2. Mean and variance over the rows of 40 rotations, by their scatter.
    n, rounds = 499, 40
    eigenvalues = np.zeros(n)
    eigenvalues[0] = n
    squares = []
    for seed in range(rounds):
        operator = gallery.with_eigenvalues(eigenvalues, rng=seed).operator
        squares.append(np.diag(operator.to_dense(block_size=n)))
    variances = np.var(squares, axis=1)
    assert np.mean(squares, axis=1) == pytest.approx(1, abs=1e-12)
    # A false alarm has a chance of 6e-7; of unit vectors, the variance is 2 (n - 1) / (n + 2).
    error = np.std(variances, ddof=1) / math.sqrt(rounds)
    assert np.mean(variances) == pytest.approx(2 * (n - 1) / (n + 2), abs=5 * error)


def test_the_seed_decides_on_the_directions():
    matrices = [
        gallery.xtrace_matrix("flat", 9, rng=rng).operator.to_dense()
        for rng in (1, 1, 2, np.random.default_rng(1), np.random.default_rng(1))
    ]
    assert np.array_equal(matrices[0], matrices[1])
    assert not np.allclose(matrices[0], matrices[2])
    assert np.array_equal(matrices[3], matrices[4])


# Random matrices.

LAWS = [gallery.Semicircle(), *map(gallery.MarchenkoPastur, (0.01, 0.5, 0.9, 1.0))]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_density_distribution_and_moments_agree(law):
    low, high = law.edges
    for share in (0.1, 0.5, 0.9):
        x = low + share * (high - low)
        # From above, where the density is bounded even for ratio 1.
        mass, error = integrate.quad(law.pdf, x, high)
        assert 1 - law.cdf(x) == pytest.approx(mass, abs=1e-10 + 10 * error)
    assert law.cdf([low - 1, low, high, high + 1]).tolist() == pytest.approx(
        [0, 0, 1, 1], abs=1e-12
    )
    assert law.pdf([low - 1, high + 1]).tolist() == [0, 0]
    for order in range(7):
        # x times the density stays bounded.
        mean, error = integrate.quad(lambda x, k=order: x**k * law.pdf(x), low, high, limit=200)
        assert law.moment(order) == pytest.approx(mean, abs=1e-6 + 10 * error, rel=1e-6)


def test_marchenko_pastur_logarithm():
    assert gallery.MarchenkoPastur(0.5).mean_log == pytest.approx(-0.3068528194, abs=1e-10)
    for ratio in (0.1, 0.5, 0.95, 1.0):
        law = gallery.MarchenkoPastur(ratio)
        mean, error = integrate.quad(lambda x, law=law: math.log(x) * law.pdf(x), *law.edges)
        assert law.mean_log == pytest.approx(mean, abs=1e-6 + 10 * error)


def test_squares_of_wigner_matrices_sum_to_a_chi_squared_number():
    # tr A^2 is 2 / n times a chi-squared number of n (n + 1) / 2 degrees: an exact law.
    n, rounds = 8, 200
    found = []
    for seed in range(rounds):
        A = gallery.wigner(n, rng=seed).operator.to_dense()
        found.append(np.sum(A**2) * n / 2)
    assert stats.kstest(found, stats.chi2(n * (n + 1) / 2).cdf).pvalue > 1e-6


def test_traces_of_sample_covariances_are_chi_squared_numbers():
    n, samples, rounds = 6, 15, 200
    found = []
    for seed in range(rounds):
        problem = gallery.marchenko_pastur(n, 0.4, rng=seed)
        found.append(np.trace(problem.operator.to_dense()) * samples)
    assert problem.density.ratio == n / samples
    assert stats.kstest(found, stats.chi2(n * samples).cdf).pvalue > 1e-6


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "make", [gallery.wigner, lambda n, rng: gallery.marchenko_pastur(n, 0.5, rng=rng)]
)
def test_eigenvalues_of_large_random_matrices_follow_the_density(make, seed):
    n = 400
    problem = make(n, rng=seed)
    found = np.linalg.eigvalsh(problem.operator.to_dense(block_size=n))
    shares = problem.density.cdf(found)
    # Eigenvalues are rigid: each is within a few, not sqrt(n), places of where it should be. As many
    # independent draws would be within 5 / 400 with a chance of 1e-9.
    places = np.abs(shares - (np.arange(n) + 0.5) / n)
    assert np.max(places) < 5 / n
    low, high = problem.density.edges
    reach = 5 * (high - low) * n ** (-2 / 3)
    assert found[[0, -1]] == pytest.approx([low, high], abs=reach)


# Networks.


def test_softmax_hessian_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    hessops_torch = pytest.importorskip("hessops_torch")
    X = normal(0, (11, 4))
    model = torch.nn.Linear(4, 3, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    data = [(torch.from_numpy(X), torch.arange(11) % 3)]
    H = hessops_torch.hessian(model, torch.nn.CrossEntropyLoss(), data)
    expected = gallery.softmax_hessian(torch.from_numpy(X), 3).operator.to_dense()
    np.testing.assert_allclose(to_numpy(H.to_dense()), expected, rtol=0, atol=1e-14)


def test_linear_network_hessian_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    hessops_torch = pytest.importorskip("hessops_torch")
    X, Y = normal(0, (11, 4)), normal(1, (11, 2))
    layers = [
        torch.nn.Linear(*sizes, bias=False, dtype=torch.float64) for sizes in ((4, 3), (3, 2))
    ]
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
    # MSELoss averages over the outputs, too: half of the sum over 2 outputs is their mean.
    data = [(torch.from_numpy(X), torch.from_numpy(Y))]
    H = hessops_torch.hessian(torch.nn.Sequential(*layers), torch.nn.MSELoss(), data)
    expected = gallery.linear_network_hessian(X, Y, 3).operator.to_dense()
    np.testing.assert_allclose(to_numpy(H.to_dense()), expected, rtol=0, atol=1e-14)


# Refusals.


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: gallery.laplacian_1d(0), "n=0 is too small; it must be at least 1"),
        (lambda: gallery.laplacian_2d(3, 0), "columns=0 is too small"),
        (lambda: gallery.wilkinson(1), "n=1 is too small; it must be at least 3"),
        (lambda: gallery.wilkinson(20), "n=20 is even; .* take 19 or 21"),
        (lambda: gallery.clement(1), "n=1 is too small; it must be at least 2"),
        (lambda: gallery.toeplitz_gram(5, 1.0, 2.0), r"a=1.0, b=2.0: .* known for a > b > 0"),
        (lambda: gallery.toeplitz_gram(5, math.nan), "a=nan"),
        (lambda: gallery.strakos(1), "n=1 is too small"),
        (lambda: gallery.strakos(5, 2.0, 1.0), "low=2.0, high=1.0"),
        (lambda: gallery.strakos(5, rho=1.5), r"rho=1.5 must be in \(0, 1\]"),
        (lambda: gallery.hypercube(0), "d=0 is too small"),
        (lambda: gallery.kneser(3, 2), "n=3, k=2: n must be at least 4"),
        (lambda: gallery.kneser(40, 2), "at most 26, for memory"),
        (lambda: gallery.kneser(4, 0), "k=0 is too small"),
        (lambda: gallery.transverse_field_ising(1), "num_spins=1 is too small"),
        (lambda: gallery.transverse_field_ising(3, math.inf), "field=inf must be finite"),
        (lambda: gallery.with_eigenvalues(np.eye(2)), r"got float64 of shape \(2, 2\)"),
        (lambda: gallery.with_eigenvalues([]), r"got float64 of shape \(0,\)"),
        (lambda: gallery.with_eigenvalues([1j]), "got complex128 of shape"),
        (lambda: gallery.with_eigenvalues([math.nan]), "a vector of finite real numbers"),
        (lambda: gallery.xtrace_matrix("steep"), "spectrum='steep' is unknown; choose one of flat"),
        (lambda: gallery.wigner(0), "n=0 is too small"),
        (lambda: gallery.marchenko_pastur(5, 1.5), r"ratio=1.5 must be in \(0, 1\]"),
        (lambda: gallery.MarchenkoPastur(0), "ratio=0 must be in"),
        (lambda: gallery.Semicircle().moment(-1), "order=-1"),
        (
            lambda: gallery.softmax_hessian(np.ones(3), 2),
            r"features must be a real matrix .*\(3,\)",
        ),
        (lambda: gallery.softmax_hessian(np.full((2, 2), np.nan), 2), "features hold NaN"),
        (lambda: gallery.softmax_hessian(np.ones((3, 2)), 1), "num_classes=1 is too small"),
        (
            lambda: gallery.linear_network_hessian(np.ones((3, 2)), np.ones((4, 1)), 1),
            "there are 3 rows of features and 4 of targets",
        ),
        (
            lambda: gallery.linear_network_hessian(np.ones((3, 2)), np.ones((3, 1)), 0),
            "num_hidden=0 is too small",
        ),
        (lambda: gallery.laplacian_1d(3).levels(-1.0), "tol=-1.0 must not be negative"),
        (lambda: gallery.clement(4).logdet, r"smallest -3, .* for example shifted\(-4\)"),
        (lambda: Tridiagonal(ArraySpace(3), np.ones(3), np.ones(3)), r"have lengths \(3, 3\)"),
    ],
)
def test_bad_input_is_refused_by_name(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
