"""A sum of many operators whose terms can be told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hessops.arrays import Array
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.operators.algebra import Scaled
from hessops.operators.compatibility import add_up, common_space
from hessops.scalars import as_number
from hessops.structure import PROPAGATION

__all__ = ["FiniteSum"]


class FiniteSum(LinearOperator):
    """The weighted sum of many operators, sum_b w_b A_b, whose terms can be told apart.

    Trace and diagonal of such a sum use a fresh probe for every term (`stratify`), which costs the
    same and varies less.

    Parameters
    ----------
    operators : sequence of LinearOperator
        The A_b, of one shape. Where they stand for different amounts of data, give each its
        `num_samples`, by which `TraceResult.term_scatter` weighs them.
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
        self.operators = tuple(operators)
        given = (1.0,) * len(operators) if weights is None else weights
        self.weights = tuple(_real(weight) for weight in given)
        if len(self.weights) != len(self.operators):
            raise ValueError(
                f"{counted(len(self.operators), 'term')} but {len(self.weights)} weights"
            )
        domain = common_space([operator.domain for operator in operators], "finite sum")
        codomain = common_space([operator.codomain for operator in operators], "finite sum")
        structures = [operator.structure for operator in operators]
        structure = PROPAGATION["finite sum"](structures, self.weights)
        super().__init__(domain, codomain, structure=structure)
        self._product_error = max(operator.product_error for operator in operators)

    def _apply(self, X: Array) -> Array:
        return add_up(part.apply(X) for part in self._parts())

    def _apply_adjoint(self, X: Array) -> Array:
        return add_up(part.apply_adjoint(X) for part in self._parts())

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the weighted terms w_b A_b, and those of the A_b that are sums themselves."""
        for part in self._parts():
            yield from part.terms()

    def _parts(self) -> Iterator[LinearOperator]:
        for operator, weight in zip(self.operators, self.weights, strict=True):
            yield operator if weight == 1 else Scaled(operator, weight)

    def _describe(self) -> str:
        return f"{counted(len(self.operators), 'term')}"


def _real(weight: Any) -> float:
    number = as_number(weight, "weigh")
    if isinstance(number, complex):
        raise TypeError(f"a weight must be real, got {number}: multiply the operator by it instead")
    return number
