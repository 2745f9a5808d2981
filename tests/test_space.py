"""Spaces: reductions against dense arithmetic, sections, validation, and rows split over ranks."""

import math

import numpy as np
import pytest
from doubles import ThreadComm, gathered, run_on_ranks, splits
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    COMPLEX,
    LIBRARIES,
    Place,
    assert_close,
    blocks,
    norm,
    normal,
    places,
    sizes,
    space_at,
)

from hessops import ArraySpace, SerialComm, trace
from hessops.arrays import dtype_name, to_numpy
from hessops.random import Stream

needs_torch = pytest.mark.skipif("torch" not in LIBRARIES, reason="needs PyTorch")
SECTIONS = {"first": (0, 2), "empty": (2, 2), "second": (2, 3), "third": (3, 7)}


@st.composite
def pairs(draw):
    """A space and two of its blocks, of as many columns."""
    place, n, k = draw(places()), draw(sizes(8)), draw(st.integers(0, 3))
    X, Y = (draw(blocks(n, k, place.dtype)) for _ in range(2))
    return place, space_at(place, n), X, Y


@given(pairs())
def test_gram_is_x_adjoint_y(pair):
    place, space, X, Y = pair
    found = space.gram(place.put(X), place.put(Y))
    assert_close(found, X.conj().T.astype(np.complex128) @ Y, len(X) * norm(X) * norm(Y))
    assert dtype_name(found.dtype) == place.dtype


@given(places(), st.data())
def test_gram_is_batched_over_leading_axes(place, data):
    n, m = data.draw(sizes()), data.draw(sizes(3))
    X = np.stack([data.draw(blocks(n, 3, place.dtype)) for _ in range(m)])
    Y = np.stack([data.draw(blocks(n, 2, place.dtype)) for _ in range(m)])
    found = to_numpy(space_at(place, n).gram(place.put(X), place.put(Y)))
    for one, x, y in zip(found, X, Y, strict=True):
        assert_close(one, x.conj().T.astype(np.complex128) @ y, n * norm(x) * norm(y))


@given(pairs())
def test_column_inner_is_the_diagonal_of_gram_in_double_precision(pair):
    place, space, X, Y = pair
    found = space.column_inner(place.put(X), place.put(Y))
    expected = np.sum(X.conj().astype(np.complex128) * Y, axis=0)
    assert to_numpy(found).shape == expected.shape
    assert norm(to_numpy(found) - expected) <= 16 * place.eps * norm(X) * norm(Y)
    assert dtype_name(found.dtype) == ("complex128" if place.dtype in COMPLEX else "float64")


@given(pairs())
def test_several_inner_products_are_those_of_one_pair_each(pair):
    place, space, X, Y = pair
    x, y = place.put(X), place.put(Y)
    found = to_numpy(space.column_inners((x, y), (y, y), (y, x)))
    expected = [to_numpy(space.column_inner(*blocks)) for blocks in ((x, y), (y, y), (y, x))]
    assert np.array_equal(found, np.stack(expected))


@given(places(), st.data())
def test_a_joint_gram_is_the_gram_of_the_parts_side_by_side(place, data):
    n, m = data.draw(sizes()), data.draw(sizes(3))
    counts = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    parts = [normal(i, (m, n, count), place.dtype) for i, count in enumerate(counts)]
    Y = normal(9, (m, n, 2), place.dtype)
    found = space_at(place, n).joint_gram([place.put(part) for part in parts], place.put(Y))
    X = np.concatenate(parts, axis=2).astype(np.complex128)
    expected = X.conj().transpose(0, 2, 1) @ Y
    assert tuple(found.shape) == expected.shape
    assert norm(to_numpy(found) - expected) <= 16 * n * place.eps * norm(X) * norm(Y)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_beyond_single_precision_do_not_overflow(scale, dtype, library):
    place = Place(library, dtype)
    X = (scale * normal(0, (7, 3), dtype)).astype(dtype)
    block, wide = place.put(X), X.astype(np.complex128)
    space = ArraySpace(7, place.dtype_object, place.xp, sections=SECTIONS)
    expected = np.sum(np.abs(wide) ** 2, axis=0)
    squares = to_numpy(space.column_norms_squared(block))
    np.testing.assert_allclose(squares, expected, rtol=1e-14)
    sections = to_numpy(space.section_inner(block, block))
    np.testing.assert_allclose(np.sum(sections, axis=0), expected, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_traces_of_huge_and_tiny_operators_in_single_precision(scale):
    A = normal(0, (20, 20))
    one, scaled = (trace((c * A).astype(np.float32), rng=0) for c in (1.0, scale))
    assert scaled.value / scale == pytest.approx(one.value, rel=1e-5)
    assert scaled.standard_error / scale == pytest.approx(one.standard_error, rel=1e-5)


@pytest.mark.parametrize("shape", [(2**20 + 3, 2), (2**19, 4), (1, 3), (0, 3)])
def test_long_blocks_are_summed_chunk_by_chunk(shape):
    block = normal(0, shape, "float32")
    expected = np.sum(block.astype(np.float64) ** 2, axis=0)
    space = ArraySpace(2**21, "float32", rows=(0, shape[0]))
    np.testing.assert_allclose(space.column_norms_squared(block), expected, rtol=1e-12)


@given(pairs())
def test_column_norms_squared_are_real(pair):
    place, space, X, _ = pair
    found = space.column_norms_squared(place.put(X))
    assert dtype_name(found.dtype) == "float64"
    expected = np.sum(np.abs(X.astype(np.complex128)) ** 2, axis=0)
    assert norm(to_numpy(found) - expected) <= 16 * place.eps * norm(X) ** 2


@pytest.mark.parametrize("library", LIBRARIES)
def test_long_float32_columns_are_summed_in_double_precision(library):
    # In single precision a running sum of ones stops at 2^24, and pairwise it loses digits.
    n = 2**20 + 1
    column = Place(library, "float32").put(np.full((n, 1), 0.1))
    inner = float(space_at(Place(library, "float32"), n).column_inner(column, column)[0])
    assert inner == pytest.approx(n * float(np.float32(0.1)) ** 2, rel=1e-12)


@given(places(), st.integers(0, 3), st.data())
def test_sections_split_the_inner_product(place, k, data):
    X, Y = (data.draw(blocks(7, k, place.dtype)) for _ in range(2))
    space = ArraySpace(7, place.dtype_object, place.xp, sections=SECTIONS)
    found = to_numpy(space.section_inner(place.put(X), place.put(Y)))
    assert tuple(space.sections) == ("first", "empty", "second", "third")
    assert found.shape == (4, k)
    for row, (start, stop) in zip(found, SECTIONS.values(), strict=True):
        part = slice(start, stop)
        expected = np.sum(X[part].conj().astype(np.complex128) * Y[part], axis=0)
        assert norm(row - expected) <= 16 * place.eps * norm(X) * norm(Y)


@given(pairs())
def test_a_space_without_sections_is_one_section(pair):
    place, space, X, Y = pair
    x, y = place.put(X), place.put(Y)
    found = to_numpy(space.section_inner(x, y))
    assert space.sections == {}
    assert np.array_equal(found, to_numpy(space.column_inner(x, y))[None, :])


@pytest.mark.parametrize(
    "sections",
    [
        {"a": (0, 3)},
        {"a": (0, 4), "b": (3, 7)},
        {"a": (0, 3), "b": (4, 7)},
        {"a": (0, 8)},
        {"a": (1, 7)},
        {"a": (0, 5), "b": (5, 4), "c": (4, 7)},
        {"a": (-1, 3), "b": (-1, 7)},
    ],
)
def test_sections_that_do_not_cover_each_row_once_are_refused(sections):
    with pytest.raises(ValueError, match="sections must cover the rows 0 to 7 once"):
        ArraySpace(7, sections=sections)


def test_sections_may_come_in_any_order():
    space = ArraySpace(7, sections={"b": (3, 7), "a": (0, 3)})
    X = normal(0, (7, 1))
    found = space.section_inner(X, X)
    assert np.allclose(found, [X[3:].T @ X[3:], X[:3].T @ X[:3]] @ np.ones(1))


@pytest.mark.parametrize("rows", [(-1, 3), (5, 8), (4, 3)])
def test_rows_outside_of_the_space_are_refused(rows):
    with pytest.raises(ValueError, match="are no rows of a space of dimension 7"):
        ArraySpace(7, rows=rows)


@given(places(), sizes(), st.integers(0, 4))
def test_zeros_are_zeros_of_the_space(place, n, count):
    block = space_at(place, n).zeros(count)
    assert tuple(block.shape) == (n, count)
    assert dtype_name(block.dtype) == place.dtype
    assert not np.any(to_numpy(block))


@given(places(), sizes(), st.integers(0, 6), st.integers(0, 6))
def test_unit_vectors_are_columns_of_the_identity(place, n, start, stop):
    start, stop = min(start, n), min(stop, n)
    block = space_at(place, n).unit_vectors(start, max(start, stop))
    assert dtype_name(block.dtype) == place.dtype
    assert np.array_equal(to_numpy(block), np.eye(n)[:, start : max(start, stop)])


@given(places(), blocks(3, 2))
def test_host_arrays_come_in_the_spaces_dtype(place, host):
    moved = space_at(place, 5).from_host(host)
    assert dtype_name(moved.dtype) == place.dtype
    assert np.array_equal(to_numpy(moved), host.astype(place.dtype))


@given(places(), blocks(3, 2))
def test_coefficients_do_not_raise_single_precision(place, small):
    double = Place(place.library, "complex128" if place.is_complex else "float64").put(small)
    assert dtype_name(space_at(place, 5).coefficients(double).dtype) == place.dtype


@given(pairs())
def test_a_valid_block_passes_untouched(pair):
    place, space, X, _ = pair
    block = place.put(X)
    assert space.validate(block) is block


@given(blocks(3, 2, "float32"))
def test_lower_precision_passes_without_loss(X):
    for dtype in ("float64", "complex128", "complex64"):
        raised = ArraySpace(3, dtype).validate(X)
        assert raised.dtype == dtype
        assert np.array_equal(raised, X)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([[1.0]], TypeError, "expected an array, got list; wrap it, e.g. np.asarray"),
        (np.zeros((4, 1)), ValueError, r"expected 3 rows, got a block of shape \(4, 1\)"),
        (
            np.zeros((3, 1), dtype=int),
            TypeError,
            "integer or boolean dtype int64; convert it to flo",
        ),
        (np.zeros((3, 1)), TypeError, "block is float64 and the operator float32: digits would be"),
        (
            np.zeros((3, 1), dtype="complex64"),
            TypeError,
            "block is complex64 and the operator float",
        ),
        (
            LIBRARIES["strict"].zeros((3, 1)),
            TypeError,
            "arrays of numpy, got one of array_api_strict",
        ),
    ],
)
def test_validate_says_what_is_off(X, error, message):
    with pytest.raises(error, match=message):
        ArraySpace(3, "float32").validate(X)


@needs_torch
def test_validate_names_the_devices():
    import torch

    space = space_at(Place("torch", "float64"), 3)
    with pytest.raises(ValueError, match="the operator lives on cpu, the block on meta"):
        space.validate(torch.zeros((3, 1), device="meta"))
    named = ArraySpace(3, torch.float64, LIBRARIES["torch"], "cpu")
    assert named.compatible_with(space)
    assert named.validate(torch.zeros((3, 1), dtype=torch.float64)).shape == (3, 1)


@pytest.mark.parametrize("dim", [0, -3])
def test_a_space_needs_a_positive_dimension(dim):
    with pytest.raises(ValueError, match=f"a space of dimension {dim} holds no vectors"):
        ArraySpace(dim)


@pytest.mark.parametrize("dtype", [int, "int32", bool])
def test_a_space_needs_a_floating_type(dtype):
    with pytest.raises(TypeError, match="is not a floating type; convert to float64"):
        ArraySpace(3, dtype)


def test_spaces_of_the_same_rows_library_and_ranks_are_compatible():
    space = ArraySpace(3)
    assert space.compatible_with(ArraySpace(3, "complex64"))
    assert space.compatible_with(space.with_dtype("float32"))
    assert not space.compatible_with(ArraySpace(4))
    assert not space.compatible_with(ArraySpace(3, xp=LIBRARIES["strict"]))
    assert not space.compatible_with(ArraySpace(3, rows=(0, 2)))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_bare_space_has_the_dtype_and_device_of_its_arrays(library):
    space = ArraySpace(3, xp=LIBRARIES[library])
    block = space.zeros(1)
    assert space.dtype == block.dtype
    assert dtype_name(space.dtype) == "float64"
    assert space.compatible_with(space_at(Place(library, "float32"), 3))
    assert repr(space).startswith(f"ArraySpace(3, float64, {'array_api_' * (library == 'strict')}")


def test_with_dtype_keeps_everything_else():
    space = ArraySpace(7, sections=SECTIONS, rows=(0, 7)).with_dtype("complex64")
    assert (space.dim, space.dtype, space.rows) == (7, np.complex64, (0, 7))
    assert tuple(space.sections) == tuple(SECTIONS)


def test_a_single_process_agrees_with_itself():
    assert ArraySpace(3).agree(True) is True
    assert ArraySpace(3).agree(False) is False
    assert SerialComm() == SerialComm()
    assert SerialComm().broadcast("value") == "value"


N = 17
SHARDED_SECTIONS = {"a": (0, 3), "b": (3, 11), "c": (11, 17)}


@pytest.mark.parametrize("split", splits(N), ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_split_rows_reduce_to_what_the_whole_reduces_to(split, dtype):
    X, Y = normal(0, (N, 3), dtype), normal(1, (N, 3), dtype)
    whole = ArraySpace(N, dtype, sections=SHARDED_SECTIONS)
    scale = norm(X) * norm(Y)

    def reduce(comm):
        start, stop = split[comm.rank]
        space = ArraySpace(N, dtype, comm=comm, rows=(start, stop), sections=SHARDED_SECTIONS)
        x, y = X[start:stop], Y[start:stop]
        return (
            space.gram(x, y),
            space.column_inner(x, y),
            space.section_inner(x, y),
            space.column_norms_squared(x),
            space.local_dim,
            space.agree(comm.rank == 0),
        )

    results = run_on_ranks(reduce, len(split))
    for gram, inner, sections, squares, _, agreed in results:
        assert_close(gram, whole.gram(X, Y), N * scale)
        assert_close(inner, whole.column_inner(X, Y), scale)
        assert_close(sections, whole.section_inner(X, Y), scale)
        assert_close(squares, whole.column_norms_squared(X), scale)
        assert agreed is True
    for reductions in zip(*(result[:4] for result in results), strict=True):
        assert all(np.array_equal(part, reductions[0]) for part in reductions)
    assert sum(result[4] for result in results) == N


@pytest.mark.parametrize("split", splits(N), ids=str)
@pytest.mark.parametrize("kind", ["rademacher", "normal", "sphere", "steinhaus"])
def test_split_rows_hold_the_same_probes(split, kind):
    whole = ArraySpace(N, "complex128").probes(Stream(3), range(2, 5), kind)

    def local_probes(comm):
        space = ArraySpace(N, "complex128", comm=comm, rows=split[comm.rank])
        return space.probes(Stream(3), range(2, 5), kind)

    parts = run_on_ranks(local_probes, len(split))
    assert [len(part) for part in parts] == [stop - start for start, stop in split]
    if kind == "sphere":
        assert np.allclose(gathered(parts), whole, rtol=1e-14, atol=0)
    else:
        assert np.array_equal(gathered(parts), whole)


def test_spaces_on_different_ranks_or_rows_are_not_compatible():
    def compare(comm: ThreadComm):
        here = ArraySpace(4, comm=comm, rows=(0, 2))
        assert here.compatible_with(here.with_dtype("float32"))
        assert not here.compatible_with(ArraySpace(4))
        assert not here.compatible_with(ArraySpace(4, comm=comm, rows=(0, 3)))
        return here.local_dim

    assert math.prod(run_on_ranks(compare, 2)) == 4
