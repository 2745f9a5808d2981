"""An operator that every rank has, whose rows they share out among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from hessops.agreement import require_same_vectors
from hessops.array_space import ArraySpace
from hessops.arrays import Array, HostArray, dtype_name
from hessops.comm import Communicator, share
from hessops.operator import LinearOperator
from hessops.operators.elementary import MatrixOperator
from hessops.random import Purpose, Stream
from hessops.row_collectives import jointly
from hessops.together import require_same, summed_together, tried

__all__ = ["SharedOut"]

_SAME = "make the same operator on every rank, and give what is random in it a seed"


class SharedOut(LinearOperator):
    """An operator that every rank has, on whole vectors.

    Of a NumPy or SciPy matrix each rank multiplies with some rows, and products are made known to all
    by one reduction; of anything else each multiplies with all of it.

    Parameters
    ----------
    operator : LinearOperator
        The same on every rank, on vectors of its own.
    comm : Communicator
        The ranks.

    Raises
    ------
    ValueError
        On all ranks, if the operators differ: in shape, dtype or structure, or in what a product with
        one vector gives.
    """

    def __init__(self, operator: LinearOperator, comm: Communicator) -> None:
        spaces = operator.domain, operator.codomain
        assert all(isinstance(space, ArraySpace) for space in spaces)
        domain, codomain = (space.with_comm(comm) for space in spaces)  # type: ignore[attr-defined]
        square = operator.domain is operator.codomain
        super().__init__(domain, None if square else codomain, structure=operator.structure)
        self.operator = operator
        self.num_samples = operator.num_samples
        self.asymmetry = operator.asymmetry
        self._product_error = operator.product_error
        self.comm = comm
        self._mine = share(comm, operator.shape[0])
        self._rows: Any = None
        matrix: Any = operator.matrix if isinstance(operator, MatrixOperator) else None
        if scipy.sparse.issparse(matrix):
            matrix = scipy.sparse.csr_array(matrix)  # type: ignore[call-overload]
        if isinstance(matrix, np.ndarray | scipy.sparse.csr_array):
            self._rows = matrix[self._mine.start : self._mine.stop]
        if comm.size > 1:
            self._require_same()

    def _require_same(self) -> None:
        operator = self.operator
        facts = {
            "the shape of the operator": operator.shape,
            "its dtype": dtype_name(operator.dtype),
            "its structure": str(operator.structure),
        }
        require_same(self.comm, facts, _SAME)
        probe = operator.domain.probes(Stream(0, Purpose.CHECK_DOMAIN), range(1), "rademacher")
        product = jointly(self.comm, lambda: operator.apply(probe))
        require_same_vectors(self.codomain, product, "product with the operator", _SAME)

    def _apply(self, X: Array) -> Array:
        if self._rows is None:
            return self.operator.apply(X)
        made, error = tried(lambda: self._rows @ X)
        product: HostArray = np.zeros((self.shape[0], X.shape[1]), dtype=self.dtype)
        if made is not None:
            product[self._mine.start : self._mine.stop] = made
        return summed_together(self.comm, product, error, X)

    def _apply_adjoint(self, X: Array) -> Array:
        return self._apply(X) if self.structure.self_adjoint else self.operator.apply_adjoint(X)

    def power_traces(self) -> tuple[float, ...]:
        """Return the traces of the operator's powers."""
        return self.operator.power_traces()

    def __repr__(self) -> str:
        # As of one process, whose run may go on with several, and the other way round.
        return repr(self.operator)
