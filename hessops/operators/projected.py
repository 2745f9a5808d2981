"""An operator deflated of some directions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy

import numpy as np

from hessops.arrays import Array, eps, is_array, is_complex, namespace, to_numpy
from hessops.operator import LinearOperator
from hessops.operators.compatibility import complexified, require_square
from hessops.space import Space
from hessops.structure import PROPAGATION

__all__ = ["Projected"]


class Projected(LinearOperator):
    """The operator P A P with P = I - V V^H: A, deflated of the directions in V.

    Parameters
    ----------
    operator : LinearOperator
        Square.
    basis : array, shape (n, r)
        Orthonormal columns; complex ones make a complex operator.

    Raises
    ------
    ValueError
        If the operator is rectangular or the columns are not orthonormal.
    """

    def __init__(self, operator: LinearOperator, basis: Array) -> None:
        require_square(operator, "deflate")
        self.operator = operator
        space = operator.domain
        if is_array(basis) and is_complex(namespace(basis), basis.dtype):
            space = complexified(space)
        self.basis = space.validate(basis)
        _require_orthonormal(space, self.basis)
        structure = PROPAGATION["projected"](operator.structure)
        super().__init__(space, structure=structure)
        self.num_samples = operator.num_samples
        self.held_by = operator.held_by
        self._product_error = operator.product_error

    def _apply(self, X: Array) -> Array:
        return self._project(self.operator.apply(self._project(X)))

    def _apply_adjoint(self, X: Array) -> Array:
        return self._project(self.operator.apply_adjoint(self._project(X)))

    def _project(self, X: Array) -> Array:
        return X - self.basis @ self.domain.gram(self.basis, X)

    def terms(self) -> Iterator[LinearOperator]:
        """Yield every term, projected."""
        for term in self.operator.terms():
            yield self if term is self.operator else self._around(term)

    def _around(self, term: LinearOperator) -> Projected:
        """Return a term projected likewise; that the basis is orthonormal has been checked."""
        part = copy(self)
        part.operator = term
        part.structure = PROPAGATION["projected"](term.structure)
        part.num_samples = term.num_samples
        part.held_by = term.held_by
        return part

    def _describe(self) -> str:
        return f"{type(self.operator).__name__} without {self.basis.shape[1]} directions"


def _require_orthonormal(space: Space, basis: Array) -> None:
    gram = to_numpy(space.gram(basis, basis))
    deviation = float(np.max(np.abs(gram - np.eye(len(gram))), initial=0.0))
    allowed = math.sqrt(eps(space.xp, space.dtype))
    if not deviation <= allowed:
        raise ValueError(
            f"the directions to deflate are not orthonormal: |V^H V - I| = {deviation:.2g}, allowed "
            f"{allowed:.2g}; orthonormalize them first"
        )
