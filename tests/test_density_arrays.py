"""Distribution functions and quantiles of many points at once, and the picture of a density."""

import numpy as np
import pytest
from strategies import with_spectrum

import hessops

EIGENVALUES = np.concatenate([np.full(30, -1.0), np.linspace(0, 5, 70)])
RESULTS = {
    probes: hessops.spectral_density(
        with_spectrum(EIGENVALUES), num_probes=probes, num_steps=20, rng=0
    )
    for probes in (1, 6)
}
SHARES = np.array([[0.0, 0.1, 0.3], [0.5, 0.999, 1.0]])


@pytest.mark.parametrize("num_probes", RESULTS)
@pytest.mark.parametrize(
    ("method", "points"),
    [("quantile", SHARES), ("cdf", np.array([[-2.0, -1.0], [0.5, 9.0]]))],
)
def test_many_points_are_the_points_one_by_one(method, points, num_probes):
    read = getattr(RESULTS[num_probes], method)
    together = read(points)
    assert together.value.shape == together.standard_error.shape == points.shape
    low, high = together.interval
    assert low.shape == high.shape == points.shape
    for index in np.ndindex(points.shape):
        alone = read(float(points[index]))
        assert isinstance(alone.value, float)
        assert isinstance(alone.standard_error, float)
        assert together.value[index] == pytest.approx(alone.value, rel=1e-13)
        np.testing.assert_allclose(
            together.standard_error[index], alone.standard_error, rtol=1e-9, atol=1e-15
        )
        assert together.freedom == alone.freedom == num_probes - 1


@pytest.mark.parametrize("method", ["quantile", "cdf"])
def test_lists_scalars_of_numpy_and_no_points_at_all(method):
    read = getattr(RESULTS[6], method)
    assert read([0.2, 0.4]).value.tolist() == [read(0.2).value, read(0.4).value]
    for scalar in (np.float64(0.2), np.array(0.2)):
        assert isinstance(read(scalar).value, float)
        assert read(scalar).value == read(0.2).value
    empty = read(np.zeros((0, 2)))
    assert empty.value.shape == empty.standard_error.shape == (0, 2)


@pytest.mark.parametrize(
    ("q", "bad"),
    [
        (-0.5, "-0.5"),
        (np.array([0.5, 1.5]), "1.5"),
        ([0.0, float("nan")], "nan"),
        (np.array([[0.1, -2.0]]), "-2.0"),
    ],
)
def test_shares_outside_of_0_to_1_are_named(q, bad):
    with pytest.raises(ValueError, match=f"q={bad} must lie between 0 and 1"):
        RESULTS[6].quantile(q)


def test_the_picture_shows_the_density_and_starts_below_one_eigenvalue():
    axes = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    result = RESULTS[6]
    assert result.plot(axes, width=0.1) is axes
    x, y = axes.lines[0].get_data()
    floor = axes.get_ylim()[0]
    assert floor == pytest.approx(0.1 / (100 * (x[-1] - x[0])))
    np.testing.assert_allclose(y, np.maximum(result.density(x, 0.1).value, floor), rtol=1e-12)
    assert len(axes.collections) == 1  # two standard errors as a band
    alone = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    RESULTS[1].plot(alone)
    assert len(alone.collections) == 0
