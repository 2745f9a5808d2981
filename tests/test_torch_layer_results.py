"""The curvature of layers as a result: ranked, saved, written and drawn."""

import csv

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch_problems import images, regression

import hessops
from hessops_torch import hessian, layer_curvature


@pytest.fixture(scope="module")
def found():
    operator = hessian(*images("cpu").arguments)
    return layer_curvature(operator, num_probes=16, num_eigenvalues=1, num_density_steps=4, rng=0)


def test_results_are_ranked(found):
    for by, key in (
        ("trace per parameter", lambda block: float(found.trace_per_parameter(block))),
        ("trace", lambda block: float(found.traces[block])),
        ("top eigenvalue", lambda block: abs(found.top_eigenvalue(block))),
    ):
        assert found.ranking(by) == sorted(found.blocks, key=key, reverse=True)
        lines = found.table(by).splitlines()
        assert [line.split()[1] for line in lines[1:]] == found.ranking(by)
        assert all(line.count("±") == 2 for line in lines[1:])
        assert lines[0].split()[-3:] == ["error", "bound", "residual"]
    assert found.table() in str(found)
    with pytest.raises(ValueError, match="by='name' is unknown"):
        found.ranking("name")
    with pytest.raises(KeyError, match="no block '9'"):
        found.trace_per_parameter("9")
    bare = layer_curvature(hessian(*regression("cpu").arguments), num_probes=2, rng=0)
    with pytest.raises(ValueError, match="give num_eigenvalues=1"):
        bare.table("top eigenvalue")
    with pytest.raises(KeyError, match="give num_eigenvalues=1"):
        bare.top_eigenvalue("0")


def test_results_are_saved_whole(found, tmp_path):
    again = hessops.load(found.save(tmp_path / "layers"))
    assert str(again) == str(found)
    assert again.blocks == found.blocks
    for block in found.blocks:
        assert np.array_equal(again.densities[block].nodes, found.densities[block].nodes)
        assert again.eigenpairs[block].status == found.eigenpairs[block].status
        assert torch.equal(
            torch.as_tensor(again.eigenpairs[block].eigenvectors),
            found.eigenpairs[block].eigenvectors,
        )
    report = found.to_dict()
    assert report["traces"]["6"]["value"] == float(found.traces["6"])
    assert "eigenvectors" not in report["eigenpairs"]["6"]


def test_tables_are_written_with_all_digits(found, tmp_path):
    path = found.to_csv(tmp_path / "layers.csv", by="trace")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["block"] for row in rows] == found.ranking("trace")
    for row in rows:
        block = row["block"]
        assert int(row["parameters"]) == found.sizes[block]
        assert float(row["trace"]) == float(found.traces[block])
        assert float(row["trace_low"]) == found.traces[block].interval.low
        assert float(row["share"]) == found.shares[block][0]
        assert float(row["share_low"]) == found.shares[block][1].low
        assert float(row["eigenvalue"]) == found.top_eigenvalue(block)
        value, (low, high) = found.rms_diagonals[block]
        assert (float(row["rms_diagonal"]), float(row["rms_diagonal_high"])) == (value, high)
        assert low <= value <= high


@pytest.mark.parametrize("by", ["trace per parameter", "trace", "top eigenvalue"])
def test_results_are_drawn(found, by):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = found.plot(by=by)
    assert [label.get_text() for label in ax.get_yticklabels()] == found.ranking(by)
    assert ax.get_xlabel() == by
    assert found.plot(ax, by=by) is ax
    pyplot.close(ax.figure)
