"""The Rayleigh-Ritz step: the best eigenpairs within the span of a block."""

from __future__ import annotations

import numpy as np

from hessops.arrays import Array, HostArray, eps, is_complex, to_numpy
from hessops.errors import NotSelfAdjointError
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
    projected = to_numpy(space.gram(X, product)).astype(
        np.complex128 if is_complex(space.xp, space.dtype) else np.float64
    )
    require_finite(projected, number, operator)
    asymmetry = float(np.max(np.abs(projected - projected.conj().T)))
    scale = float(np.sqrt(np.max(to_numpy(space.column_norms_squared(product)))))
    if asymmetry > np.sqrt(eps(space.xp, space.dtype)) * scale:
        raise NotSelfAdjointError(
            f"{operator} is declared self-adjoint, but its products are not: inner products <x, A y> "
            f"and <A x, y> differ by {asymmetry:.3g} at a scale of {scale:.3g}; see "
            "hessops.check_operator"
        )
    # Solved once: ranks that rounded differently would turn their parts of a vector apart.
    values, small = space.comm.broadcast(np.linalg.eigh((projected + projected.conj().T) / 2))
    order = np.argsort(-np.abs(values), kind="stable")
    values, rotation = values[order], space.from_host(small[:, order])
    X, product = X @ rotation, product @ rotation
    residual = product - X * space.from_host(values)
    norms = np.sqrt(to_numpy(space.column_norms_squared(residual)))
    return values, norms, X, product
