"""Whether a program printed what stands below it: words exactly, figures as closely as they can be."""

import math
import re

__all__ = ["same_figures"]

NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
SECONDS = re.compile(r"[\d.e+-]+(?= s\b)")
_SMALL = 1e-4


def same_figures(printed: str, found: str, *, rel_tol: float = 0.02) -> bool:
    """Tell whether two texts agree but for rounding.

    Seconds are the machine's. Counts agree to a fiftieth, exactly below 50, as a long run may end
    a step sooner on another processor; figures to `rel_tol`, but those below 1e-4 to a factor of 10:
    they are rounding, or an error that is nearly that.
    """
    texts = [SECONDS.sub("0", " ".join(text.split())) for text in (printed, found)]
    if len({NUMBER.sub("#", text) for text in texts}) > 1:
        return False
    pairs = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    return all(_same(one, other, rel_tol) for one, other in pairs)


def _same(printed: str, found: str, rel_tol: float) -> bool:
    if printed.lstrip("-").isdigit():
        count, other_count = int(printed), int(found)
        return abs(count - other_count) <= abs(count) // 50
    one, other = float(printed), float(found)
    if 0 < abs(one) < _SMALL:
        return one * other > 0 and abs(one) / 10 <= abs(other) <= 10 * abs(one)
    return math.isclose(one, other, rel_tol=rel_tol)
