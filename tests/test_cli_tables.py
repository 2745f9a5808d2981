"""What the command line's tables claim: digits that errors support, marks, exit codes."""

import json
import math
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from hypothesis import given
from hypothesis import strategies as st

from hessops.results.numbers import (
    at_least_text,
    at_most_text,
    estimate_cells,
    estimate_text,
    estimates_in_column,
    interval_text,
    values_in_column,
)

pytest.importorskip("typer")
pytest.importorskip("rich")


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    return (basis * np.linspace(-1, 5, 60)) @ basis.T


def test_unconverged_results_are_said(tmp_path: Path) -> None:
    exact = np.concatenate([[100.0, 50.0, 10.0], np.linspace(0, 1, 57)])
    np.save(tmp_path / "a.npy", np.diag(exact))
    options = ("--compute", "eigenvalues", "--max-steps", "14", "--tol", "1e-6")
    done = run("analyze", "a.npy", *options, cwd=tmp_path)
    assert done.returncode == 3
    assert "NOT CONVERGED: " in done.stdout
    assert "raise --max-steps or --tol" in " ".join(done.stdout.split())
    assert done.stderr == (
        "hessops: not as accurate as asked for: eigenvalues; see NOT CONVERGED above\n"
    )
    report = json.loads((tmp_path / "hessops-report" / "report.json").read_text())
    pairs = report["eigenpairs"]
    assert report["converged"] is pairs["converged"] is False
    # The marks of single rows agree with the count that the status gives.
    assert re.search(r"(\d) of 5 pairs converged", pairs["status"])[1] == f"{sum(pairs['reached'])}"
    assert 0 < sum(pairs["reached"]) < 5
    rows = re.findall(r"^ *(-?[\d.]+) +\S+ +(\S+) +(yes|NO) *$", done.stdout, re.MULTILINE)
    assert [mark == "yes" for *_, mark in rows] == pairs["reached"]
    for (printed, bound, _), value in zip(rows, pairs["eigenvalues"], strict=True):
        # Half a unit of the last digit printed lies within half an order of the bound.
        unit = 10.0 ** -len(printed.partition(".")[2])
        assert float(bound) <= 1.05 * unit or unit >= 1.0
        assert abs(float(printed) - value) <= 0.5001 * unit
        assert np.min(np.abs(exact - value)) <= float(bound) * 1.05
    page = (tmp_path / "hessops-report" / "report.html").read_text()
    assert page.count("<tr class=missed>") == 5 - sum(pairs["reached"])
    assert "NOT CONVERGED: " in page


def test_a_trace_that_misses_its_tolerance_is_said(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    # With a number of probes it is estimated, though the diagonal is there.
    options = ("--compute", "trace", "--rtol", "1e-6", "--trace-probes", "16")
    done = run("analyze", "a.npy", *options, cwd=tmp_path)
    assert done.returncode == 3
    assert "NOT CONVERGED: used all 16 probes" in done.stdout
    assert "raise --trace-probes or loosen --rtol" in " ".join(done.stdout.split())
    assert (tmp_path / "hessops-report" / "report.html").exists()


def test_points_of_a_column_are_below_each_other(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.diag([1000.0, -20.0, 3.5, 0.25, 0.0]))
    done = run("analyze", "a.npy", "--compute", "eigenvalues", cwd=tmp_path)
    rows = [line for line in done.stdout.splitlines() if line.rstrip().endswith("yes")]
    assert len(rows) == 5
    points = [line.find(".") if "." in line.split()[0] else None for line in rows]
    assert len(set(points) - {None}) == 1
    assert "2 (residual norm)² / gap" in " ".join(done.stdout.split())


FLOATS = st.floats(-1e12, 1e12, allow_subnormal=False)
BOUNDS = st.floats(1e-12, 1e6)
COLUMNS = st.lists(st.tuples(FLOATS, BOUNDS), min_size=1, max_size=6)


def last_digit(number: Decimal) -> float:
    """Return what the last digit stands for that is not a zero before the point."""
    return float(Decimal(1).scaleb(number.normalize().as_tuple().exponent))


@given(COLUMNS)
def test_no_digit_is_printed_that_the_bound_does_not_support(
    column: list[tuple[float, float]],
) -> None:
    values, bounds = zip(*column, strict=True)
    texts = values_in_column(values, bounds)
    assert len({len(text) for text in texts}) == 1
    for text, value, bound in zip(texts, values, bounds, strict=True):
        number = Decimal(text.strip())
        # Rounded to the bound, or to eight digits.
        assert abs(float(number) - value) <= max(5.001 * bound, 1e-7 * abs(value))
        # One digit before the point is always there.
        assert not number or last_digit(number) >= 0.999 * bound or abs(value) < 10 * bound


@given(COLUMNS)
def test_estimates_end_with_the_second_digit_of_their_error(
    column: list[tuple[float, float]],
) -> None:
    values, errors = zip(*column, strict=True)
    cells = zip(*estimates_in_column(values, errors), values, errors, strict=True)
    for text, distance, value, error in cells:
        number = Decimal(text.strip())
        assert abs(float(number) - value) <= max(0.0501 * error, 1e-7 * abs(value))
        assert not number or last_digit(number) >= 0.00999 * error or abs(number) < 10
        assert abs(float(distance) - error) <= 0.0501 * error


@given(COLUMNS)
def test_a_row_has_one_exponent_and_only_where_it_needs_one(
    column: list[tuple[float, float]],
) -> None:
    for value, error in column:
        size = max(abs(value), error)
        number, distance = estimate_cells(value, error)
        plain = 1e-3 <= size < 1e6
        assert "e" not in number if plain else "e" in number or float(number) == 0
        # What is smaller than the last of eight digits stands for itself.
        if error >= 1e-6 * size and float(number):
            assert number.partition("e")[2] == distance.partition("e")[2]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (880.4, 56.1, "880 ± 56"),
        (0.00120577, 9.03e-5, "0.001206 ± 0.000090"),
        (1.20577e-5, 9.03e-7, "(1.206 ± 0.090)e-05"),
        (8812.0, 560.0, "8810 ± 560"),
        (0.0, 1e28, "0 ± 1.0e+28"),
        (1055.8561, math.nan, "1060 ± unknown"),
        (1055.8561, math.inf, "1060 ± unknown"),
        (math.nan, math.nan, "unknown ± unknown"),
    ],
)
def test_an_estimate_as_text(value: float, error: float, text: str) -> None:
    assert estimate_text(value, error) == text


def test_bounds_are_rounded_to_their_side() -> None:
    assert (at_least_text(16175.78), at_most_text(16175.72)) == ("16175.7", "16175.8")
    assert (at_least_text(-15.56401), at_most_text(-15.56409)) == ("-15.5641", "-15.5640")
    assert at_least_text(0.0) == at_most_text(-0.0) == "0"
    assert interval_text(-math.inf, 4287.503) == "[-inf, 4287.51]"
    assert interval_text(-math.inf, math.inf) == interval_text(math.nan, 1.0) == "unknown"


def test_an_error_of_roundings_size_leaves_the_values_without_exponents() -> None:
    values, errors = estimates_in_column([14.0, 2.5], [3e-15, 0.0])
    assert values == ["14.000000 ", " 2.5000000"]
    assert [error.strip() for error in errors] == ["3.0e-15", "0"]


@given(FLOATS, st.one_of(st.just(0.0), BOUNDS))
def test_an_interval_is_rounded_outwards_and_not_by_much(low: float, width: float) -> None:
    high = low + width
    ends = [Decimal(end) for end in interval_text(low, high).strip("[]").split(", ")]
    unit = max(Decimal(high) - Decimal(low), Decimal(max(abs(low), abs(high))).scaleb(-7))
    assert Decimal(low) - unit / 2 <= ends[0]
    assert ends[1] <= Decimal(high) + unit / 2
    if high - low > 1e-7 * max(abs(low), abs(high)):
        assert Decimal(low) - unit / 10 <= ends[0] <= Decimal(low)
        assert Decimal(high) <= ends[1] <= Decimal(high) + unit / 10


FUNCTION = """
import numpy, hessops
def operator():
    values = numpy.linspace(1.0, 2.0, 300)[:, None]
    basis = numpy.linalg.qr(numpy.random.default_rng(0).normal(size=(300, 300)))[0]
    return hessops.aslinearoperator(
        lambda X: basis @ (values * (basis.T @ X)), shape=300, self_adjoint=True
    )
"""


def analysis(tmp_path: Path, target: str, *options: str) -> tuple[str, dict]:
    done = run("analyze", target, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "hessops-report" / "report.json").read_text())
    return " ".join(done.stdout.split()), report


def test_what_stored_entries_tell_is_not_estimated(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    printed, report = analysis(tmp_path, "a.npy", "--compute", "trace,density", "--rtol", "0.01")
    assert "exact: sum of the diagonal" in printed
    assert re.search(r"mean eigenvalue \S+ exact", printed)
    assert re.search(r"mean square \S+ exact", printed)
    assert report["trace"]["num_products"] == 0
    assert report["trace"]["value"] == pytest.approx(np.trace(matrix), rel=1e-13)
    assert report["known"] == {
        "mean eigenvalue": pytest.approx(np.trace(matrix) / 60, rel=1e-13),
        "mean square": pytest.approx(np.sum(matrix**2) / 60, rel=1e-13),
    }


def test_the_diagonal_of_a_matrix_that_is_not_symmetric_has_a_sum(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.triu(np.ones((5, 5))))
    _, report = analysis(tmp_path, "a.npy", "--compute", "trace")
    assert report["trace"]["value"] == 5.0
    assert report["known"] == {"mean eigenvalue": 1.0}


def test_probes_that_are_asked_for_are_used(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    printed, report = analysis(tmp_path, "a.npy", "--compute", "trace", "--trace-probes", "1")
    assert report["trace"]["num_products"] == 1
    assert "standard error unknown 95% interval unknown" in printed
    assert "use --trace-probes=2 or more (1 product," in printed


def test_what_only_products_tell_is_estimated(tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text(FUNCTION)
    options = ("--compute", "trace,density", "--confidence", "0.9", "--density-probes", "3")
    printed, report = analysis(tmp_path, "function.py:operator", *options)
    assert report["known"] == {}
    assert report["trace"]["num_products"] > 0
    assert "another estimate of the trace, from other probes" in printed
    assert "± (90% interval)" in printed
    # Student's t of two degrees of freedom: 2.92 standard errors.
    samples = np.sum(
        np.array(report["density"]["weights"]) * np.array(report["density"]["nodes"]), axis=1
    )
    half = float(re.search(r"mean eigenvalue \S+ (\S+)", printed)[1])
    expected = 2.919986 * samples.std(ddof=1) / np.sqrt(3)
    assert half == pytest.approx(expected, rel=0.06)
