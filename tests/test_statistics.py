"""Means and spreads at any scale, degrees of freedom, and the number of probes of two stages."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hessops.statistics import (
    MeanVariance,
    length,
    probes_needed,
    t_quantile,
    welch_satterthwaite,
)

SCALES = (1e-300, 1e-160, 1e-80, 1.0, 1e80, 1e150, 1e300)
every_scale = pytest.mark.parametrize("scale", SCALES)
SAMPLES = np.random.default_rng(0).standard_normal((5, 3, 24))


@every_scale
def test_moments_are_those_of_numpy_at_any_scale(scale):
    moments = MeanVariance.of(scale * SAMPLES)
    np.testing.assert_allclose(moments.mean / scale, SAMPLES.mean(axis=-1), rtol=1e-13)
    np.testing.assert_allclose(moments.deviation / scale, SAMPLES.std(axis=-1, ddof=1), rtol=1e-13)


@every_scale
@given(cuts=st.sets(st.integers(1, 23)))
def test_merging_blocks_of_any_size_changes_nothing(scale, cuts):
    whole, merged = MeanVariance.of(scale * SAMPLES), None
    for part in np.split(scale * SAMPLES, sorted(cuts), axis=-1):
        block = MeanVariance.of(part)
        merged = block if merged is None else merged.merged(block)
    assert merged.count == 24
    np.testing.assert_allclose(merged.mean / scale, whole.mean / scale, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(merged.spread / scale, whole.spread / scale, rtol=1e-12)


def test_a_single_probe_has_no_deviation():
    assert np.all(np.isnan(MeanVariance.of(SAMPLES[..., :1]).deviation))


@every_scale
def test_lengths(scale):
    entries = scale * SAMPLES[0]
    np.testing.assert_allclose(length(entries) / scale, np.linalg.norm(SAMPLES[0], axis=0))
    np.testing.assert_allclose(
        length(entries, axis=-1) / scale, np.linalg.norm(SAMPLES[0], axis=-1)
    )
    assert length(np.zeros(3)) == 0
    assert math.isnan(length(np.array([math.nan, scale])))


@every_scale
def test_degrees_of_freedom_do_not_depend_on_the_scale(scale):
    deviations = np.abs(SAMPLES[:, :, 0])
    squares = deviations**2
    expected = np.sum(squares, axis=0) ** 2 / np.sum(squares**2, axis=0) * (7 + 2) - 2
    found = welch_satterthwaite(scale * deviations, 7)
    np.testing.assert_allclose(found, np.clip(expected, 7, 35), rtol=1e-12)


@every_scale
def test_the_number_of_probes_does_not_depend_on_the_scale(scale):
    assert probes_needed(3.0 * scale, 0.5 * scale, 2.0) == 144
    assert probes_needed(0.0, 0.5 * scale, 2.0) == 1
    assert math.isinf(probes_needed(scale, 0.0, 2.0))


def test_a_ratio_beyond_all_numbers_takes_more_than_any_number_of_probes():
    assert math.isinf(probes_needed(1e150, 1e-160, 2.0))


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_quantiles_of_students_t(confidence):
    freedom = np.array([1.0, 2.5, 15.0, 1e6])
    expected = stats.t.ppf(0.5 + confidence / 2, freedom)
    np.testing.assert_allclose(t_quantile(confidence, freedom), expected, rtol=1e-10)
    assert math.isinf(t_quantile(confidence, 0.0))


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.5, math.nan])
def test_a_confidence_lies_between_0_and_1(confidence):
    with pytest.raises(ValueError, match=f"confidence={confidence} must lie between 0 and 1"):
        t_quantile(confidence, 3.0)
