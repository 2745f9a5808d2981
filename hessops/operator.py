"""The linear operator: one hook to write, `_apply` on a block of vectors; everything else follows.

What is public checks, what is private computes: `apply` looks at shape, library, device and dtype
once and then calls `_apply`, which may rely on them. A single vector is the block of one column.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, overload

from hessops.arrays import Array, DType, as_real_pair, dtype_name, is_array, is_complex, namespace
from hessops.scalars import as_number, is_scalar
from hessops.space import Space
from hessops.structure import GENERAL, Structure

__all__ = ["Algebra", "LinearOperator"]


class LinearOperator(ABC):
    """A linear map that is known by its products with blocks of vectors.

    Subclasses write `_apply`, and `_apply_adjoint` where the operator is not self-adjoint and its
    adjoint is wanted.

    Parameters
    ----------
    domain : Space
        Where the vectors live that it multiplies, of dimension n.
    codomain : Space, optional
        Where the products live, of dimension m; the domain where not given.
    structure : Structure
        What is known beyond the shape.

    Raises
    ------
    ValueError
        If a rectangular operator is declared self-adjoint.

    Examples
    --------
    >>> import numpy as np
    >>> from hessops import ArraySpace, LinearOperator
    >>> class Reverse(LinearOperator):
    ...     def _apply(self, X):
    ...         return X[::-1]
    >>> Reverse(ArraySpace(3)) @ np.array([1.0, 2.0, 3.0])
    array([3., 2., 1.])
    """

    # NumPy scalars and arrays on the left leave the operation to us.
    __array_ufunc__ = None

    num_samples: float = 1.0
    """Samples of data behind an operator that is a term of a sum; 0 for one that needs no data."""

    held_by: int | None = None
    """The only rank that can multiply with a term of a sum; None where every rank can."""

    returns_own_memory: bool = False
    """Whether a product lies in memory that nothing else refers to, so that it may be overwritten."""
    _product_error: float = 0.0

    asymmetry: tuple[float, float] | None = None
    """Largest moduli in A - A^H and in A, of an operator whose entries were looked at."""

    algebra: ClassVar[Algebra]
    """What ``+ * @ .H`` build; ``hessops.operators.algebra``, which knows the nodes, sets it."""

    def __init__(
        self, domain: Space, codomain: Space | None = None, *, structure: Structure = GENERAL
    ) -> None:
        self.domain = domain
        self.codomain = domain if codomain is None else codomain
        self.structure = structure
        if structure.self_adjoint and self.shape[0] != self.shape[1]:
            raise ValueError(f"an operator of shape {self.shape} cannot be self-adjoint")

    @property
    def shape(self) -> tuple[int, int]:
        """Return (m, n), the global dimensions of codomain and domain."""
        return self.codomain.dim, self.domain.dim

    @property
    def dtype(self) -> DType:
        """Return the dtype of the vectors it multiplies, an object of their library."""
        return self.domain.dtype

    @property
    def product_error(self) -> float:
        """Return the relative error of a product beyond rounding in its dtype.

        0 but for products that are computed in a lower precision, which subclasses tell by an attribute
        of this name, or a property; the same on all ranks, which may have to find it out together.
        Looks at symmetry allow for it, and error bounds of eigenvalues and singular values hold it.
        Residual norms, brackets and certified norms are of products as they were computed.

        Of sums, differences and shifts it is that of the parts, relative to their products: where these
        cancel, what is left is off by more, and bounds on its eigenvalues are too small.
        """
        return self._product_error

    @property
    def xp(self) -> ModuleType:
        """Return the array API namespace of the vectors."""
        return self.domain.xp

    @abstractmethod
    def _apply(self, X: Array) -> Array:
        """Return the product with a block of shape (local_dim, k) in the domain's dtype."""

    def _apply_adjoint(self, X: Array) -> Array:
        """Return the product of the adjoint with a block of the codomain."""
        if self.structure.self_adjoint:
            return self._apply(X)
        raise NotImplementedError(
            f"{self} has no adjoint: write _apply_adjoint, pass adjoint=, or, if it is its own "
            "adjoint, self_adjoint=True"
        )

    def apply(self, X: Array) -> Array:
        """Multiply a vector or a block of vectors.

        Parameters
        ----------
        X : array, shape (n,) or (n, k)
            In the operator's library, on its device. Lower precision is raised to the operator's;
            a complex block is multiplied by a real operator part by part.

        Returns
        -------
        array, shape (m,) or (m, k)
            The product.

        Raises
        ------
        TypeError
            If `X` is no array of the operator's library, or its dtype would lose digits.
        ValueError
            If the shape or the device does not fit, or the operator returns a wrong shape.
        """
        return self._checked(X, self._apply, self.domain, self.codomain)

    def apply_adjoint(self, X: Array) -> Array:
        """Multiply a vector or a block of vectors with the conjugate transpose.

        Parameters
        ----------
        X : array, shape (m,) or (m, k)
            As for `apply`.

        Returns
        -------
        array, shape (n,) or (n, k)
            The product.

        Raises
        ------
        NotImplementedError
            If the operator knows no adjoint.
        """
        return self._checked(X, self._apply_adjoint, self.codomain, self.domain)

    def terms(self) -> Iterator[LinearOperator]:
        """Yield operators that sum to this one.

        A finite sum yields its parts and everything else itself. What is linear in the operator
        (trace, diagonal) can then use a fresh probe for every part. Terms that stand for different
        amounts of data say so by their `num_samples`.

        Every rank yields all terms, in the same order. Where the data is dealt out, a term says by
        `held_by` whose it is: that rank alone multiplies with it, and products are added over ranks.
        """
        yield self

    def power_traces(self) -> tuple[float, ...]:
        """Return tr A, tr A², ..., as far as what is stored tells them at the cost of a few products.

        Estimators of tr f(A) leave less to chance by them. Nothing is known of an operator that is only
        known by its products.
        """
        return ()

    def to_dense(self, *, block_size: int = 256) -> Array:
        """Return the matrix, by products with the columns of the identity.

        Parameters
        ----------
        block_size : int
            Columns per product.

        Returns
        -------
        array, shape (m, n)
            The matrix; of vectors split over ranks, the rows held here.

        Raises
        ------
        ValueError
            If `block_size` is not positive.
        """
        if block_size < 1:
            raise ValueError(f"block_size={block_size} must be positive")
        n = self.shape[1]
        blocks = [
            self.apply(self.domain.unit_vectors(start, min(start + block_size, n)))
            for start in range(0, n, block_size)
        ]
        dense: Array = self.xp.concat(blocks, axis=1)
        return dense

    @property
    def H(self) -> LinearOperator:  # noqa: N802 - the field's name
        """Return the adjoint, the conjugate transpose."""
        return self if self.structure.self_adjoint else self.algebra.adjoint(self)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        if not isinstance(other, LinearOperator):
            return self._not_added(other)
        return self.algebra.add(self, other)

    def __radd__(self, other: Any) -> LinearOperator:
        # What `sum` starts from.
        return self if is_scalar(other) and other == 0 else self._not_added(other)

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        if not isinstance(other, LinearOperator):
            return self._not_added(other)
        return self + (-1) * other

    def __rsub__(self, other: Any) -> LinearOperator:
        return self._not_added(other)

    def __neg__(self) -> LinearOperator:
        return (-1) * self

    def __mul__(self, factor: Any) -> LinearOperator:
        # An array is refused in words by `as_number`; what else there is may know `*` itself.
        if not (is_scalar(factor) or is_array(factor)):
            return NotImplemented
        return self.algebra.scale(self, as_number(factor, "scale"))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> LinearOperator:
        if not (is_scalar(divisor) or is_array(divisor)):
            return NotImplemented
        number = as_number(divisor, "divide")
        if number == 0:
            raise ZeroDivisionError("cannot divide an operator by zero")
        return self.algebra.scale(self, 1 / number)

    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, other: Array) -> Array: ...
    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, LinearOperator):
            return self.algebra.multiply(self, other)
        return self.apply(other)

    def _not_added(self, other: Any) -> LinearOperator:
        """Say what to write instead of a sum with a number or an array; leave the rest to `other`."""
        if is_scalar(other):
            raise TypeError(
                f"{other} is no operator, and NumPy would add it to every entry: for a multiple of the "
                f"identity write A + {other} * hessops.Identity(A.domain)"
            )
        if is_array(other):
            raise TypeError(
                f"an array of shape {tuple(other.shape)} is no operator: wrap it first, "
                "hessops.aslinearoperator(array)"
            )
        unknown: LinearOperator = NotImplemented
        return unknown

    def _checked(self, X: Array, product: Any, source: Space, target: Space) -> Array:
        if not is_array(X):
            raise TypeError(
                f"expected an array, got {type(X).__name__}; wrap it, e.g. np.asarray(x)"
            )
        if X.ndim not in {1, 2}:
            raise ValueError(f"expected a vector (n,) or a block (n, k), got shape {X.shape}")
        block = X[:, None] if X.ndim == 1 else X

        def product_of_some(columns: Array) -> Array:
            # What hooks find column by column they could not put together for none.
            return product(columns) if columns.shape[1] else target.zeros(0)

        Y = self._by_parts(block, product_of_some, source)
        if tuple(Y.shape) != (target.local_dim, block.shape[1]):
            raise ValueError(
                f"{self} returned shape {tuple(Y.shape)} for a block of shape {block.shape}; "
                f"expected {(target.local_dim, block.shape[1])}"
            )
        return Y[:, 0] if X.ndim == 1 else Y

    def _by_parts(self, block: Array, product: Any, source: Space) -> Array:
        xp = namespace(block)
        if xp is source.xp and is_complex(xp, block.dtype) and not is_complex(xp, source.dtype):
            parts: Array = product(source.validate(as_real_pair(block)))
            count = block.shape[1]
            return parts[:, :count] + 1j * parts[:, count:]
        Y: Array = product(source.validate(block))
        return Y

    def _describe(self) -> str:
        """Return what stands between the brackets of `repr`, beyond shape and dtype."""
        return ""

    def __repr__(self) -> str:
        rows, columns = self.shape
        detail = self._describe()
        parts = [f"{rows}x{columns}", dtype_name(self.dtype), str(self.structure), detail]
        return f"{type(self).__name__}({', '.join(part for part in parts if part)})"


@dataclass(frozen=True)
class Algebra:
    """The nodes that operators of operators are made of, handed upwards.

    They are subclasses of `LinearOperator`, so this file cannot import them.

    Parameters
    ----------
    add : callable
        Makes A + B of A and B.
    scale : callable
        Makes c A of A and a Python number c.
    multiply : callable
        Makes A B of A and B.
    adjoint : callable
        Makes A^H of an A that is not self-adjoint.
    """

    add: Callable[[LinearOperator, LinearOperator], LinearOperator]
    scale: Callable[[LinearOperator, complex], LinearOperator]
    multiply: Callable[[LinearOperator, LinearOperator], LinearOperator]
    adjoint: Callable[[LinearOperator], LinearOperator]
