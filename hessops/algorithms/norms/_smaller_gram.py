"""The smaller of A^H A and A A^H: what has the squares of the singular values as eigenvalues."""

from __future__ import annotations

from hessops.operator import LinearOperator
from hessops.operators.algebra import Product

__all__ = ["smaller_gram"]


def smaller_gram(operator: LinearOperator) -> tuple[LinearOperator, LinearOperator]:
    """Return A, or its adjoint if that has fewer columns, and A^H A of what is returned.

    Parameters
    ----------
    operator : LinearOperator
        Of shape (m, n), with an adjoint.

    Returns
    -------
    tall : LinearOperator
        With at least as many rows as columns, and the same singular values.
    gram : Product
        Positive semidefinite, at two products each.
    """
    tall = operator.H if operator.shape[0] < operator.shape[1] else operator
    return tall, Product([tall.H, tall])
