"""Do operators fit together? What their sums and products need of shapes, spaces and scalars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

from hessops.arrays import Array, dtype_name, eps, is_complex
from hessops.operator import LinearOperator
from hessops.space import Space

__all__ = [
    "add_up",
    "common_precision",
    "common_space",
    "complexified",
    "require_square",
]


def common_space(spaces: Sequence[Space], node: str) -> Space:
    """Return the space that operators of a sum share, complex if any is, or say what differs."""
    if len(spaces) == 0:
        raise ValueError(f"a {node} needs at least one operator")
    first = spaces[0]
    for space in spaces[1:]:
        if not first.compatible_with(space):
            raise ValueError(f"cannot form a {node} of operators on {first} and {space}")
    common_precision(spaces, node)
    complex_spaces = [space for space in spaces if is_complex(space.xp, space.dtype)]
    return complex_spaces[0] if complex_spaces else first


def common_precision(spaces: Sequence[Space], node: str) -> None:
    """Raise if single and double precision meet: neither lifting nor rounding is ours to choose."""
    precisions = {eps(space.xp, space.dtype) for space in spaces}
    if len(precisions) > 1:
        names = ", ".join(sorted({dtype_name(space.dtype) for space in spaces}))
        raise ValueError(f"cannot form a {node} of {names}: build all parts in one precision")


def complexified(space: Space) -> Space:
    """Return the complex space of the same precision."""
    if is_complex(space.xp, space.dtype):
        return space
    wide = space.xp.complex64 if space.dtype == space.xp.float32 else space.xp.complex128
    return space.with_dtype(wide)


def require_square(operator: LinearOperator, action: str) -> None:
    """Raise if an operator is rectangular and `action` makes no sense for it."""
    if operator.shape[0] != operator.shape[1]:
        raise ValueError(f"cannot {action} an operator of shape {operator.shape}: it is not square")


def add_up(products: Iterable[Array]) -> Array:
    """Return the sum of at least one block."""
    # One product at a time: a sum over a thousand terms must not hold a thousand blocks.
    return reduce(add, products)
