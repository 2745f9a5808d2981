"""The Rayleigh-Ritz step: the best eigenpairs within the span of a block."""

from __future__ import annotations

import numpy as np

from hessops.agreement import to_host
from hessops.algorithms._asymmetry import not_self_adjoint
from hessops.arrays import Array, HostArray, eps, is_complex
from hessops.operator import LinearOperator
from hessops.record import require_finite

__all__ = ["rayleigh_ritz"]


def rayleigh_ritz(
    operator: LinearOperator, X: Array, product: Array, number: int
) -> tuple[HostArray, HostArray, Array, Array]:
    """Solve the eigenproblem projected on a block, without a product.

    Parameters
    ----------
    operator : LinearOperator
        Self-adjoint.
    X : array, shape (n, p)
        Orthonormal columns.
    product : array, shape (n, p)
        A X.
    number : int
        Of the product, for the message if it is not finite.

    Returns
    -------
    values : numpy.ndarray, shape (p,)
        Ritz values by decreasing modulus.
    residual_norms : numpy.ndarray, shape (p,)
        ‖A x - θ x‖ of each.
    vectors, products : array, shape (n, p)
        Ritz vectors and their products.
    """
    space = operator.domain
    projected = to_host(space, space.gram(X, product)).astype(
        np.complex128 if is_complex(space.xp, space.dtype) else np.float64
    )
    require_finite(projected, number, operator)
    # Solved once: ranks that rounded differently would turn their parts of a vector apart.
    values, small = space.comm.broadcast(np.linalg.eigh((projected + projected.conj().T) / 2))
    order = np.argsort(-np.abs(values), kind="stable")
    values, small = values[order], small[:, order]
    # One copy to the device for both.
    together = space.from_host(np.concatenate([small, values[None, :]]))
    rotation, shifts = together[:-1, :], together[-1, :]
    X, product = X @ rotation, product @ rotation
    norms = np.sqrt(to_host(space, space.column_norms_squared(product - X * shifts)))
    # As x is orthogonal to the residual, the norm of A x is known.
    asymmetry = np.max(np.abs(projected - projected.conj().T))
    _require_symmetric(operator, float(asymmetry), float(np.max(np.hypot(values, norms))))
    return values, norms, X, product


def _require_symmetric(operator: LinearOperator, asymmetry: float, scale: float) -> None:
    # Below the normal numbers, rounding is no longer relative; whoever looks at the scale refuses it.
    tiny = float(operator.xp.finfo(operator.dtype).smallest_normal)
    if asymmetry > np.sqrt(eps(operator.xp, operator.dtype)) * scale + tiny:
        raise not_self_adjoint(operator, asymmetry, scale)
