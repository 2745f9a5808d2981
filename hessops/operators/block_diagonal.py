"""Operators side by side on parts of one vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hessops.array_space import ArraySpace
from hessops.arrays import Array, is_complex
from hessops.operator import LinearOperator
from hessops.operators.compatibility import common_precision, require_square
from hessops.structure import PROPAGATION

__all__ = ["BlockDiagonal"]


class BlockDiagonal(LinearOperator):
    """The operator diag(A_1, ..., A_m).

    Parameters
    ----------
    operators : sequence of LinearOperator
        Square, of one library and device; vectors may not be split over ranks.

    Raises
    ------
    ValueError
        If a block is rectangular or its vectors are split over ranks.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        if len(operators) == 0:
            raise ValueError("a block diagonal operator needs at least one block")
        for operator in operators:
            require_square(operator, "use as a diagonal block")
            if operator.domain.comm.size > 1:
                raise ValueError("blocks whose vectors are split over ranks cannot be stacked")
        self.operators = tuple(operators)
        spaces = [operator.domain for operator in operators]
        first = spaces[0]
        if any((space.xp, space.device) != (first.xp, first.device) for space in spaces):
            raise ValueError(f"cannot form a block diagonal of operators on {spaces}")
        common_precision(spaces, "block diagonal")
        wide = [space for space in spaces if is_complex(space.xp, space.dtype)]
        dtype = (wide or spaces)[0].dtype
        space = ArraySpace(sum(s.dim for s in spaces), dtype, first.xp, first.device)
        structure = PROPAGATION["block diagonal"]([operator.structure for operator in operators])
        super().__init__(space, structure=structure)
        self._product_error = max(operator.product_error for operator in operators)

    def _apply(self, X: Array) -> Array:
        return self._stack([op.apply(part) for op, part in self._parts(X)])

    def _apply_adjoint(self, X: Array) -> Array:
        return self._stack([op.apply_adjoint(part) for op, part in self._parts(X)])

    def _parts(self, X: Array) -> Iterator[tuple[LinearOperator, Array]]:
        start = 0
        for operator in self.operators:
            stop = start + operator.shape[0]
            yield operator, X[start:stop, :]
            start = stop

    def _stack(self, parts: list[Array]) -> Array:
        stacked: Array = self.xp.concat(parts, axis=0)
        return stacked

    def _describe(self) -> str:
        return f"{len(self.operators)} blocks"
