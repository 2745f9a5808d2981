"""Bad input to every verb: each its own sentence, of our own kind of error."""

import re

import numpy as np
import pytest
import scipy.sparse as sp

import hessops
from hessops import NonFiniteError, NotSelfAdjointError, aslinearoperator

GOOD = np.diag(np.arange(1.0, 7.0))
# What a verb cannot do without.
VERBS = {
    "trace": {},
    "diagonal": {},
    "lanczos": {"num_steps": 3},
    "eigsh": {"k": 1},
    "lobpcg": {"k": 1},
    "power_iteration": {},
    "spectral_density": {},
}
LANCZOS_AND_POWER = ["lanczos", "power_iteration", "spectral_density"]
SELF_ADJOINT_VERBS = [verb for verb in VERBS if verb not in {"trace", "diagonal"}]


def call(verb, operator, **options):
    return getattr(hessops, verb)(operator, **{**VERBS[verb], "rng": 0, **options})


def spoilt(bad):
    A = GOOD.copy()
    A[2, 3] = bad
    return A


def function(product, **options):
    return aslinearoperator(product, shape=6, self_adjoint=True, **options)


OPERATORS = {
    "NaN": (spoilt(np.nan), NonFiniteError, "the matrix holds 1 entries that are NaN or infinite"),
    "infinity": (spoilt(np.inf), NonFiniteError, "holds 1 entries that are NaN or infinite"),
    "sparse NaN": (sp.csr_array(spoilt(np.nan)), NonFiniteError, "holds 1 entries that are NaN"),
    "products of NaN": (
        function(lambda X: X * np.nan), NonFiniteError, r"product \d+ with FunctionOperator\(6x6",
    ),
    "rectangular": (np.ones((3, 4)), ValueError, r"{verb} needs a square operator, got .*\(3, 4\)"),
    "a vector": (np.ones(3), ValueError, r"expected a matrix.*got shape \(3,\)"),
    "three axes": (np.ones((2, 2, 2)), ValueError, r"expected a matrix.*got shape \(2, 2, 2\)"),
    "empty": (np.zeros((0, 0)), ValueError, r"at least one row and column, got shape \(0, 0\)"),
    "integers": (np.eye(3, dtype=int), TypeError, "dtype int64.*convert it to a floating type"),
    "booleans": (np.eye(3, dtype=bool), TypeError, "dtype bool.*convert it to a floating type"),
    "sparse integers": (sp.eye_array(3, dtype=int), TypeError, "dtype int64.*floating type"),
    "a list": ([[1.0, 0.0], [0.0, 1.0]], TypeError, "cannot make a linear operator of list"),
    "None": (None, TypeError, "cannot make a linear operator of NoneType"),
    "a function of unknown size": (lambda X: X, ValueError, "pass shape=n"),
    "products of a wrong shape": (
        function(lambda X: X[:2]), ValueError, r"returned shape \(2, \d+\) for a block of shape",
    ),
    "products that are no array": (
        function(lambda X: X.tolist()), TypeError, "returned list, not an array",
    ),
    "products of higher precision": (
        function(lambda X: X.astype(np.float64), dtype=np.float32),
        TypeError,
        "returned float64 for a block of float32; declare dtype='float64'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("verb", VERBS)
def test_operators_that_no_verb_can_use(verb, name):
    operator, error, sentence = OPERATORS[name]
    with pytest.raises(error, match=sentence.replace("{verb}", verb)):
        call(verb, operator)


@pytest.mark.parametrize("verb", SELF_ADJOINT_VERBS)
def test_operators_that_are_not_known_to_be_self_adjoint(verb):
    A = np.triu(np.ones((4, 4)))
    sentence = f"{verb} needs a self-adjoint operator and .* is not known to be"
    for operator in (A, sp.csr_array(A), aslinearoperator(lambda X: X, shape=4), 1j * np.eye(4)):
        with pytest.raises(NotSelfAdjointError, match=sentence):
            call(verb, operator)


def test_a_matrix_declared_self_adjoint_that_is_not():
    A = np.triu(np.ones((4, 4)))
    for matrix in (A, sp.csr_array(A), A + 1j):
        with pytest.raises(NotSelfAdjointError, match=r"declared self-adjoint, but max \|A - A\^H"):
            aslinearoperator(matrix, self_adjoint=True)


def test_a_complex_trace():
    with pytest.raises(ValueError, match=r"may be complex.*\(A \+ A\.H\) / 2"):
        hessops.trace(np.triu(np.ones((3, 3))) * 1j, rng=0)


COUNTS = [
    ("trace", "num_probes"), ("trace", "block_size"), ("diagonal", "num_probes"),
    ("diagonal", "block_size"), ("lanczos", "num_steps"), ("eigsh", "k"), ("eigsh", "max_steps"),
    ("lobpcg", "k"), ("lobpcg", "max_steps"), ("lobpcg", "block_size"),
    ("power_iteration", "num_eigenpairs"), ("power_iteration", "max_steps"),
    ("power_iteration", "block_size"), ("spectral_density", "num_probes"),
    ("spectral_density", "num_steps"),
]  # fmt: skip


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
@pytest.mark.parametrize(("verb", "option"), COUNTS)
def test_counts(verb, option, value):
    with pytest.raises(ValueError, match=rf"{option}={value!r} must be a positive integer"):
        call(verb, GOOD, **{option: value})


# Two steps are too few to converge.
@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize(("verb", "option"), COUNTS)
def test_counts_may_be_numpy_integers(verb, option):
    ours, theirs = (call(verb, GOOD, **{option: count}) for count in (2, np.int64(2)))
    assert theirs.num_products == ours.num_products > 0


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("rng", "error", "sentence"),
    [
        (-1, ValueError, "rng=-1 is no seed"),
        (2**64, ValueError, r"at least 0 and below 2\*\*64"),
        (1.5, TypeError, "rng=1.5 is a float; pass an integer seed"),
        ("seed", TypeError, "rng='seed' is a str; pass an integer seed"),
        (True, TypeError, "rng=True is a truth value"),
        (np.random.RandomState(0), TypeError, "is a RandomState; pass an integer seed"),
    ],
)
def test_seeds(verb, rng, error, sentence):
    with pytest.raises(error, match=sentence):
        call(verb, GOOD, rng=rng)


OPTIONS = [
    *[
        (verb, {option: value}, f"{option}={value} must be positive and finite")
        for verb in ("trace", "diagonal")
        for option in ("rtol", "atol")
        for value in (0, -0.1, np.nan, np.inf)
    ],
    *[
        (verb, {"confidence": value}, f"confidence={value} must lie between 0 and 1, e.g. 0.95")
        for verb in ("trace", "diagonal")
        for value in (0, 1, 95, -0.5, np.nan)
    ],
    *[
        (verb, {"probe": "gauss"}, "probe='gauss' is unknown; choose one of rademacher, .*sphere")
        for verb in ("trace", "diagonal", "spectral_density")
    ],
    *[
        (verb, {"probe": "steinhaus"}, "this operator is real; use 'rademacher'")
        for verb in ("trace", "diagonal", "spectral_density")
    ],
    *[
        (verb, {"tol": value}, f"tol={value} must be positive")
        for verb in ("eigsh", "power_iteration")
        for value in (0, -1e-3, np.nan)
    ],
    ("eigsh", {"k": 7}, "k=7 eigenpairs asked of an operator of dimension 6"),
    ("eigsh", {"which": "SM"}, "which='SM' is unknown; choose one of LM, LA, SA, BE"),
    ("power_iteration", {"num_eigenpairs": 7}, "num_eigenpairs=7 asked of .* dimension 6"),
    ("power_iteration", {"method": "inverse"}, "method='inverse' is unknown; choose 'block' or"),
    (
        "power_iteration",
        {"num_eigenpairs": 3, "block_size": 2},
        "block_size=2 is below num_eigenpairs=3",
    ),
]


@pytest.mark.parametrize(("verb", "options", "sentence"), OPTIONS)
def test_options_out_of_range(verb, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(verb, GOOD, **options)


@pytest.mark.parametrize("verb", ["lanczos", "eigsh"])
@pytest.mark.parametrize(
    ("start", "error", "sentence"),
    [
        (np.zeros(6), ValueError, "a start vector has norm 0; it must be finite and not zero"),
        (np.full(6, np.nan), ValueError, "a start vector has norm nan"),
        (np.ones(5), ValueError, r"expected 6 rows, got a block of shape \(5, 1\)"),
        (np.ones((6, 1)), ValueError, r"one vector of shape \(n,\), got shape \(6, 1\)"),
        ([1.0] * 6, ValueError, r"one vector of shape \(n,\), got list"),
        (np.ones(6, dtype=int), TypeError, "integer or boolean dtype int64"),
        (np.ones(6) * 1j, TypeError, "complex128 and the operator float64: digits would be lost"),
    ],
)
def test_start_vectors(verb, start, error, sentence):
    with pytest.raises(error, match=sentence):
        call(verb, GOOD, start=start)


@pytest.mark.parametrize("method", ["block", "deflated"])
@pytest.mark.parametrize(
    ("start", "error", "sentence"),
    [
        (np.zeros((6, 1)), ValueError, "a start vector has norm 0; it must be finite and not zero"),
        (np.full((6, 1), np.nan), ValueError, "a start vector has norm nan"),
        (np.ones((5, 1)), ValueError, r"expected 6 rows, got a block of shape \(5, 1\)"),
        (np.ones(6), ValueError, r"start must have shape .* or fewer columns, got shape \(6,\)"),
        (np.ones((6, 7)), ValueError, r"start must have shape .*, got shape \(6, 7\)"),
        ([[1.0]] * 6, ValueError, "start must have shape .*, got list"),
        (np.ones((6, 1), dtype=int), TypeError, "integer or boolean dtype int64"),
    ],
)
def test_start_blocks_of_power_iteration(method, start, error, sentence):
    with pytest.raises(error, match=sentence):
        call("power_iteration", GOOD, method=method, start=start)


@pytest.mark.parametrize(
    ("read", "sentence"),
    [
        (lambda d: d.quantile(1.5), "q=1.5 must lie between 0 and 1"),
        (lambda d: d.quantile(np.nan), "q=nan must lie between 0 and 1"),
        (lambda d: d.moment(-1), "p=-1 must not be negative"),
        (lambda d: d.density(width=0.0), "width=0.0 must be positive"),
        (lambda d: d.density(width=np.nan), "width=nan must be positive"),
        (lambda d: d.cdf(0.0, width=-1.0), "width=-1.0 must not be negative"),
        (lambda d: d.cdf(0.0, width=np.nan), "width=nan must not be negative"),
        (lambda d: d.cdf(np.nan), "x=nan must not be NaN"),
        (lambda d: d.cdf_bracket(np.nan), "x=nan must not be NaN"),
        (lambda d: d.mass_below(np.nan), "x=nan must not be NaN"),
        (lambda d: d.density([0.0, np.nan]), "grid=[0.0, nan] must not be NaN"),
    ],
)
def test_what_is_asked_of_a_density(read, sentence):
    density = hessops.spectral_density(GOOD, num_probes=2, num_steps=3, rng=0)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read(density)


@pytest.mark.parametrize("value", [None, 1j, "a", True, [None]])
@pytest.mark.parametrize("name", ["cdf", "cdf_bracket", "mass_below", "density", "quantile"])
def test_what_is_asked_of_a_density_are_real_numbers(name, value):
    density = hessops.spectral_density(GOOD, num_probes=2, num_steps=3, rng=0)
    if (name, value) == ("density", None):  # the grid of its own
        return
    with pytest.raises(TypeError, match=f"={re.escape(repr(value))} must be a real number or an"):
        getattr(density, name)(value)


@pytest.mark.parametrize("p", [1.5, "a", None, True])
def test_moments_are_of_integer_powers(p):
    density = hessops.spectral_density(GOOD, num_probes=2, num_steps=3, rng=0)
    with pytest.raises(TypeError, match=f"p={p!r} must be an integer; mean_of takes any function"):
        density.moment(p)


def test_an_unknown_column_of_a_history():
    history = hessops.trace(GOOD, num_probes=2, rng=0).history
    with pytest.raises(KeyError, match="no column 'residual'; there are step, num_products"):
        history["residual"]


def test_an_error_of_the_operator_itself_is_not_hidden():
    def multiply(X):
        raise RuntimeError("out of memory on device 3")

    for verb in VERBS:
        with pytest.raises(RuntimeError, match="out of memory on device 3"):
            call(verb, function(multiply))


@pytest.mark.parametrize("verb", LANCZOS_AND_POWER)
@pytest.mark.parametrize("scale", [1e-300, 1e-165, 1e-160, 1e-155])
def test_operators_whose_squares_underflow(verb, scale):
    # Everything below the square root of the smallest number would otherwise pass for zero.
    A = (np.ones((6, 6)) + GOOD) * scale
    with pytest.raises(
        ValueError, match=r"the products of .* are of size .*e-\d+.*; work with 1e\d+"
    ):
        call(verb, A)


@pytest.mark.parametrize("verb", LANCZOS_AND_POWER)
@pytest.mark.parametrize("scale", [1e150, 1e160, 1e300])
def test_operators_whose_squares_overflow(verb, scale):
    with pytest.raises(NonFiniteError, match=r"overflows when squared|work with 1e-"):
        call(verb, (np.ones((6, 6)) + GOOD) * scale)


def test_a_product_whose_square_underflows_is_told_from_zero_without_a_diagonal():
    # <q, A q> is exactly 0, so that only the norm of A q, which underflows, shows the product.
    swap = 1e-200 * np.array([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"of size 1e-200.*; work with 1e200"):
        hessops.lanczos(swap, num_steps=2, start=np.array([1.0, 0.0]))
    nothing = hessops.lanczos(0 * swap, num_steps=2, start=np.array([1.0, 0.0]))
    assert nothing.ritz()[0].tolist() == [0.0]


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("verb", SELF_ADJOINT_VERBS)
@pytest.mark.parametrize(
    ("scale", "dtype"), [(2.0**-440, "float64"), (2.0**440, "float64"), (2.0**-100, "float32")]
)
def test_operators_of_a_size_that_still_serves(verb, scale, dtype):
    A = (np.ones((6, 6)) + GOOD).astype(dtype)
    plain, scaled = (call(verb, c * A) for c in (np.ones((), dtype), np.asarray(scale, dtype)))
    assert scaled.converged == plain.converged
    assert scaled.num_products == plain.num_products


NUMBERS = [
    ("diagonal", {"rtol": "3"}, "rtol='3' must be a real number, not str"),
    ("diagonal", {"atol": [2]}, r"atol=\[2\] must be a real number, not list"),
    ("diagonal", {"confidence": None}, "confidence=None must be a real number, not NoneType"),
    ("power_iteration", {"tol": 1j}, "tol=1j must be a real number, not complex"),
    ("power_iteration", {"tol": "3"}, "tol='3' must be a real number, not str"),
]


@pytest.mark.parametrize(("verb", "options", "sentence"), NUMBERS)
def test_options_that_are_no_numbers(verb, options, sentence):
    with pytest.raises(TypeError, match=sentence):
        call(verb, GOOD, **options)


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("lanczos", "num_steps"), ("spectral_density", "num_steps"),
        ("spectral_density", "num_probes"), ("power_iteration", "max_steps"),
        ("power_iteration", "num_eigenpairs"),
    ],
)  # fmt: skip
def test_counts_that_have_to_be_given(verb, option):
    with pytest.raises(ValueError, match=f"{option}=None must be a positive integer"):
        call(verb, GOOD, **{option: None})


@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble, np.float16])
@pytest.mark.parametrize("verb", VERBS)
def test_precisions_other_than_single_and_double(verb, dtype):
    # Small matrices are solved in double precision: bounds of a longer one would be false.
    name = np.dtype(dtype).name
    with pytest.raises(TypeError, match=f"dtype {name} is neither single nor double precision"):
        call(verb, GOOD.astype(dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_operators_made_of_numbers_that_are_not_finite(bad):
    ones = np.ones((3, 2))
    spoilt = ones.copy()
    spoilt[1, 1] = bad
    for make, name in (
        (lambda: hessops.Diagonal(np.array([1.0, bad])), "the diagonal"),
        (lambda: hessops.LowRank(spoilt), "left"),
        (lambda: hessops.LowRank(ones, np.array([1.0, bad])), "core"),
        (lambda: hessops.LowRank(ones, None, spoilt), "right"),
    ):
        with pytest.raises(NonFiniteError, match=f"{name} holds 1 entries that are NaN or inf"):
            make()


def test_masked_arrays():
    masked = np.ma.masked_less(GOOD, 2.0)
    sentence = r"masked array, .* fill them first, e\.g\. array\.filled\(0\.0\)"
    for use in (
        lambda: hessops.trace(masked, rng=0),
        lambda: hessops.Diagonal(masked[0]),
        lambda: hessops.LowRank(masked),
        lambda: aslinearoperator(GOOD) @ masked[0],
    ):
        with pytest.raises(TypeError, match=sentence):
            use()


def test_a_loose_tolerance_claims_no_multiple_eigenvalues():
    status = hessops.power_iteration(np.diag(np.arange(1.0, 21.0)), tol=0.5, rng=0).status
    assert "is multiple" not in status
    assert "at so loose a tolerance multiple eigenvalues are not told from close ones" in status
