"""What counts as rounding: one number for every place that has to tell digits from noise."""

from __future__ import annotations

from hessops.arrays import dtype_name, eps
from hessops.space import Space

__all__ = ["ROUNDINGS", "precision_hint", "rounding"]

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


def precision_hint(space: Space) -> str:
    """Return what may help where products are computed in less than double precision, or nothing.

    Parameters
    ----------
    space : Space
        Whose precision counts.

    Returns
    -------
    str
        The end of a sentence.
    """
    if eps(space.xp, space.dtype) <= 2.0**-52:
        return ""
    return (
        f". Products in {dtype_name(space.dtype)} may be this far from symmetric by rounding alone, "
        "where large terms cancel: compute them in float64 (of a network, move model and data there: "
        "model.double())"
    )
