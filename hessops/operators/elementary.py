"""Operators that are given by their numbers: identity, diagonal, low rank, a matrix, a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse

from hessops.array_space import ArraySpace
from hessops.arrays import (
    Array,
    adjoint,
    device,
    dtype_name,
    eps,
    is_array,
    is_complex,
    is_floating,
    namespace,
    numpy_namespace,
    plain,
    to_numpy,
)
from hessops.errors import NonFiniteError
from hessops.operator import LinearOperator
from hessops.operators.own_memory import call_apart
from hessops.operators.power_traces import dense_power_traces, sparse_power_traces
from hessops.operators.row_threads import RowThreads
from hessops.space import Space
from hessops.structure import GENERAL, POSITIVE_SEMIDEFINITE, Structure

__all__ = [
    "DeclaredOperator",
    "Diagonal",
    "FunctionOperator",
    "Identity",
    "LowRank",
    "MatrixOperator",
    "require_finite_entries",
    "space_like",
]


def space_like(array: Array, dim: int) -> ArraySpace:
    """Return the space of `dim` entries in the library, precision and device of `array`."""
    xp = namespace(array)
    place = None if xp is numpy_namespace else device(array)
    space = ArraySpace(dim, array.dtype, xp, place)
    if space.device != place:
        # CuPy makes arrays on the device that is current, whatever one asks for.
        raise ValueError(
            f"the array lives on {place}, but its library puts new ones on {space.device}: make "
            f"{place} the current device, here and for all work with the operator"
        )
    return space


def require_finite_entries(array: Array, name: str) -> None:
    """Raise if an array that an operator is made of holds NaN or infinity."""
    xp = namespace(array)
    if is_floating(xp, array.dtype) and not bool(xp.all(xp.isfinite(array))):
        bad = int(xp.sum(xp.astype(~xp.isfinite(array), xp.int64)))
        raise NonFiniteError(f"{name} holds {bad} entries that are NaN or infinite")


class Identity(LinearOperator):
    """The identity.

    Parameters
    ----------
    space : Space or int
        Where it acts; a number n stands for NumPy float64 vectors of that length.

    Examples
    --------
    >>> from hessops import Identity
    >>> Identity(3).structure.positive_semidefinite
    True
    """

    num_samples = 0.0

    def __init__(self, space: Space | int) -> None:
        domain = ArraySpace(space) if isinstance(space, int) else space
        super().__init__(domain, structure=POSITIVE_SEMIDEFINITE)

    def _apply(self, X: Array) -> Array:
        return X


class Diagonal(LinearOperator):
    """A diagonal operator.

    Parameters
    ----------
    values : array, shape (n,)
        The diagonal.

    Raises
    ------
    ValueError
        If `values` is not one-dimensional.
    TypeError
        If `values` is no array of floating type.
    NonFiniteError
        If it holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> from hessops import Diagonal
    >>> Diagonal(np.array([1.0, -2.0])) @ np.ones(2)
    array([ 1., -2.])
    """

    returns_own_memory = True

    def __init__(self, values: Array) -> None:
        values = plain(values)
        if not is_array(values):
            raise TypeError(f"expected the diagonal as an array, got {type(values).__name__}")
        if values.ndim != 1:
            raise ValueError(f"expected the diagonal as a vector, got shape {values.shape}")
        require_finite_entries(values, "the diagonal")
        space = space_like(values, values.shape[0])
        real = not is_complex(space.xp, values.dtype)
        smallest = float(space.xp.min(values)) if real else -1.0
        structure = Structure(self_adjoint=real, positive_semidefinite=smallest >= 0)
        super().__init__(space, structure=structure)
        self.values = values

    def _apply(self, X: Array) -> Array:
        return self.values[:, None] * X

    def _apply_adjoint(self, X: Array) -> Array:
        values = self.values
        if is_complex(self.xp, values.dtype):
            values = self.xp.conj(values)
        return values[:, None] * X


class LowRank(LinearOperator):
    """The operator U C V^H of rank at most r.

    Parameters
    ----------
    left : array, shape (m, r)
        U.
    core : array, shape (r,) or (r, r), optional
        C, or its diagonal; the identity where not given.
    right : array, shape (n, r), optional
        V; U where not given, which makes the operator as self-adjoint and definite as the core.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    NonFiniteError
        If a factor holds NaN or infinity.
    """

    def __init__(self, left: Array, core: Array | None = None, right: Array | None = None) -> None:
        left = plain(left)
        xp = namespace(left)
        rank = left.shape[1]
        if core is None:
            core = xp.ones(rank, dtype=left.dtype, device=device(left))
        factors = (left, plain(core), left if right is None else plain(right))
        for name, factor in zip(("left", "core", "right"), factors, strict=True):
            require_finite_entries(factor, name)
        shapes = tuple(tuple(factor.shape) for factor in factors)
        if shapes[1] not in {(rank,), (rank, rank)} or shapes[2][1] != rank:
            raise ValueError(f"cannot multiply U, C, V^H of shapes {shapes}: the ranks differ")
        if core.ndim == 1:
            core = core[:, None] * xp.eye(rank, dtype=core.dtype, device=device(core))
        dtype = xp.result_type(*(factor.dtype for factor in factors))
        self.left: Array = xp.astype(left, dtype, copy=False)
        self.core: Array = xp.astype(core, dtype, copy=False)
        self.right: Array = xp.astype(factors[2], dtype, copy=False)
        structure = _core_structure(to_numpy(core)) if right is None else GENERAL
        super().__init__(
            space_like(self.left, self.right.shape[0]),
            space_like(self.left, left.shape[0]),
            structure=structure,
        )

    def _apply(self, X: Array) -> Array:
        return self.left @ (self.core @ (adjoint(self.right) @ X))

    def _apply_adjoint(self, X: Array) -> Array:
        return self.right @ (adjoint(self.core) @ (adjoint(self.left) @ X))

    def _describe(self) -> str:
        return f"rank {self.core.shape[0]}"


class MatrixOperator(LinearOperator):
    """Products with an object that knows ``@``: a dense or sparse matrix, or someone's operator.

    Parameters
    ----------
    matrix : object
        Anything with ``matrix @ block``.
    domain, codomain : Space
        Where it acts.
    adjoint_matrix : object, optional
        Its conjugate transpose, if known.
    structure : Structure
        What is known of it.
    """

    returns_own_memory = True

    def __init__(
        self,
        matrix: Any,
        domain: Space,
        codomain: Space,
        *,
        adjoint_matrix: Any = None,
        structure: Structure = GENERAL,
    ) -> None:
        super().__init__(domain, codomain, structure=structure)
        self.matrix = matrix
        self._adjoint_matrix = adjoint_matrix
        # Of someone's own operator it is not known if it keeps what it returned.
        own = scipy.sparse.issparse(matrix) or isinstance(matrix, RowThreads)
        self._trusted = is_array(matrix) or own

    def _apply(self, X: Array) -> Array:
        return self._multiply(self.matrix, X)

    def _apply_adjoint(self, X: Array) -> Array:
        if self._adjoint_matrix is None:
            return super()._apply_adjoint(X)
        return self._multiply(self._adjoint_matrix, X)

    def _multiply(self, matrix: Any, X: Array) -> Array:
        trusted = self._trusted
        product: Array = (
            plain(matrix @ X) if trusted else call_apart(lambda block: matrix @ block, X)
        )
        return product

    def power_traces(self) -> tuple[float, ...]:
        """Return tr A and tr A² of a self-adjoint matrix, and the next two of a sparse one."""
        if not self.structure.self_adjoint or self.domain.comm.size > 1 or not self._trusted:
            return ()
        if is_array(self.matrix):
            return dense_power_traces(self.matrix, self.domain)
        threaded = isinstance(self.matrix, RowThreads)
        return sparse_power_traces(self.matrix.whole if threaded else self.matrix)

    def _describe(self) -> str:
        return type(self.matrix).__name__


class FunctionOperator(LinearOperator):
    """Products by a function of a block, or of a single vector.

    Parameters
    ----------
    function : callable
        From (n, k) to (m, k), or from (n,) to (m,) where `vectors_only`.
    domain, codomain : Space
        Where it acts.
    adjoint_function : callable, optional
        The same for the conjugate transpose.
    vectors_only : bool
        Whether the functions take one vector at a time.
    structure : Structure
        What is known of it.
    """

    returns_own_memory = True

    def __init__(
        self,
        function: Callable[[Array], Array],
        domain: Space,
        codomain: Space,
        *,
        adjoint_function: Callable[[Array], Array] | None = None,
        vectors_only: bool = False,
        structure: Structure = GENERAL,
    ) -> None:
        super().__init__(domain, codomain, structure=structure)
        self.function = function
        self.adjoint_function = adjoint_function
        self.vectors_only = vectors_only

    def _apply(self, X: Array) -> Array:
        return self._call(self.function, X)

    def _apply_adjoint(self, X: Array) -> Array:
        if self.adjoint_function is None:
            return super()._apply_adjoint(X)
        return self._call(self.adjoint_function, X)

    def _call(self, function: Callable[[Array], Array], X: Array) -> Array:
        if not self.vectors_only:
            return self._understood(call_apart(function, X))
        columns = [self._understood(call_apart(function, X[:, j])) for j in range(X.shape[1])]
        stacked: Array = self.xp.stack(columns, axis=1)
        return stacked

    def _understood(self, product: Any) -> Array:
        if not is_array(product) or namespace(product) is not self.xp:
            raise TypeError(
                f"the function of {self} returned {type(product).__name__}, not an array of the "
                "operator's library"
            )
        name, own = dtype_name(product.dtype), dtype_name(self.dtype)
        sentence = f"the function of {self} returned {name} for a block of {own}"
        if not (hasattr(self.xp, name) and is_floating(self.xp, product.dtype)):
            raise TypeError(f"{sentence}; convert the product to {own}")
        # Lower precision would be as wrong: digits that are not there pass for the operator's.
        same_precision = eps(self.xp, product.dtype) == eps(self.xp, self.dtype)
        if not same_precision or self.xp.result_type(product.dtype, self.dtype) != self.dtype:
            raise TypeError(f"{sentence}; declare dtype={name!r}, or convert the product to {own}")
        converted: Array = self.xp.astype(product, self.dtype, copy=False)
        return converted

    def _describe(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)


class DeclaredOperator(LinearOperator):
    """An operator of which its user knows more than it says itself.

    Parameters
    ----------
    operator : LinearOperator
        The operator.
    structure : Structure
        What is declared of it.
    """

    def __init__(self, operator: LinearOperator, structure: Structure) -> None:
        super().__init__(operator.domain, operator.codomain, structure=structure)
        self.operator = operator
        self.num_samples = operator.num_samples
        self.held_by = operator.held_by
        self._product_error = operator.product_error
        self.returns_own_memory = operator.returns_own_memory

    def _apply(self, X: Array) -> Array:
        return self.operator.apply(X)

    def _apply_adjoint(self, X: Array) -> Array:
        return self._apply(X) if self.structure.self_adjoint else self.operator.apply_adjoint(X)

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the terms of the operator."""
        for term in self.operator.terms():
            yield self if term is self.operator else term

    def power_traces(self) -> tuple[float, ...]:
        """Return the traces of the operator's powers."""
        return self.operator.power_traces()

    def _describe(self) -> str:
        return type(self.operator).__name__


def _core_structure(core: np.ndarray[Any, Any]) -> Structure:
    largest = float(np.max(np.abs(core), initial=0.0))
    rounding = 8 * eps(numpy_namespace, core.dtype) * largest * len(core)
    if float(np.max(np.abs(core - core.conj().T), initial=0.0)) > rounding:
        return GENERAL
    smallest = float(np.min(np.linalg.eigvalsh(core), initial=0.0))
    return Structure(self_adjoint=True, positive_semidefinite=smallest >= -rounding)
