"""Operators made of operators: small named nodes that keep what is known of their parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from operator import add as add_arrays

import numpy as np

from hessops.arrays import Array, dtype_name, eps, is_complex, to_numpy
from hessops.elementary import Identity
from hessops.operator import LinearOperator
from hessops.space import ArraySpace, Space
from hessops.structure import PROPAGATION, Structure

__all__ = [
    "Adjoint",
    "BlockDiagonal",
    "FiniteSum",
    "Product",
    "Projected",
    "Scaled",
    "Shifted",
    "Sum",
    "add",
]


def add(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    """Return ``left + right``; a multiple of the identity becomes a shift."""
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
        domain = _common_space([operator.domain for operator in flat], "sum")
        codomain = _common_space([operator.codomain for operator in flat], "sum")
        structure = PROPAGATION["sum"]([operator.structure for operator in flat])
        super().__init__(domain, codomain, structure=structure)

    def _apply(self, X: Array) -> Array:
        return _accumulate(part.apply(X) for part in self.operators)

    def _apply_adjoint(self, X: Array) -> Array:
        return _accumulate(part.apply_adjoint(X) for part in self.operators)

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
        if not (math.isfinite(complex(factor).real) and math.isfinite(complex(factor).imag)):
            raise ValueError(f"cannot scale an operator by {factor}")
        if isinstance(operator, Scaled):
            factor = operator.factor * factor
            operator = operator.operator
        self.operator: LinearOperator = operator
        self.factor: complex = factor
        structure: Structure = PROPAGATION["scaled"](operator.structure, factor)
        domain, codomain = operator.domain, operator.codomain
        if isinstance(factor, complex):
            domain, codomain = _complexified(domain), _complexified(codomain)
        super().__init__(domain, codomain, structure=structure)

    def _apply(self, X: Array) -> Array:
        return self.operator.apply(X) * self.factor

    def _apply_adjoint(self, X: Array) -> Array:
        return self.operator.apply_adjoint(X) * self.factor.conjugate()

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the scaled terms of the operator."""
        for term in self.operator.terms():
            yield self if term is self.operator else Scaled(term, self.factor)

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
            flat.extend(operator.operators if isinstance(operator, Product) else [operator])
        for left, right in pairwise(flat):
            if not left.domain.compatible_with(right.codomain):
                raise ValueError(
                    f"cannot multiply shapes {left.shape} and {right.shape}: {left.domain} and "
                    f"{right.codomain} differ"
                )
            _common_precision([left.domain, right.codomain], "product")
        self.operators: tuple[LinearOperator, ...] = tuple(flat)
        spaces = [operator.domain for operator in flat]
        complex_valued = any(is_complex(space.xp, space.dtype) for space in spaces)
        domain, codomain = flat[-1].domain, flat[0].codomain
        if complex_valued:
            domain, codomain = _complexified(domain), _complexified(codomain)
        super().__init__(domain, codomain, structure=_palindrome(self.operators))

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
        _require_square(operator, "shift")
        self.operator = operator
        self.shift = shift
        structure: Structure = PROPAGATION["shifted"](operator.structure, shift)
        space = operator.domain
        if isinstance(shift, complex):
            space = _complexified(space)
        super().__init__(space, structure=structure)

    def _apply(self, X: Array) -> Array:
        return self.operator.apply(X) - X * self.shift

    def _apply_adjoint(self, X: Array) -> Array:
        return self.operator.apply_adjoint(X) - X * self.shift.conjugate()

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the terms of the operator and the multiple of the identity."""
        yield from self.operator.terms()
        yield Scaled(Identity(self.domain), -self.shift)

    def _describe(self) -> str:
        return f"{type(self.operator).__name__} - {self.shift:g} I"


class Projected(LinearOperator):
    """The operator P A P with P = I - V V^H: A, deflated of the directions in V.

    Parameters
    ----------
    operator : LinearOperator
        Square.
    basis : array, shape (n, r)
        Orthonormal columns.

    Raises
    ------
    ValueError
        If the operator is rectangular or the columns are not orthonormal.
    """

    def __init__(self, operator: LinearOperator, basis: Array) -> None:
        _require_square(operator, "deflate")
        self.operator = operator
        self.basis = operator.domain.validate(basis)
        _require_orthonormal(operator.domain, self.basis)
        structure = PROPAGATION["projected"](operator.structure)
        super().__init__(operator.domain, structure=structure)

    def _apply(self, X: Array) -> Array:
        return self._project(self.operator.apply(self._project(X)))

    def _apply_adjoint(self, X: Array) -> Array:
        return self._project(self.operator.apply_adjoint(self._project(X)))

    def _project(self, X: Array) -> Array:
        return X - self.basis @ self.domain.gram(self.basis, X)

    def terms(self) -> Iterator[LinearOperator]:
        """Yield every term, projected."""
        for term in self.operator.terms():
            yield self if term is self.operator else Projected(term, self.basis)

    def _describe(self) -> str:
        return f"{type(self.operator).__name__} without {self.basis.shape[1]} directions"


class FiniteSum(LinearOperator):
    """The weighted sum of many operators, sum_b w_b A_b, whose terms can be told apart.

    Trace and diagonal of such a sum use a fresh probe for every term (`stratify`), which costs the
    same and varies less.

    Parameters
    ----------
    operators : sequence of LinearOperator
        The A_b, of one shape.
    weights : sequence of float, optional
        The w_b; 1 where not given.

    Raises
    ------
    ValueError
        If there are no terms, or the numbers of terms and weights differ.

    Examples
    --------
    >>> import numpy as np
    >>> from hessops import FiniteSum, aslinearoperator
    >>> rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> gram = FiniteSum([aslinearoperator(np.outer(r, r)) for r in rows], [0.5, 0.5])
    >>> bool(np.allclose(gram.to_dense(), rows.T @ rows / 2))
    True
    """

    def __init__(
        self, operators: Sequence[LinearOperator], weights: Sequence[float] | None = None
    ) -> None:
        if len(operators) == 0:
            raise ValueError("a finite sum needs at least one term")
        self.operators = tuple(operators)
        self.weights = (1.0,) * len(operators) if weights is None else tuple(map(float, weights))
        if len(self.weights) != len(self.operators):
            raise ValueError(f"{len(self.operators)} terms but {len(self.weights)} weights")
        domain = _common_space([operator.domain for operator in operators], "finite sum")
        codomain = _common_space([operator.codomain for operator in operators], "finite sum")
        structures = [operator.structure for operator in operators]
        structure = PROPAGATION["finite sum"](structures, self.weights)
        super().__init__(domain, codomain, structure=structure)

    def _apply(self, X: Array) -> Array:
        return _accumulate(term.apply(X) for term in self.terms())

    def _apply_adjoint(self, X: Array) -> Array:
        return _accumulate(term.apply_adjoint(X) for term in self.terms())

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the weighted terms w_b A_b."""
        for operator, weight in zip(self.operators, self.weights, strict=True):
            yield operator if weight == 1 else Scaled(operator, weight)

    def _describe(self) -> str:
        return f"{len(self.operators)} terms"


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
            _require_square(operator, "use as a diagonal block")
            if operator.domain.comm.size > 1:
                raise ValueError("blocks whose vectors are split over ranks cannot be stacked")
        self.operators = tuple(operators)
        spaces = [operator.domain for operator in operators]
        _common_precision(spaces, "block diagonal")
        first = spaces[0]
        wide = [space for space in spaces if is_complex(space.xp, space.dtype)]
        dtype = (wide or spaces)[0].dtype
        space = ArraySpace(sum(s.dim for s in spaces), dtype, first.xp, first.device)
        structure = PROPAGATION["block diagonal"]([operator.structure for operator in operators])
        super().__init__(space, structure=structure)

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


def _accumulate(products: Iterable[Array]) -> Array:
    # One product at a time: a sum over a thousand terms must not hold a thousand blocks.
    return reduce(add_arrays, products)


def _palindrome(operators: Sequence[LinearOperator]) -> Structure:
    half, odd = divmod(len(operators), 2)
    for left, right in zip(operators[:half], reversed(operators[-half:]), strict=False):
        if left is not right.H and left.H is not right:
            structure: Structure = PROPAGATION["product"]()
            return structure
    middle = operators[half].structure if odd else Structure(positive_semidefinite=True)
    congruent: Structure = PROPAGATION["congruence"](middle)
    return congruent


def _common_space(spaces: Sequence[Space], node: str) -> Space:
    first = spaces[0]
    for space in spaces[1:]:
        if not first.compatible_with(space):
            raise ValueError(f"cannot form a {node} of operators on {first} and {space}")
    _common_precision(spaces, node)
    complex_spaces = [space for space in spaces if is_complex(space.xp, space.dtype)]
    return complex_spaces[0] if complex_spaces else first


def _common_precision(spaces: Sequence[Space], node: str) -> None:
    precisions = {eps(space.xp, space.dtype) for space in spaces}
    if len(precisions) > 1:
        names = ", ".join(sorted({dtype_name(space.dtype) for space in spaces}))
        raise ValueError(f"cannot form a {node} of {names}: build all parts in one precision")


def _complexified(space: Space) -> Space:
    if is_complex(space.xp, space.dtype):
        return space
    wide = space.xp.complex64 if space.dtype == space.xp.float32 else space.xp.complex128
    return space.with_dtype(wide)


def _require_square(operator: LinearOperator, action: str) -> None:
    if operator.shape[0] != operator.shape[1]:
        raise ValueError(f"cannot {action} an operator of shape {operator.shape}: it is not square")


def _require_orthonormal(space: Space, basis: Array) -> None:
    gram = to_numpy(space.gram(basis, basis))
    deviation = float(np.max(np.abs(gram - np.eye(len(gram))), initial=0.0))
    allowed = math.sqrt(eps(space.xp, space.dtype))
    if not deviation <= allowed:
        raise ValueError(
            f"the directions to deflate are not orthonormal: |V^H V - I| = {deviation:.2g}, allowed "
            f"{allowed:.2g}; orthonormalize them first"
        )
