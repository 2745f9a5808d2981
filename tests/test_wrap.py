"""In and out: what `aslinearoperator` takes and refuses, and SciPy's solvers on our operators."""

import math
import types
import warnings

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg as sla
from doubles import ShardedMatrix, run_on_ranks
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    LIBRARIES,
    Place,
    assert_close,
    blocks,
    hermitian_part,
    norm,
    normal,
    places,
    sizes,
    with_spectrum,
)

import hessops
from hessops import (
    BlockDiagonal,
    Diagonal,
    FiniteSum,
    Identity,
    NonFiniteError,
    NotSelfAdjointError,
    Structure,
    aslinearoperator,
    check_operator,
    to_scipy,
)
from hessops import backends as backends_of_libraries
from hessops.arrays import dtype_name

needs_torch = pytest.mark.skipif("torch" not in LIBRARIES, reason="needs PyTorch")
FORMATS = ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")
SPARSE = [f"{name}_{kind}" for name in FORMATS for kind in ("matrix", "array")]


class OnlyMultiplies:
    """What has a shape and @, and nothing else."""

    def __init__(self, matrix):
        self.shape = matrix.shape
        self._matrix = matrix

    def __matmul__(self, X):
        return self._matrix @ X


def assert_multiplies(operator, A, put=np.asarray, adjoint=True):
    """The operator multiplies vectors and blocks as the matrix does, and so does its adjoint."""
    assert operator.shape == A.shape
    X = normal(7, (A.shape[1], 3), dtype_name(operator.dtype))
    Y = normal(8, (A.shape[0], 3), dtype_name(operator.dtype))
    assert_close(operator @ put(X), A @ X, norm(A) * norm(X))
    assert_close(operator @ put(X[:, 0]), A @ X[:, 0], norm(A) * norm(X))
    if adjoint:
        assert_close(operator.H @ put(Y), A.conj().T @ Y, norm(A) * norm(Y))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPARSE)
def test_every_sparse_format_is_taken(name, dtype):
    A = normal(0, (4, 6), dtype) * (normal(1, (4, 6)) > 0.5)
    operator = aslinearoperator(getattr(scipy.sparse, name)(A))
    assert dtype_name(operator.dtype) == dtype
    assert_multiplies(operator, A)


@pytest.mark.parametrize("name", SPARSE)
def test_the_symmetry_of_a_sparse_matrix_is_seen(name):
    A = hermitian_part(normal(0, (5, 5), "complex128"))
    convert = getattr(scipy.sparse, name)
    assert aslinearoperator(convert(A)).structure == Structure(self_adjoint=True)
    A[0, 1] += 1
    assert aslinearoperator(convert(A)).structure == Structure()
    with pytest.raises(NotSelfAdjointError, match=r"max \|A - A\^H\| = 1 where max \|A\|"):
        aslinearoperator(convert(A), self_adjoint=True)


def test_a_sparse_matrix_without_entries_is_the_zero():
    operator = aslinearoperator(scipy.sparse.csr_array((3, 3)))
    assert operator.structure.self_adjoint
    assert_multiplies(operator, np.zeros((3, 3)))


@given(places(), sizes(), sizes(), st.data())
def test_dense_matrices_of_any_library_are_taken(place, m, n, data):
    A = data.draw(blocks(m, n, place.dtype))
    operator = aslinearoperator(place.put(A))
    assert dtype_name(operator.dtype) == place.dtype
    assert_multiplies(operator, A, place.put)


@given(places(), sizes(), st.data())
def test_the_symmetry_of_a_dense_matrix_is_seen(place, n, data):
    A = data.draw(blocks(n, n, place.dtype))
    assert aslinearoperator(place.put(hermitian_part(A))).structure.self_adjoint
    skew = place.put(A - A.conj().T)
    assert aslinearoperator(skew).structure.self_adjoint == (norm(skew) == 0)


def test_rounding_does_not_hide_symmetry():
    Q = np.linalg.qr(normal(0, (50, 50)))[0]
    product = Q * np.linspace(-1, 1, 50) @ Q.T
    assert np.any(product != product.T)
    assert aslinearoperator(product).structure.self_adjoint


def test_what_is_declared_of_a_matrix_is_kept():
    A = hermitian_part(normal(0, (3, 3)))
    assert aslinearoperator(A, self_adjoint=False).structure == Structure()
    semidefinite = aslinearoperator(A @ A, positive_semidefinite=True)
    assert semidefinite.structure == Structure(positive_semidefinite=True)
    # Asymmetry beyond rounding, but small enough to be an accident of single precision.
    A[0, 1] *= 1 + 1e-9
    assert not aslinearoperator(A).structure.self_adjoint
    assert aslinearoperator(A, self_adjoint=True).structure.self_adjoint


def test_unusual_numpy_matrices_are_taken():
    A = normal(0, (4, 3))
    read_only = A.copy()
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        old_matrix = np.matrix(A)
    assert_multiplies(aslinearoperator(old_matrix), A)
    assert isinstance(aslinearoperator(old_matrix) @ np.ones(3), np.ndarray)
    assert_multiplies(aslinearoperator(read_only), A)
    assert_multiplies(aslinearoperator(np.asfortranarray(A)), A)
    assert_multiplies(aslinearoperator(np.repeat(A, 2, axis=0)[::2]), A)


def test_an_operator_is_returned_as_it_is():
    operator = Diagonal(np.ones(3))
    assert aslinearoperator(operator) is operator


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scipy_operator_is_taken(dtype):
    A = normal(0, (4, 3), dtype)
    operator = aslinearoperator(sla.aslinearoperator(A))
    assert dtype_name(operator.dtype) == dtype
    assert_multiplies(operator, A)


def test_a_scipy_operator_of_functions_is_taken_with_or_without_adjoint():
    A = normal(0, (4, 3))
    full = sla.LinearOperator(A.shape, matvec=lambda x: A @ x, rmatvec=lambda y: A.T @ y)
    assert_multiplies(aslinearoperator(full), A)
    forward = aslinearoperator(sla.LinearOperator(A.shape, matvec=lambda x: A @ x))
    assert_multiplies(forward, A, adjoint=False)
    with pytest.raises(NotImplementedError, match="has no adjoint: give it rmatvec"):
        forward.H @ np.ones(4)
    symmetric = sla.LinearOperator((3, 3), matvec=lambda x: 2.0 * x)
    assert_multiplies(aslinearoperator(symmetric, self_adjoint=True), 2 * np.eye(3))


def test_a_scipy_operator_that_guessed_its_dtype_says_how_to_correct_it():
    guessed = sla.LinearOperator((3, 3), matvec=lambda x: 2 * x)
    if np.issubdtype(guessed.dtype, np.integer):
        with pytest.raises(
            TypeError, match="products would be rounded to it; pass dtype='float64'"
        ):
            aslinearoperator(guessed)
    assert_multiplies(aslinearoperator(guessed, dtype="float64"), 2 * np.eye(3), adjoint=False)


def test_what_only_multiplies_is_taken():
    A = normal(0, (4, 3))
    operator = aslinearoperator(OnlyMultiplies(A))
    assert_multiplies(operator, A, adjoint=False)
    assert repr(operator) == "MatrixOperator(4x3, float64, general, OnlyMultiplies)"
    with pytest.raises(NotImplementedError, match="has no adjoint"):
        operator.H @ np.ones(4)
    S = aslinearoperator(OnlyMultiplies(A.T @ A), positive_semidefinite=True)
    assert S.structure.positive_semidefinite
    assert_multiplies(S, A.T @ A)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_only_multiplies_takes_its_library_from_like(library):
    place = Place(library, "float32")
    A = normal(0, (3, 3), "float32")
    operator = aslinearoperator(OnlyMultiplies(place.put(A)), like=place.put(np.zeros(1)))
    assert_multiplies(operator, A, place.put, adjoint=False)


@given(places(), st.booleans(), st.data())
def test_functions_are_taken_in_every_library(place, vectors_only, data):
    A = data.draw(blocks(4, 3, place.dtype))
    seen = []

    def multiply(X):
        seen.append(X.ndim)
        return place.put(A) @ X

    operator = aslinearoperator(
        multiply,
        shape=(4, 3),
        like=place.put(np.zeros(1)),
        vectors_only=vectors_only,
        adjoint_function=lambda Y: place.put(A.conj().T) @ Y,
    )
    assert_multiplies(operator, A, place.put)
    assert set(seen) == {1 if vectors_only else 2}


@pytest.mark.parametrize(
    "dtype", ["float32", np.float32, np.dtype("float32"), "complex128", np.complex64]
)
def test_the_dtype_of_a_function_is_named_in_any_way(dtype):
    operator = aslinearoperator(lambda X: 2 * X, shape=3, dtype=dtype, self_adjoint=True)
    assert operator.dtype == np.dtype(dtype)
    assert_multiplies(operator, 2 * np.eye(3))
    assert check_operator(operator, rng=0).passed


def test_a_function_works_in_double_precision_where_nothing_is_said():
    assert aslinearoperator(lambda X: X, shape=3).dtype == np.float64


def test_like_and_dtype_together_take_the_library_of_one_and_the_type_of_the_other():
    strict = LIBRARIES["strict"]
    operator = aslinearoperator(lambda X: X, shape=3, like=strict.zeros(1), dtype=strict.float32)
    assert operator.dtype == strict.float32


def test_a_function_returns_the_precision_that_is_declared():
    low = aslinearoperator(lambda X: X.astype(np.float32), shape=3)
    with pytest.raises(
        TypeError, match="returned float32 for a block of float64; declare dtype='float32', or"
    ):
        low @ np.ones(3)
    real = aslinearoperator(lambda X: X.real, shape=3, dtype="complex128")
    assert (real @ np.ones(3)).dtype == np.complex128
    for dtype in (np.int64, object):
        other = aslinearoperator(lambda X, dtype=dtype: X.astype(dtype), shape=3)
        with pytest.raises(TypeError, match="for a block of float64; convert the product to float"):
            other @ np.ones(3)
    masked = aslinearoperator(lambda X: np.ma.masked_less(X, 0.5), shape=3)
    with pytest.raises(TypeError, match=r"masked array.*fill them first, e\.g\. array\.filled"):
        hessops.trace(masked, rng=0)
    high = aslinearoperator(lambda X: X * 1j, shape=3)
    with pytest.raises(
        TypeError, match="returned complex128 for a block of float64; declare dtype="
    ):
        high @ np.ones(3)
    nothing = aslinearoperator(lambda X: None, shape=3)
    with pytest.raises(
        TypeError, match="returned NoneType, not an array of the operator's library"
    ):
        nothing @ np.ones(3)
    with pytest.raises(TypeError, match="not an array of the operator's library"):
        aslinearoperator(lambda X: LIBRARIES["strict"].ones((3, 1)), shape=3) @ np.ones(3)


@needs_torch
def test_torch_matrices_are_taken_dense_and_sparse_and_leave_no_graph():
    import torch

    A = torch.tensor(normal(0, (4, 4))).relu()
    put = LIBRARIES["torch"].asarray
    tracked = aslinearoperator(A.clone().requires_grad_())
    assert not (tracked @ torch.ones(4, dtype=A.dtype)).requires_grad
    weight = torch.nn.Parameter(A)
    by_function = aslinearoperator(lambda X: weight @ X, shape=4, like=A)
    assert not (by_function @ torch.ones(4, dtype=A.dtype)).requires_grad
    assert_multiplies(aslinearoperator(A), A.numpy(), put)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        formats = (A.to_sparse(), A.to_sparse_csr())
    for sparse in formats:
        operator = aslinearoperator(sparse, like=A)
        assert_multiplies(operator, A.numpy(), put, adjoint=False)
        assert operator.structure == Structure()
    symmetric = (A + A.T).to_sparse()
    assert_multiplies(aslinearoperator(symmetric, self_adjoint=True), (A + A.T).numpy(), put)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_matrices_that_are_not_finite_are_refused(library, bad):
    A = normal(0, (3, 3))
    A[0, 1] = A[2, 2] = bad
    with pytest.raises(NonFiniteError, match="the matrix holds 2 entries that are NaN or infinite"):
        aslinearoperator(Place(library, "float64").put(A))
    with pytest.raises(NonFiniteError, match="the matrix holds 2 entries that are NaN or infinite"):
        aslinearoperator(scipy.sparse.coo_array(A))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: np.eye(3, dtype=np.int64), "int64"),
        (lambda: np.eye(3, dtype=bool), "bool"),
        (lambda: LIBRARIES["strict"].ones((3, 3), dtype=LIBRARIES["strict"].int32), "int32"),
        (lambda: scipy.sparse.eye_array(3, dtype=np.int32), "int32"),
        (lambda: sla.aslinearoperator(np.eye(3, dtype=np.int64)), "int64"),
    ],
)
def test_integers_are_refused(make, name):
    with pytest.raises(
        TypeError, match=f"has the dtype {name}, and products would be rounded to it"
    ):
        aslinearoperator(make())


def test_a_function_of_integers_is_refused():
    with pytest.raises(TypeError, match="int32"):
        aslinearoperator(lambda X: X, shape=3, dtype="int32")
    with pytest.raises(TypeError, match="int32"):
        aslinearoperator(lambda X: X, shape=3, dtype=np.int32)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_matrix_that_is_not_what_it_is_declared_is_refused(library):
    place = Place(library, "float64")
    A = np.diag([1.0, 2.0, 4.0])
    A[0, 2] = 0.5
    for declaration in ({"self_adjoint": True}, {"positive_semidefinite": True}):
        with pytest.raises(NotSelfAdjointError, match=r"= 0.5 where max \|A\| = 4; symmetrize it"):
            aslinearoperator(place.put(A), **declaration)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: aslinearoperator(np.ones(3)), ValueError, r"one row and column, got shape \(3,\)"),
        (lambda: aslinearoperator(np.ones((3, 3, 3))), ValueError, r"got shape \(3, 3, 3\)"),
        (lambda: aslinearoperator(np.ones((0, 3))), ValueError, r"got shape \(0, 3\)"),
        (lambda: aslinearoperator(scipy.sparse.csr_array((0, 3))), ValueError, "holds no vectors"),
        (lambda: aslinearoperator(scipy.sparse.coo_array(np.ones(3))), ValueError, "sparse array of"),
        (lambda: aslinearoperator(np.ones((2, 3)), self_adjoint=True), ValueError, "cannot be self"),
        (lambda: aslinearoperator(scipy.sparse.csr_array((2, 3)), self_adjoint=True), ValueError,
         "cannot be self-adjoint"),
        (lambda: aslinearoperator(np.eye(3), self_adjoint=False, positive_semidefinite=True),
         ValueError, "a positive semidefinite operator is self-adjoint; drop one of the two"),
        (lambda: aslinearoperator(lambda X: X), ValueError, "pass shape=n or shape="),
        (lambda: aslinearoperator(lambda X: X, shape=0), ValueError, "shape=0 must be a pos"),
        (lambda: aslinearoperator("matrix"), TypeError, "cannot make a linear operator of str"),
        (lambda: aslinearoperator(None), TypeError, "cannot make a linear operator of NoneType"),
        (lambda: aslinearoperator([[1.0]]), TypeError, "of list; expected a matrix"),
        (lambda: aslinearoperator({}), TypeError, "of dict"),
        (lambda: aslinearoperator(()), TypeError, "of tuple"),
    ],
)  # fmt: skip
def test_what_is_no_operator_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


class Gadget:
    """An object of a library that a backend knows."""


class FakeEntryPoint:
    def __init__(self, name, convert):
        self.name, self.convert, self.loads = name, convert, 0

    def load(self):
        self.loads += 1
        return types.SimpleNamespace(convert=self.convert)


@pytest.fixture
def backends(monkeypatch):
    """Install these backends instead of the real ones."""

    def install(*entries):
        groups = {"hessops.backends": entries}
        monkeypatch.setattr(backends_of_libraries, "entry_points", lambda group: groups[group])
        backends_of_libraries.backends_for.cache_clear()

    monkeypatch.setattr(Gadget, "__module__", "gadgets.core")
    yield install
    backends_of_libraries.backends_for.cache_clear()


def test_a_backend_converts_the_types_of_its_library(backends):
    given_to_it = []

    def convert(obj):
        given_to_it.append(obj)
        return Identity(5)

    entry = FakeEntryPoint("gadgets", convert)
    backends(FakeEntryPoint("another", None), entry)
    gadget = Gadget()
    assert aslinearoperator(gadget).shape == (5, 5)
    assert aslinearoperator((gadget, "loss", "data")).shape == (5, 5)
    assert given_to_it == [gadget, (gadget, "loss", "data")]


def test_a_subclass_is_converted_by_the_backend_of_its_base(backends):
    class Own(Gadget):
        pass

    backends(FakeEntryPoint("gadgets", lambda obj: Identity(2)))
    assert aslinearoperator(Own()).shape == (2, 2)


def test_a_backend_is_loaded_only_for_its_own_types(backends):
    entry = FakeEntryPoint("gadgets", lambda obj: Identity(2))
    backends(entry)
    aslinearoperator(np.eye(2))
    aslinearoperator(lambda X: X, shape=2)
    with pytest.raises(TypeError):
        aslinearoperator("no gadget")
    assert entry.loads == 0


def test_a_backend_may_decline(backends):
    backends(FakeEntryPoint("gadgets", lambda obj: None))
    with pytest.raises(TypeError, match="cannot make a linear operator of Gadget"):
        aslinearoperator(Gadget())


def nodes(dtype):
    """A self-adjoint, positive definite operator of every make, with its matrix."""
    A = with_spectrum(np.linspace(1.0, 9.0, 24), 0, dtype)
    S = aslinearoperator(A, positive_semidefinite=True)
    return {
        "matrix": (S, A),
        "function": (
            aslinearoperator(lambda X: A @ X, shape=24, dtype=dtype, positive_semidefinite=True), A,
        ),
        "shifted": (S + 2 * Identity(S.domain), A + 2 * np.eye(24, dtype=dtype)),
        "square": (S @ S, A @ A),
        "sum": (FiniteSum([S, S], [0.25, 0.75]), A),
        "blocks": (BlockDiagonal([S]), A),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", nodes("float64"))
def test_scipy_eigsh_runs_on_ours(name, dtype):
    operator, A = nodes(dtype)[name]
    exact = np.linalg.eigvalsh(A)
    start = normal(0, (24,), dtype)
    values, vectors = sla.eigsh(to_scipy(operator), k=3, v0=start)
    assert np.allclose(np.sort(values), exact[-3:], rtol=1e-10, atol=0)
    assert norm(A @ vectors - vectors * values) <= 1e-9 * exact[-1]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_scipy_lobpcg_and_cg_run_on_ours(dtype):
    operator, A = nodes(dtype)["matrix"]
    exact = np.linalg.eigvalsh(A)
    values, _ = sla.lobpcg(to_scipy(operator), normal(0, (24, 3), dtype), tol=1e-8, maxiter=200)
    assert np.allclose(np.sort(values), exact[-3:], rtol=1e-8, atol=0)
    b = normal(1, (24,), dtype)
    x, info = sla.cg(to_scipy(operator), b, rtol=1e-12)
    assert info == 0
    assert norm(A @ x - b) <= 1e-11 * norm(b)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_scipy_svds_runs_on_ours(dtype):
    A = normal(0, (20, 12), dtype)
    for operator, matrix in ((aslinearoperator(A), A), (aslinearoperator(A).H, A.conj().T)):
        values = sla.svds(
            to_scipy(operator), k=3, v0=normal(1, (12,), dtype), return_singular_vectors=False
        )
        exact = np.linalg.svd(matrix, compute_uv=False)
        assert np.allclose(np.sort(values), exact[2::-1], rtol=1e-10, atol=0)


@given(places(), sizes(), sizes(), st.data())
def test_there_and_back_is_the_same_matrix(place, m, n, data):
    A = data.draw(blocks(m, n, place.dtype))
    ours = aslinearoperator(place.put(A))
    theirs = to_scipy(ours)
    assert theirs.shape == A.shape
    assert theirs.dtype == A.dtype
    assert isinstance(theirs @ np.ones(n, dtype=place.dtype), np.ndarray)
    assert_multiplies(aslinearoperator(theirs), A)
    assert np.array_equal(theirs @ np.eye(n, dtype=np.int64), A)
    complex_block = (np.eye(n) * 1j).astype("complex64" if place.eps > 1e-10 else "complex128")
    assert np.array_equal(theirs @ complex_block, 1j * A)


def test_an_operator_of_a_bare_space_goes_to_scipy():
    assert to_scipy(Identity(3)).dtype == np.float64


def test_vectors_that_are_split_do_not_go_to_scipy():
    def convert(comm):
        return to_scipy(ShardedMatrix(np.eye(4), comm, [(0, 2), (2, 4)][comm.rank]))

    with pytest.raises(ValueError, match="SciPy cannot work on vectors that are split over ranks"):
        run_on_ranks(convert, 2)


def writes_into_its_input(A):
    def multiply(X):
        X *= 2
        return A @ X / 2

    return multiply


def reuses_its_output(A, buffers={}):  # noqa: B006 - shared by all functions on purpose
    def multiply(X):
        out = buffers.setdefault(X.shape, np.empty(X.shape))
        np.matmul(A, X, out=out)
        return out

    return multiply


class Multiplies:
    """Someone's operator, with no more than shape and @."""

    def __init__(self, multiply, n):
        self.shape, self.dtype, self.multiply = (n, n), np.dtype("float64"), multiply

    def __matmul__(self, X):
        return self.multiply(X)


@pytest.mark.parametrize("vectors_only", [False, True])
@pytest.mark.parametrize("kind", [writes_into_its_input, reuses_its_output])
def test_functions_that_write_where_they_should_not_are_kept_apart(kind, vectors_only):
    A = np.diag(np.arange(1.0, 21.0))
    x, X = np.ones(20), np.ones((20, 3))
    wrapped = {
        "function": lambda multiply: aslinearoperator(
            multiply, shape=20, self_adjoint=True, vectors_only=vectors_only
        ),
        "object": lambda multiply: aslinearoperator(Multiplies(multiply, 20), self_adjoint=True),
    }
    for operator_of in wrapped.values():
        one, two = operator_of(kind(A)), operator_of(kind(3 * A))
        assert hessops.trace(one, num_probes=4, rng=0).value == 210
        assert hessops.trace(one + two, stratify=False, num_probes=4, rng=0).value == 840
        np.testing.assert_array_equal(one @ x, np.arange(1.0, 21.0))
        np.testing.assert_array_equal((one @ X)[:, 1], np.arange(1.0, 21.0))
        first = one @ X
        two @ X
        np.testing.assert_array_equal(first, A @ X)
        assert np.all(x == 1)
        assert np.all(X == 1)


def test_a_fresh_product_is_not_copied_and_no_other_is_handed_on():
    made = []

    def fresh(X):
        product = 2 * X
        made.append(product.ctypes.data)
        return product

    X, kept = np.ones((6, 2)), np.ones((6, 2))
    assert (aslinearoperator(fresh, shape=6) @ X).ctypes.data == made[-1]
    for function in (lambda X: X, lambda X: X[::-1], lambda _: kept, lambda _: kept[:]):
        product = aslinearoperator(function, shape=6) @ X
        assert not np.shares_memory(product, X)
        assert not np.shares_memory(product, kept)


@pytest.mark.parametrize("shape", ["3", 2.0, True, (3,), (3.5, 3.5), (3, True), (3, 0), -1, []])
def test_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match=r"must be a positive integer n or a pair \(m, n\) of pos"):
        aslinearoperator(lambda X: X, shape=shape)


@pytest.mark.parametrize("shape", [np.int64(3), (np.int64(3), 3), [3, 3]])
def test_shapes_of_numpy_integers(shape):
    assert aslinearoperator(lambda X: X, shape=shape).shape == (3, 3)


@pytest.mark.parametrize("dtype", [float, "float64", np.float64, np.dtype("f8"), "d"])
def test_dtypes_by_class_and_by_name(dtype):
    assert aslinearoperator(lambda X: X, shape=3, dtype=dtype).dtype == np.float64
    assert aslinearoperator(lambda X: X, shape=3, dtype=dtype, like=np.ones(1)).dtype == np.float64
    assert aslinearoperator(np.eye(3), dtype=dtype).dtype == np.float64


@pytest.mark.parametrize("dtype", ["foo", int, "int64", [1], "empty", 3])
def test_dtypes_that_are_none(dtype):
    for like in (None, np.ones(1)):
        with pytest.raises(
            TypeError, match="is no floating type that vectors can have; choose one"
        ):
            aslinearoperator(lambda X: X, shape=3, dtype=dtype, like=like)


def test_declarations_that_do_not_fit_what_is_known():
    A = np.eye(3)
    for obj in (A, scipy.sparse.csr_array(A), aslinearoperator(A)):
        with pytest.raises(ValueError, match=r"shape=5 is declared of .*: leave shape out"):
            aslinearoperator(obj, shape=5)
        with pytest.raises(ValueError, match=r"dtype='float32' is declared of .*convert what"):
            aslinearoperator(obj, dtype="float32")
        with pytest.raises(ValueError, match="adjoint_function and vectors_only are for functions"):
            aslinearoperator(obj, vectors_only=True)
        assert aslinearoperator(obj, shape=3, dtype="float64").shape == (3, 3)
        assert aslinearoperator(obj, shape=(3, 3)).structure.self_adjoint
        assert not aslinearoperator(obj, self_adjoint=False).structure.self_adjoint
    for value in ("no", 1, 0.0):
        with pytest.raises(TypeError, match=f"self_adjoint={value!r} must be True or False"):
            aslinearoperator(A, self_adjoint=value)
    with pytest.raises(TypeError, match="positive_semidefinite='yes' must be True or False"):
        aslinearoperator(A, positive_semidefinite="yes")


def test_a_structure_that_is_dropped_leaves_the_adjoint():
    dropped = aslinearoperator(aslinearoperator(np.diag([1.0, 2.0])), self_adjoint=False)
    np.testing.assert_array_equal(dropped.H @ np.ones(2), [1.0, 2.0])


def test_like_has_to_be_an_array():
    with pytest.raises(TypeError, match=r"like=\[1\] is no array: give one of the library"):
        aslinearoperator(lambda X: X, shape=3, like=[1])


def test_to_scipy_takes_what_can_be_wrapped():
    np.testing.assert_array_equal(hessops.to_scipy(2 * np.eye(3)) @ np.ones(3), 2 * np.ones(3))
