"""Numbers as tables print them: no digit that its error does not support, one format a column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

__all__ = ["errors_in_column", "estimates_in_column", "interval_text", "values_in_column"]

_MOST_DIGITS = 8
_WIDEST = 13
_SMALLEST = -5


def values_in_column(values: Sequence[float], bounds: Sequence[float]) -> list[str]:
    """Return values with the digits that bounds on their errors support, points aligned.

    Parameters
    ----------
    values : sequence of float
        The column.
    bounds : sequence of float
        How far each may be off; NaN or infinite where that is unknown.

    Returns
    -------
    list of str
        Of equal length. The last digit stands for no less than the bound, but one digit is always
        there, and never more than eight.

    Examples
    --------
    >>> from hessops.cli.numbers import values_in_column
    >>> values_in_column([39.10019, 4.7528], [2e-5, 0.03])
    ['39.1002', ' 4.8   ']
    """
    return _column(values, [_last_digit(bound) for bound in bounds])


def estimates_in_column(
    values: Sequence[float], standard_errors: Sequence[float]
) -> tuple[list[str], list[str]]:
    """Return estimates and their standard errors, both to the second digit of the error.

    Parameters
    ----------
    values : sequence of float
        The column of estimates.
    standard_errors : sequence of float
        Of each; NaN where one probe leaves it unknown.

    Returns
    -------
    tuple of two lists of str
        The columns, each with its points aligned and of equal length.

    Examples
    --------
    >>> from hessops.cli.numbers import estimates_in_column
    >>> estimates_in_column([153.17, 8.8951], [7.213, 0.0512])
    (['153.2  ', '  8.895'], ['7.2  ', '0.051'])
    """
    places = [_last_digit(error, ceiling=True) - 1 for error in standard_errors]
    errors = [error if math.isfinite(error) else math.nan for error in standard_errors]
    # Formats of their own: an error of rounding's size does not give the values exponents.
    return _column(values, places), _column(errors, places)


def errors_in_column(errors: Sequence[float]) -> list[str]:
    """Return errors to two digits, all with exponents.

    Parameters
    ----------
    errors : sequence of float
        The column.

    Returns
    -------
    list of str
        Of equal length.

    Examples
    --------
    >>> from hessops.cli.numbers import errors_in_column
    >>> errors_in_column([3.0, 0.00025])
    ['3.0e+00', '2.5e-04']
    """
    return _aligned(["unknown" if math.isnan(error) else f"{error:.1e}" for error in errors])


def interval_text(low: float, high: float) -> str:
    """Return an interval, rounded outwards to a hundredth of its length.

    Parameters
    ----------
    low, high : float
        Its ends.

    Returns
    -------
    str
        It holds the interval, but for the ninth digit of its ends.

    Examples
    --------
    >>> from hessops.cli.numbers import interval_text
    >>> interval_text(7.94993, 5000.2), interval_text(20012.3, 20087.9)
    ('[0, 5010]', '[20012.2, 20088.0]')
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"[{low:.3g}, {high:.3g}]"
    largest = max(abs(low), abs(high))
    finest = math.floor(math.log10(largest)) - _MOST_DIGITS if largest else 0
    width = high - low
    place = max(math.floor(math.log10(width)) - 2 if width > 0 else finest, finest)
    unit = Decimal(1).scaleb(place)
    ends = (
        Decimal(end).quantize(unit, rounding)
        for end, rounding in ((low, ROUND_FLOOR), (high, ROUND_CEILING))
    )
    return "[{}, {}]".format(*map(_plain, ends))


def _plain(number: Decimal) -> str:
    """Return a decimal without exponent where that is short."""
    value = float(number)
    exponent = number.adjusted() if value else 0
    if _SMALLEST <= exponent < _MOST_DIGITS:
        return f"{number:f}" if number.as_tuple().exponent else f"{value:.0f}"
    return f"{number.normalize():e}" if value else "0"


def _last_digit(error: float, *, ceiling: bool = False) -> float:
    """Return the power of ten of the error's own digit, or of the next that is not below it."""
    if not (math.isfinite(error) and error > 0):
        return -math.inf if error == 0 else math.nan
    power = math.log10(error)
    return math.floor(power + 1e-9) if ceiling else math.ceil(power - 1e-9)


def _column(values: Sequence[float], places: Sequence[float]) -> list[str]:
    """Return numbers whose last digits are these powers of ten, with exponents if need be."""
    ends = [_end(value, place) for value, place in zip(values, places, strict=True)]
    before = max((_leading(value) for value in values), default=0)
    behind = max((-end for end in ends), default=0)
    least = min((_leading(value) for value in values), default=0)
    # A number cut before its point would have to end in zeros that nobody measured.
    fixed = all(end <= 0 for end in ends)
    fixed = fixed and max(before, 0) + 1 + behind <= _WIDEST and least >= _SMALLEST
    texts = [
        _fixed(value, end) if fixed else _with_exponent(value, end)
        for value, end in zip(values, ends, strict=True)
    ]
    return _aligned(texts)


def _end(value: float, place: float) -> int:
    """Return the power of ten of the last digit to print."""
    lead = _leading(value)
    finest = lead - _MOST_DIGITS + 1 if value else 0
    if not math.isfinite(place):
        return finest
    return int(min(max(place, finest), max(lead, 0)))


def _leading(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0


def _fixed(value: float, end: int) -> str:
    return f"{value:.{max(-end, 0)}f}" if math.isfinite(value) else _unknown(value)


def _with_exponent(value: float, end: int) -> str:
    if value == 0:
        return "0"
    digits = max(_leading(value) - end, 0)
    return f"{value:.{digits}e}" if math.isfinite(value) else _unknown(value)


def _unknown(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value}"


def _aligned(texts: Sequence[str]) -> list[str]:
    """Pad texts with spaces so that their points are below each other."""
    cuts = [_point(text) for text in texts]
    before = max(cuts, default=0)
    padded = [" " * (before - cut) + text for cut, text in zip(cuts, texts, strict=True)]
    longest = max(map(len, padded), default=0)
    return [text.ljust(longest) for text in padded]


def _point(text: str) -> int:
    """Return where the point is, or would be."""
    ends = (text.find(mark) for mark in ".e")
    return next((end for end in ends if end >= 0 and text[end - 1].isdigit()), len(text))
