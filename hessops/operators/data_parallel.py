"""The sum over ranks of operators that each of them has alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from hessops.array_space import ArraySpace
from hessops.arrays import Array, dtype_name, to_numpy
from hessops.comm import Communicator, require_communicator
from hessops.operator import LinearOperator
from hessops.operators.algebra import Scaled
from hessops.row_collectives import jointly, table
from hessops.scalars import require_real
from hessops.space import Space
from hessops.structure import PROPAGATION
from hessops.together import raise_together, require_same, summed_together, tried
from hessops.wrap import aslinearoperator

__all__ = ["DataParallel", "data_parallel"]


def data_parallel(
    local_operator: Any, comm: Communicator, *, weight: float | None = None
) -> DataParallel:
    """Return the sum over ranks of an operator that each of them makes of its part of the data.

    Vectors are whole on every rank, and so are products: the same bits, by one reduction for a block of
    any width. All verbs run on it unchanged; every rank calls them, with the same arguments.

    Parameters
    ----------
    local_operator : LinearOperator or anything `aslinearoperator` takes
        This rank's part, on whole vectors: of one shape, dtype and library on all ranks.
    comm : Communicator
        The ranks, such as ``hessops_mpi.world()``.
    weight : float, optional
        Where parts are means over their data: the amount of data behind this rank's, 0 for none. The
        operator is then the mean over all the data, Σ w_r A_r / Σ w_r; Σ A_r where not given.

    Returns
    -------
    DataParallel
        With the terms of all ranks for its `terms()`.

    Raises
    ------
    ValueError
        On all ranks, if shapes, dtypes or structures differ between ranks, a weight is negative, or
        they add up to zero.
    TypeError
        If the vectors are no arrays of one library, or are split by rows over ranks already, or `comm`
        is no communicator.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> comm = hessops.SerialComm()  # or hessops_mpi.world()
    >>> rows = np.arange(12.0).reshape(6, 2)[comm.rank :: comm.size]
    >>> A = hessops.data_parallel(rows.T @ rows, comm)
    >>> hessops.trace(A, method="exact").value
    506.0
    """
    require_communicator(comm)
    local, error = tried(lambda: _local(local_operator, weight))
    return DataParallel(local, comm, weight, error)


class DataParallel(LinearOperator):
    """The sum of operators of ranks; made by `data_parallel`.

    Parameters
    ----------
    local : LinearOperator or None
        This rank's part.
    comm : Communicator
        The ranks.
    weight : float or None
        Amount of data behind it, where it is a mean.
    error : Exception or None
        Why there is none.
    """

    def __init__(
        self,
        local: LinearOperator | None,
        comm: Communicator,
        weight: float | None = None,
        error: Exception | None = None,
    ) -> None:
        facts: dict[str, Any] = {}
        if local is not None:
            facts = {
                "the shape of the operator": local.shape,
                "its dtype": dtype_name(local.dtype),
                "its structure": str(local.structure),
                "the weight": "given" if weight is not None else "not given",
            }
        raise_together(comm, error)
        require_same(comm, facts, "give data_parallel the same kind of operator on every rank")
        assert local is not None
        part = local
        if weight is not None:
            total = float(to_numpy(comm.all_reduce(np.array([weight], dtype=np.float64)))[0])
            if not total > 0:
                raise ValueError(
                    f"the weights of all ranks add up to {total:g}: nothing to average"
                )
            part = Scaled(local, weight / total)
        domain, codomain = (_shared(space, comm) for space in (local.domain, local.codomain))
        square = local.domain is local.codomain
        structure = PROPAGATION["sum"]([local.structure] * 2)
        super().__init__(domain, None if square else codomain, structure=structure)
        self.part = part
        self.comm = comm
        self._product_error = float(table(comm, [part.product_error]).max())
        self._samples: list[tuple[int, float]] | None = None

    def _apply(self, X: Array) -> Array:
        product, error = tried(lambda: self.part.apply(X))
        return self._over_ranks(product, error, self.codomain, X)

    def _apply_adjoint(self, X: Array) -> Array:
        product, error = tried(lambda: self.part.apply_adjoint(X))
        return self._over_ranks(product, error, self.domain, X)

    def _over_ranks(
        self, product: Array | None, error: Exception | None, space: Space, X: Array
    ) -> Array:
        block = space.zeros(X.shape[1]) if product is None else product
        return summed_together(self.comm, block, error, X)

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the terms of all ranks, each held by one, if every rank's part is a sum of some."""
        if self._samples is None:
            self._samples = self._samples_of_all()
        if not self._samples:
            yield self
        own = self.part.terms()
        for holder, count in self._samples:
            term: LinearOperator | None = None
            error: Exception | None = None
            if holder == self.comm.rank:
                # Raised in its product: at once it would leave alone those who go on to other terms.
                term, error = tried(lambda: next(own, None))
            yield _Term(self, term, holder, count, error)

    def _samples_of_all(self) -> list[tuple[int, float]]:
        """Return who holds which terms, and how much data is behind each; none if any is no sum."""
        part = self.part
        own = jointly(
            self.comm, lambda: [term.num_samples for term in part.terms() if term is not part]
        )
        table = np.zeros(self.comm.size)
        table[self.comm.rank] = len(own)
        counts = to_numpy(self.comm.all_reduce(table)).astype(int)
        if not counts.all():
            # How many probes there are must not depend on the number of ranks.
            return []
        first = int(counts[: self.comm.rank].sum())
        table = np.zeros(int(counts.sum()))
        table[first : first + len(own)] = own
        samples = to_numpy(self.comm.all_reduce(table)).tolist()
        holders = np.repeat(np.arange(self.comm.size), counts).tolist()
        return list(zip(holders, samples, strict=True))

    def _describe(self) -> str:
        # Not on how many, so that a run may go on with another number of them.
        return f"{type(self.part).__name__} of every rank"


class _Term(LinearOperator):
    """A term of one rank, on the space of all."""

    def __init__(
        self,
        whole: DataParallel,
        term: LinearOperator | None,
        holder: int,
        count: float,
        error: Exception | None,
    ) -> None:
        structure = whole.structure if term is None else term.structure
        square = whole.domain is whole.codomain
        super().__init__(whole.domain, None if square else whole.codomain, structure=structure)
        self.term = term
        self.error = error
        self._product_error = whole.product_error
        self.num_samples = count
        self.held_by = holder if whole.comm.size > 1 else None

    def _apply(self, X: Array) -> Array:
        return self._here().apply(X)

    def _apply_adjoint(self, X: Array) -> Array:
        return self._here().apply_adjoint(X)

    def _here(self) -> LinearOperator:
        if self.error is not None:
            raise self.error
        if self.term is None:
            raise RuntimeError(
                f"this term is on rank {self.held_by}, which alone can multiply with it; the whole "
                "operator multiplies on all ranks"
            )
        return self.term


def _local(local_operator: Any, weight: float | None) -> LinearOperator:
    operator = aslinearoperator(local_operator)
    if weight is not None:
        require_real(weight=weight)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight={weight} must not be negative, and finite")
    for space in (operator.domain, operator.codomain):
        if not isinstance(space, ArraySpace) or space.rows is not None:
            raise TypeError(
                f"vectors of {space} are split over ranks, and data_parallel needs them whole: it adds "
                "up products, of operators on copies of the same vectors"
            )
    return operator


def _shared(space: Space, comm: Communicator) -> Space:
    assert isinstance(space, ArraySpace)
    return space.with_comm(comm)
