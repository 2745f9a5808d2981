"""tr f(A): exact answers, intervals, brackets that are flagged when they are too wide."""

import math
import tracemalloc
import warnings
from functools import partial

import array_api_strict
import numpy as np
import problems
import pytest
import scipy.linalg
from doubles import ShardedMatrix, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import psd_matrices, with_spectrum

from hessops import (
    ArraySpace,
    ConvergenceWarning,
    Diagonal,
    Identity,
    NotSelfAdjointError,
    aslinearoperator,
    gallery,
    load,
)
from hessops.algorithms.functions.quadrature import quadrature_steps
from hessops.algorithms.functions.trace_function import (
    estrada_index,
    logdet,
    trace_function,
    trace_inverse,
)
from hessops.random import Purpose, Stream
from hessops.spectral_function import spectral_function
from hessops.structure import SELF_ADJOINT


def quiet(verb, *args, **options):
    """Run a verb whose warning is not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return verb(*args, **options)


def assert_within(result, exact, sigmas=4):
    """4 standard errors: a false alarm in about 2,000, by Student's t with 30 degrees of freedom.

    Where controls leave nothing to chance, only rounding is left.
    """
    assert abs(result.value - exact) <= sigmas * result.standard_error + result.rounding_error


# Exact answers of the test bed.


def test_laplacian_1d():
    """T4: logdet = ln 101, trace of the inverse 1700, by probes on 100 steps."""
    A, ends = problems.laplacian_1d(100), problems.laplacian_1d_eigenvalues(100)[[0, -1]]
    options = {"num_probes": 64, "num_steps": 100, "interval": tuple(ends), "rng": 0}
    determinant, inverse = logdet(A, **options), trace_inverse(A, **options)
    assert_within(determinant, math.log(101))
    assert_within(inverse, 1700.0)
    assert determinant.bracket_kind == inverse.bracket_kind == "certified"
    assert determinant.converged
    assert determinant.num_products == 6400


@pytest.mark.parametrize(
    ("f", "exact"),
    [
        ("log", 1065.0006883542344),
        ("inverse", 512.6441819996354),
        ("square", 17880.0),
        (lambda x: np.exp(-x), 81.98578441457524),
    ],
)
def test_laplacian_2d(f, exact):
    """T5: 40 steps, 30 probes."""
    options = {"derivative_signs": (1, -1)} if callable(f) else {}
    result = trace_function(
        problems.laplacian_2d(30),
        f,
        num_probes=30,
        num_steps=40,
        interval=(0.0205, 7.98),
        rng=0,
        **options,
    )
    assert_within(result, exact)
    assert result.converged
    assert result.bracket_kind == "certified"


def test_toeplitz_gram():
    """T8: logdet = 2 n ln 2 and the trace of the inverse; spectrum within (1, 9)."""
    A = problems.toeplitz_gram(1000)
    options = {"num_probes": 50, "num_steps": 30, "interval": (1.0, 9.0), "rng": 0}
    with_controls = logdet(A, **options)
    assert_within(with_controls, 1386.2943611198907)
    options["power_traces"] = ()
    determinant = logdet(A, **options)
    assert with_controls.standard_error < determinant.standard_error / 4
    assert_within(determinant, 1386.2943611198907)
    # The standard error that theory gives is 4.6, 0.35 % of the value.
    assert determinant.standard_error == pytest.approx(4.6, rel=0.35)
    assert determinant.bracket.high - determinant.bracket.low < 1e-8
    assert_within(trace_inverse(A, **options), 333.2222222222)


def test_kneser_graph_ends_after_five_steps():
    """T9: five distinct eigenvalues."""
    A = aslinearoperator(problems.kneser(11, 4))
    options = {"num_probes": 40, "reorthogonalize": True, "rng": 0}
    result = trace_function(A, lambda x: np.exp(x / 10), derivative_signs=(1, 1), **options)
    assert_within(result, 410.16161178965865)
    assert result.num_steps == 5
    assert result.num_products == 200
    assert result.bracket_kind == "certified"
    assert_within(logdet(A + 21.0 * Identity(A.domain), **options), 976.7962613383875)


def test_hypercube_ends_after_eleven_steps():
    """T10: the Estrada index (2 cosh 1)^10 and a log-determinant."""
    A = aslinearoperator(problems.hypercube(10))
    options = {"num_probes": 40, "reorthogonalize": True, "rng": 2}
    result = estrada_index(A, **options)
    assert result.num_steps == 11
    assert_within(result, 78376.55438717028)
    assert_within(logdet(12.0 * Identity(A.domain) - A, **options), 2504.4853773661307)


@pytest.mark.parametrize(("beta", "exact"), [(0.6, 10.035528609005526), (3.0, 38.87472015968998)])
def test_partition_function_of_the_ising_ring(beta, exact):
    """T13: ln tr exp(-beta H), ten spins, field 1; H - b with the ground state energy b."""
    H, ground = gallery.transverse_field_ising(10, 1.0).operator, -12.784906442999324
    shifted = -beta * (H - ground * Identity(H.domain))
    result = estrada_index(shifted, num_probes=100, num_steps=40, interval=(-80.0, 0.0), rng=0)
    assert_within(result, math.exp(exact + beta * ground))
    assert result.bracket_kind == "certified"
    assert result.bracket.high - result.bracket.low < 1e-9 * result.value


def test_marchenko_pastur():
    """T17: the mean logarithm, of a sample and in the limit."""
    A = problems.marchenko_pastur(600, 0.5, 0)
    exact = np.linalg.slogdet(A)[1] / 600
    assert exact == pytest.approx(problems.marchenko_pastur_log_mean(0.5), abs=0.003)
    result = logdet(A, num_probes=60, num_steps=40, rng=0)
    assert_within(result, 600 * exact)
    assert result.converged


def test_strakos():
    """T2: signs see a diagonal matrix without variance, so that the answers are exact."""
    operator = Diagonal(problems.strakos_eigenvalues())
    options = {"num_probes": 4, "reorthogonalize": True, "rng": 0}
    assert logdet(operator, **options).value == pytest.approx(30.487035536063914, rel=1e-12)
    assert trace_inverse(operator, **options).value == pytest.approx(37.3591700213145, rel=1e-11)
    assert logdet(operator, **options).converged


# Honesty about the quadrature.


@pytest.mark.parametrize("interval", [None, (1e-8, 1.0)])
@pytest.mark.parametrize(("verb", "steps"), [(logdet, 20), (trace_inverse, 80)])
def test_ill_conditioned_operators_are_flagged(verb, steps, interval):
    """T15: the probes agree to a few per cent on a number that is far off."""
    operator = Diagonal(np.logspace(-8, 0, 2000))
    exact = {logdet: -18420.680743952367, trace_inverse: 10902010049.660772}[verb]
    with pytest.warns(ConvergenceWarning, match="not to be trusted"):
        result = verb(
            operator, num_probes=20, num_steps=steps, probe="sphere", interval=interval, rng=0
        )
    assert result.standard_error < 0.03 * abs(result.value)
    assert abs(result.value - exact) > 20 * result.standard_error
    assert not result.converged
    assert not result.interval.low <= exact <= result.interval.high
    Z = operator.domain.probes(Stream(0, Purpose.FUNCTION), range(20), "sphere")
    values = np.logspace(-8, 0, 2000)
    of_probes = np.mean((np.log(values) if verb is logdet else 1 / values) @ Z**2)
    assert result.bracket.low <= of_probes <= result.bracket.high
    if interval is None:
        assert result.bracket_kind == "open"
        assert "only known to lie between" in result.status
        assert math.isinf(result.steps_needed)
    else:
        assert result.bracket_kind == "certified"
        assert "steps would do" in result.status
        assert result.steps_needed > steps
        if verb is trace_inverse:
            assert result.bracket.high / result.bracket.low > 1e3


@pytest.mark.parametrize("num_steps", [4, 6, 8, 10])
def test_hilbert_matrix_is_flagged(num_steps):
    """T19: the condition number is 1.6e13."""
    A = scipy.linalg.hilbert(10)
    result = quiet(logdet, A, num_steps=num_steps, rng=0)
    assert not result.converged
    assert "not to be trusted" in result.status


def test_a_hilbert_matrix_that_is_singular_to_rounding_is_flagged_or_refused():
    """T19: also where Krylov spaces are exhausted, rounding is part of the answer."""
    A = scipy.linalg.hilbert(10)
    result = quiet(logdet, A, num_probes=32, num_steps=30, reorthogonalize=True, rtol=1e-6, rng=0)
    assert not result.converged
    with pytest.raises(ValueError, match=r"log needs eigenvalues above 0.*to rounding"):
        quiet(logdet, scipy.linalg.hilbert(14), num_steps=30, reorthogonalize=True, rng=0)


def test_the_number_of_steps_said_to_do_does():
    """For a rate of convergence that stays the same: to a factor of two."""
    A, ends = problems.laplacian_2d(30), (0.0205, 7.98)
    early = quiet(trace_inverse, A, num_probes=8, num_steps=12, interval=ends, rng=0)
    assert not early.converged
    needed = int(early.steps_needed)
    assert 12 < needed < 200
    options = {"num_probes": 8, "interval": ends, "rng": 0}
    later = trace_inverse(A, num_steps=needed, **options)
    assert later.converged
    assert later.steps_needed == needed
    assert not quiet(trace_inverse, A, num_steps=needed // 2, **options).converged


def test_the_number_of_steps_for_a_far_tolerance():
    """Twelve digits further, by the rate of the first twenty steps."""
    A, options = problems.laplacian_2d(30), {"interval": (0.0205, 7.98), "num_probes": 8, "rng": 0}
    early = quiet(trace_inverse, A, num_steps=20, atol=1e-9, **options)
    later = quiet(trace_inverse, A, num_steps=500, atol=1e-9, **options)
    assert later.quadrature_error <= 1e-9
    assert 0.5 < early.steps_needed / later.num_steps < 2


def test_a_function_without_signs_is_watched_and_not_bracketed():
    A = problems.matrix_of(np.linspace(-1, 1, 200))
    result = trace_function(A, "abs", num_probes=20, num_steps=40, rng=0)
    assert_within(result, np.sum(np.abs(np.linspace(-1, 1, 200))))
    assert result.converged
    assert result.bracket_kind == "none"
    assert "no bracket without the signs of the derivatives" in result.status
    coarse = quiet(trace_function, A, "abs", num_probes=20, num_steps=30, atol=1e-3, rng=0)
    assert not coarse.converged
    assert "still changed by" in coarse.status


def test_a_single_probe():
    values = np.linspace(1.0, 2.0, 50)
    result = logdet(Diagonal(values), num_probes=1, num_steps=20, rng=0)
    assert result.interval == (-math.inf, math.inf)
    assert math.isnan(result.standard_error)
    assert "one probe gives no error" in result.status
    wide = quiet(logdet, Diagonal(np.geomspace(1e-6, 1, 50)), num_probes=1, num_steps=5, rng=0)
    assert not wide.converged


def test_float32_says_what_rounding_may_do():
    """1e-6 beside 1 is about ten roundings of single precision."""
    A = with_spectrum(np.geomspace(4e-5, 1.0, 40), 0, "float32")
    options = {"num_probes": 32, "num_steps": 60, "reorthogonalize": True, "rtol": 1e-3}
    result = quiet(logdet, A, **options, rng=0)
    assert not result.converged
    assert "rounding of the products may change the value" in result.status
    exact = np.sum(np.log(np.geomspace(4e-5, 1.0, 40)))
    assert abs(result.value - exact) <= 4 * result.standard_error + result.rounding_error


# Tolerances.


@pytest.mark.parametrize("options", [{"rtol": 0.02}, {"atol": 15.0}])
def test_a_tolerance_fixes_steps_and_probes(options):
    A = problems.laplacian_2d(30)
    result = logdet(A, interval=(0.0205, 7.98), rng=1, **options)
    target = max(options.get("rtol", 0) * abs(result.value), options.get("atol", 0))
    assert result.converged
    assert (result.interval.high - result.interval.low) / 2 <= target * (1 + 1e-9)
    assert result.quadrature_error <= 0.2 * target
    assert result.num_steps < 40
    assert result.num_probes >= 16
    assert result.interval.low <= 1065.0006883542344 <= result.interval.high


def test_a_smaller_tolerance_takes_more_steps_and_more_probes():
    A = problems.laplacian_2d(20)
    loose, tight = (trace_inverse(A, rtol=rtol, rng=0, interval=(0.04, 8)) for rtol in (0.1, 0.02))
    assert tight.num_steps > loose.num_steps
    assert tight.num_probes > loose.num_probes


def test_too_few_probes_or_steps_for_a_tolerance():
    A = problems.laplacian_2d(20)
    options = {"rtol": 1e-3, "interval": (0.04, 8.0), "rng": 0}
    few_probes = quiet(logdet, A, num_probes=20, **options)
    assert "would reach the tolerance: raise num_probes" in few_probes.status
    few_steps = quiet(logdet, A, num_steps=6, **options)
    assert "not to be trusted" in few_steps.status
    # More probes would be wasted on it.
    assert few_steps.num_probes == 16
    assert not few_probes.converged
    assert not few_steps.converged


# Laws.


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 7.0, 1e12])
def test_logdet_of_a_multiple(scale):
    values = np.geomspace(0.1, 3.0, 60)
    A = problems.matrix_of(values)
    options = {"num_probes": 6, "num_steps": 15, "rng": 0}
    one = logdet(A, interval=(0.09, 3.1), **options)
    other = logdet(scale * A, interval=(0.09 * scale, 3.1 * scale), **options)
    shift = 60 * math.log(scale)
    roundings = 1e-11 * (abs(shift) + 60)
    assert other.value - shift == pytest.approx(one.value, abs=roundings)
    assert other.bracket.low - shift == pytest.approx(one.bracket.low, abs=roundings)
    assert other.bracket.high - shift == pytest.approx(one.bracket.high, abs=roundings)
    assert other.standard_error == pytest.approx(one.standard_error, abs=roundings)
    inverse = trace_inverse(scale * A, **options)
    expected = trace_inverse(A, **options).value / scale
    assert inverse.value == pytest.approx(expected, rel=1e-9)


@given(psd_matrices(5), st.integers(0, 1000), st.sampled_from(["rademacher", "normal", "sphere"]))
def test_full_krylov_spaces_give_the_quadratic_forms(matrix, seed, probe):
    scale = max(np.linalg.norm(matrix, 2), 1e-3)
    matrix = matrix / scale + 0.1 * np.eye(5)
    options = {"num_probes": 3, "num_steps": 5, "reorthogonalize": True, "rng": seed}
    result = quiet(logdet, matrix, probe=probe, power_traces=(), **options)
    Z = ArraySpace(5).probes(Stream(seed, Purpose.FUNCTION), range(3), probe)
    forms = np.sum(Z * (scipy.linalg.logm(matrix) @ Z), axis=0)
    assert result.value == pytest.approx(np.mean(forms), abs=1e-9)
    expected = np.std(forms, ddof=1) / math.sqrt(3)
    assert result.standard_error == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("probe", ["rademacher", "normal", "sphere", "steinhaus"])
def test_complex_operators(probe):
    values = np.linspace(0.5, 4.0, 80)
    A = problems.matrix_of(values, 1, np.complex128)
    result = logdet(A, num_probes=60, num_steps=20, probe=probe, interval=(0.5, 4.0), rng=0)
    assert_within(result, np.sum(np.log(values)))
    assert result.converged


def test_libraries_agree():
    values = np.linspace(0.5, 4.0, 40)
    A = problems.matrix_of(values)
    options = {"num_probes": 5, "num_steps": 10, "interval": (0.5, 4.0), "rng": 3}
    expected = logdet(A, **options)
    moved = [array_api_strict.asarray(A)]
    torch = pytest.importorskip("torch")
    moved.append(torch.tensor(A))
    for matrix in moved:
        found = logdet(aslinearoperator(matrix, self_adjoint=True), **options)
        assert found.value == pytest.approx(expected.value, rel=1e-12)
        assert found.bracket == pytest.approx(expected.bracket, rel=1e-10)
        assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-10)


@pytest.mark.parametrize("split", splits(37), ids=str)
def test_ranks_agree(split):
    """T26."""
    matrix = with_spectrum(np.linspace(0.5, 3.0, 37), 0)
    operator = aslinearoperator(matrix, self_adjoint=True)
    traces = operator.power_traces()
    verb = partial(logdet, rtol=0.05, interval=(0.4, 3.1), power_traces=traces, rng=4)
    serial = verb(operator)

    def work(comm):
        return verb(ShardedMatrix(matrix, comm, split[comm.rank], SELF_ADJOINT))

    for result in run_on_ranks(work, len(split)):
        assert result.value == pytest.approx(serial.value, rel=1e-12)
        assert result.interval == pytest.approx(serial.interval, rel=1e-12)
        assert (result.num_probes, result.num_steps) == (serial.num_probes, serial.num_steps)
        assert result.num_products == serial.num_products


@pytest.mark.parametrize("block_size", [1, 3, 7, 20])
def test_the_size_of_blocks_does_not_matter(block_size):
    A = problems.matrix_of(np.linspace(0.5, 4.0, 50))
    options = {"num_probes": 14, "num_steps": 8, "interval": (0.5, 4.0), "rng": 0}
    one, other = logdet(A, block_size=14, **options), logdet(A, block_size=block_size, **options)
    assert other.value == pytest.approx(one.value, rel=1e-12)
    assert other.bracket == pytest.approx(one.bracket, rel=1e-10)
    assert other.standard_error == pytest.approx(one.standard_error, rel=1e-9)
    assert other.num_products == one.num_products == 14 * 8


def test_history_and_callback_and_file(tmp_path):
    A = problems.matrix_of(np.linspace(0.5, 4.0, 50))
    steps = []
    result = logdet(A, num_probes=4, num_steps=12, rng=0, callback=lambda s: steps.append(s.step))
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12]
    assert result.history["step"].tolist() == steps
    assert result.history["num_products"].tolist() == [4 * k for k in steps]
    assert result.history["estimate"][-1] == result.value
    again = load(result.save(tmp_path / "logdet"))
    assert again.bracket == result.bracket
    assert again.bracket_kind == result.bracket_kind
    assert str(again) == str(result)
    assert "tr log(A) = " in str(result)
    stopped = quiet(logdet, A, num_steps=30, rng=0, callback=lambda state: state.step == 3)
    assert stopped.num_steps == 3


def test_a_seed_repeats_a_run_and_purposes_differ():
    A = problems.matrix_of(np.linspace(0.5, 4.0, 50))
    result = logdet(A, num_probes=4, num_steps=12)
    assert logdet(A, num_probes=4, num_steps=12, rng=result.seed).value == result.value


def test_the_engine_by_hand():
    """Every checkpoint of the first block, and the ends of the other four."""
    values = np.linspace(1.0, 2.0, 500)
    states = list(
        quadrature_steps(
            Diagonal(values),
            spectral_function("log"),
            stream=Stream(0),
            num_probes=10,
            num_steps=4,
            block_size=2,
        )
    )
    assert [state.num_probes for state in states] == [2, 2, 2, 2, 4, 6, 8, 10]
    assert [state.complete for state in states] == [False] * 3 + [True] * 5
    assert [state.step for state in states] == [1, 2, 3, 4, 8, 12, 16, 20]
    assert states[-1].num_products == 40
    assert states[-1].bracket().low <= np.sum(np.log(values)) <= states[-1].bracket().high


def test_memory():
    """Five blocks of vectors, however many blocks there are."""
    operator = Diagonal(np.linspace(1.0, 2.0, 100_000))
    tracemalloc.start()
    try:
        logdet(operator, num_probes=8, num_steps=6, block_size=2, interval=(1.0, 2.0), rng=0)
        peak = tracemalloc.get_traced_memory()[1] / (2 * 8 * 100_000)
    finally:
        tracemalloc.stop()
    assert peak < 5.5


def test_declared_definiteness_is_a_known_bound():
    values = np.linspace(0.0, 4.0, 50)
    A = aslinearoperator(np.diag(values), positive_semidefinite=True)
    result = quiet(trace_function, A, "sqrt", num_probes=2, num_steps=30, rng=0)
    assert result.bracket_kind == "certified"
    assert result.bounds.low == 0.0
    assert result.bracket.low <= np.sum(np.sqrt(values)) <= result.bracket.high


# Bad input, in sentences.


@pytest.mark.parametrize(
    ("f", "message"),
    [
        ("cosine", "f='cosine' is unknown; choose one of log, inverse"),
        (lambda x: x[:1], "returned shape"),
        (np.sum, r"sum returned shape \(\)"),
        (lambda x: x + 1j, "returned complex numbers"),
        (lambda x: np.where(x > 2, np.nan, x), "returned nan at the Ritz value"),
        (lambda x: 1e300**x, "returned inf at the Ritz value"),
    ],
)
def test_bad_functions(f, message):
    with pytest.raises(ValueError, match=message):
        trace_function(Diagonal(np.linspace(1.0, 3.0, 20)), f, rng=0)


def test_no_function():
    with pytest.raises(TypeError, match="must be a callable or one of log"):
        trace_function(np.eye(3), 2.0)


@pytest.mark.parametrize("signs", [(1,), (2, 1), (1, 1, 1)])
def test_bad_signs(signs):
    with pytest.raises(ValueError, match="must be two of -1, 0, 1 and None"):
        trace_function(np.eye(3), np.exp, derivative_signs=signs)


def test_named_functions_bring_their_signs():
    with pytest.raises(ValueError, match="log brings its own signs"):
        trace_function(np.eye(3), "log", derivative_signs=(1, 1))


@pytest.mark.parametrize("verb", [logdet, trace_inverse])
def test_operators_that_are_not_positive_definite_are_named(verb):
    with pytest.raises(ValueError, match=r"smallest Ritz value is -0\.\d+, so the operator is not"):
        verb(np.diag([-1.0, 1.0, 2.0]), rng=0)
    with pytest.raises(ValueError, match=r"is -?[\d.e-]+, which is 0 to rounding"):
        verb(np.diag([0.0, 1.0, 2.0]), reorthogonalize=True, rng=0)
    with pytest.raises(ValueError, match=r"is [45][\d.]+e-15, which is 0 to rounding"):
        verb(np.diag([5e-15, 1.0, 2.0]), reorthogonalize=True, rng=0)
    assert trace_function(np.diag([0.0, 1.0, 4.0]), "sqrt", rng=0).value == pytest.approx(3.0)
    with pytest.raises(ValueError, match="sqrt needs eigenvalues 0 or above"):
        trace_function(np.diag([-1.0, 1.0, 4.0]), "sqrt", rng=0)


def test_bad_operators():
    with pytest.raises(ValueError, match="logdet needs a square operator"):
        logdet(np.ones((3, 2)))
    with pytest.raises(NotSelfAdjointError, match="trace_inverse needs a self-adjoint operator"):
        trace_inverse(np.triu(np.ones((3, 3))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_probes": 0}, "num_probes=0 must be a positive integer"),
        ({"num_steps": 1.5}, "num_steps=1.5 must be a positive integer"),
        ({"rtol": -1.0}, "rtol=-1.0 must be positive"),
        ({"confidence": 1.0}, "confidence=1.0 must lie between"),
        ({"interval": (2.0, 1.0)}, r"interval=\(2.0, 1.0\) must be \(low, high\)"),
        ({"interval": (1.5, 9.0)}, "does not hold the spectrum"),
        ({"probe": "coin"}, "probe='coin' is unknown"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        logdet(np.diag([1.0, 2.0, 3.0]), rng=0, **options)


def test_warnings_point_at_the_caller():
    with pytest.warns(ConvergenceWarning) as caught:
        logdet(Diagonal(np.geomspace(1e-8, 1, 100)), num_steps=4, rng=0)
    assert [w.filename for w in caught] == [__file__]
