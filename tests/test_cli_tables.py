"""What the command line's tables claim: digits that errors support, marks, exit codes."""

import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from hypothesis import given
from hypothesis import strategies as st

from hessops.cli.numbers import estimates_in_column, interval_text, values_in_column

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


@given(st.lists(st.tuples(FLOATS, BOUNDS), min_size=1, max_size=6))
def test_no_digit_is_printed_that_the_bound_does_not_support(
    column: list[tuple[float, float]],
) -> None:
    values, bounds = zip(*column, strict=True)
    texts = values_in_column(values, bounds)
    assert len({len(text) for text in texts}) == 1
    # One format: only a zero needs no exponent among numbers that have one.
    assert len({"e" in text for text, value in zip(texts, values, strict=True) if value}) <= 1
    for text, value, bound in zip(texts, values, bounds, strict=True):
        number = Decimal(text.strip())
        unit = float(Decimal(1).scaleb(number.as_tuple().exponent))
        assert abs(float(number) - value) <= 0.5001 * unit
        # One digit is always there, if need be with an exponent.
        assert unit >= 0.999 * bound or len(number.as_tuple().digits) == 1


@given(st.lists(st.tuples(FLOATS, BOUNDS), min_size=1, max_size=6))
def test_estimates_end_with_the_second_digit_of_their_error(
    column: list[tuple[float, float]],
) -> None:
    values, errors = zip(*column, strict=True)
    for text, value, error in zip(
        estimates_in_column(values, errors)[0], values, errors, strict=True
    ):
        number = Decimal(text.strip())
        unit = float(Decimal(1).scaleb(number.as_tuple().exponent))
        assert abs(float(number) - value) <= 0.5001 * unit
        assert unit >= 0.00999 * error or len(number.as_tuple().digits) == 1


def test_an_error_of_roundings_size_leaves_the_values_without_exponents() -> None:
    values, errors = estimates_in_column([14.0, 2.5], [3e-15, 0.0])
    assert values == ["14.000000 ", " 2.5000000"]
    assert [error.strip() for error in errors] == ["3.0e-15", "0"]


@given(FLOATS, st.one_of(st.just(0.0), BOUNDS))
def test_an_interval_is_rounded_outwards_and_not_by_much(low: float, width: float) -> None:
    high = low + width
    ends = [Decimal(end) for end in interval_text(low, high).strip("[]").split(", ")]
    unit = max(Decimal(high) - Decimal(low), Decimal(max(abs(low), abs(high))).scaleb(-7))
    assert Decimal(low) - unit / 10 <= ends[0] <= Decimal(low)
    assert Decimal(high) <= ends[1] <= Decimal(high) + unit / 10
