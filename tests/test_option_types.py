"""Options that are numbers of NumPy's, which are welcome, and arrays of them, which are not."""

import numpy as np
import problems
import pytest

import hessops
from hessops import aslinearoperator
from hessops.gallery import laplacian_1d
from hessops.statistics import probes_needed

MATRIX = np.diag(np.linspace(1.0, 2.0, 12))
DEFINITE = aslinearoperator(MATRIX, positive_semidefinite=True)
TWO = np.array([0.4, 0.5])

ARRAYS = [
    *((verb, {"k": 2}, "tol") for verb in ("eigsh", "svds", "lobpcg")),
    *((verb, {"k": 2}, "confidence") for verb in ("randomized_svd", "randomized_eigh")),
    *((verb, {}, "tol") for verb in ("randomized_svd", "randomized_eigh", "nystrom")),
    *((verb, {"tol": 0.1}, "frobenius_norm") for verb in ("randomized_svd", "randomized_eigh")),
    ("nystrom", {"rank": 2}, "confidence"),
    ("nystrom_preconditioner", {"rank": 2, "shift": 0.1}, "confidence"),
    ("numerical_rank", {"tol": 0.1}, "confidence"),
    ("eigenvalue_count", {"interval": (0, 1)}, "confidence"),
    ("frobenius_norm", {}, "rtol"),
    ("schatten_norm", {"p": 3}, "rtol"),
    ("nuclear_norm", {}, "rtol"),
    *(("spectral_norm", {}, name) for name in ("rtol", "failure")),
    *(("condition_number", {}, name) for name in ("rtol", "failure")),
    ("spectrum", {}, "accuracy"),
    ("logdet", {}, "rtol"),
    ("trace", {}, "atol"),
    ("matrix_function", {"f": "exp", "v": np.ones(12)}, "tol"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "options", "name"), ARRAYS, ids=str)
def test_an_array_is_no_number(verb, options, name):
    with pytest.raises(TypeError, match=rf"{name}=array.* must be a real number, not ndarray"):
        getattr(hessops, verb)(DEFINITE, **options, **{name: TWO})


TOLERANCES = [(verb, options) for verb, options, name in ARRAYS if name == "tol"]


@pytest.mark.parametrize("tol", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize(("verb", "options"), TOLERANCES, ids=str)
def test_a_tolerance_that_asks_for_nothing_is_none(verb, options, tol):
    with pytest.raises(ValueError, match=rf"tol={tol} (must be positive and finite|is below)"):
        getattr(hessops, verb)(DEFINITE, **options, tol=tol)


def test_an_option_that_the_gallery_has_not_is_named():
    with pytest.raises(TypeError, match="has no option 'dtyp': did you mean dtype"):
        laplacian_1d(5, dtyp=np.float32)


@pytest.mark.parametrize("verb", ["trace", "diagonal"])
def test_a_sum_that_is_not_to_be_stratified_is_taken_as_a_whole(verb):
    parts = [aslinearoperator(problems.matrix_of(np.linspace(0.0, x, 400))) for x in (1.0, 2.0)]
    result = getattr(hessops, verb)(hessops.FiniteSum(parts), stratify=False, rng=0)
    assert "fresh probe" not in result.reason
    assert "fresh probe" in getattr(hessops, verb)(hessops.FiniteSum(parts), rng=0).reason


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("verb", ["trace", "diagonal", "logdet", "trace_inverse"])
def test_tolerances_of_single_precision_are_those_of_double(verb, name):
    runs = [
        getattr(hessops, verb)(DEFINITE, **{name: kind(0.5)}, rng=0) for kind in (float, np.float32)
    ]
    for run in runs:
        assert run.converged
    assert runs[0].num_probes == runs[1].num_probes


def test_a_half_width_of_single_precision_does_not_overflow():
    assert probes_needed(1e10, np.float32(1e-30), 2.0) == pytest.approx(4e80, rel=1e-6)
