"""A share of the eigenvalues in words, without digits that it does not have."""

from __future__ import annotations

from hessops.result import Interval

__all__ = ["share_in_words"]

# Wider than that, an interval says what is known, and a share beside it what is not.
_VAGUE = 0.02


def share_in_words(share: float, interval: Interval) -> str:
    """Return a share and its interval, or the interval alone where it is wide.

    Parameters
    ----------
    share : float
        From 0 to 1.
    interval : Interval
        Of 95 %.

    Returns
    -------
    str
        Such as "between 2.0% and 98.2% (95% interval)", to go on with "below zero".
    """
    low, high = float(interval.low), float(interval.high)
    if high - low > _VAGUE:
        return f"between {low:.1%} and {high:.1%} (95% interval)"
    return f"{share:.3%} (95% interval [{low:.1%}, {high:.1%}])"
