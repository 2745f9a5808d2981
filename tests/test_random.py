"""Random probes: the same bits everywhere, and the moments they promise.

Statistical assertions use fixed seeds and a false-alarm rate of at most 1e-6 for each statistic: 4.9
standard errors of a mean, or a p-value of 1e-6.
"""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIBRARIES, PLACES, Place, space_at

from hessops import ArraySpace
from hessops.arrays import to_numpy
from hessops.random import Stream, draw, seed_from

KINDS = ("rademacher", "normal", "sphere", "steinhaus")
COMPLEX_AND_KIND = [(False, "rademacher"), (False, "normal"), (False, "sphere")] + [
    (True, kind) for kind in KINDS
]
FALSE_ALARM = 1e-6
STANDARD_ERRORS = 4.9

seeds = st.integers(0, 2**64 - 1)
streams = st.builds(Stream, seeds, st.integers(0, 3), st.integers(0, 2**32))


def entries(stream, probe, start, stop, kind, complex_valued):
    return draw(stream, probe, start, stop, kind, complex_valued=complex_valued)


@given(streams, st.integers(1, 400), st.integers(0, 5), st.integers(1, 5))
def test_signs_are_the_same_bits_in_every_library(stream, n, first, count):
    reference = None
    for place in PLACES:
        block = space_at(place, n).probes(stream, range(first, first + count), "rademacher")
        assert tuple(block.shape) == (n, count)
        signs = to_numpy(block)
        reference = signs.real if reference is None else reference
        assert np.array_equal(signs, reference)
        assert set(np.unique(reference)) <= {-1.0, 1.0}


@pytest.mark.parametrize(("complex_valued", "kind"), COMPLEX_AND_KIND)
@given(stream=streams, n=st.integers(1, 50))
def test_probes_are_equal_to_rounding_in_every_library(complex_valued, kind, stream, n):
    dtypes = ("complex128", "complex64") if complex_valued else ("float64", "float32")
    reference = ArraySpace(n, dtypes[0]).probes(stream, range(3), kind)
    for library, dtype in itertools.product(LIBRARIES, dtypes):
        place = Place(library, dtype)
        block = to_numpy(space_at(place, n).probes(stream, range(3), kind))
        assert block.dtype == dtype
        assert np.allclose(block, reference, rtol=8 * place.eps, atol=8 * place.eps)


@pytest.mark.parametrize(("complex_valued", "kind"), COMPLEX_AND_KIND)
@given(stream=streams, cuts=st.lists(st.integers(0, 300), min_size=1, max_size=4))
def test_any_split_of_the_rows_gives_the_same_probe(complex_valued, kind, stream, cuts):
    n = 300
    bounds = [0, *sorted(cuts), n]
    whole = entries(stream, 3, 0, n, kind, complex_valued)
    parts = [
        entries(stream, 3, start, stop, kind, complex_valued)
        for start, stop in itertools.pairwise(bounds)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(("complex_valued", "kind"), COMPLEX_AND_KIND)
@given(stream=streams, cut=st.integers(0, 6))
def test_any_block_size_gives_the_same_probes(complex_valued, kind, stream, cut):
    space = ArraySpace(17, "complex128" if complex_valued else "float64")
    whole = space.probes(stream, range(6), kind)
    blocks = [space.probes(stream, indices, kind) for indices in (range(cut), range(cut, 6))]
    joined = np.concatenate(blocks, axis=1)
    if kind == "sphere":
        # The norms are sums, which round as the shape of the block has it.
        assert np.allclose(joined, whole, rtol=1e-15, atol=0)
    else:
        assert np.array_equal(joined, whole)


@given(streams, st.integers(0, 2**40), st.integers(0, 5))
def test_a_probe_is_as_long_as_one_likes(stream, start, count):
    far = stream.words(0, start, start + count)
    assert np.array_equal(far, stream.words(0, start - start % 8, start + count)[start % 8 :])


def test_the_sequence_is_pinned():
    # A release that changes these bits changes every seeded result.
    signs = draw(Stream(7), 0, 0, 12, "rademacher", complex_valued=False)
    assert signs.tolist() == [1, 1, -1, 1, 1, -1, 1, -1, -1, -1, 1, -1]
    normal = draw(Stream(7), 0, 0, 3, "normal", complex_valued=False)
    expected = [1.1362472746449774, -0.5377773613536538, -0.20164360050307614]
    assert np.allclose(normal, expected, rtol=1e-14, atol=0)


def test_probes_terms_purposes_and_seeds_are_independent():
    # 15 pairs of 2**16 signs; the mean of n products of independent signs has deviation 1 / sqrt(n).
    n = 2**16
    base = Stream(0)
    variants = [
        (base, 0), (base, 1), (base.for_term(1), 0), (base.for_purpose(1), 0), (Stream(1), 0),
        (base.for_term(1).for_purpose(1), 0),
    ]  # fmt: skip
    signs = [
        draw(stream, probe, 0, n, "rademacher", complex_valued=False).astype(float)
        for stream, probe in variants
    ]
    for one, other in itertools.combinations(signs, 2):
        assert abs(one @ other) / n <= STANDARD_ERRORS / np.sqrt(n)


def test_real_and_imaginary_parts_are_independent():
    n = 2**16
    z = draw(Stream(3), 0, 0, n, "normal", complex_valued=True)
    # E[z^2] = 0; both parts of the mean of z^2 have deviation 1 / sqrt(n).
    assert abs(np.mean(z**2).real) <= STANDARD_ERRORS / np.sqrt(n)
    assert abs(np.mean(z**2).imag) <= STANDARD_ERRORS / np.sqrt(n)


@pytest.mark.parametrize(("complex_valued", "kind"), COMPLEX_AND_KIND)
def test_the_first_two_moments_are_zero_and_the_identity(complex_valued, kind):
    # 6 means and 36 second moments over 20,000 probes, each held against its own standard error.
    n, count = 6, 20_000
    space = ArraySpace(n, "complex128" if complex_valued else "float64")
    Z = space.probes(Stream(11), range(count), kind)
    products = Z[:, None, :] * Z[None, :, :].conj()
    for samples, expected in ((Z, np.zeros(n)), (products, np.eye(n))):
        mean = samples.mean(axis=-1)
        for part in (np.real, np.imag):
            error = part(samples).std(axis=-1) / np.sqrt(count)
            allowed = STANDARD_ERRORS * error + 1e-12
            assert np.all(np.abs(part(mean) - part(expected)) <= allowed)


def test_normal_entries_are_normal():
    real = draw(Stream(5), 2, 0, 50_000, "normal", complex_valued=False)
    assert scipy.stats.kstest(real, "norm").pvalue > FALSE_ALARM
    z = draw(Stream(5), 2, 0, 50_000, "normal", complex_valued=True)
    for part in (z.real, z.imag):
        assert scipy.stats.kstest(part * np.sqrt(2), "norm").pvalue > FALSE_ALARM


def test_steinhaus_entries_are_uniform_on_the_unit_circle():
    z = draw(Stream(5), 2, 0, 50_000, "steinhaus", complex_valued=True)
    assert np.allclose(np.abs(z), 1, rtol=4e-16, atol=0)
    assert scipy.stats.kstest(np.angle(z), "uniform", (-np.pi, 2 * np.pi)).pvalue > FALSE_ALARM


def test_signs_are_fair_in_every_bit_of_a_word():
    n = 64 * 4096
    signs = draw(Stream(5), 2, 0, n, "rademacher", complex_valued=False).reshape(-1, 64)
    assert np.all(np.abs(signs.mean(axis=0)) <= STANDARD_ERRORS / np.sqrt(4096))


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_sphere_probes_have_length_root_n_and_no_preferred_direction(n):
    Z = ArraySpace(n).probes(Stream(9), range(3000), "sphere")
    assert np.allclose(np.linalg.norm(Z, axis=0), np.sqrt(n), rtol=1e-14)
    if n > 1:
        # The square of one coordinate of a uniform unit vector is Beta(1/2, (n - 1)/2).
        squares = Z[0] ** 2 / n
        assert scipy.stats.kstest(squares, "beta", (0.5, (n - 1) / 2)).pvalue > FALSE_ALARM
    complex_space = ArraySpace(n, "complex128")
    Z = complex_space.probes(Stream(9), range(10), "sphere")
    assert np.allclose(np.linalg.norm(Z, axis=0), np.sqrt(n), rtol=1e-14)


@given(seeds)
def test_a_seed_stands_for_itself(seed):
    assert seed_from(seed) == seed
    assert seed_from(np.uint64(seed)) == seed


def test_a_generator_is_asked_for_a_seed_and_advances():
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    first = seed_from(one)
    assert first == seed_from(other)
    assert seed_from(one) != first
    assert seed_from(seed_from(one)) < 2**64


def test_no_seed_takes_fresh_entropy():
    assert seed_from(None) != seed_from(None)


@pytest.mark.parametrize("rng", [-1, 2**64, np.int64(-5)])
def test_numbers_that_are_no_seeds_are_refused(rng):
    with pytest.raises(ValueError, match=f"rng={rng} is no seed: it must be at least 0 and below"):
        seed_from(rng)


@pytest.mark.parametrize("rng", [True, np.True_, 1.0, "7", [1], np.random])
def test_what_is_no_source_of_randomness_is_refused(rng):
    with pytest.raises(
        TypeError, match=r"pass an integer seed, a (numpy.random.)?Generator or None"
    ):
        seed_from(rng)


def test_unknown_kinds_and_complex_probes_of_real_operators_are_refused():
    space = ArraySpace(3)
    with pytest.raises(ValueError, match="probe='signs' is unknown; choose one of rademacher"):
        space.probes(Stream(0), range(1), "signs")
    with pytest.raises(ValueError, match="this operator is real; use 'rademacher'"):
        space.probes(Stream(0), range(1), "steinhaus")


def test_global_random_state_is_left_alone():
    before = np.random.get_state()  # noqa: NPY002 - the global state is what is looked at
    ArraySpace(100).probes(Stream(seed_from(None)), range(3), "normal")
    after = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(before[1], after[1])
    assert before[2:] == after[2:]
