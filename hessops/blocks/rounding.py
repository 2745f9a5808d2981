"""What counts as rounding: one number for every place that has to tell digits from noise."""

from __future__ import annotations

from hessops.arrays import eps
from hessops.space import Space

__all__ = ["ROUNDINGS", "rounding"]

ROUNDINGS = 32
"""What products and recurrences add to a result, in units of machine epsilon at its scale."""


def rounding(space: Space, scale: float) -> float:
    """Return what is rounding in a number of this scale, computed from vectors of a space.

    Parameters
    ----------
    space : Space
        Whose precision counts.
    scale : float
        Size of the operator: its largest Ritz value in modulus, say.

    Returns
    -------
    float
        32 machine epsilons at that scale.
    """
    return ROUNDINGS * eps(space.xp, space.dtype) * scale
