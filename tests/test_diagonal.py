"""Diagonals by random probes: exact cases, variances as theory has them, honest intervals."""

import math

import numpy as np
import problems
import pytest
from doubles import ShardedMatrix, run_on_ranks
from scipy import stats

import hessops
from hessops import ArraySpace, ConvergenceWarning, Diagonal, FiniteSum, LowRank, aslinearoperator
from hessops.random import Purpose, Stream
from hessops.statistics import welch_satterthwaite

REAL_KINDS = ("rademacher", "normal", "sphere")


def batches_of_rows(dtype=np.float64):
    """Return X^H X / N as a finite sum over batches of rows, and its matrix."""
    rng = np.random.default_rng(3)
    X = 1 + rng.standard_normal((48, 20))
    if np.issubdtype(dtype, np.complexfloating):
        X = X + 1j * rng.standard_normal((48, 20))
    X = X.astype(dtype)
    terms = [LowRank(np.ascontiguousarray(part.conj().T)) for part in np.split(X, 6)]
    return FiniteSum(terms, [1 / 48] * 6), X.conj().T @ X / 48


def entrywise_variance(A, probe):
    """Return the variance of one probe for every entry, of a real matrix."""
    n, diagonal = len(A), np.diag(A) ** 2
    others = np.sum(A**2, axis=1) - diagonal
    return {
        "rademacher": others,
        "normal": others + 2 * diagonal,
        "sphere": n / (n + 2) * others + (3 * n / (n + 2) - 1) * diagonal,
    }[probe]


@pytest.mark.parametrize(
    ("diagonal", "probe"),
    [
        (np.linspace(-3, 5, 40), "rademacher"),
        (np.exp(1j * np.arange(40.0)), "rademacher"),
        (np.exp(1j * np.arange(40.0)), "steinhaus"),
    ],
    ids=["signs", "signs-complex", "steinhaus"],
)
def test_one_probe_is_exact_on_a_diagonal_operator(diagonal, probe):
    """T7."""
    result = hessops.diagonal(Diagonal(diagonal), num_probes=1, probe=probe, rng=2)
    np.testing.assert_allclose(result.values, diagonal, rtol=1e-14)


@pytest.mark.parametrize("probe", REAL_KINDS)
def test_values_and_errors_are_means_over_probes(probe):
    A = problems.matrix_of(np.linspace(-1, 2, 12))
    for num_probes in (2, 9):
        result = hessops.diagonal(A, num_probes=num_probes, probe=probe, confidence=0.9, rng=4)
        Z = ArraySpace(12).probes(Stream(4, Purpose.DIAGONAL), range(num_probes), probe)
        samples = Z * (A @ Z)
        errors = stats.sem(samples, axis=1)
        half = stats.t.ppf(0.95, num_probes - 1) * errors
        np.testing.assert_allclose(result.values, samples.mean(axis=1), atol=1e-14)
        np.testing.assert_allclose(result.standard_errors, errors, rtol=1e-10)
        np.testing.assert_allclose(result.interval.low, samples.mean(axis=1) - half, atol=1e-10)
        np.testing.assert_allclose(result.interval.high, samples.mean(axis=1) + half, atol=1e-10)
        assert result.norm_error == pytest.approx(np.linalg.norm(errors), rel=1e-10)
        assert result.freedom == num_probes - 1


@pytest.mark.parametrize("probe", REAL_KINDS)
def test_variance_of_every_entry(probe):
    """A sample variance of 4000 has a relative deviation of at most 4 %: 20 % are 5 sigma."""
    A = problems.matrix_of(np.linspace(-1, 2, 15))
    result = hessops.diagonal(A, num_probes=4000, probe=probe, rng=0)
    variances = 4000 * result.standard_errors**2
    np.testing.assert_allclose(variances, entrywise_variance(A, probe), rtol=0.2)


SEEDS = range(400)


def share_held(A, truth, seeds=SEEDS, **options):
    """Return the share of entries and seeds whose interval holds the truth."""
    held = []
    for seed in seeds:
        low, high = hessops.diagonal(A, rng=seed, **options).interval
        held.append(np.mean((low <= truth) & (truth <= high)))
    return np.mean(held)


@pytest.mark.parametrize("probe", REAL_KINDS)
def test_coverage_of_the_entries(probe):
    """A mean over 60 entries, which share probes, deviates at most as much as one of them does.

    A large diagonal would put squares of z_i into all probes but signs, and a t-interval of so
    skewed a sample is too short.
    """
    A = problems.matrix_of(np.linspace(-2, 2, 60))
    share = share_held(aslinearoperator(A), np.diag(A), num_probes=20, probe=probe)
    assert problems.COVERED[0] <= share <= problems.COVERED[1]


# A mean over 500 seeds and some dozens of entries, which share probes, deviates by 0.0013 to 0.0024
# (measured); 0.012 about the nominal share are 5 of these.
MANY_SEEDS = range(500)
OPERATORS = {
    "linear": problems.matrix_of(np.linspace(-2, 2, 60)),
    "exponential": problems.matrix_of(0.9 ** np.arange(60.0)),
    "shifted": problems.matrix_of(np.linspace(1, 5, 50)),
}


def gram_of_rows(name):
    """Return X^T X / N as a finite sum over batches of rows, and its matrix."""
    rng = np.random.default_rng(3)
    X, batch = {
        "shared": (1 + rng.standard_normal((48, 20)), 4),
        "heavy": (rng.standard_t(5, (48, 30)), 8),
        "decaying": (rng.standard_normal((48, 30)) / np.arange(1, 31), 3),
    }[name]
    terms = [LowRank(np.ascontiguousarray(part.T)) for part in np.split(X, 48 // batch)]
    return FiniteSum(terms, [1 / 48] * len(terms)), X.T @ X / 48


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("linear", {"atol": 1.5}), ("exponential", {"atol": 0.35}), ("shifted", {"rtol": 0.05})],
)
def test_coverage_where_a_tolerance_fixes_the_number_of_probes(name, tolerance):
    A = OPERATORS[name]
    share = share_held(aslinearoperator(A), np.diag(A), MANY_SEEDS, **tolerance)
    assert share == pytest.approx(0.95, abs=0.012)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("shared", {"num_probes": 12}),
        ("heavy", {"num_probes": 12}),
        ("decaying", {"num_probes": 12}),
        ("heavy", {"num_probes": 4}),
        ("shared", {"rtol": 0.25}),
        ("heavy", {"rtol": 0.15}),
    ],
    ids=str,
)
def test_coverage_with_a_fresh_probe_for_every_term(name, options):
    """With the degrees of freedom of a single term it would be 0.97 to 1."""
    operator, A = gram_of_rows(name)
    share = share_held(operator, np.diag(A), MANY_SEEDS, **options)
    assert share == pytest.approx(0.95, abs=0.012)


def test_degrees_of_freedom_are_those_of_welch_for_every_entry():
    operator, _ = gram_of_rows("heavy")
    result = hessops.diagonal(operator, num_probes=5, rng=1)
    variances = []
    for index, term in enumerate(operator.terms()):
        stream = Stream(1, Purpose.DIAGONAL).for_term(index)
        Z = ArraySpace(30).probes(stream, range(5), "rademacher")
        variances.append(np.var(Z * (term @ Z), axis=1, ddof=1))
    expected = welch_satterthwaite(np.sqrt(variances), 4)
    assert np.any((expected > 4) & (expected < 20))
    np.testing.assert_allclose(result.freedom, expected, rtol=1e-10)
    np.testing.assert_allclose(result.standard_errors**2, np.sum(variances, axis=0) / 5)


def test_entries_without_variance_have_intervals_of_a_point():
    terms = [Diagonal(np.array([1.0, 2.0])), Diagonal(np.array([3.0, 0.0]))]
    result = hessops.diagonal(FiniteSum(terms), num_probes=3, rng=0)
    assert np.all(np.isfinite(result.freedom))
    np.testing.assert_array_equal(result.interval.low, [4.0, 2.0])
    np.testing.assert_array_equal(result.interval.high, [4.0, 2.0])


def test_the_error_of_the_whole_vector_is_as_large_as_reported():
    """The mean of 400 squared errors has a relative deviation of 2 to 4 %: 15 % are 4 sigma."""
    operator, A = batches_of_rows()
    for stratify in (False, True):
        runs = [hessops.diagonal(operator, num_probes=6, stratify=stratify, rng=s) for s in SEEDS]
        errors = [np.sum((run.values - np.diag(A)) ** 2) for run in runs]
        reported = [run.norm_error**2 for run in runs]
        assert np.mean(errors) == pytest.approx(np.mean(reported), rel=0.15)


def test_fresh_probes_vary_as_theory_says():
    """A mean of 400 sample variances of 6 probes deviates by 3 %, relatively: 15 % are 5 sigma."""
    operator, A = batches_of_rows()
    parts = sum(entrywise_variance(t.to_dense(), "rademacher").sum() for t in operator.terms())
    whole = entrywise_variance(A, "rademacher").sum()
    assert parts < whole / 3
    for stratify, variance in ((True, parts), (False, whole)):
        reported = [
            hessops.diagonal(operator, num_probes=6, stratify=stratify, rng=s).norm_error ** 2
            for s in SEEDS
        ]
        assert np.mean(reported) * 6 == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("probe", [*REAL_KINDS, "steinhaus"])
def test_complex_operators(probe):
    """A mean of 60 * 20 squared errors deviates by 4 % at most, relatively: 20 % are 5 sigma."""
    operator, A = batches_of_rows(np.complex128)
    skew = operator + 0.3j * operator
    runs = [hessops.diagonal(skew, num_probes=20, probe=probe, rng=s) for s in range(60)]
    truth = (1 + 0.3j) * np.diag(A)
    for run in runs:
        assert run.values.dtype == np.complex128
        assert run.standard_errors.dtype == np.float64
    squares = np.mean([np.abs(run.values - truth) ** 2 for run in runs])
    reported = np.mean([run.standard_errors**2 for run in runs])
    assert squares == pytest.approx(reported, rel=0.2)


def test_an_operator_that_is_not_symmetric():
    """30 entries, each within 5 standard errors of 500 probes: false alarm below 1e-4."""
    A = np.random.default_rng(0).standard_normal((30, 30))
    result = hessops.diagonal(A, num_probes=500, rng=1)
    assert np.all(np.abs(result.values - np.diag(A)) < 5 * result.standard_errors)


def test_a_real_term_of_a_complex_sum_takes_complex_probes():
    real = Diagonal(np.arange(1.0, 6.0))
    other = aslinearoperator(np.diag(1j * np.arange(5.0)))
    result = hessops.diagonal(FiniteSum([real, other]), num_probes=2, probe="steinhaus", rng=0)
    np.testing.assert_allclose(result.values, np.arange(1, 6) + 1j * np.arange(5), atol=1e-14)


@pytest.mark.parametrize("tolerance", [{"atol": 1.5}, {"rtol": 0.05}, {"rtol": 1e-9, "atol": 1.5}])
def test_the_first_stage_fixes_the_number_of_probes(tolerance):
    """Stein (1945): (s / w)^2 probes in all, with s of the first 16, whatever comes after them."""
    A = problems.matrix_of(np.linspace(1, 5, 50))
    for seed in range(5):
        result = hessops.diagonal(A, rng=seed, **tolerance)
        Z = ArraySpace(50).probes(Stream(seed, Purpose.DIAGONAL), range(16), "rademacher")
        deviations = np.std(Z * (A @ Z), axis=1, ddof=1)
        asked = max(tolerance.get("atol", 0), tolerance.get("rtol", 0) * result.norm)
        assert result.converged
        assert result.num_probes >= (np.linalg.norm(deviations) / asked) ** 2
        np.testing.assert_allclose(result.standard_errors, deviations / result.num_probes**0.5)
        assert result.norm_error == pytest.approx(np.linalg.norm(result.standard_errors))
        assert result.norm_error <= asked
        assert result.freedom == 15
        if "rtol" not in tolerance:
            assert result.num_probes == math.ceil((np.linalg.norm(deviations) / asked) ** 2)


def test_the_block_size_does_not_change_where_a_tolerance_is_reached():
    A = problems.matrix_of(np.linspace(1, 5, 50))
    runs = [hessops.diagonal(A, atol=1.5, block_size=size, rng=0) for size in (1, 7, 16, 32)]
    assert runs[0].num_probes % 16 != 0
    for result in runs[1:]:
        assert result.num_probes == runs[0].num_probes
        np.testing.assert_allclose(result.interval, runs[0].interval, rtol=1e-9)


def test_a_tolerance_out_of_reach_warns_and_says_how_many_probes_it_takes():
    A = problems.matrix_of(np.linspace(1, 5, 50))
    with pytest.warns(
        ConvergenceWarning, match=r"all 10 probes; about \d+ would.*raise num_probes"
    ):
        result = hessops.diagonal(A, atol=0.5, num_probes=10, rng=0)
    assert not result.converged
    assert result.num_probes == 10
    needed = int(result.status.partition("about ")[2].split()[0])
    truth = entrywise_variance(A, "rademacher").sum() / 0.5**2
    assert truth / 2 < needed < truth * 2


def test_one_probe_reaches_no_tolerance():
    with pytest.warns(ConvergenceWarning, match="one probe gives no error"):
        result = hessops.diagonal(problems.laplacian_1d(20), num_probes=1, rtol=0.5, rng=0)
    assert not result.converged


def test_a_callback_that_ends_a_run_before_its_tolerance_is_no_success():
    A = problems.matrix_of(np.linspace(1, 5, 50))
    with pytest.warns(ConvergenceWarning, match="stopped by the callback after 16 probes, before"):
        result = hessops.diagonal(A, atol=1e-3, rng=0, callback=lambda state: True)
    assert not result.converged


def test_a_diagonal_without_variance_is_reached_at_once():
    result = hessops.diagonal(Diagonal(np.zeros(5)), rtol=0.1, rng=0)
    assert (result.norm, result.norm_error, result.converged) == (0.0, 0.0, True)


@pytest.mark.parametrize(
    "options", [{"num_probes": 5}, {"method": "hutchinson", "rtol": 0.08}], ids=str
)
def test_norms_and_texts_are_of_the_whole_vector_on_every_rank(options):
    A = problems.matrix_of(np.linspace(1, 5, 12))
    whole = hessops.diagonal(A, rng=0, **options)
    assert whole.norm == pytest.approx(np.linalg.norm(whole.values), rel=1e-14)
    assert "rtol" not in options or 16 < whole.num_probes < 1000

    def work(comm):
        rows = [(0, 3), (3, 12)][comm.rank]
        return hessops.diagonal(ShardedMatrix(A, comm, rows), rng=0, **options)

    results = run_on_ranks(work, 2)
    for result in results:
        assert (result.dim, len(result.values) < 12) == (12, True)
        assert result.num_probes == whole.num_probes
        assert result.norm == pytest.approx(whole.norm, rel=1e-12)
        assert result.norm_error == pytest.approx(whole.norm_error, rel=1e-12)
        cost = f", {whole.num_products} products"
        assert str(result).partition(cost)[0] == str(whole).partition(cost)[0]
    for end in ("low", "high"):
        parts = np.concatenate([getattr(result.interval, end) for result in results])
        np.testing.assert_allclose(parts, getattr(whole.interval, end), rtol=1e-10)


def test_one_probe_gives_values_and_no_errors():
    result = hessops.diagonal(problems.laplacian_1d(20), num_probes=1, rng=0)
    assert np.all(np.isfinite(result.values))
    assert np.all(np.isnan(result.standard_errors))
    assert math.isnan(result.norm_error)


@pytest.mark.parametrize("num_probes", [2, 3, 5, 12, 13])
@pytest.mark.parametrize("block_size", [1, 2, 3, 5, 32])
@pytest.mark.parametrize("stratify", [False, True])
def test_every_block_size_gives_the_same_values_and_finite_errors(num_probes, block_size, stratify):
    operator, _ = batches_of_rows()
    options = {"num_probes": num_probes, "stratify": stratify, "rng": 5}
    expected = hessops.diagonal(operator, block_size=32, **options)
    result = hessops.diagonal(operator, block_size=block_size, **options)
    np.testing.assert_allclose(result.values, expected.values, rtol=1e-11)
    assert result.num_products == num_probes
    assert np.all(np.isfinite(result.standard_errors))
    assert np.all(result.freedom >= num_probes - 1)
    if not stratify:  # the errors of finite sums use the terms within each block
        np.testing.assert_allclose(result.standard_errors, expected.standard_errors, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_errors_of_small_blocks_are_unbiased(block_size):
    """The mean of 400 variances deviates by at most 4 %, relatively: 15 % are about 4 sigma."""
    operator, _ = batches_of_rows()
    parts = [entrywise_variance(t.to_dense(), "rademacher").sum() for t in operator.terms()]
    variance = sum(parts)
    runs = [hessops.diagonal(operator, num_probes=7, block_size=block_size, rng=s) for s in SEEDS]
    assert np.mean([run.norm_error**2 for run in runs]) * 7 == pytest.approx(variance, rel=0.15)


def test_a_callback_ends_the_run():
    result = hessops.diagonal(
        np.eye(4), num_probes=40, block_size=8, rng=0, callback=lambda state: state.step == 2
    )
    assert result.num_probes == 16
    assert "stopped by the callback" in result.status


def test_float32_stays_float32():
    A = problems.matrix_of(np.linspace(1, 5, 20))
    result = hessops.diagonal(A.astype(np.float32), num_probes=16, rng=0)
    assert result.values.dtype == result.standard_errors.dtype == np.float32
    wide = hessops.diagonal(A, num_probes=16, rng=0)
    np.testing.assert_allclose(result.values, wide.values, atol=1e-4)
    np.testing.assert_allclose(result.standard_errors, wide.standard_errors, rtol=1e-3)


def test_torch_tensors_see_the_same_signs():
    torch = pytest.importorskip("torch")
    A = problems.matrix_of(np.linspace(-1, 4, 30))
    ours = hessops.diagonal(A, num_probes=8, rng=0)
    theirs = hessops.diagonal(torch.from_numpy(A), num_probes=8, rng=0)
    assert isinstance(theirs.values, torch.Tensor)
    np.testing.assert_allclose(theirs.values.numpy(), ours.values, atol=1e-13)
    np.testing.assert_allclose(theirs.standard_errors.numpy(), ours.standard_errors, rtol=1e-12)


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(scale, "float64") for scale in (2.0**-900, 2.0**-540, 2.0**500, 2.0**900)]
    + [(scale, "float32") for scale in (2.0**-100, 2.0**80)],
)
def test_errors_scale_with_the_operator_at_every_size(scale, dtype, terms):
    parts = [problems.matrix_of(np.arange(1.0, 9.0), seed).astype(dtype) for seed in range(terms)]

    def run(c):
        factor = np.asarray(c, dtype)
        A = FiniteSum([aslinearoperator(factor * part) for part in parts])
        return hessops.diagonal(A, num_probes=12, block_size=4, rng=0)

    plain, scaled = run(1.0), run(scale)
    # A power of two changes no digit of a product.
    np.testing.assert_array_equal(scaled.values / np.asarray(scale, dtype), plain.values)
    np.testing.assert_allclose(
        scaled.standard_errors / np.asarray(scale, dtype), plain.standard_errors, rtol=1e-6
    )
    np.testing.assert_allclose(scaled.freedom, plain.freedom, rtol=1e-10)
    assert scaled.norm / scale == pytest.approx(plain.norm)
    assert scaled.norm_error / scale == pytest.approx(plain.norm_error)
    assert scaled.values.dtype == scaled.standard_errors.dtype == np.dtype(dtype)
