"""Operators made of operators, each held against its dense matrix."""

import functools
import math
from fractions import Fraction

import array_api_strict as strict
import numpy as np
import pytest
from doubles import ShardedMatrix, run_on_ranks
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    COMPLEX,
    LEAVES,
    LIBRARIES,
    NODES,
    Place,
    assert_close,
    blocks,
    general_matrix,
    norm,
    normal,
    operators,
    orthonormal,
    places,
    sizes,
    space_at,
)

import hessops.operators.projected as projected_module
from hessops import (
    Adjoint,
    ArraySpace,
    BlockDiagonal,
    Diagonal,
    FiniteSum,
    Identity,
    LowRank,
    Product,
    Projected,
    Scaled,
    Shifted,
    Sum,
    aslinearoperator,
)
from hessops.arrays import dtype_name, namespace, to_numpy

every_node = pytest.mark.parametrize("node", LEAVES + NODES, ids=lambda node: node.__name__)


def dense(operator):
    return to_numpy(operator.to_dense())


def wrapped(*shape, seed=0, dtype="float64"):
    return aslinearoperator(normal(seed, shape, dtype))


def block_for(data, space, place, k=2):
    """Draw a block in the dtype of a space, which may be complex where the place is real."""
    twin = Place(place.library, dtype_name(space.dtype))
    X = data.draw(blocks(space.dim, k, twin.dtype))
    return twin.put(X), X


@every_node
@given(data=st.data())
def test_a_node_multiplies_as_its_matrix_does(node, data):
    place, n = data.draw(places()), data.draw(sizes(4))
    known = data.draw(operators(place, n, root=node))
    array, X = block_for(data, known.operator.domain, place)
    product = known.operator @ array
    assert_close(product, known.matrix @ X, known.size * norm(X))
    assert namespace(product) is place.xp
    assert dtype_name(product.dtype) == dtype_name(known.operator.dtype)


@every_node
@given(data=st.data())
def test_the_adjoint_of_a_node_multiplies_as_the_conjugate_transpose(node, data):
    place, n = data.draw(places()), data.draw(sizes(4))
    known = data.draw(operators(place, n, root=node))
    array, Y = block_for(data, known.operator.codomain, place)
    expected = known.matrix.conj().T @ Y
    assert_close(known.operator.apply_adjoint(array), expected, known.size * norm(Y))
    assert_close(known.operator.H @ array, expected, known.size * norm(Y))


@every_node
@given(data=st.data())
def test_the_terms_of_a_node_sum_to_it(node, data):
    place, n = data.draw(places()), data.draw(sizes(4))
    known = data.draw(operators(place, n, root=node))
    array, X = block_for(data, known.operator.domain, place)
    total = sum(to_numpy(term @ array).astype(np.complex128) for term in known.operator.terms())
    eps = place.eps
    assert norm(total - known.matrix @ X) <= 200 * n * eps * known.size * norm(X)


@every_node
@given(data=st.data())
def test_t31_linearity_and_the_dot_test_hold_to_1e_12(node, data):
    n = data.draw(sizes(5))
    place = data.draw(places(("complex128",)))
    known = data.draw(operators(place, n, root=node))
    A, allowed = known.operator, 1e-12 * known.size
    (x, X), (y, Y) = block_for(data, A.domain, place), block_for(data, A.codomain, place)
    c = 0.4 - 1.3j
    assert norm((A @ (x * c + y)) - ((A @ x) * c + (A @ y))) <= allowed * (2 * norm(X) + norm(Y))
    left = A.codomain.gram(y, A @ x)
    right = A.domain.gram(A.H @ y, x)
    assert norm(to_numpy(left) - to_numpy(right)) <= allowed * norm(X) * norm(Y)


@given(st.data())
def test_a_tree_of_any_nodes_multiplies_as_its_matrix(data):
    place, n = data.draw(places()), data.draw(sizes(3))
    known = data.draw(operators(place, n, depth=4))
    array, X = block_for(data, known.operator.domain, place, k=1)
    assert_close(known.operator @ array, known.matrix @ X, known.size * norm(X))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize(
    "scalar",
    [
        2,
        2.0,
        np.float64(2.0),
        np.float32(2.0),
        np.int64(2),
        np.complex64(2j),
        np.complex128(2j),
        2j,
        Fraction(2),
        np.array(2.0),
        np.array(2, dtype="int32"),
        np.array(2j, dtype="complex64"),
    ],
    ids=lambda scalar: f"{type(scalar).__name__}-{getattr(scalar, 'dtype', '')}",
)
def test_scalars_of_any_kind_scale_from_both_sides_in_the_operators_precision(
    library, dtype, scalar
):
    place = Place(library, dtype)
    A = normal(3, (3, 3), dtype)
    operator = aslinearoperator(place.put(A))
    number = complex(scalar)
    expected = number * A.astype(np.complex128)
    single = "complex64" if number.imag or dtype in COMPLEX else dtype
    array = Place(library, single).put(np.eye(3))
    for node in (scalar * operator, operator * scalar, Scaled(operator, scalar)):
        assert isinstance(node, Scaled)
        product = node @ array
        assert dtype_name(product.dtype) == single
        assert_close(product, expected, 2 * norm(A))
    by_quotient = (operator / scalar) @ array
    assert_close(by_quotient, A / number, norm(A))
    shifted = Shifted(operator, scalar)
    assert_close(shifted @ array, A - number * np.eye(3), norm(A) + 4)
    assert dtype_name((shifted @ array).dtype) == single


@pytest.mark.parametrize(("scalar", "number"), [(2.0, 2.0), (2, 2.0), (2j, 2j)])
def test_strict_scalars_scale_from_the_right(scalar, number):
    """From the left they refuse themselves, as the standard lets them."""
    operator = aslinearoperator(np.diag([1.0, 3.0]))
    assert_close((operator * strict.asarray(scalar)).to_dense(), number * np.diag([1.0, 3.0]), 8)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_tensors_without_dimension_scale_from_both_sides(library, dtype):
    torch = pytest.importorskip("torch")
    place = Place(library, "float32")
    operator = aslinearoperator(place.put(np.diag([1.0, 3.0])))
    scalar = torch.tensor(2, dtype=getattr(torch, dtype))
    single = "complex64" if dtype == "complex64" else "float32"
    for node in (scalar * operator, operator * scalar, operator / (1 / scalar)):
        assert dtype_name(node.dtype) == single
        assert_close(node.to_dense(), np.diag([2.0, 6.0]), 8)


@given(places(), sizes(4), st.data())
def test_sums_flatten_and_do_not_care_for_order(place, n, data):
    parts = [data.draw(operators(place, n, root=general_matrix)) for _ in range(4)]
    A, B, C, D = (part.operator for part in parts)
    nested = (A + B) + (C + D)
    assert isinstance(nested, Sum)
    assert nested.operators == (A, B, C, D)
    assert list(nested.terms()) == [A, B, C, D]
    size = sum(part.size for part in parts)
    for other in (D + C + B + A, A + (B + (C + D)), Sum([Sum([A, B]), Sum([C]), D])):
        assert_close(other.to_dense(), dense(nested), size)
        assert not any(isinstance(part, Sum) for part in other.operators)


def test_products_flatten_also_within_an_adjoint():
    A, B, C = wrapped(2, 3), wrapped(3, 4, seed=1), wrapped(4, 2, seed=2)
    assert ((A @ B) @ C).operators == (A @ (B @ C)).operators == (A, B, C)
    backwards = (A @ B).H @ A
    assert backwards.shape == (4, 3)
    assert_close(backwards.to_dense(), dense(B).T @ dense(A).T @ dense(A), 100.0)
    assert not any(isinstance(part, Product) for part in backwards.operators)


@given(places(), st.data())
def test_algebra_has_its_laws(place, data):
    n = data.draw(sizes(3))
    A, B, C = (data.draw(operators(place, n, depth=1)) for _ in range(3))
    a, b, c = A.operator, B.operator, C.operator
    scale = (1 + A.size) * (1 + B.size) * (1 + C.size)
    for left, right in (
        ((a + b) @ c, a @ c + b @ c),
        (a @ (b + c), a @ b + a @ c),
        (2 * (a + b), 2 * a + 2 * b),
        ((2 * a) @ b, 2 * (a @ b)),
        ((a + b).H, a.H + b.H),
        ((a @ b).H, b.H @ a.H),
        ((2j * a).H, -2j * a.H),
        (a - b, -(b - a)),
        (3 * (2 * a), 6 * a),
        (a / 4, 0.25 * a),
    ):
        assert_close(left.to_dense(), dense(right), 8 * scale)


def test_scaling_twice_is_scaling_once():
    A = wrapped(2, 2)
    twice = 3 * (2 * A)
    assert twice.operator is A
    assert twice.factor == 6
    assert repr(2 * A) == "Scaled(2x2, float64, general, 2 * MatrixOperator)"


@given(places(), st.data(), st.sampled_from([0.5, -2.0, 1.5j]))
def test_subtracting_a_multiple_of_the_identity_is_a_shift(place, data, sigma):
    A = data.draw(operators(place, 3, root=general_matrix))
    one = Identity(space_at(place, 3))
    for node in (A.operator - sigma * one, -sigma * one + A.operator, A.operator + one * -sigma):
        assert isinstance(node, Shifted)
        assert node.shift == sigma
        assert_close(node.to_dense(), A.matrix - sigma * np.eye(3), A.size + 6)
    for node in (A.operator + one, one + A.operator):
        assert isinstance(node, Shifted)
        assert node.shift == -1.0
    assert (A.operator - one).shift == 1.0


def test_an_identity_of_another_size_cannot_be_added():
    A = wrapped(3, 3)
    for expression in (
        lambda: A + Identity(4),
        lambda: Identity(4) - A,
        lambda: A - 2 * Identity(2),
        lambda: wrapped(2, 3) + Identity(3),
    ):
        with pytest.raises(ValueError, match="cannot"):
            expression()


@given(st.data(), places())
def test_deflation_removes_the_directions_and_nothing_else(data, place):
    n, r = 5, data.draw(st.integers(0, 4))
    A = data.draw(operators(place, n, root=general_matrix))
    seed = data.draw(st.integers(0, 99))
    Q = orthonormal(seed, (n, n), place.dtype)
    V, W = place.put(Q[:, :r]), place.put(Q[:, r:])
    node = Projected(A.operator, V)
    assert norm(node @ V) <= 100 * n * place.eps * A.size
    inner = to_numpy(node.domain.gram(W, node @ W))
    assert_close(inner, Q[:, r:].conj().T @ A.matrix @ Q[:, r:], 8 * n * A.size)
    assert_close(Projected(node, V).to_dense(), dense(node), 8 * A.size)


def test_complex_directions_make_a_complex_operator():
    A, V = wrapped(4, 4), orthonormal(0, (4, 2), "complex128")
    P = np.eye(4) - V @ V.conj().T
    node = Projected(A, V)
    assert dtype_name(node.dtype) == "complex128"
    assert_close(node.to_dense(), P @ dense(A) @ P, norm(dense(A)))
    # A complex sum may have real terms, which are deflated of the same directions.
    terms = list(Projected(A + 1j * A, V).terms())
    assert_close(sum(map(dense, terms)), P @ ((1 + 1j) * dense(A)) @ P, 2 * norm(dense(A)))


@pytest.mark.parametrize("library", ["numpy", "strict"])
def test_a_finite_sum_weighs_its_terms(library):
    place = Place(library, "float64")
    rows = normal(0, (3, 4))
    terms = [aslinearoperator(place.put(np.outer(row, row))) for row in rows]
    weights = [0.5, 0.0, 2]
    node = FiniteSum(terms, weights)
    assert_close(node.to_dense(), rows.T @ np.diag(weights) @ rows, 2 * norm(rows) ** 2)
    assert_close(FiniteSum(terms).to_dense(), rows.T @ rows, norm(rows) ** 2)
    weighted = list(node.terms())
    assert [getattr(term, "factor", None) for term in weighted] == weights
    assert list(FiniteSum(terms).terms()) == terms


def test_terms_reach_through_scaling_projection_adjoint_and_shift():
    A = FiniteSum([wrapped(3, 3, seed=seed) for seed in range(4)])
    assert len(list((2 * A).terms())) == 4
    assert len(list(Projected(A, orthonormal(0, (3, 1))).terms())) == 4
    assert len(list(A.H.terms())) == 4
    assert len(list((A - 2 * Identity(3)).terms())) == 5
    assert len(list((A + A).terms())) == 8


def test_the_terms_of_a_projected_sum_need_no_check_of_their_basis(monkeypatch):
    checks = []
    check = projected_module._require_orthonormal
    monkeypatch.setattr(
        projected_module,
        "_require_orthonormal",
        lambda *arguments: checks.append(1) or check(*arguments),
    )
    A = FiniteSum([wrapped(3, 3, seed=seed) for seed in range(4)])
    V = orthonormal(0, (3, 1))
    P = np.eye(3) - V @ V.T
    terms = list(Projected(A, V).terms())
    assert len(checks) == 1
    for term, part in zip(terms, A.terms(), strict=True):
        assert isinstance(term, Projected)
        assert term.structure == part.structure
        assert_close(term.to_dense(), P @ dense(part) @ P, norm(dense(part)))
        assert_close(term.H.to_dense(), (P @ dense(part) @ P).T, norm(dense(part)))


@pytest.mark.parametrize("weight", [1j, np.complex128(2), "1"])
def test_weights_are_real_numbers(weight):
    with pytest.raises(TypeError, match=r"weight must be real|cannot weigh an operator by '1'"):
        FiniteSum([wrapped(2, 2)], [weight])


def test_a_block_diagonal_operator_keeps_its_blocks_apart():
    A, B = wrapped(2, 2), wrapped(3, 3, seed=1, dtype="complex128")
    whole = BlockDiagonal([A, B])
    expected = np.zeros((5, 5), dtype=complex)
    expected[:2, :2], expected[2:, 2:] = dense(A), dense(B)
    assert np.array_equal(dense(whole), expected)
    assert np.array_equal(dense(whole.H), expected.conj().T)
    assert dtype_name(whole.dtype) == "complex128"


@given(places(), sizes(), sizes(3), st.data())
def test_low_rank_is_u_c_v(place, n, r, data):
    m = data.draw(sizes())
    U, C, V = (data.draw(blocks(*shape, place.dtype)) for shape in ((m, r), (r, r), (n, r)))
    d = np.diag(C)
    u, c, v = (place.put(X) for X in (U, C, V))
    wide = U.astype(np.complex128)
    size = (1 + norm(U)) * (r + norm(C)) * (1 + norm(V)) * (1 + norm(U))
    for operator, expected in (
        (LowRank(u, c, v), wide @ C @ V.conj().T),
        (LowRank(u, place.put(d), v), wide @ np.diag(d) @ V.conj().T),
        (LowRank(u, right=v), wide @ V.conj().T),
        (LowRank(u, c), wide @ C @ U.conj().T),
        (LowRank(u), wide @ U.conj().T),
    ):
        assert operator.shape == expected.shape
        assert_close(operator.to_dense(), expected, size)
        assert_close(operator.H.to_dense(), expected.conj().T, size)


@pytest.mark.parametrize("library", LIBRARIES)
def test_low_rank_takes_the_widest_dtype_of_its_factors(library):
    U, C = normal(0, (4, 2)), normal(1, (2, 2), "complex128")
    operator = LowRank(Place(library, "float64").put(U), Place(library, "complex128").put(C))
    assert dtype_name(operator.dtype) == "complex128"
    assert_close(operator.to_dense(), U @ C @ U.T, norm(U) ** 2 * norm(C))
    mixed = LowRank(
        Place(library, "float32").put(U), right=Place(library, "float64").put(normal(2, (3, 2)))
    )
    assert dtype_name(mixed.dtype) == dtype_name(mixed.to_dense().dtype) == "float64"


@given(st.lists(st.sampled_from(["float64", "complex128"]), min_size=2, max_size=4))
def test_real_and_complex_parts_make_a_complex_whole(dtypes):
    parts = [wrapped(3, 3, seed=seed, dtype=dtype) for seed, dtype in enumerate(dtypes)]
    expected = "complex128" if "complex128" in dtypes else "float64"
    sizes = [norm(dense(part)) for part in parts]
    for whole, matrix, size in (
        (Sum(parts), sum(map(dense, parts)), sum(sizes)),
        (FiniteSum(parts), sum(map(dense, parts)), sum(sizes)),
        (Product(parts), functools.reduce(np.matmul, map(dense, parts)), math.prod(sizes)),
    ):
        assert dtype_name(whole.dtype) == dtype_name(whole.to_dense().dtype) == expected
        assert_close(whole.to_dense(), matrix, size)
        assert_close(whole.H.to_dense(), matrix.conj().T, size)


def test_nodes_print_what_they_are_made_of():
    A, B = wrapped(2, 2), wrapped(2, 2, seed=1)
    assert repr(A + B) == "Sum(2x2, float64, general, MatrixOperator + MatrixOperator)"
    assert repr(A @ B.H) == "Product(2x2, float64, general, MatrixOperator @ Adjoint)"
    assert repr(A.H) == "Adjoint(2x2, float64, general, MatrixOperator)"
    assert repr(A - 0.5 * Identity(2)) == "Shifted(2x2, float64, general, MatrixOperator - 0.5 I)"
    assert repr(FiniteSum([A, B])) == "FiniteSum(2x2, float64, general, 2 terms)"
    assert repr(BlockDiagonal([A, B])) == "BlockDiagonal(4x4, float64, general, 2 blocks)"
    assert (
        repr(LowRank(normal(0, (4, 2)))) == "LowRank(4x4, float64, positive semidefinite, rank 2)"
    )
    assert "MatrixOperator without 1 directions" in repr(Projected(A, orthonormal(0, (2, 1))))
    assert isinstance(A.H, Adjoint)
    assert isinstance(Diagonal(np.ones(2)), Diagonal)


single = functools.partial(wrapped, dtype="float32")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: wrapped(3, 3) + wrapped(4, 4), r"cannot add operators of shapes \(3, 3\) and \(4, "),
        (lambda: Sum([wrapped(3, 3), wrapped(2, 2)]), "cannot form a sum of operators on ArraySpace"),
        (lambda: wrapped(3, 3) + single(3, 3), "a sum of float32, float64: build all parts in one"),
        (lambda: wrapped(3, 3) @ wrapped(4, 3), r"multiply shapes \(3, 3\) and \(4, 3\): Array"),
        (lambda: wrapped(3, 3) @ single(3, 3), "cannot form a product of float32, float64"),
        (lambda: FiniteSum([wrapped(3, 3), wrapped(2, 2)]), "cannot form a finite sum of operators"),
        (lambda: FiniteSum([]), "a finite sum needs at least one operator"),
        (lambda: FiniteSum([wrapped(2, 2)], [1.0, 2.0]), "1 term but 2 weights"),
        (lambda: Sum([]), "a sum needs at least one"),
        (lambda: Product([]), "a product needs at least one"),
        (lambda: math.nan * wrapped(2, 2), "cannot scale an operator by nan"),
        (lambda: wrapped(2, 2) * math.inf, "cannot scale an operator by inf"),
        (lambda: wrapped(2, 2) * complex(0, math.inf), "cannot scale an operator by infj"),
        (lambda: FiniteSum([wrapped(2, 2)], [math.nan]), "cannot weigh an operator by nan"),
        (lambda: Shifted(wrapped(2, 2), math.nan), "cannot shift an operator by nan"),
        (lambda: Shifted(wrapped(2, 3), 1.0), r"cannot shift an operator of shape \(2, 3\): it is"),
        (lambda: Projected(wrapped(2, 3), np.eye(3)), r"cannot deflate an operator of shape \(2, 3"),
        (lambda: Projected(wrapped(2, 2), np.ones((2, 1))), r"not orthonormal: .* = 1, allowed 1.5e"),
        (lambda: Projected(wrapped(2, 2), np.eye(3)), "expected 2 rows"),
        (lambda: BlockDiagonal([]), "needs at least one block"),
        (lambda: BlockDiagonal([wrapped(2, 3)]), "cannot use as a diagonal block an operator of sha"),
        (lambda: BlockDiagonal([wrapped(2, 2), single(2, 2)]), "cannot form a block diagonal of flo"),
        (lambda: Diagonal(np.eye(2)), r"expected the diagonal as a vector, got shape \(2, 2\)"),
        (lambda: LowRank(np.ones((3, 2)), np.ones(3)), "the ranks differ"),
        (lambda: LowRank(np.ones((3, 2)), right=np.ones((3, 1))), "the ranks differ"),
        (lambda: ArraySpace(0), "a space of dimension 0 holds no vectors"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_a_value_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_parts_of_different_libraries_do_not_mix():
    strict = aslinearoperator(Place("strict", "float64").put(np.eye(3)))
    for combine in (lambda: strict + wrapped(3, 3), lambda: wrapped(3, 3) @ strict):
        with pytest.raises(ValueError, match="array_api_strict"):
            combine()
    with pytest.raises(ValueError, match="cannot form a block diagonal"):
        BlockDiagonal([strict, wrapped(3, 3)])


@pytest.mark.parametrize(
    "add", [lambda A: A + 0.5, lambda A: 0.5 + A, lambda A: A - 0.5, lambda A: 0.5 - A]
)
def test_a_number_is_no_operator_and_what_to_write_is_said(add):
    message = r"write A \+ 0.5 \* hessops.Identity\(A.domain\)"
    with pytest.raises(TypeError, match=message):
        add(wrapped(2, 2))
    A = wrapped(2, 2)
    shifted = A + 0.5 * Identity(A.domain)
    assert np.array_equal(shifted.to_dense(), A.to_dense() + 0.5 * np.eye(2))


def test_an_array_is_wrapped_before_it_is_added():
    for add in (lambda A: A + np.eye(2), lambda A: np.eye(2) - A):
        with pytest.raises(TypeError, match=r"shape \(2, 2\) is no operator: wrap it first"):
            add(wrapped(2, 2))
    with pytest.raises(TypeError, match="unsupported operand"):
        wrapped(2, 2) + "A"


def test_operators_can_be_summed_by_sum():
    parts = [wrapped(3, 3), wrapped(3, 3)]
    assert np.array_equal(sum(parts).to_dense(), 2 * parts[0].to_dense())


def test_division_by_zero_is_refused():
    with pytest.raises(ZeroDivisionError):
        wrapped(2, 2) / 0


def test_blocks_whose_vectors_are_split_cannot_be_stacked():
    def stack(comm):
        rows = [(0, 2), (2, 4)][comm.rank]
        return BlockDiagonal([ShardedMatrix(np.eye(4), comm, rows)])

    with pytest.raises(ValueError, match="split over ranks cannot be stacked"):
        run_on_ranks(stack, 2)
