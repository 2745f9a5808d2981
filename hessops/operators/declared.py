"""What a caller declares of an operator: its structure, its shape, the dtype of its vectors."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from hessops.arrays import DType, dtype_name, eps
from hessops.errors import NotSelfAdjointError
from hessops.operator import LinearOperator
from hessops.operators.elementary import DeclaredOperator
from hessops.structure import GENERAL, Structure

__all__ = ["Declared", "floating_dtype", "require_as_declared", "shape_pair"]

_FLOATING = ("float32", "float64", "complex64", "complex128")


class Declared:
    """What the caller says of structure, held against the entries where they are at hand.

    Parameters
    ----------
    self_adjoint : bool or None
        Equal to the conjugate transpose; None says nothing.
    positive_semidefinite : bool
        No eigenvalue is negative.

    Raises
    ------
    TypeError
        If one is no truth value.
    ValueError
        If they contradict each other.
    """

    def __init__(self, self_adjoint: bool | None, positive_semidefinite: bool) -> None:
        _require_truth(self_adjoint=self_adjoint, positive_semidefinite=positive_semidefinite)
        if positive_semidefinite and self_adjoint is not None and not self_adjoint:
            raise ValueError(
                "a positive semidefinite operator is self-adjoint; drop one of the two"
            )
        self.self_adjoint = True if positive_semidefinite else self_adjoint
        self.positive_semidefinite = bool(positive_semidefinite)

    def unseen(self) -> Structure:
        """Return the structure as declared; what is not declared is not assumed."""
        return Structure(
            self_adjoint=bool(self.self_adjoint), positive_semidefinite=self.positive_semidefinite
        )

    def applied_to(self, operator: LinearOperator) -> LinearOperator:
        """Return an operator with the declarations added to what is known, which False drops."""
        known = operator.structure
        if operator.asymmetry is not None:
            self.held_against(*operator.asymmetry, eps(operator.xp, operator.dtype))
        if self.self_adjoint is not None and not self.self_adjoint:
            return DeclaredOperator(operator, GENERAL) if known.self_adjoint else operator
        more = Structure(
            self_adjoint=bool(self.self_adjoint) or known.self_adjoint,
            positive_semidefinite=self.positive_semidefinite or known.positive_semidefinite,
        )
        return operator if more == known else DeclaredOperator(operator, more)

    def held_against(self, asymmetry: float, largest: float, precision: float) -> Structure:
        """Return the structure of a matrix with max |A - A^H| and max |A| as given."""
        if self.self_adjoint and asymmetry > math.sqrt(precision) * largest:
            raise NotSelfAdjointError(
                f"the matrix is declared self-adjoint, but max |A - A^H| = {asymmetry:.3g} where "
                f"max |A| = {largest:.3g}; symmetrize it, (A + A^H) / 2, or drop the declaration"
            )
        # A product such as Q D Q^T leaves a few units of rounding.
        symmetric = asymmetry <= 100 * precision * largest
        self_adjoint = symmetric if self.self_adjoint is None else self.self_adjoint
        return Structure(
            self_adjoint=self_adjoint, positive_semidefinite=self.positive_semidefinite
        )


def shape_pair(shape: Any) -> tuple[int, int]:
    """Return (m, n) of a pair of positive integers or of one, or say what else was given."""
    pair = tuple(shape) if isinstance(shape, tuple | list) else (shape, shape)
    counts = all(isinstance(size, int | np.integer) and size > 0 for size in pair)
    if len(pair) != 2 or not counts or any(isinstance(size, bool) for size in pair):
        raise ValueError(
            f"shape={shape!r} must be a positive integer n or a pair (m, n) of positive integers"
        )
    return int(pair[0]), int(pair[1])


def floating_dtype(xp: ModuleType, dtype: Any) -> DType:
    """Return the floating type of a library that a name, a class or another library's type means."""
    name = _type_name(dtype)
    if name not in _FLOATING:
        raise TypeError(
            f"dtype={dtype!r} is no floating type that vectors can have; choose one of "
            f"{', '.join(_FLOATING)}"
        )
    return getattr(xp, name)


def require_as_declared(operator: LinearOperator, shape: Any, dtype: Any) -> None:
    """Raise if an operator that tells its own shape and dtype has others than the caller says."""
    if shape is not None and shape_pair(shape) != tuple(operator.shape):
        raise ValueError(
            f"shape={shape!r} is declared of {operator}, which has another: leave shape out"
        )
    if dtype is not None and _type_name(dtype) != dtype_name(operator.dtype):
        raise ValueError(
            f"dtype={dtype!r} is declared of {operator}, which has another: convert what it is made "
            "of first, e.g. by astype, or leave dtype out"
        )


def _type_name(dtype: Any) -> str:
    try:
        return str(np.dtype(dtype).name)
    except TypeError:  # of another library, or nothing at all
        return dtype_name(dtype)


def _require_truth(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_ | None):
            raise TypeError(f"{name}={value!r} must be True or False")
