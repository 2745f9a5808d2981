"""Laws of the gallery: what a problem says of its operator is what a dense solver finds."""

import math
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIBRARIES, PLACES, REAL, norm, normal, places

import hessops
from hessops import gallery
from hessops.arrays import to_numpy
from hessops.gallery.xtrace_spectra import XTraceSpectrum

DOCS = Path(__file__).resolve().parents[1] / "docs"
ROUNDING = 1e-12


def features(rows, columns, seed=0):
    return normal(seed, (rows, columns))


SMALL = {
    "laplacian_1d": lambda **at: gallery.laplacian_1d(17, **at),
    "laplacian_2d": lambda **at: gallery.laplacian_2d(4, 6, **at),
    "strakos": gallery.strakos,
    "wilkinson": lambda **at: gallery.wilkinson(21, **at),
    "clement": lambda **at: gallery.clement(16, **at),
    "toeplitz_gram": lambda **at: gallery.toeplitz_gram(20, **at),
    "kneser": lambda **at: gallery.kneser(6, 2, **at),
    "hypercube": lambda **at: gallery.hypercube(4, **at),
    "ising": lambda **at: gallery.transverse_field_ising(5, 0.7, **at),
    "with_eigenvalues": lambda **at: gallery.with_eigenvalues(np.arange(-4.0, 9.0), rng=0, **at),
    "xtrace_matrix": lambda **at: gallery.xtrace_matrix("poly", 24, rng=1, **at),
    "softmax_hessian": lambda **at: gallery.softmax_hessian(features(9, 4), 3, **at),
    "linear_network": lambda **at: gallery.linear_network_hessian(
        features(9, 4), features(9, 2, seed=1), 3, **at
    ),
}
RANDOM = {
    "wigner": lambda **at: gallery.wigner(14, rng=0, **at),
    "marchenko_pastur": lambda **at: gallery.marchenko_pastur(12, 0.4, rng=0, **at),
}
EVERYTHING = SMALL | RANDOM
REAL_PLACES = [place for place in PLACES if place.dtype in REAL]


SIZES, SEEDS = st.integers(1, 20), st.integers(0, 2**32 - 1)
SIGNED = st.floats(-3, 3, allow_subnormal=False)


def spread(n, low, reach, rho):
    return gallery.strakos(n + 1, low, low + reach, rho)


def gram(n, b, more):
    return gallery.toeplitz_gram(n, b + more, b)


def disjoint_subsets(k, more):
    return gallery.kneser(2 * k + more, k)


def rotated(values, seed):
    return gallery.with_eigenvalues(np.array(values), rng=seed)


def decaying(name, n, seed):
    return gallery.xtrace_matrix(name, 3 * n, rng=seed)


def classifier(samples, d, classes, seed):
    return gallery.softmax_hessian(features(samples, d, seed), classes)


def two_layers(samples, d, outputs, hidden, seed):
    targets = features(samples, outputs, seed + 1)
    return gallery.linear_network_hessian(features(samples, d, seed), targets, hidden)


FEW = st.integers(1, 5)
# Problems of every kind, with sizes down to the smallest.
DRAWN = [
    st.builds(gallery.laplacian_1d, SIZES),
    st.builds(gallery.laplacian_2d, FEW, FEW),
    st.builds(spread, SIZES, SIGNED, st.floats(1, 4), st.floats(0.3, 1)),
    st.builds(gallery.wilkinson, SIZES.map(lambda half: 2 * half + 1)),
    st.builds(gallery.clement, st.integers(2, 20)),
    st.builds(gram, SIZES, st.floats(0.01, 3), st.floats(0.001, 3)),
    st.builds(disjoint_subsets, st.integers(1, 3), st.integers(0, 2)),
    st.builds(gallery.hypercube, st.integers(1, 6)),
    st.builds(gallery.transverse_field_ising, st.integers(2, 6), SIGNED),
    st.builds(rotated, st.lists(SIGNED, min_size=1, max_size=20), SEEDS),
    st.builds(decaying, st.sampled_from(get_args(XTraceSpectrum)), SIZES, SEEDS),
    st.builds(classifier, st.integers(1, 8), FEW, st.integers(2, 4), SEEDS),
    st.builds(two_layers, st.integers(1, 8), FEW, FEW, FEW, SEEDS),
]
KINDS = dict(zip(SMALL, DRAWN, strict=True))


def every_kind(test):
    """Run a law with drawn problems of one kind after the other."""
    return pytest.mark.parametrize("kind", KINDS)(given(data=st.data())(test))


@every_kind
def test_eigenvalues_are_those_of_the_dense_matrix(kind, data):
    problem = data.draw(KINDS[kind])
    dense = problem.operator.to_dense()
    assert norm(dense - dense.T) <= ROUNDING * norm(dense)
    found = np.linalg.eigvalsh(dense)
    assert np.max(np.abs(found - problem.eigenvalues)) <= ROUNDING * problem.norm
    assert np.linalg.norm(dense, 2) == pytest.approx(problem.norm, rel=ROUNDING)


@every_kind
def test_trace_is_the_sum_of_the_eigenvalues_and_of_the_diagonal(kind, data):
    problem = data.draw(KINDS[kind])
    n = problem.operator.shape[0]
    allowed = ROUNDING * n * problem.norm
    assert problem.trace == pytest.approx(math.fsum(problem.eigenvalues), rel=0, abs=allowed)
    assert problem.trace == pytest.approx(np.trace(problem.operator.to_dense()), rel=0, abs=allowed)
    squares = problem.trace_of(np.square)
    assert squares == pytest.approx(norm(problem.operator.to_dense()) ** 2, rel=ROUNDING)


@every_kind
def test_logdet_is_the_sum_of_the_logarithms_or_refused(kind, data):
    problem = data.draw(KINDS[kind])
    smallest = problem.eigenvalues[0]
    if smallest < 0:
        with pytest.raises(ValueError, match="has negative eigenvalues"):
            _ = problem.logdet
    elif smallest == 0:
        assert problem.logdet == -math.inf
    else:
        total = math.fsum(np.log(problem.eigenvalues))
        size = math.fsum(np.abs(np.log(problem.eigenvalues)))
        assert problem.logdet == pytest.approx(total, rel=0, abs=ROUNDING * (1 + size))
        if smallest > 1e-3 * problem.norm:
            _, dense = np.linalg.slogdet(problem.operator.to_dense())
            assert problem.logdet == pytest.approx(dense, rel=0, abs=ROUNDING * 1e3 * (1 + size))


@every_kind
def test_structure_says_what_the_eigenvalues_are(kind, data):
    problem = data.draw(KINDS[kind])
    structure = problem.operator.structure
    assert structure.self_adjoint
    assert structure.positive_semidefinite == (problem.eigenvalues[0] >= 0)


@every_kind
def test_shifted_and_scaled_problems_are_those_of_the_dense_matrix(kind, data):
    problem = data.draw(KINDS[kind])
    shift = data.draw(st.sampled_from([-30.0, -1.5, 0.25]))
    factor = data.draw(st.sampled_from([-2.0, 0.5]))
    dense = problem.operator.to_dense()
    for changed, matrix in (
        (problem.shifted(shift), dense - shift * np.eye(len(dense))),
        (problem.scaled(factor), factor * dense),
    ):
        size = problem.norm + abs(shift)
        np.testing.assert_allclose(changed.operator.to_dense(), matrix, atol=ROUNDING * size)
        found = np.linalg.eigvalsh(matrix)
        np.testing.assert_allclose(changed.eigenvalues, found, rtol=0, atol=ROUNDING * 4 * size)
        trace = math.fsum(changed.eigenvalues)
        assert changed.trace == pytest.approx(trace, abs=ROUNDING * len(dense) * size)
        assert changed.operator.structure.positive_semidefinite == (changed.eigenvalues[0] >= 0)


@every_kind
def test_eigenvalues_ascend_and_cannot_be_changed(kind, data):
    problem = data.draw(KINDS[kind])
    assert problem.eigenvalues.shape == (problem.operator.shape[0],)
    assert np.all(np.diff(problem.eigenvalues) >= 0)
    with pytest.raises(ValueError, match="read-only"):
        problem.eigenvalues[0] = 0


@every_kind
def test_levels_repeated_are_the_eigenvalues(kind, data):
    problem = data.draw(KINDS[kind])
    values, multiplicities = problem.levels()
    assert multiplicities.sum() == problem.operator.shape[0]
    assert np.all(np.diff(values) > ROUNDING * problem.norm)
    repeated = np.repeat(values, multiplicities)
    # Neighbours may be a tolerance apart each, in a row.
    allowed = ROUNDING * problem.norm * len(repeated)
    np.testing.assert_allclose(repeated, problem.eigenvalues, rtol=0, atol=allowed)


@pytest.mark.parametrize("place", REAL_PLACES, ids=str)
@pytest.mark.parametrize("name", EVERYTHING)
def test_operators_are_the_same_everywhere(name, place):
    expected = EVERYTHING[name]().operator.to_dense()
    operator = EVERYTHING[name](xp=place.xp, dtype=place.dtype_object).operator
    found = to_numpy(operator.to_dense())
    assert found.dtype == place.dtype
    # Four Hartley transforms round most, a few times for every halving of n.
    assert norm(found - expected) <= 16 * place.eps * norm(expected)
    hessops.check_operator(operator, rng=0).raise_if_failed()


@pytest.mark.parametrize("name", EVERYTHING)
@given(place=places(REAL), count=st.integers(0, 4), seed=st.integers(0, 2**32 - 1))
def test_a_block_is_multiplied_like_its_columns(name, place, count, seed):
    operator = EVERYTHING[name](xp=place.xp, dtype=place.dtype_object).operator
    n = operator.shape[0]
    host = normal(seed, (n, count), place.dtype)
    block = place.put(host)
    whole = to_numpy(operator.apply(block))
    assert whole.shape == (n, count)
    np.testing.assert_array_equal(to_numpy(block), host)  # the block is left as it was
    size = norm(to_numpy(operator.to_dense()))
    for j in range(count):
        column = to_numpy(operator.apply(block[:, j]))
        assert norm(whole[:, j] - column) <= 16 * place.eps * size * norm(host[:, j])


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_complex_block_is_multiplied_by_parts(name):
    operator = EVERYTHING[name]().operator
    block = normal(3, (operator.shape[0], 2), "complex128")
    np.testing.assert_allclose(
        operator.apply(block), operator.to_dense() @ block, rtol=0, atol=1e-12 * norm(block) * 20
    )


@pytest.mark.parametrize("name", EVERYTHING)
def test_complex_operators_are_refused_with_a_way_out(name):
    with pytest.raises(TypeError, match="dtype=complex128: the operators of the gallery are real"):
        EVERYTHING[name](dtype=np.complex128)


@pytest.mark.parametrize("name", EVERYTHING)
def test_problems_print_their_name_and_size(name):
    problem = EVERYTHING[name]()
    n = problem.operator.shape[0]
    kind = "Problem" if name in SMALL else "RandomProblem"
    assert re.fullmatch(rf"{kind}\(\w+\(.*\), {n}x{n}, float64\)", repr(problem))


@pytest.mark.gpu
@pytest.mark.parametrize("name", EVERYTHING)
def test_operators_are_the_same_on_a_gpu(name):
    xp = LIBRARIES["torch"]
    expected = EVERYTHING[name]().operator.to_dense()
    operator = EVERYTHING[name](xp=xp, dtype=xp.float64, device="cuda").operator
    found = operator.to_dense()
    assert found.device.type == "cuda"
    assert norm(to_numpy(found) - expected) <= 16 * np.finfo(float).eps * norm(expected)


def test_all_is_what_is_public_and_what_the_page_lists():
    assert gallery.__all__ == sorted(gallery.__all__)
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    listed = re.findall(r"^ +~hessops\.gallery\.(\w+)$", text, flags=re.MULTILINE)
    assert sorted(listed) == gallery.__all__


def test_a_product_of_a_large_problem_never_forms_a_matrix():
    # A matrix of this size would take 80 GB.
    n = 100_000
    problem = gallery.xtrace_matrix("flat", n, rng=0)
    x = np.random.default_rng(0).choice([-1.0, 1.0], n)
    # x^T A x has mean tr A and, for signs, a variance below 2 |A|_F^2: five deviations, 6e-7.
    deviation = math.sqrt(2 * problem.trace_of(np.square))
    assert abs(x @ problem.operator.apply(x) - problem.trace) <= 5 * deviation
