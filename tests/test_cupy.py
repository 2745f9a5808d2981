"""The CuPy backend: what can be tested without a device is; the rest waits for one.

Without a device, SciPy's sparse matrices, which have the same methods, stand in for CuPy's, and what
the core asks of the array library is looked up in CuPy's namespace.
"""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from strategies import normal, with_spectrum

import hessops
from hessops import NonFiniteError, NotSelfAdjointError, aslinearoperator
from hessops.arrays import to_numpy
from hessops.random import Stream

on_gpu = pytest.mark.gpu("cupy")
FORMATS = ("coo", "csc", "csr", "dia")
DTYPES = ("float64", "float32", "complex128", "complex64")


def sparse_matrix(shape=(40, 40), dtype="float64", symmetric=False):
    A = sp.random_array(shape, density=0.1, rng=0)
    if dtype.startswith("complex"):
        A = A + 1j * sp.random_array(shape, density=0.1, rng=1)
    return sp.csr_array((A + A.conj().T if symmetric else A).astype(dtype))


def test_without_cupy_the_backend_says_what_it_needs():
    program = "import sys; sys.modules['cupy'] = None; import hessops_cupy"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert "hessops_cupy needs CuPy, the extra 'cupy': pip install" in done.stderr


# With CuPy, without a device.


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def names_asked_of_libraries():
    """Return the names that the core looks up in an array library's namespace."""
    for path in Path(hessops.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == "xp":
                yield node.attr
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).startswith("namespace("):
                yield node.attr


def test_cupy_has_every_function_that_the_core_asks_for(cupy):
    from array_api_compat import cupy as namespace

    names = set(names_asked_of_libraries()) - {"__name__"}
    assert {"concat", "isdtype", "matrix_transpose", "take"} <= names
    assert {name for name in names if not hasattr(namespace, name)} == set()
    assert hasattr(namespace.linalg, "qr")


@pytest.fixture
def sparse(cupy, monkeypatch):
    """Return the operator's class, with SciPy's product in place of cuSPARSE's."""
    from hessops_cupy import sparse

    monkeypatch.setattr(sparse, "_multiply_transposed", lambda matrix, columns: matrix @ columns.T)
    return sparse.SparseOperator


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 40), (30, 40)])
def test_products(sparse, layout, dtype, shape):
    A = sparse_matrix(shape, dtype)
    operator = sparse(A.asformat(layout))
    assert operator.shape == shape
    assert not operator.structure.self_adjoint
    hessops.check_operator(operator, rng=0).raise_if_failed()
    X = normal(0, (40, 3), dtype)
    for block in (X, np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(operator @ block, A @ X)


def test_the_entries_tell_if_it_is_self_adjoint(sparse):
    for dtype in DTYPES:
        operator = sparse(sparse_matrix(dtype=dtype, symmetric=True))
        assert operator.structure.self_adjoint
        assert operator._adjoint_matrix is None  # not kept twice
    assert not sparse(sparse_matrix((20, 30))).structure.self_adjoint
    assert sparse(sp.csr_array((5, 5))).structure.self_adjoint


def test_duplicates_are_summed_in_a_copy(sparse):
    A = sp.coo_array(([1.0, 2.0, 4.0], ([0, 0, 1], [0, 0, 1])), shape=(2, 2))
    rows = sp.csr_array(([1.0, 2.0, 4.0], [0, 0, 1], [0, 2, 3]), shape=(2, 2))
    for matrix in (A, rows):
        assert sparse(matrix).to_dense().tolist() == [[3.0, 0.0], [0.0, 4.0]]
        assert matrix.data.tolist() == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (sp.csr_array([[1, 2]]), TypeError, "the dtype int64, and products would be rounded"),
        (sp.csr_array([[np.nan, 2]]), NonFiniteError, "the matrix holds 1 entries that are NaN"),
        (sp.coo_array([1.0, 2.0]), ValueError, r"got a sparse array of shape \(2,\)"),
        (sp.csr_array((0, 3)), ValueError, "a space of dimension 0 holds no vectors"),
    ],
)
def test_what_is_no_operator_is_refused(sparse, matrix, error, message):
    with pytest.raises(error, match=message):
        sparse(matrix)


def test_declarations_are_held_against_the_entries(sparse, monkeypatch):
    from hessops import wrap

    monkeypatch.setattr(wrap, "_from_backend", sparse)
    monkeypatch.setattr(sp, "issparse", lambda _: False)
    A, S = sparse_matrix(), sparse_matrix(symmetric=True)
    with pytest.raises(NotSelfAdjointError, match="the matrix is declared self-adjoint, but"):
        aslinearoperator(A, self_adjoint=True)
    assert aslinearoperator(S, positive_semidefinite=True).structure.positive_semidefinite
    assert not aslinearoperator(S, self_adjoint=False).structure.self_adjoint


def test_operators_of_other_libraries_do_not_become_cupys(cupy):
    from hessops_cupy import to_cupyx

    with pytest.raises(TypeError, match="works on arrays of numpy, not of CuPy"):
        to_cupyx(np.eye(2))


# With a device. tests/test_devices.py runs all verbs on CuPy arrays.


@on_gpu
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 40), (30, 40)])
def test_products_on_a_gpu(cupy, layout, dtype, shape):
    import cupyx.scipy.sparse as cupy_sparse

    A = sparse_matrix(shape, dtype)
    matrix = getattr(cupy_sparse, f"{layout}_matrix")(A.asformat(layout))
    operator = aslinearoperator(matrix)
    assert type(operator).__name__ == "SparseOperator"
    hessops.check_operator(operator, rng=0).raise_if_failed()
    close = {"rtol": 50 * np.finfo(dtype).eps, "atol": 50 * np.finfo(dtype).eps}
    for count in (1, 3):
        X = cupy.asarray(normal(0, (40, count), dtype))
        for block in (X, cupy.asfortranarray(X), cupy.repeat(X, 2, axis=1)[:, ::2]):
            np.testing.assert_allclose(to_numpy(operator @ block), A @ to_numpy(X), **close)


@on_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["rademacher", "normal", "sphere", "steinhaus"])
def test_probes_are_the_hosts(cupy, dtype, kind):
    from array_api_compat import cupy as namespace

    if kind == "steinhaus" and not dtype.startswith("complex"):
        pytest.skip("of complex operators alone")
    stream, rows = Stream(2**63 + 5, 3, 7), (900, 1300)
    host = hessops.ArraySpace(2000, dtype, rows=rows)
    device = hessops.ArraySpace(2000, dtype, namespace, rows=rows)
    expected = host.probes(stream, range(2, 9, 3), kind)
    found = device.probes(stream, range(2, 9, 3), kind)
    assert isinstance(found, cupy.ndarray)
    if kind == "rademacher":
        np.testing.assert_array_equal(to_numpy(found), expected)
    else:
        # CUDA's functions are as accurate as SciPy's, to a few units in the last place.
        rounding = 32 * np.finfo(dtype).eps
        np.testing.assert_allclose(to_numpy(found), expected, rtol=rounding, atol=rounding)


@on_gpu
def test_probes_fill_blocks_of_any_layout(cupy):
    from hessops.probes import fill_probes

    for order in ("C", "F"):
        block = cupy.zeros((70, 6), dtype=np.complex64, order=order)[::2, 1:4]
        fill_probes(block, Stream(1), range(3), "rademacher")
        expected = np.zeros((35, 3))
        fill_probes(expected, Stream(1), range(3), "rademacher")
        np.testing.assert_array_equal(block.get(), expected)


@on_gpu
def test_sparse_verbs_are_scipys(cupy):
    import cupyx.scipy.sparse as cupy_sparse

    A = sparse_matrix((300, 300), symmetric=True) + 20 * sp.eye_array(300)
    on_device = cupy_sparse.csr_matrix(A.tocsr())
    pairs, expected = (hessops.eigsh(matrix, 3, rng=0) for matrix in (on_device, A))
    np.testing.assert_allclose(pairs.eigenvalues, expected.eigenvalues, rtol=1e-12)
    assert isinstance(pairs.eigenvectors, cupy.ndarray)
    traces = [hessops.trace(matrix, rng=0).value for matrix in (on_device, A)]
    assert traces[0] == pytest.approx(traces[1], rel=1e-12)


@on_gpu
def test_cupys_own_operators_and_the_way_back(cupy):
    import cupyx.scipy.sparse.linalg as solvers

    from hessops_cupy import to_cupyx

    A = with_spectrum(np.linspace(1.0, 5.0, 60))
    b = cupy.asarray(normal(0, (60,)))
    operator = aslinearoperator(cupy.asarray(A))
    there = to_cupyx(operator)
    x, _ = solvers.cg(there, b, tol=1e-10)
    np.testing.assert_allclose(A @ x.get(), b.get(), atol=1e-8)
    back = aslinearoperator(there, self_adjoint=True)
    np.testing.assert_allclose((back @ b).get(), A @ b.get(), rtol=1e-12, atol=1e-12)


@on_gpu
def test_operators_live_on_the_current_device(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    with cupy.cuda.Device(1):
        A = cupy.eye(5)
        operator = aslinearoperator(A)
        assert hessops.trace(operator, rng=0).value == 5.0
    with pytest.raises(ValueError, match="the operator lives on <CUDA Device 1>, the block on"):
        operator.apply(cupy.ones(5))
    with pytest.raises(ValueError, match="make <CUDA Device 1> the current device"):
        aslinearoperator(A)
