"""How precise products are: as their dtype, or less where an operator says that it computes in less."""

from __future__ import annotations

import math

from hessops.arrays import HostArray, eps
from hessops.operator import LinearOperator

__all__ = ["half_the_digits", "product_precision", "require_exact_products", "widened"]


def product_precision(operator: LinearOperator) -> float:
    """Return the relative precision of products.

    Parameters
    ----------
    operator : LinearOperator
        The operator.

    Returns
    -------
    float
        The larger of machine epsilon and the operator's `product_error`.
    """
    return max(eps(operator.xp, operator.dtype), operator.product_error)


def half_the_digits(operator: LinearOperator) -> float:
    """Return by how much products may break a law, such as symmetry, before they are said to.

    Parameters
    ----------
    operator : LinearOperator
        The operator.

    Returns
    -------
    float
        Relative to the norms of what is compared: the root of `product_precision`.
    """
    return math.sqrt(product_precision(operator))


def widened(bounds: HostArray, operator: LinearOperator, size: float) -> HostArray:
    """Return bounds on errors of eigenvalues or singular values, with the error of products in them.

    Parameters
    ----------
    bounds : numpy.ndarray, shape (k,)
        What residuals bound, of products as they were computed.
    operator : LinearOperator
        The operator.
    size : float
        Its largest Ritz value in modulus.

    Returns
    -------
    numpy.ndarray, shape (k,)
        Larger if products are in a lower precision: by three times their error, which is measured by
        few vectors and may be larger for others.
    """
    return bounds + 3 * operator.product_error * size


def require_exact_products(operator: LinearOperator, why: str) -> None:
    """Raise if products are in a lower precision than their dtype's.

    Parameters
    ----------
    operator : LinearOperator
        The operator.
    why : str
        What they are needed for, as the rest of a sentence.

    Raises
    ------
    ValueError
        Naming the error of products.
    """
    if operator.product_error:
        raise ValueError(
            f"products with {operator} are off by {operator.product_error:.2g} of their norm, and "
            f"{why}: compute them in full precision"
        )
