"""The error of an operator that its products show not to be self-adjoint, in one wording."""

from __future__ import annotations

from hessops.arrays import dtype_name, eps
from hessops.errors import NotSelfAdjointError
from hessops.operator import LinearOperator
from hessops.space import Space

__all__ = ["not_self_adjoint"]


def not_self_adjoint(
    operator: LinearOperator, asymmetry: float, scale: float
) -> NotSelfAdjointError:
    """Return the error to raise of an operator that is declared self-adjoint and is not.

    Parameters
    ----------
    operator : LinearOperator
        Whose products they are.
    asymmetry : float
        By how much inner products differ.
    scale : float
        Of what size these are, were vectors and operator as far from orthogonal as they may be.

    Returns
    -------
    NotSelfAdjointError
        With what may help.
    """
    return NotSelfAdjointError(
        f"{operator} is declared self-adjoint, but its products are not: inner products <x, A y> and "
        f"<A x, y> differ by {asymmetry:.3g} at a scale of {scale:.3g}; see hessops.check_operator"
        + _precision_hint(operator.domain)
    )


def _precision_hint(space: Space) -> str:
    """Return what may help where products are computed in less than double precision, or nothing."""
    if eps(space.xp, space.dtype) <= 2.0**-52:
        return ""
    return (
        f". Products in {dtype_name(space.dtype)} may be this far from symmetric by rounding alone, "
        "where large terms cancel: compute them in float64 (of a network, move model and data there: "
        "model.double())"
    )
