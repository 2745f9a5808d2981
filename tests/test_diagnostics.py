"""`check_operator` catches each single broken promise, and passes what keeps them all."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    LEAVES,
    NODES,
    PLACES,
    blocks,
    normal,
    operators,
    places,
    sizes,
)

from hessops import ArraySpace, LinearOperator, Structure, aslinearoperator, check_operator
from hessops.random import Stream
from hessops.structure import GENERAL as NO_STRUCTURE

N = 6
GENERAL = normal(0, (N, N))
SYMMETRIC = GENERAL + GENERAL.T
SEMIDEFINITE = GENERAL @ GENERAL.T


class Custom(LinearOperator):
    """An operator of two functions, with no check of what they return."""

    def __init__(self, function, adjoint=None, *, structure=NO_STRUCTURE, space=None, m=N):
        super().__init__(space or ArraySpace(N), ArraySpace(m), structure=structure)
        self.function, self.adjoint = function, adjoint

    def _apply(self, X):
        return self.function(X)

    def _apply_adjoint(self, X):
        return self.adjoint(X) if self.adjoint else super()._apply_adjoint(X)


def failed(report):
    return [check.name for check in report.checks if not check.passed]


def fickle():
    """A product that is off by a millionth more at every call."""
    calls = []

    def multiply(X):
        calls.append(1)
        return GENERAL @ X * (1 + 1e-6 * len(calls))

    return multiply


def first_column_differs(X):
    product = GENERAL @ X
    if X.shape[1] > 1:
        product[:, 0] *= 1 + 1e-6
    return product


BROKEN = {
    "affine": (lambda: Custom(lambda X: GENERAL @ X + 1e-6), ["linear"]),
    "absolute value": (lambda: Custom(lambda X: np.abs(GENERAL @ X)), ["linear"]),
    "rounded input": (
        lambda: Custom(lambda X: GENERAL @ X.astype("f4").astype("f8")), ["linear"],
    ),
    "wrong adjoint": (lambda: Custom(lambda X: GENERAL @ X, lambda Y: GENERAL @ Y), ["adjoint"]),
    "adjoint with the wrong sign": (
        lambda: Custom(lambda X: GENERAL @ X, lambda Y: -GENERAL.T @ Y), ["adjoint"],
    ),
    "adjoint slightly off": (
        lambda: Custom(lambda X: GENERAL @ X, lambda Y: (1 + 1e-8) * GENERAL.T @ Y), ["adjoint"],
    ),
    "not self-adjoint": (
        lambda: Custom(lambda X: GENERAL @ X, structure=Structure(self_adjoint=True)),
        ["self-adjoint"],
    ),
    "slightly asymmetric": (
        lambda: Custom(
            lambda X: (SYMMETRIC + 1e-8 * np.triu(np.ones((N, N)), 1)) @ X,
            structure=Structure(self_adjoint=True),
        ),
        ["self-adjoint"],
    ),
    "negative": (
        lambda: Custom(
            lambda X: -SEMIDEFINITE @ X, structure=Structure(positive_semidefinite=True)
        ),
        ["positive semidefinite"],
    ),
    "fickle": (lambda: Custom(fickle()), ["deterministic", "linear", "block"]),
    "depends on the block": (lambda: Custom(first_column_differs), ["block"]),
    "NaN": (lambda: Custom(lambda X: np.where(X > 0, X, math.nan)), ["finite"]),
    "infinite": (lambda: Custom(lambda X: X * math.inf), ["finite"]),
    "single precision outside": (lambda: Custom(lambda X: X.astype("f4")), ["dtype"]),
    "complex": (lambda: Custom(lambda X: X * 1j), ["dtype"]),
    "integer": (lambda: Custom(lambda X: X.astype(int)), ["dtype"]),
    "a row too few": (lambda: Custom(lambda X: X[1:]), ["shape"]),
    "a column too many": (lambda: Custom(lambda X: np.hstack([X, X[:, :1]])), ["shape"]),
    "a vector": (lambda: Custom(lambda X: X[:, 0]), ["shape"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_caught_alone_and_told_with_figures(name):
    make, expected = BROKEN[name]
    report = check_operator(make(), rng=0)
    assert failed(report) == expected
    assert not report.passed
    assert len(report.failures) == len(expected)
    for sentence in report.failures:
        assert re.search(r"\d", sentence)
        assert len(sentence.split()) > 4
    with pytest.raises(ValueError, match=re.escape(report.failures[0])):
        report.raise_if_failed()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["affine", "wrong adjoint", "not self-adjoint", "negative"])
def test_a_broken_promise_is_caught_from_any_seed(name, seed):
    make, expected = BROKEN[name]
    assert failed(check_operator(make(), rng=seed)) == expected


@pytest.mark.parametrize("node", LEAVES + NODES, ids=lambda node: node.__name__)
@given(data=st.data())
def test_an_honest_node_passes_in_every_library_and_dtype(node, data):
    place, n = data.draw(places()), data.draw(sizes(4))
    known = data.draw(operators(place, n, root=node, depth=1))
    report = check_operator(known.operator, rng=0)
    # Cancellation, as in A - A, leaves nothing but rounding, and rounding keeps no promise.
    norm_of_product = float(np.linalg.norm(known.matrix))
    if norm_of_product > 1e-2 * known.size or known.size == 0:
        assert report.passed, str(report)


@pytest.mark.parametrize("place", PLACES, ids=str)
@given(data=st.data())
def test_an_honest_matrix_passes_in_every_library_and_dtype(place, data):
    m, n = data.draw(sizes(40)), data.draw(sizes(40))
    A = normal(data.draw(st.integers(0, 99)), (m, n), place.dtype)
    B = A @ A.conj().T
    for operator in (
        aslinearoperator(place.put(A)),
        aslinearoperator(place.put((B + B.conj().T) / 2), positive_semidefinite=True),
    ):
        report = check_operator(operator, rng=0)
        assert report.passed, str(report)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(scale, dtype) for scale in (1e-12, 1e12) for dtype in DTYPES]
    + [(scale, dtype) for scale in (1e-100, 1e100) for dtype in ("float64", "complex128")],
)
def test_the_scale_of_an_operator_does_not_matter(scale, dtype):
    matrix = (normal(0, (N, N), dtype) * scale).astype(dtype)
    assert check_operator(matrix, rng=0).passed
    operator = aslinearoperator(lambda X: matrix @ X, shape=N, dtype=dtype, self_adjoint=True)
    assert failed(check_operator(operator, rng=0)) == ["self-adjoint"]


@given(blocks(3, 3))
def test_zero_and_whatever_else_is_a_matrix_passes(A):
    assert check_operator(A, rng=0).passed
    assert check_operator(0 * A, rng=0).passed


def test_an_operator_without_adjoint_is_not_blamed_for_it():
    operator = aslinearoperator(lambda X: GENERAL @ X, shape=N)
    report = check_operator(operator, rng=0)
    assert report.passed
    assert "adjoint" not in [check.name for check in report.checks]


def test_a_scipy_operator_without_adjoint_is_not_blamed_for_it():
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

    assert check_operator(ScipyOperator((N, N), matvec=lambda x: GENERAL @ x), rng=0).passed


def test_rectangular_operators_are_checked_in_both_directions():
    A = normal(0, (3, N))
    names = [check.name for check in check_operator(A, rng=0).checks]
    assert "adjoint" in names
    swapped = aslinearoperator(
        lambda X: A @ X, shape=(3, N), adjoint_function=lambda Y: (A + 1e-6).T @ Y
    )
    assert failed(check_operator(swapped, rng=0)) == ["adjoint"]


def test_the_tolerance_can_be_chosen():
    off = Custom(lambda X: GENERAL @ X, lambda Y: (1 + 1e-8) * GENERAL.T @ Y)
    assert failed(check_operator(off, rng=0)) == ["adjoint"]
    assert check_operator(off, tol=1e-6, rng=0).passed


def test_the_report_counts_its_products_and_prints_as_a_table():
    count = 0

    def multiply(X):
        nonlocal count
        count += X.shape[1]
        return SYMMETRIC @ X

    operator = aslinearoperator(multiply, shape=N, self_adjoint=True)
    report = check_operator(operator, num_vectors=3, rng=0)
    assert report.num_products == count
    text = str(report)
    assert text.startswith(f"FunctionOperator(6x6, float64, self-adjoint, {multiply.__qualname__})")
    assert f"({count} products)" in text
    assert len(text.splitlines()) == 1 + len(report.checks)
    assert all("  ok   " in line for line in text.splitlines()[1:])
    assert report.raise_if_failed() is None
    assert "FAIL linear" in str(check_operator(Custom(lambda X: GENERAL @ X + 1), rng=0))


def test_the_same_seed_makes_the_same_report():
    assert check_operator(SYMMETRIC, rng=3) == check_operator(SYMMETRIC, rng=3)


def test_blocks_come_from_the_operators_own_space():
    seen = []

    class Recording(ArraySpace):
        def probes(self, stream: Stream, indices, kind):
            seen.append(kind)
            return super().probes(stream, indices, kind)

    check_operator(Custom(lambda X: GENERAL @ X, space=Recording(N)), rng=0)
    assert seen == ["normal", "normal"]


def writes(X):
    X *= 2
    return GENERAL @ X / 2


def test_an_operator_that_writes_into_its_input():
    report = check_operator(Custom(writes), rng=0)
    assert "leaves its input" in failed(report)
    assert "multiplying a block changes the block itself by 1" in report.failures


def test_an_operator_that_hands_out_one_buffer():
    buffers = {}

    def reuses(X):
        return np.matmul(GENERAL, X, out=buffers.setdefault(X.shape, np.empty(X.shape)))

    report = check_operator(Custom(reuses), rng=0)
    assert failed(report) == ["returns memory of its own"]
    assert report.failures[0].startswith("a later product changes the one before by")
    # Nothing is wrong with a view of the block, which no later call writes to.
    assert check_operator(Custom(lambda X: X[::-1]), rng=0).passed


@pytest.mark.parametrize("value", [0, 1.5, True, None, "4"])
def test_numbers_of_vectors_to_check_with(value):
    with pytest.raises(ValueError, match=f"num_vectors={value!r} must be a positive integer"):
        check_operator(np.eye(3), num_vectors=value)


@pytest.mark.parametrize("function", [lambda X: X.astype(np.float32), lambda X: X * 1j])
def test_a_function_that_returns_another_dtype_is_reported(function):
    report = check_operator(aslinearoperator(function, shape=4), rng=0)
    assert not report.passed
    assert [check.name for check in report.checks] == ["product"]
    assert re.search("float32|complex128", report.failures[0])
    assert report.num_products == 4
