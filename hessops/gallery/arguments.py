"""What the functions of the gallery take beside the size of a problem."""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypedDict, Unpack

from hessops.array_space import ArraySpace
from hessops.arrays import DType, dtype_name, is_complex
from hessops.options import require_options

__all__ = ["SpaceOptions", "array_space", "require_at_least"]


class SpaceOptions(TypedDict, total=False):
    """The options of `ArraySpace` that every function of the gallery passes on."""

    dtype: DType
    xp: ModuleType
    device: Any


def array_space(dim: int, **options: Unpack[SpaceOptions]) -> ArraySpace:
    """Return the space that an operator of the gallery acts on.

    Parameters
    ----------
    dim : int
        Its dimension.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    ArraySpace
        Real.

    Raises
    ------
    TypeError
        If the dtype is complex, or there is another option.
    """
    require_options("a problem of the gallery", options, SpaceOptions)
    space = ArraySpace(dim, **options)
    if is_complex(space.xp, space.dtype):
        raise TypeError(
            f"dtype={dtype_name(space.dtype)}: the operators of the gallery are real; take float64 "
            "or float32, and they multiply complex blocks all the same"
        )
    return space


def require_at_least(least: int, **sizes: int) -> None:
    """Raise a sentence where one of the named sizes is smaller than it can be.

    Parameters
    ----------
    least : int
        The smallest size that makes sense.
    **sizes
        The sizes by their names.

    Raises
    ------
    ValueError
        If one is smaller.
    """
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{name}={size} is too small; it must be at least {least}")
