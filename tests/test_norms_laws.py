"""Laws of all norms and counts: any scale, library, precision and number of ranks; sentences."""

import math
import re
import warnings
from functools import partial

import numpy as np
import pytest
from doubles import ShardedMatrix, run_on_ranks, splits
from strategies import LIBRARIES, Place, normal, with_spectrum

import hessops
from hessops import ConvergenceWarning, NonFiniteError, NotSelfAdjointError, aslinearoperator
from hessops.results.numbers import estimate_text
from hessops.structure import GENERAL, POSITIVE_SEMIDEFINITE

N = 24
SPECTRUM = np.concatenate([np.linspace(0.5, 1.0, N - 6), np.linspace(3.0, 4.0, 6)])
MATRICES = {
    dtype: with_spectrum(SPECTRUM, 0, dtype)
    for dtype in ("float64", "float32", "complex128", "complex64")
}


def verbs(scale=1.0):
    """Every verb, as a function of an operator, with the power of the scale that its value goes by."""
    few = {"num_probes": 6, "rng": 3}
    return {
        "frobenius_norm": (partial(hessops.frobenius_norm, **few), 1),
        "spectral_norm": (partial(hessops.spectral_norm, rng=3), 1),
        "schatten_norm": (partial(hessops.schatten_norm, p=3, num_steps=12, **few), 1),
        "nuclear_norm": (partial(hessops.nuclear_norm, num_steps=12, **few), 1),
        "effective_dimension": (
            partial(hessops.effective_dimension, shift=scale, num_steps=12, **few), 0,
        ),
        "eigenvalue_count": (
            partial(hessops.eigenvalue_count, interval=(2.0 * scale, 9.0 * scale), **few), 0,
        ),
        "numerical_rank": (partial(hessops.numerical_rank, tol=2.0 * scale, **few), 0),
        "condition_number": (partial(hessops.condition_number, rng=3), 0),
    }  # fmt: skip


VERBS = tuple(verbs())
every_verb = pytest.mark.parametrize("name", VERBS)
ERRORS = ("interval", "bracket", "standard_error", "lower_bound", "upper_bound")


def numbers(result, power=0, scale=1.0):
    found = {"value": result.value}
    found |= {name: getattr(result, name) for name in ERRORS if hasattr(result, name)}
    return {name: np.asarray(value) / scale**power for name, value in found.items()}


def assert_same(found, expected, rtol):
    assert found.keys() == expected.keys()
    size = 1.0 + abs(float(expected["value"]))
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=rtol * size, err_msg=name)


def run(verb, operator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return verb(operator)


def definite(matrix):
    return aslinearoperator(matrix, positive_semidefinite=True)


@every_verb
@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1e5, 1e12])
@pytest.mark.parametrize("declare", [definite, aslinearoperator])
def test_any_scale_gives_the_same_digits(name, scale, declare):
    matrix = MATRICES["float64"]
    verb, power = verbs(scale)[name]
    expected = numbers(run(verbs()[name][0], declare(matrix)))
    found = numbers(run(verb, declare(scale * matrix)), power, scale)
    assert_same(found, expected, 1e-9)


@every_verb
@pytest.mark.parametrize("library", [name for name in LIBRARIES if name != "numpy"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_libraries_agree(name, library, dtype):
    verb, _ = verbs()[name]
    expected = run(verb, definite(MATRICES[dtype]))
    found = run(verb, definite(Place(library, dtype).put(MATRICES[dtype])))
    assert_same(numbers(found), numbers(expected), 1e-9)
    assert found.num_products == expected.num_products


@every_verb
@pytest.mark.parametrize(("dtype", "wide"), [("float32", "float64"), ("complex64", "complex128")])
def test_single_precision_loses_digits_and_no_more(name, dtype, wide):
    verb, _ = verbs()[name]
    expected = run(verb, definite(MATRICES[dtype].astype(wide)))
    found = run(verb, definite(MATRICES[dtype]))
    # Squares lose half of the digits of what is small, and an iteration that stops there is off by as
    # much: three of these.
    assert found.value == pytest.approx(expected.value, rel=3 * math.sqrt(np.finfo(dtype).eps))


@every_verb
@pytest.mark.parametrize("split", splits(N)[1:4], ids=str)
@pytest.mark.parametrize("structure", [GENERAL, POSITIVE_SEMIDEFINITE], ids=str)
def test_ranks_give_the_serial_answer(name, split, structure):
    verb, _ = verbs()[name]
    matrix = MATRICES["complex128"]
    if structure is GENERAL:
        if name in {"effective_dimension", "eigenvalue_count", "condition_number"}:
            pytest.skip("is for self-adjoint operators")
        matrix = matrix @ normal(0, (N, N), "complex128") / 4
    whole = ShardedMatrix(matrix, hessops.SerialComm(), (0, N), structure)
    with warnings.catch_warnings():  # Threads share the filters: one for all of them.
        warnings.simplefilter("ignore", ConvergenceWarning)
        serial = verb(whole)
        results = run_on_ranks(
            lambda comm: verb(ShardedMatrix(matrix, comm, split[comm.rank], structure)), len(split)
        )
    for result in results:
        assert_same(numbers(result), numbers(serial), 1e-9)
        assert (result.num_products, result.converged) == (serial.num_products, serial.converged)
        assert result.status == results[0].status


@every_verb
def test_seeds_repeat_runs_and_differ(name):
    verb, _ = verbs()[name]
    A = definite(MATRICES["float64"])
    first, again = run(verb, A), run(verb, A)
    assert first.value == again.value
    assert run(partial(verb, rng=first.seed), A).value == first.value
    assert run(partial(verb, rng=4), A).num_products > 0
    if name in {"frobenius_norm", "eigenvalue_count"}:
        assert run(partial(verb, rng=4), A).value != first.value


@every_verb
def test_results_say_what_they_are_and_are_kept(name, tmp_path):
    result = run(verbs()[name][0], definite(MATRICES["float64"]))
    assert str(result.num_products) in str(result)
    error = getattr(result, "standard_error", None)
    shown = f"{result.value:.4g}"[:4] if error is None else estimate_text(result.value, error)
    assert shown in str(result)
    kept = hessops.load(result.save(tmp_path / name))
    assert str(kept) == str(result)
    assert type(kept) is type(result)
    assert len(result.history) > 0
    assert result.history["num_products"][-1] > 0


@every_verb
def test_callbacks_end_a_run(name):
    verb, _ = verbs()[name]
    states = []
    run(partial(verb, callback=lambda state: not states.append(state)), definite(np.eye(60)))
    assert len(states) == 1


# --- sentences ------------------------------------------------------------------------------

A = MATRICES["float64"]
WRONG = [
    ("frobenius_norm", {"num_probes": 0}, ValueError, "num_probes=0 must be a positive integer"),
    ("frobenius_norm", {"rtol": -0.1}, ValueError, "rtol=-0.1 must be positive and finite"),
    ("frobenius_norm", {"confidence": 95}, ValueError, "confidence=95 must lie between 0 and 1"),
    ("frobenius_norm", {"probe": "gauss"}, ValueError, "probe='gauss' is unknown"),
    ("spectral_norm", {"rtol": 0}, ValueError, "rtol=0 must be positive and finite"),
    ("spectral_norm", {"failure": 1.0}, ValueError, "failure=1.0 must lie between 0 and 1"),
    ("spectral_norm", {"max_steps": 2.5}, ValueError, "max_steps=2.5 must be a positive integer"),
    ("condition_number", {"rtol": math.nan}, ValueError, "rtol=nan must be positive and finite"),
    ("condition_number", {"failure": 0}, ValueError, "failure=0 must lie between 0 and 1"),
    ("schatten_norm", {"p": 0.5}, ValueError, "p=0.5 must be at least 1 and finite"),
    ("schatten_norm", {"p": math.inf}, ValueError, "for the largest singular value use spectral"),
    ("schatten_norm", {"p": "2"}, TypeError, "p='2' must be a real number, not str"),
    ("schatten_norm", {"p": 3, "rtol": 0}, ValueError, "rtol=0 must be positive and finite"),
    ("effective_dimension", {"shift": 0}, ValueError, "shift=0 must be positive and finite"),
    ("effective_dimension", {"shift": 1j}, TypeError, "shift=1j must be a real number"),
    ("eigenvalue_count", {"interval": (2, 1)}, ValueError, r"interval=\(2.0, 1.0\) must be"),
    ("eigenvalue_count", {"interval": (math.nan, 1)}, ValueError, "with low at most high"),
    ("eigenvalue_count", {"interval": 3.0}, ValueError, "interval=3.0 must be two real"),
    ("eigenvalue_count", {"interval": (1, 2, 3)}, ValueError, "must be two real numbers"),
    ("eigenvalue_count", {"interval": (0, 1), "num_steps": 0}, ValueError, "num_steps=0 must be a"),
    ("numerical_rank", {"tol": -1.0}, ValueError, "tol=-1.0 must be positive and finite"),
    ("numerical_rank", {"tol": "x"}, TypeError, "tol='x' must be a real number, not str"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "error", "sentence"), WRONG)
def test_options_out_of_range(name, options, error, sentence):
    with pytest.raises(error, match=sentence):
        getattr(hessops, name)(A, rng=0, **options)


@pytest.mark.parametrize("name", ["effective_dimension", "eigenvalue_count", "condition_number"])
def test_operators_that_are_not_self_adjoint_are_refused(name):
    with pytest.raises(NotSelfAdjointError, match=re.escape(f"{name} needs a self-adjoint")):
        verbs()[name][0](normal(0, (4, 4)))
    with pytest.raises(ValueError, match=f"{name} needs a square operator"):
        verbs()[name][0](np.ones((3, 4)))


@every_verb
def test_products_that_are_not_finite_are_named(name):
    broken = aslinearoperator(lambda X: X * np.nan, shape=6, positive_semidefinite=True)
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        verbs()[name][0](broken)


@every_verb
def test_operators_whose_squares_underflow_are_refused(name):
    with pytest.raises(ValueError, match="squares of that leave the range of double precision"):
        verbs()[name][0](definite(1e-200 * A))
