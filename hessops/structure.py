"""Structure that an operator declares, and the one table that says how it propagates.

A tag is a promise of whoever wrote the operator. Nothing here looks at numbers: `check_operator`
does, and each rule of `PROPAGATION` is a tested law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["GENERAL", "POSITIVE_SEMIDEFINITE", "PROPAGATION", "SELF_ADJOINT", "Structure"]


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What is known of an operator beyond its shape.

    Parameters
    ----------
    self_adjoint : bool
        Equal to its conjugate transpose.
    positive_semidefinite : bool
        Self-adjoint with no negative eigenvalue; implies `self_adjoint`.

    Examples
    --------
    >>> from hessops.structure import Structure
    >>> Structure(positive_semidefinite=True).self_adjoint
    True
    """

    self_adjoint: bool = False
    positive_semidefinite: bool = False

    def __post_init__(self) -> None:
        if self.positive_semidefinite:
            object.__setattr__(self, "self_adjoint", True)

    def __str__(self) -> str:
        if self.positive_semidefinite:
            return "positive semidefinite"
        return "self-adjoint" if self.self_adjoint else "general"


GENERAL = Structure()
SELF_ADJOINT = Structure(self_adjoint=True)
POSITIVE_SEMIDEFINITE = Structure(positive_semidefinite=True)


def _is_real(scalar: complex) -> bool:
    return complex(scalar).imag == 0


def _common(parts: Sequence[Structure]) -> Structure:
    return Structure(
        self_adjoint=all(part.self_adjoint for part in parts),
        positive_semidefinite=all(part.positive_semidefinite for part in parts),
    )


def _scaled(part: Structure, factor: complex) -> Structure:
    return Structure(
        self_adjoint=part.self_adjoint and _is_real(factor),
        positive_semidefinite=(
            part.positive_semidefinite and _is_real(factor) and complex(factor).real >= 0
        ),
    )


def _weighted(parts: Sequence[Structure], weights: Sequence[complex]) -> Structure:
    return _common([_scaled(part, weight) for part, weight in zip(parts, weights, strict=True)])


def _congruence(middle: Structure) -> Structure:
    """B^H M B is as self-adjoint and as definite as M; without a middle, M is the identity."""
    return middle


def _shifted(part: Structure, shift: complex) -> Structure:
    return Structure(
        self_adjoint=part.self_adjoint and _is_real(shift),
        positive_semidefinite=(
            part.positive_semidefinite and _is_real(shift) and complex(shift).real <= 0
        ),
    )


def _unchanged(part: Structure) -> Structure:
    return part


PROPAGATION: dict[str, Callable[..., Any]] = {
    "sum": _common,  # of the parts
    "scaled": _scaled,  # c A
    "product": lambda: GENERAL,  # A B: two self-adjoint factors need not commute
    "congruence": _congruence,  # B^H M B
    "adjoint": _unchanged,  # A^H
    "shifted": _shifted,  # A - sigma I
    "projected": _unchanged,  # P A P
    "finite sum": _weighted,  # sum_b w_b A_b
    "block diagonal": _common,  # diag(A_1, ..., A_m)
}
"""Node name -> rule from the structures (and scalars) of its parts to its own."""
