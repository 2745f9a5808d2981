"""The operator itself: what `apply` promises and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    COMPLEX,
    LIBRARIES,
    REAL,
    Place,
    assert_close,
    blocks,
    norm,
    normal,
    places,
    self_adjoint_matrices,
    sizes,
)

from hessops import ArraySpace, LinearOperator, Structure, aslinearoperator
from hessops.arrays import dtype_name, namespace, to_numpy

needs_torch = pytest.mark.skipif("torch" not in LIBRARIES, reason="needs PyTorch")


class Reverse(LinearOperator):
    """The permutation that turns a vector round, by the one hook alone."""

    def _apply(self, X):
        return self.xp.flip(X, axis=0)


class Returns(LinearOperator):
    """Whatever it multiplies, it returns an array of one shape."""

    def __init__(self, shape):
        super().__init__(ArraySpace(3))
        self.returned = shape

    def _apply(self, X):
        return np.zeros(self.returned)


COUNTS = st.integers(1, 4)


@st.composite
def problems(draw, count=COUNTS, dtypes=REAL + COMPLEX):
    """An operator, its matrix, a block for it and a block for its adjoint."""
    place = draw(places(dtypes))
    rows, columns, k = draw(sizes()), draw(sizes()), draw(count)
    A = draw(blocks(rows, columns, place.dtype))
    X = draw(blocks(columns, k, place.dtype))
    Y = draw(blocks(rows, k, place.dtype))
    return place, aslinearoperator(place.put(A)), A, X, Y


@given(problems())
def test_apply_is_the_product_with_the_matrix(problem):
    place, operator, A, X, _ = problem
    product = operator.apply(place.put(X))
    assert_close(product, A @ X, norm(A) * norm(X))
    assert namespace(product) is place.xp
    assert dtype_name(product.dtype) == place.dtype


@given(problems())
def test_apply_adjoint_is_the_product_with_the_conjugate_transpose(problem):
    place, operator, A, _, Y = problem
    product = operator.apply_adjoint(place.put(Y))
    assert_close(product, A.conj().T @ Y, norm(A) * norm(Y))
    assert dtype_name(product.dtype) == place.dtype


@given(problems(count=st.integers(0, 3)))
def test_a_block_may_have_any_number_of_columns_even_none(problem):
    place, operator, A, X, _ = problem
    assert tuple((operator @ place.put(X)).shape) == (len(A), X.shape[1])


def test_a_hook_need_not_know_blocks_without_columns():
    def stacked(X):
        return np.stack([2 * column for column in X.T], axis=1)

    A = aslinearoperator(stacked, shape=3)
    assert (A @ np.ones((3, 0))).shape == (3, 0)
    assert (A @ np.ones((3, 0), dtype=complex)).dtype == complex


@given(problems(count=st.just(1)))
def test_a_vector_is_the_block_of_one_column(problem):
    place, operator, _, X, Y = problem
    for product, block in ((operator.apply, X), (operator.apply_adjoint, Y)):
        alone, within = product(place.put(block[:, 0])), product(place.put(block))
        assert alone.ndim == 1
        assert np.array_equal(to_numpy(alone), to_numpy(within)[:, 0])


@given(problems())
def test_matmul_and_h_are_apply_and_apply_adjoint(problem):
    place, operator, _, X, Y = problem
    assert np.array_equal(to_numpy(operator @ place.put(X)), to_numpy(operator.apply(place.put(X))))
    assert np.array_equal(
        to_numpy(operator.H @ place.put(Y)), to_numpy(operator.apply_adjoint(place.put(Y)))
    )
    assert operator.H.H is operator
    assert operator.H.shape == operator.shape[::-1]


@given(problems(), st.integers(1, 8))
def test_to_dense_returns_the_matrix_for_any_block_size(problem, block_size):
    _, operator, A, _, _ = problem
    assert np.array_equal(to_numpy(operator.to_dense(block_size=block_size)), A)


@given(problems(dtypes=REAL), st.integers(0, 2**32 - 1))
def test_a_real_operator_multiplies_a_complex_block_part_by_part(problem, seed):
    place, operator, A, X, Y = problem
    twin = Place(place.library, {"float64": "complex128", "float32": "complex64"}[place.dtype])
    for product, matrix, block in (
        (operator.apply, A, X),
        (operator.apply_adjoint, A.T, Y),
    ):
        Z = (block + 1j * normal(seed, block.shape)).astype(twin.dtype)
        found = product(twin.put(Z))
        assert_close(found, matrix @ Z, norm(A) * norm(Z))
        assert dtype_name(found.dtype) == twin.dtype


@given(problems(dtypes=("float64", "complex128")))
def test_a_block_of_lower_precision_is_raised_to_the_operators(problem):
    place, operator, A, X, _ = problem
    low = Place(place.library, "float32").put(X.real)
    product = operator @ low
    assert dtype_name(product.dtype) == place.dtype
    assert_close(product, A @ to_numpy(low).astype(place.dtype), norm(A) * norm(X))


@given(problems())
def test_the_block_is_left_as_it_was(problem):
    place, operator, _, X, Y = problem
    for product, block in ((operator.apply, X), (operator.apply_adjoint, Y)):
        array = place.put(block)
        product(array)
        assert np.array_equal(to_numpy(array), block)


@given(blocks(4, 3), blocks(3, 2))
def test_read_only_arrays_multiply(A, X):
    A.flags.writeable = X.flags.writeable = False
    assert_close(aslinearoperator(A) @ X, A @ X, norm(A) * norm(X))
    assert_close(aslinearoperator(A) @ X[:, 0], A @ X[:, 0], norm(A) * norm(X))


@given(blocks(4, 3), blocks(3, 6))
def test_strided_blocks_multiply(A, X):
    operator = aslinearoperator(np.asfortranarray(A))
    for view in (X[:, ::2], X[::-1], np.asfortranarray(X), X[:, 2]):
        assert_close(operator @ view, A @ view, norm(A) * norm(X))


def test_one_hook_is_enough():
    operator = Reverse(ArraySpace(3))
    assert (operator @ np.array([1.0, 2.0, 3.0])).tolist() == [3.0, 2.0, 1.0]
    assert operator.to_dense().tolist() == np.eye(3)[::-1].tolist()
    assert operator.structure == Structure()


def test_an_operator_that_is_its_own_adjoint_needs_no_second_hook():
    operator = Reverse(ArraySpace(3), structure=Structure(self_adjoint=True))
    assert operator.H is operator
    assert operator.apply_adjoint(np.array([1.0, 2.0, 3.0])).tolist() == [3.0, 2.0, 1.0]


@given(self_adjoint_matrices(4, "complex128"))
def test_an_operator_that_is_no_sum_yields_itself(A):
    operator = aslinearoperator(A)
    assert list(operator.terms()) == [operator]


def test_repr_says_shape_dtype_structure_and_what_it_holds():
    assert repr(aslinearoperator(np.ones((2, 3), dtype=np.float32))) == (
        "MatrixOperator(2x3, float32, general, ndarray)"
    )
    assert repr(Reverse(ArraySpace(3))) == "Reverse(3x3, float64, general)"


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([1.0, 2.0, 3.0], TypeError, "expected an array, got list; wrap it"),
        (np.zeros((3, 1, 1)), ValueError, r"a vector \(n,\) or a block \(n, k\), got shape"),
        (np.float64(1.0), ValueError, r"got shape \(\)"),
        (np.zeros(4), ValueError, r"expected 3 rows, got a block of shape \(4, 1\)"),
        (np.zeros((2, 3)), ValueError, "expected 3 rows"),
        (
            np.zeros(3, dtype=np.int64),
            TypeError,
            "integer or boolean dtype int64; convert it to flo",
        ),
        (np.zeros(3, dtype=bool), TypeError, "integer or boolean dtype bool"),
    ],
)
def test_a_block_that_does_not_fit_is_named(X, error, message):
    operator = aslinearoperator(np.eye(3, dtype=np.float32))
    for product in (operator.apply, operator.apply_adjoint, operator.__matmul__):
        with pytest.raises(error, match=message):
            product(X)


def test_digits_are_never_dropped():
    operator = aslinearoperator(np.eye(3, dtype=np.float32))
    with pytest.raises(TypeError, match="block is float64 and the operator float32: digits would"):
        operator @ np.zeros(3)
    with pytest.raises(TypeError, match="block is float64 and the operator float32: digits would"):
        operator @ np.zeros(3, dtype=np.complex128)


def test_arrays_of_another_library_are_refused():
    strict = Place("strict", "float64")
    with pytest.raises(TypeError, match="arrays of numpy, got one of array_api_strict; convert"):
        aslinearoperator(np.eye(3)) @ strict.put(np.ones(3))
    with pytest.raises(TypeError, match="arrays of array_api_strict, got one of numpy; convert"):
        aslinearoperator(strict.put(np.eye(3))) @ np.ones(3)
    with pytest.raises(TypeError, match="arrays of array_api_strict, got one of numpy; convert"):
        aslinearoperator(strict.put(np.eye(3))) @ np.ones(3, dtype=np.complex128)


@needs_torch
def test_arrays_on_another_device_are_refused():
    import torch

    operator = aslinearoperator(torch.eye(3))
    with pytest.raises(ValueError, match="the operator lives on cpu, the block on meta"):
        operator @ torch.ones(3, device="meta")


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (3,), (3, 2, 1)])
def test_a_hook_that_returns_another_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"Returns.* returned shape .* expected \(3, 2\)"):
        Returns(shape) @ np.zeros((3, 2))


def test_a_missing_adjoint_says_how_to_give_one():
    operator = Reverse(ArraySpace(3))
    for product in (operator.apply_adjoint, operator.H.apply):
        with pytest.raises(NotImplementedError, match="has no adjoint: write _apply_adjoint"):
            product(np.zeros(3))


def test_a_rectangular_operator_cannot_be_declared_self_adjoint():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) cannot be self-adjoint"):
        Reverse(ArraySpace(3), ArraySpace(2), structure=Structure(self_adjoint=True))


@pytest.mark.parametrize("block_size", [0, -1])
def test_to_dense_needs_a_positive_block_size(block_size):
    with pytest.raises(ValueError, match=f"block_size={block_size} must be positive"):
        aslinearoperator(np.eye(3)).to_dense(block_size=block_size)


@pytest.mark.parametrize(
    "expression",
    [
        lambda A: A + 1.0,
        lambda A: 1.0 + A,
        lambda A: A - np.eye(3),
        lambda A: A * A,
        lambda A: A * "2",
        lambda A: A / "2",
        lambda A: A * np.ones(3),
        lambda A: A / A,
        lambda A: np.ones(3) @ A,
        lambda A: A**2,
    ],
)
def test_what_has_no_meaning_is_a_type_error(expression):
    with pytest.raises(TypeError):
        expression(aslinearoperator(np.eye(3)))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (lambda A: A * np.ones(3), r"cannot scale an operator by an array of shape \(3,\).*A @ x"),
        (lambda A: np.ones(3) * A, r"cannot scale an operator by an array of shape \(3,\).*A @ x"),
        (lambda A: A * np.ones(1), r"cannot scale an operator by an array of shape \(1,\)"),
        (lambda A: A / np.eye(3), r"cannot divide an operator by an array of shape \(3, 3\)"),
    ],
)
def test_arrays_are_no_scalars_and_the_message_says_what_to_write(expression, message):
    with pytest.raises(TypeError, match=message):
        expression(aslinearoperator(np.eye(3)))


@pytest.mark.parametrize("zero", [0, 0.0, 0j, np.float32(0), np.array(0.0)], ids=repr)
def test_division_by_zero_says_so(zero):
    with pytest.raises(ZeroDivisionError, match="cannot divide an operator by zero"):
        aslinearoperator(np.eye(3)) / zero
