"""What `print` says of a result: warnings first, no interval that does not hold, no inf or nan."""

import re

import numpy as np
import pytest

import hessops
from hessops import ConvergenceWarning, Diagonal


def near_zero():
    """Return an operator of which so few steps do not exclude the eigenvalue 0."""
    return Diagonal(np.geomspace(1e-8, 1.0, 400))


def test_what_is_not_resolved_does_not_look_like_an_interval():
    result = hessops.spectrum(near_zero(), budget=160, rng=0)
    rows = {row.quantity: row for row in result.report()}
    log_determinant, condition = rows["log-determinant"], rows["condition number"]
    assert log_determinant.value.startswith("about ")
    assert log_determinant.error == "not resolved"
    assert "eigsh(A, 1, which='SA')" in log_determinant.advice
    assert condition.value.startswith(">= ")
    assert condition.error == ""
    assert float(condition.value[3:]) <= 1e8
    assert "inf" not in str(result)


def test_a_value_that_is_not_to_be_trusted_says_so_first():
    with pytest.warns(ConvergenceWarning):
        result = hessops.logdet(near_zero(), num_probes=4, num_steps=6, rng=0)
    first, advice = str(result).splitlines()
    assert first.startswith("tr log(A): not to be trusted, about -")
    assert "±" not in first
    assert "eigsh(A, 1, which='SA')" in advice
    assert not result.resolved


def test_a_missed_tolerance_does_not_make_a_value_wrong():
    A = Diagonal(np.linspace(1.0, 2.0, 300))
    with pytest.warns(ConvergenceWarning):
        result = hessops.logdet(
            A, num_probes=2, num_steps=20, rtol=1e-9, probe="normal", power_traces=(), rng=0
        )
    assert result.resolved
    assert str(result).startswith("tr log(A) = ")
    assert result.status in str(result)


def test_a_condition_number_without_an_upper_bound_is_a_lower_one():
    with pytest.warns(ConvergenceWarning):
        result = hessops.condition_number(near_zero(), max_steps=5, rng=0)
    assert re.match(r"condition number >= [\d.]+(e\+\d+)? \(certified", str(result))


@pytest.mark.parametrize("verb", [hessops.trace, hessops.frobenius_norm, hessops.diagonal])
def test_one_probe_leaves_the_error_unknown(verb):
    text = str(verb(np.ones((9, 9)), num_probes=1, rng=0))
    assert "± unknown" in text
    assert "nan" not in text
    assert "1 rademacher probe, 1 product, " in text


def test_an_eigenvalue_is_printed_as_far_as_its_error_bound_goes():
    with pytest.warns(ConvergenceWarning):
        result = hessops.eigsh(Diagonal(np.linspace(0.0, 1.0, 500)), 1, max_steps=12, rng=0)
    bound = result.error_bounds[0]
    shown = re.search(r"([\d.]+) +residual", str(result))[1]
    assert 10.0 ** -len(shown.partition(".")[2]) >= bound
