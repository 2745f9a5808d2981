"""The smaller of A^H A and A A^H: what has the squares of the singular values as eigenvalues."""

from __future__ import annotations

from hessops.algorithms._common import require_product_in_range
from hessops.arrays import Array
from hessops.operator import LinearOperator
from hessops.operators.algebra import Product

__all__ = ["Gram", "smaller_gram"]


class Gram(Product):
    """A^H A, which says of A, and not of itself, if its size is out of range.

    Parameters
    ----------
    tall : LinearOperator
        A, with an adjoint.
    """

    def __init__(self, tall: LinearOperator) -> None:
        super().__init__([tall.H, tall])
        self.tall = tall
        self._size = 0.0

    def _apply(self, X: Array) -> Array:
        Y = self.tall.apply(X)
        if self._size == 0:
            # Norms of what comes out are fourth powers of A, and may vanish as if A were 0.
            self._size = require_product_in_range(self.tall, Y, X.shape[1], power=4)
        return self.tall.apply_adjoint(Y)

    def _apply_adjoint(self, X: Array) -> Array:
        return self._apply(X)


def smaller_gram(operator: LinearOperator) -> tuple[LinearOperator, Gram]:
    """Return A, or its adjoint if that has fewer columns, and A^H A of what is returned.

    Parameters
    ----------
    operator : LinearOperator
        Of shape (m, n), with an adjoint.

    Returns
    -------
    tall : LinearOperator
        With at least as many rows as columns, and the same singular values.
    gram : Gram
        Positive semidefinite, at two products each.
    """
    tall = operator.H if operator.shape[0] < operator.shape[1] else operator
    return tall, Gram(tall)
