"""Numbers as everything prints them: no digit that the error does not support, one exponent a row.

A number between a thousandth and a million is written plainly, any other with an exponent that it
shares with its error. Of a number whose error is unknown three digits are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

__all__ = [
    "UNKNOWN",
    "at_least_text",
    "at_most_text",
    "errors_in_column",
    "estimate_cells",
    "estimate_text",
    "estimates_in_column",
    "interval_text",
    "number_text",
    "values_in_column",
]

UNKNOWN = "unknown"
"""What stands for a number that is not known, everywhere."""

_MOST_DIGITS = 8
# Of a number whose error nobody knows.
_DIGITS_ON_TRUST = 3
_DIGITS_OF_BOUNDS = 6
# Powers of ten that need no exponent.
_PLAIN = range(-3, 6)


def number_text(value: float, bound: float = 0.0) -> str:
    """Return a number with the digits that a bound on its error supports.

    Parameters
    ----------
    value : float
        The number.
    bound : float
        How far it may be off; NaN or infinite where that is unknown.

    Returns
    -------
    str
        The last digit stands for no less than the bound, but one digit is always there, and never
        more than eight; three where the bound is unknown.

    Examples
    --------
    >>> from hessops.results.numbers import number_text
    >>> number_text(39.10019, 2e-5), number_text(1055.8561, float("nan")), number_text(2.5e-7)
    ('39.1002', '1060', '2.5000000e-07')
    """
    size = _size(value, bound)
    return _text(value, _place(value, bound, math.ceil(_power(bound) - 1e-9)), _exponent(size))


def estimate_cells(value: float, error: float, *, digits: int = 2) -> tuple[str, str]:
    """Return a number and its error, both to a digit of the error.

    Parameters
    ----------
    value : float
        The number.
    error : float
        Its error; NaN or infinite where that is unknown.
    digits : int
        Which digit of the error is the last.

    Returns
    -------
    tuple of two str
        With one exponent, where they need one. An error that is smaller than the last of eight
        digits has an exponent of its own.

    Examples
    --------
    >>> from hessops.results.numbers import estimate_cells
    >>> estimate_cells(879.7, 56.2), estimate_cells(0.00120577, 9.03e-5)
    (('880', '56'), ('0.001206', '0.000090'))
    >>> estimate_cells(1.8638362, 6.1, digits=1), estimate_cells(8.0, float("nan"))
    (('2', '6'), ('8.00', 'unknown'))
    """
    exponent = _exponent(_size(value, error))
    wanted = math.floor(_power(error) + 1e-9) - digits + 1
    place = _place(value, error, wanted)
    text = _text(value, place, exponent)
    if not math.isfinite(error):
        return text, UNKNOWN
    if place > wanted and error > 0:
        return text, _text(error, wanted, _exponent(error))
    return text, _text(error, max(place, wanted), exponent) if error else "0"


def estimate_text(value: float, error: float, *, digits: int = 2) -> str:
    """Return a number and its error as one text.

    Parameters
    ----------
    value, error : float
        As for `estimate_cells`.
    digits : int
        As there.

    Returns
    -------
    str
        With one exponent for both.

    Examples
    --------
    >>> from hessops.results.numbers import estimate_text
    >>> estimate_text(12037.2, 37.9), estimate_text(1.206e-5, 9e-7)
    ('12037 ± 38', '(1.206 ± 0.090)e-05')
    """
    number, distance = estimate_cells(value, error, digits=digits)
    ends = [text.partition("e") for text in (number, distance)]
    if ends[0][1] and ends[0][2] == ends[1][2]:
        return f"({ends[0][0]} ± {ends[1][0]})e{ends[0][2]}"
    return f"{number} ± {distance}"


def values_in_column(values: Sequence[float], bounds: Sequence[float]) -> list[str]:
    """Return numbers as `number_text` writes them, with their points below each other.

    Parameters
    ----------
    values, bounds : sequence of float
        The column, and how far each may be off.

    Returns
    -------
    list of str
        Of equal length.

    Examples
    --------
    >>> from hessops.results.numbers import values_in_column
    >>> values_in_column([39.10019, 4.7528], [2e-5, 0.03])
    ['39.1002', ' 4.8   ']
    """
    return _aligned([number_text(*one) for one in zip(values, bounds, strict=True)])


def estimates_in_column(
    values: Sequence[float], errors: Sequence[float]
) -> tuple[list[str], list[str]]:
    """Return numbers and their errors as `estimate_cells` writes them, each column aligned.

    Parameters
    ----------
    values, errors : sequence of float
        The columns.

    Returns
    -------
    tuple of two lists of str
        Each with its points below each other and of equal length.

    Examples
    --------
    >>> from hessops.results.numbers import estimates_in_column
    >>> estimates_in_column([153.17, 8.8951], [7.213, 0.0512])
    (['153.2  ', '  8.895'], ['7.2  ', '0.051'])
    """
    cells = [estimate_cells(*one) for one in zip(values, errors, strict=True)]
    return _aligned([value for value, _ in cells]), _aligned([error for _, error in cells])


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
    >>> from hessops.results.numbers import errors_in_column
    >>> errors_in_column([3.0, 0.00025])
    ['3.0e+00', '2.5e-04']
    """
    return _aligned([UNKNOWN if math.isnan(error) else f"{error:.1e}" for error in errors])


def interval_text(low: float, high: float) -> str:
    """Return an interval, rounded outwards to a hundredth of its length.

    Parameters
    ----------
    low, high : float
        Its ends.

    Returns
    -------
    str
        It holds the interval, but for the eighth digit of its ends; 'unknown' without an end.

    Examples
    --------
    >>> from hessops.results.numbers import interval_text
    >>> interval_text(7.94993, 5000.2), interval_text(20012.3, 20087.9)
    ('[0, 5010]', '[20012.2, 20088.0]')
    """
    known = math.isfinite(low), math.isfinite(high)
    if not any(known) or math.isnan(low) or math.isnan(high):
        return UNKNOWN
    if not all(known):
        return f"[{at_least_text(low)}, {at_most_text(high)}]"
    largest = max(abs(low), abs(high))
    finest = _leading(largest) - _MOST_DIGITS if largest else -1
    width = high - low
    place = max(_leading(width) - 2, finest)
    exponent = _exponent(largest)
    if _leading(width) < finest or not width:
        # What is rounding has no sides.
        nearest = [_text(end, finest + 1, exponent) for end in (low, high)]
        return f"[{nearest[0]}, {nearest[1]}]"
    ends = _text(low, place, exponent, ROUND_FLOOR), _text(high, place, exponent, ROUND_CEILING)
    return f"[{ends[0]}, {ends[1]}]"


def at_least_text(value: float) -> str:
    """Return a lower bound, rounded down to six digits.

    Parameters
    ----------
    value : float
        The bound.

    Returns
    -------
    str
        No larger number.

    Examples
    --------
    >>> from hessops.results.numbers import at_least_text
    >>> at_least_text(16175.78)
    '16175.7'
    """
    return _bound(value, ROUND_FLOOR)


def at_most_text(value: float) -> str:
    """Return an upper bound, rounded up to six digits.

    Parameters
    ----------
    value : float
        The bound.

    Returns
    -------
    str
        No smaller number.

    Examples
    --------
    >>> from hessops.results.numbers import at_most_text
    >>> at_most_text(16175.72), at_most_text(float("inf"))
    ('16175.8', 'inf')
    """
    return _bound(value, ROUND_CEILING)


def _bound(value: float, rounding: str) -> str:
    place = _leading(value) - _DIGITS_OF_BOUNDS + 1 if value else 0
    return _text(value, place, _exponent(value), rounding)


def _power(error: float) -> float:
    """Return the logarithm of an error; without one, as if no digit were supported or all."""
    return math.log10(error) if math.isfinite(error) and error > 0 else 0.0


def _size(value: float, error: float) -> float:
    return max((abs(one) for one in (value, error) if math.isfinite(one)), default=0.0)


def _place(value: float, error: float, wanted: int) -> int:
    """Return the power of ten of the last digit to print."""
    lead = _leading(value)
    if not math.isfinite(error):
        return lead - _DIGITS_ON_TRUST + 1
    finest = _leading(_size(value, error)) - _MOST_DIGITS + 1 if value else wanted
    if error == 0:
        return finest if value else 0
    place = max(wanted, finest)
    # Of plain numbers the one digit before the point is always there.
    return place if _exponent(_size(value, error)) else min(place, max(lead, 0))


def _leading(value: float) -> int:
    """Return the power of ten of the first digit, as it is written with eight of them."""
    return int(f"{value:.7e}".partition("e")[2]) if math.isfinite(value) else 0


def _exponent(size: float) -> int:
    """Return the exponent of a row whose largest number has that size; 0 for none."""
    lead = _leading(size)
    return 0 if lead in _PLAIN else lead


def _text(value: float, place: int, exponent: int, rounding: str = ROUND_HALF_EVEN) -> str:
    """Return a number whose last digit is that power of ten."""
    if not math.isfinite(value):
        return UNKNOWN if math.isnan(value) else f"{value}"
    number = Decimal(value).quantize(Decimal(1).scaleb(place), rounding).scaleb(-exponent)
    if number == 0:
        # No sign, and no exponent.
        return "0" if exponent else f"{abs(number):f}"
    return f"{number:f}e{exponent:+03d}" if exponent else f"{number:f}"


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
