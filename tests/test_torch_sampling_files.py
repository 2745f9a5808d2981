"""Sampling errors are results like all others: saved, loaded, reported, repeated by their seed."""

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from torch_problems import regression

import hessops
from hessops import ConvergenceError
from hessops.result import Result
from hessops_torch import (
    DensitySamplingError,
    SamplingError,
    density_sampling_error,
    eigenvalue_sampling_error,
    hessian,
    trace_sampling_error,
)

VERBS = {
    "trace": trace_sampling_error,
    "eigenvalues": lambda H, **options: eigenvalue_sampling_error(H, 2, **options),
    "density": lambda H, **options: density_sampling_error(
        H, num_probes=4, num_steps=6, num_points=21, **options
    ),
}


def require_same(one, other):
    """Compare two results field by field, and those within."""
    assert type(one) is type(other)
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, Result):
            require_same(mine, theirs)
        elif isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype
            assert mine.shape == theirs.shape
            np.testing.assert_array_equal(mine, theirs)
        else:
            np.testing.assert_equal(mine, theirs)


def problem():
    return hessian(*regression("cpu").arguments, micro_batch_size=2)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("population", [None, 5000])
def test_what_is_saved_is_loaded(verb, population, tmp_path):
    error = VERBS[verb](problem(), population=population, rng=3)
    path = error.save(tmp_path / "error")
    assert path.name == "error.npz"
    loaded = hessops.load(tmp_path / "error")
    require_same(loaded, error)
    assert str(loaded) == str(error)
    assert str(loaded.samples_needed()) == str(error.samples_needed())
    assert json.loads(json.dumps(error.to_dict(), allow_nan=False))["seed"] == error.seed == 3
    assert len(error.history) > 0
    assert error.seconds > 0


@settings(max_examples=20)
@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=4), st.floats(0, 1e3), st.booleans(),
    st.sampled_from([5000.0, np.inf]),
)  # fmt: skip
def test_any_errors_go_to_a_file_and_back(tmp_path_factory, values, error, known, population):
    made = SamplingError(
        value=np.asarray(values),
        sampling_error=np.full(len(values), error),
        computing_error=np.zeros(len(values)),
        bias=np.zeros(len(values)),
        freedom=np.full(len(values), np.nan),
        scatter_freedom=np.full(len(values), 7.0 * known),
        num_samples=512, num_batches=32, population=population, confidence=0.95, num_products=8,
        status="a sentence",
    )  # fmt: skip
    require_same(hessops.load(made.save(tmp_path_factory.mktemp("errors") / "one")), made)


@pytest.mark.parametrize("verb", VERBS)
def test_the_seed_repeats_a_run(verb):
    error = VERBS[verb](problem(), rng=None)
    again = VERBS[verb](problem(), rng=error.seed)
    values = [
        one.cdf.value if isinstance(one, DensitySamplingError) else one.value
        for one in (error, again)
    ]
    np.testing.assert_array_equal(*values)


def test_an_error_that_the_probes_hide_is_a_failure_for_the_strict():
    H = problem()
    found = [trace_sampling_error(H, num_probes=2, rng=seed) for seed in range(40)]
    assert {error.converged for error in found} == {True, False}
    for error in found:
        assert error.converged is bool(error.scatter_freedom > 0)
    hidden = next(error for error in found if not error.converged)
    with pytest.raises(ConvergenceError, match="take more probes"):
        hidden.raise_if_failed()
