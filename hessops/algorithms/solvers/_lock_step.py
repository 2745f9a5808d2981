"""What the engines for linear systems share: coefficients, masks, and signs of a wrong operator."""

from __future__ import annotations

import numpy as np

from hessops.algorithms._asymmetry import not_self_adjoint
from hessops.algorithms._precision import half_the_digits
from hessops.arrays import Array, HostArray, is_complex, to_numpy
from hessops.operator import LinearOperator
from hessops.random import Purpose, Stream

__all__ = ["Suspicion", "masked", "preconditioned", "real_part", "require_definite"]


def masked(operator: LinearOperator, mask: HostArray, yes: Array, no: Array) -> Array:
    """Return the columns of `yes` where the mask of the host is true, and those of `no` elsewhere."""
    if not mask.any():
        return no
    xp = operator.xp
    chosen: Array = xp.where(xp.asarray(mask, device=operator.domain.device)[None, :], yes, no)
    return chosen


def preconditioned(preconditioner: LinearOperator, R: Array) -> Array:
    """Return the product of a preconditioner, in the precision of the residual."""
    Z: Array = preconditioner.domain.coefficients(preconditioner.apply(R))
    return Z


def real_part(operator: LinearOperator, small: Array) -> Array:
    """Return the real part of coefficients, which may be complex where the operator is."""
    real: Array = operator.xp.real(small) if is_complex(operator.xp, small.dtype) else small
    return real


def require_definite(forms: HostArray, squares: HostArray) -> None:
    """Raise if r^H M r is not positive for a preconditioner M and a vector r with r^H r > 0."""
    wrong = (forms <= 0) & (squares > 0)
    if wrong.any():
        found = float(np.min(forms[wrong] / squares[wrong]))
        raise ValueError(
            f"the preconditioner M is not positive definite: r^H M r / r^H r = {found:.3g} for a "
            "residual r; use one that is, or none"
        )


class Suspicion:
    """Whether a step looks as if the operator were not self-adjoint, and whether it is known to be.

    Parameters
    ----------
    operator : LinearOperator
        Declared self-adjoint.
    """

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator
        self.raised = self.settled = False

    def held_against(self, preconditioner: LinearOperator | None, X: Array) -> int:
        """Look into what seemed asymmetric in this step, once, and return what that cost."""
        if not self.raised or self.settled:
            return 0
        self.settled = True
        return _require_self_adjoint(self.operator, preconditioner, X)


def _require_self_adjoint(
    operator: LinearOperator, preconditioner: LinearOperator | None, X: Array
) -> int:
    """Raise if products show that the operator or the preconditioner is not self-adjoint.

    Of an ill-conditioned operator, the inner products of a recurrence may only look like that, by
    rounding. So a step that does is held against a block `X` and a random one; returns the columns
    multiplied by the operator for that.
    """
    space = operator.domain
    Z = space.probes(Stream(0, Purpose.CHECK_DOMAIN), range(X.shape[1]), "normal")
    for factor in (operator, preconditioner):
        if factor is None:
            continue
        AX, AZ = factor.apply(X), factor.apply(Z)
        inner = to_numpy(space.column_inners((Z, AX), (AZ, X), (X, X), (AX, AX), (Z, Z), (AZ, AZ)))
        sizes = np.sqrt(np.real(inner[2:]))
        scale = sizes[2] * sizes[1] + sizes[3] * sizes[0]
        off = np.abs(inner[0] - inner[1])
        if np.any(off > half_the_digits(factor) * scale):
            raise not_self_adjoint(factor, float(np.max(off)), float(np.max(scale)))
    return 2 * X.shape[1]
