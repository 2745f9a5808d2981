"""Eigenpairs held against one more product: true residual norms, whatever a recurrence believes."""

from __future__ import annotations

import numpy as np

from hessops.agreement import to_host
from hessops.algorithms._precision import half_the_digits
from hessops.arrays import Array, HostArray
from hessops.operator import LinearOperator
from hessops.record import require_finite

__all__ = ["verified_pairs"]


def verified_pairs(
    operator: LinearOperator,
    vectors: Array,
    expected: HostArray,
    *,
    num_products: int,
    size: float,
    method: str,
) -> tuple[HostArray, HostArray]:
    """Return Rayleigh quotients and true residual norms of approximate eigenvectors.

    Parameters
    ----------
    operator : LinearOperator
        Self-adjoint.
    vectors : array, shape (n, k)
        Orthonormal columns; they are multiplied once.
    expected : numpy.ndarray, shape (k,)
        What the Rayleigh quotients should be.
    num_products : int
        Columns multiplied before.
    size : float
        Of the operator.
    method : str
        What found the pairs, for the message.

    Returns
    -------
    tuple of two numpy.ndarray, shape (k,)
        Rayleigh quotient and residual norm of each vector.

    Raises
    ------
    ValueError
        If a Rayleigh quotient is not what it should be.
    NonFiniteError
        If the product holds NaN or infinity.
    """
    space = operator.domain
    product = operator.apply(vectors)
    values = np.real(to_host(space, space.column_inner(vectors, product)))
    require_finite(values, num_products + len(values), operator)
    # Exhausted Krylov spaces leave out couplings of half the digits, at a scale up to three times the
    # size.
    allowed = 4 * half_the_digits(operator) * size
    worst = int(np.argmax(np.abs(values - expected)))
    if np.abs(values[worst] - expected[worst]) > allowed:
        raise ValueError(
            f"{operator} is not linear, or not the same at every product: {method} found the "
            f"eigenvalue {expected[worst]:.6g} where a product with its vector gives "
            f"{values[worst]:.6g}; see hessops.check_operator"
        )
    # In place where the product is ours: the basis is still there, and memory is dear.
    _, squares = space.subtract(
        product, vectors, space.from_host(values), overwrite=operator.returns_own_memory
    )
    return values, np.sqrt(np.real(to_host(space, squares[0, :])))
