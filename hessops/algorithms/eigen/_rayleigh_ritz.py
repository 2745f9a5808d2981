"""The Rayleigh-Ritz step: the best eigenpairs within the span of a block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hessops.agreement import to_host, together_to_host
from hessops.algorithms._asymmetry import not_self_adjoint
from hessops.algorithms._precision import half_the_digits
from hessops.arrays import Array, HostArray, is_complex
from hessops.blocks.own_gram import own_gram
from hessops.operator import LinearOperator
from hessops.record import require_finite

__all__ = ["RitzBlock", "rayleigh_ritz", "ritz_block"]


@dataclass(frozen=True)
class RitzBlock:
    """The Ritz pairs of a block, and what their products are to be orthonormalised by.

    Parameters
    ----------
    values : numpy.ndarray, shape (p,)
        Ritz values by decreasing modulus.
    residual_norms : numpy.ndarray, shape (p,)
        ‖A x - θ x‖ of each.
    vectors, products : array, shape (n, p)
        Ritz vectors and their products.
    inverse : array, shape (1,)
        On the device: one over the norm of the longest product, 1 where all are zero.
    gram : numpy.ndarray, shape (p, p)
        The Gram matrix of ``products * inverse``.
    """

    values: HostArray
    residual_norms: HostArray
    vectors: Array
    products: Array
    inverse: Array
    gram: HostArray


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
    values, asymmetry, X, product, residual = _rotated(operator, X, product, number)
    space = operator.domain
    norms = np.sqrt(to_host(space, space.column_norms_squared(residual)))
    _require_symmetric(operator, asymmetry, values, norms)
    return values, norms, X, product


def ritz_block(operator: LinearOperator, X: Array, product: Array, number: int) -> RitzBlock:
    """Solve the projected eigenproblem, as `rayleigh_ritz`, on the way to the next block.

    Two copies to the host, as many as without the Gram matrix.

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
    RitzBlock
        The pairs and the Gram matrix of their products.
    """
    values, asymmetry, X, product, residual = _rotated(operator, X, product, number)
    space, xp = operator.domain, operator.xp
    squares = space.column_inners((residual, residual), (product, product))
    del residual
    if is_complex(xp, squares.dtype):
        squares = xp.real(squares)
    # Of size 1, as squares of huge or tiny entries leave the range of single precision.
    longest = xp.sqrt(xp.max(squares[1:, :], axis=1))
    # Shorter ones have no inverse in single precision; whoever looks at the scale refuses them.
    long = longest > 1 / float(xp.finfo(space.dtype).max)
    inverse = space.coefficients(1 / xp.where(long, longest, xp.ones_like(longest)))
    unit = product * inverse
    of_residual, gram = together_to_host(space, squares[0, :], own_gram(space, unit))
    norms = np.sqrt(of_residual)
    _require_symmetric(operator, asymmetry, values, norms)
    return RitzBlock(values, norms, X, product, inverse, gram)


def _rotated(
    operator: LinearOperator, X: Array, product: Array, number: int
) -> tuple[HostArray, float, Array, Array, Array]:
    """Return Ritz values, how far from symmetric the projection was, vectors, products, residuals."""
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
    asymmetry = float(np.max(np.abs(projected - projected.conj().T)))
    return values, asymmetry, X, product, product - X * shifts


def _require_symmetric(
    operator: LinearOperator, asymmetry: float, values: HostArray, norms: HostArray
) -> None:
    # As x is orthogonal to the residual, the norm of A x is known.
    scale = float(np.max(np.hypot(values, norms)))
    # Below the normal numbers, rounding is no longer relative; whoever looks at the scale refuses it.
    tiny = float(operator.xp.finfo(operator.dtype).smallest_normal)
    if asymmetry > half_the_digits(operator) * scale + tiny:
        raise not_self_adjoint(operator, asymmetry, scale)
