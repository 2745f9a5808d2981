"""Symmetric tridiagonal operators, by their two diagonals."""

from __future__ import annotations

from hessops.arrays import Array, HostArray
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.structure import SELF_ADJOINT, Structure

__all__ = ["Tridiagonal"]


class Tridiagonal(LinearOperator):
    """A real symmetric tridiagonal operator.

    Parameters
    ----------
    space : Space
        Of dimension n, all rows held here.
    diagonal : numpy.ndarray, shape (n,)
        The diagonal, on the host.
    off_diagonal : numpy.ndarray, shape (n - 1,)
        What stands beside it.
    structure : Structure
        What is known beyond self-adjointness.

    Raises
    ------
    ValueError
        If the lengths do not fit.
    """

    def __init__(
        self,
        space: Space,
        diagonal: HostArray,
        off_diagonal: HostArray,
        *,
        structure: Structure = SELF_ADJOINT,
    ) -> None:
        super().__init__(space, structure=structure)
        lengths = (len(diagonal), len(off_diagonal))
        if lengths != (space.dim, space.dim - 1):
            raise ValueError(
                f"the diagonals have lengths {lengths}; a space of dimension {space.dim} needs "
                f"{(space.dim, space.dim - 1)}"
            )
        self.diagonal: Array = space.from_host(diagonal)[:, None]
        self.off_diagonal: Array = space.from_host(off_diagonal)[:, None]

    def _apply(self, X: Array) -> Array:
        product = self.diagonal * X
        product[1:, :] += self.off_diagonal * X[:-1, :]
        product[:-1, :] += self.off_diagonal * X[1:, :]
        return product
