"""Sums, multiples, products, adjoints, shifts: small named nodes that keep what is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from hessops.arrays import Array, is_complex
from hessops.operator import Algebra, LinearOperator
from hessops.operators.compatibility import (
    add_up,
    common_precision,
    common_space,
    complexified,
    require_square,
)
from hessops.operators.elementary import Identity
from hessops.operators.power_traces import shifted_power_traces
from hessops.scalars import as_number
from hessops.structure import PROPAGATION, Structure

__all__ = ["Adjoint", "Product", "Scaled", "Shifted", "Sum", "add"]


def add(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    """Return ``left + right``; a multiple of the identity becomes a shift."""
    if left.shape != right.shape:
        raise ValueError(f"cannot add operators of shapes {left.shape} and {right.shape}")
    for part, other in ((right, left), (left, right)):
        if isinstance(part, Identity):
            return Shifted(other, -1.0)
        if isinstance(part, Scaled) and isinstance(part.operator, Identity):
            return Shifted(other, -part.factor)
    return Sum([left, right])


class Sum(LinearOperator):
    """The sum of operators of one shape; nested sums are flattened.

    Parameters
    ----------
    operators : sequence of LinearOperator
        At least one.

    Raises
    ------
    ValueError
        If shapes, libraries, devices or precisions differ.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        flat: list[LinearOperator] = []
        for operator in operators:
            flat.extend(operator.operators if isinstance(operator, Sum) else [operator])
        self.operators: tuple[LinearOperator, ...] = tuple(flat)
        domain = common_space([operator.domain for operator in flat], "sum")
        codomain = common_space([operator.codomain for operator in flat], "sum")
        structure = PROPAGATION["sum"]([operator.structure for operator in flat])
        super().__init__(domain, codomain, structure=structure)
        # Relative to the parts, and not to what a difference leaves: its norm is not known.
        self._product_error = max(operator.product_error for operator in flat)

    def _apply(self, X: Array) -> Array:
        return add_up(part.apply(X) for part in self.operators)

    def _apply_adjoint(self, X: Array) -> Array:
        return add_up(part.apply_adjoint(X) for part in self.operators)

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the terms of every part."""
        for operator in self.operators:
            yield from operator.terms()

    def _describe(self) -> str:
        return " + ".join(type(operator).__name__ for operator in self.operators)


class Scaled(LinearOperator):
    """The product of a scalar and an operator.

    Parameters
    ----------
    operator : LinearOperator
        Any.
    factor : float or complex
        A complex factor makes a complex operator.

    Raises
    ------
    ValueError
        If the factor is NaN or infinite.
    """

    def __init__(self, operator: LinearOperator, factor: complex) -> None:
        factor = as_number(factor, "scale")
        if isinstance(operator, Scaled):
            factor = operator.factor * factor
            operator = operator.operator
        self.operator: LinearOperator = operator
        self.factor: complex = factor
        self.num_samples = operator.num_samples
        self.held_by = operator.held_by
        self._product_error = operator.product_error
        structure: Structure = PROPAGATION["scaled"](operator.structure, factor)
        domain, codomain = operator.domain, operator.codomain
        if isinstance(factor, complex):
            domain, codomain = complexified(domain), complexified(codomain)
        super().__init__(domain, codomain, structure=structure)

    def _apply(self, X: Array) -> Array:
        return self.operator.apply(X) * self.factor

    def _apply_adjoint(self, X: Array) -> Array:
        return self.operator.apply_adjoint(X) * self.factor.conjugate()

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the scaled terms of the operator."""
        for term in self.operator.terms():
            yield self if term is self.operator else Scaled(term, self.factor)

    def power_traces(self) -> tuple[float, ...]:
        """Return the traces of the powers, by those of the operator."""
        factor = self.factor
        if isinstance(factor, complex):
            return ()
        traces = self.operator.power_traces()
        return tuple(factor ** (power + 1) * trace for power, trace in enumerate(traces))

    def _describe(self) -> str:
        return f"{self.factor:g} * {type(self.operator).__name__}"


class Product(LinearOperator):
    """The product of operators, the rightmost applied first; nested products are flattened.

    A product that reads the same backwards, ``B.H @ M @ B``, is as self-adjoint and as definite as
    its middle.

    Parameters
    ----------
    operators : sequence of LinearOperator
        At least one.

    Raises
    ------
    ValueError
        If neighbours do not fit.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        flat: list[LinearOperator] = []
        for operator in operators:
            flat.extend(_factors(operator))
        if not flat:
            raise ValueError("a product needs at least one operator")
        for left, right in pairwise(flat):
            if not left.domain.compatible_with(right.codomain):
                raise ValueError(
                    f"cannot multiply shapes {left.shape} and {right.shape}: {left.domain} and "
                    f"{right.codomain} differ"
                )
            common_precision([left.domain, right.codomain], "product")
        self.operators: tuple[LinearOperator, ...] = tuple(flat)
        spaces = [operator.domain for operator in flat]
        complex_valued = any(is_complex(space.xp, space.dtype) for space in spaces)
        domain, codomain = flat[-1].domain, flat[0].codomain
        if complex_valued:
            domain, codomain = complexified(domain), complexified(codomain)
        super().__init__(domain, codomain, structure=_palindrome(self.operators))
        self._product_error = sum(operator.product_error for operator in flat)

    def _apply(self, X: Array) -> Array:
        for operator in reversed(self.operators):
            X = operator.apply(X)
        return X

    def _apply_adjoint(self, X: Array) -> Array:
        for operator in self.operators:
            X = operator.apply_adjoint(X)
        return X

    def _describe(self) -> str:
        return " @ ".join(type(operator).__name__ for operator in self.operators)


class Adjoint(LinearOperator):
    """The conjugate transpose of an operator.

    Parameters
    ----------
    operator : LinearOperator
        Any; products need its `_apply_adjoint`.
    """

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator
        structure = PROPAGATION["adjoint"](operator.structure)
        super().__init__(operator.codomain, operator.domain, structure=structure)
        self._product_error = operator.product_error
        self.num_samples = operator.num_samples
        self.held_by = operator.held_by

    def _apply(self, X: Array) -> Array:
        return self.operator.apply_adjoint(X)

    def _apply_adjoint(self, X: Array) -> Array:
        return self.operator.apply(X)

    @property
    def H(self) -> LinearOperator:  # noqa: N802 - the field's name
        """Return the operator itself."""
        return self.operator

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the adjoint of every term."""
        for term in self.operator.terms():
            yield self if term is self.operator else term.H

    def _describe(self) -> str:
        return type(self.operator).__name__


class Shifted(LinearOperator):
    """The operator A - shift * I.

    Parameters
    ----------
    operator : LinearOperator
        Square.
    shift : float or complex
        The number that every eigenvalue is reduced by.

    Raises
    ------
    ValueError
        If the operator is rectangular.
    """

    def __init__(self, operator: LinearOperator, shift: complex) -> None:
        require_square(operator, "shift")
        self.operator = operator
        self.shift = shift = as_number(shift, "shift")
        structure: Structure = PROPAGATION["shifted"](operator.structure, shift)
        space = operator.domain
        if isinstance(shift, complex):
            space = complexified(space)
        super().__init__(space, structure=structure)
        self._product_error = operator.product_error

    def _apply(self, X: Array) -> Array:
        return self.operator.apply(X) - X * self.shift

    def _apply_adjoint(self, X: Array) -> Array:
        return self.operator.apply_adjoint(X) - X * self.shift.conjugate()

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the terms of the operator and the multiple of the identity."""
        yield from self.operator.terms()
        yield Scaled(Identity(self.domain), -self.shift)

    def power_traces(self) -> tuple[float, ...]:
        """Return the traces of the powers, by those of the operator."""
        if isinstance(self.shift, complex):
            return ()
        return shifted_power_traces(self.operator.power_traces(), self.shape[0], self.shift)

    def _describe(self) -> str:
        return f"{type(self.operator).__name__} - {self.shift:g} I"


def _factors(operator: LinearOperator) -> list[LinearOperator]:
    if isinstance(operator, Product):
        return list(operator.operators)
    # Opened up, so that (A B)^H M (A B) is seen to read the same backwards.
    if isinstance(operator, Adjoint) and isinstance(operator.operator, Product):
        return [factor.H for factor in reversed(operator.operator.operators)]
    return [operator]


def _palindrome(operators: Sequence[LinearOperator]) -> Structure:
    half, odd = divmod(len(operators), 2)
    for left, right in zip(operators[:half], reversed(operators[-half:]), strict=False):
        if left is not right.H and left.H is not right:
            structure: Structure = PROPAGATION["product"]()
            return structure
    middle = operators[half].structure if odd else Structure(positive_semidefinite=True)
    congruent: Structure = PROPAGATION["congruence"](middle)
    return congruent


LinearOperator.algebra = Algebra(
    add=add, scale=Scaled, multiply=lambda left, right: Product([left, right]), adjoint=Adjoint
)
