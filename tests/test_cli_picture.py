"""The picture of a report: what is enlarged, and that it is drawn at all."""

import numpy as np
import pytest

import hessops
from hessops.cli.picture import _bulk, _outside, caption, density_picture

pytest.importorskip("matplotlib")

OUTLIERS = [-20.0, 30.0, 40.0]


def density(eigenvalues, num_probes=4):
    operator = hessops.Diagonal(np.asarray(eigenvalues))
    return hessops.spectral_density(operator, num_probes=num_probes, num_steps=40, rng=0)


def test_the_bulk_is_enlarged_without_the_outliers():
    small = np.linspace(-1, 1, 3000)
    found = density([*small, *OUTLIERS])
    low, high = _bulk(found)
    assert -3 < low < -1
    assert 1 < high < 3
    # Rademacher probes give a simple isolated eigenvector of a diagonal matrix its exact share.
    assert _outside(found, (low, high)) == "3 eigenvalues"


def test_a_bulk_that_is_resolved_is_enlarged_too():
    low, high = _bulk(density([*np.linspace(0, 1, 20), 100.0]))
    assert -1 < low < 0
    assert 1 < high < 2


@pytest.mark.parametrize(
    "eigenvalues",
    [np.linspace(0, 1, 500), [1.0, 2.0, 3.0], np.ones(50), [1.0] * 50 + [1e-3] * 950],
    ids=["flat", "few", "one", "two"],
)
def test_a_spectrum_without_outliers_needs_one_panel(eigenvalues):
    assert _bulk(density(eigenvalues)) is None


@pytest.mark.parametrize("num_probes", [1, 3])
@pytest.mark.parametrize("marked", [[], OUTLIERS])
def test_pictures_are_drawn(marked, num_probes):
    found = density([*np.linspace(-1, 1, 500), *OUTLIERS], num_probes)
    picture = density_picture(found, np.array(marked), "a title")
    assert picture.startswith(b"\x89PNG")
    assert "n = 503 eigenvalues" in caption(found)
