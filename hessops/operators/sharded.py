"""Any operator on whole vectors, made one on vectors that are split over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from hessops.array_space import ArraySpace
from hessops.arrays import Array, dtype_name
from hessops.comm import Communicator, require_communicator
from hessops.operator import LinearOperator
from hessops.operators.data_parallel import DataParallel
from hessops.partition import Partition
from hessops.row_collectives import all_gather_rows, jointly, reduce_scatter_rows, table
from hessops.space import Space
from hessops.structure import Structure
from hessops.together import require_same
from hessops.wrap import aslinearoperator

__all__ = ["Sharded", "sharded"]


def sharded(
    operator: Any,
    comm: Communicator,
    *,
    share: bool = False,
    row_counts: Sequence[int] | None = None,
) -> LinearOperator:
    """Split the vectors of an operator that multiplies whole ones.

    Every rank keeps n / P entries of every vector: the Krylov basis of a network's Hessian, which is
    the largest thing there is, takes 1 / P of the memory on each. A product gathers the block whole,
    gives it to `operator`, and keeps this rank's rows; so two whole blocks, of as many columns as are
    multiplied at a time, exist for its duration.

    Parameters
    ----------
    operator : LinearOperator or anything `aslinearoperator` takes
        On whole vectors. Every rank calls it with the same block. Either its products are the same on
        every rank, as those of ``hessops_torch.hessian(..., comm=comm)`` are; or, with `share`, they
        are to be added.
    comm : Communicator
        The ranks. A block of any width is gathered by one collective, if they can gather rows; by a sum
        of twice the bytes if not.
    share : bool
        Whether `operator` is this rank's share of a sum over ranks. Products are then summed and
        scattered in one collective, which takes half the bytes of a sum that every rank gets whole,
        beside a flag of every rank that tells of errors. So it is where `operator` comes from
        `data_parallel`, whatever is given here.
    row_counts : sequence of int, optional
        Entries for every rank; an even split where not given.

    Returns
    -------
    LinearOperator
        The sum or the same operator, on split vectors. It is one term: for traces with a fresh probe
        for every term, which keep no basis, use `operator` itself.

    Raises
    ------
    ValueError
        If the vectors are split already, the counts do not fit, or ranks call with different ones.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> whole = hessops.aslinearoperator(np.diag([1.0, 2.0, 3.0]))
    >>> A = hessops.sharded(whole, hessops.SerialComm())  # or hessops_mpi.world()
    >>> round(hessops.trace(A, num_probes=4, rng=0).value, 12)
    6.0
    """
    require_communicator(comm)
    operator = jointly(comm, partial(aslinearoperator, operator))
    facts = {
        "the shape of the operator": operator.shape,
        "its dtype": dtype_name(operator.dtype),
        "its structure": str(operator.structure),
        "share": share,
        "row_counts": None if row_counts is None else tuple(row_counts),
    }
    require_same(comm, facts, "give sharded the same kind of operator and options on every rank")
    for space in (operator.domain, operator.codomain):
        if space.local_dim != space.dim or getattr(space, "rows", None) is not None:
            raise ValueError(f"the vectors of {operator} are split over ranks already")
    structure = operator.structure
    if isinstance(operator, DataParallel) and operator.comm == comm:
        # Its sum would be given whole to every rank.
        operator, share = operator.part, True
    columns = Partition.of(operator.shape[1], comm.size, row_counts, "row_counts")
    rows = columns
    if operator.shape[0] != operator.shape[1]:
        rows = Partition.of(operator.shape[0], comm.size, None, "row_counts")
    return Sharded(operator, comm, rows, columns, structure, share=share)


class Sharded(LinearOperator):
    """An operator on whole vectors, of which every rank holds rows; `sharded` makes it.

    Parameters
    ----------
    operator : LinearOperator
        On whole vectors.
    comm : Communicator
        Of the ranks.
    rows, columns : Partition
        Of products and of the vectors to multiply.
    structure : Structure
        What is known of it.
    share : bool
        Whether the products of all ranks are to be added.
    """

    def __init__(
        self,
        operator: LinearOperator,
        comm: Communicator,
        rows: Partition,
        columns: Partition,
        structure: Structure,
        *,
        share: bool,
    ) -> None:
        domain = _part_of(operator.domain, comm, columns)
        codomain = domain if rows == columns else _part_of(operator.codomain, comm, rows)
        super().__init__(domain, codomain, structure=structure)
        self.operator = operator
        self.share = share
        self.num_samples = operator.num_samples
        self._product_error = float(table(comm, [operator.product_error]).max())
        self._comm, self._rows, self._columns = comm, rows, columns

    def _apply(self, X: Array) -> Array:
        whole = all_gather_rows(self._comm, X, self._columns.counts)
        return self._kept(lambda: self.operator.apply(whole), self._rows)

    def _apply_adjoint(self, X: Array) -> Array:
        whole = all_gather_rows(self._comm, X, self._rows.counts)
        return self._kept(lambda: self.operator.apply_adjoint(whole), self._columns)

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the operator itself: its terms would be multiplied one rank after the other."""
        yield self

    def power_traces(self) -> tuple[float, ...]:
        """Return the traces of the operator's powers; of a share, nothing is known."""
        return () if self.share else self.operator.power_traces()

    def _kept(self, multiply: Callable[[], Array], rows: Partition) -> Array:
        if self.share:
            product = jointly(self._comm, multiply)
            return reduce_scatter_rows(self._comm, product, rows.counts)
        product = multiply()
        first, last = rows.rows(self._comm.rank)
        # A copy, so that the whole block can go.
        return self.xp.asarray(product[first:last, ...], copy=True)  # type: ignore[no-any-return]

    def _describe(self) -> str:
        whole = "shares of " if self.share else ""
        return f"{whole}{type(self.operator).__name__} on {self._comm.size} ranks"


def _part_of(space: Space, comm: Communicator, rows: Partition) -> ArraySpace:
    return ArraySpace(
        space.dim,
        space.dtype,
        space.xp,
        space.device,
        comm=comm,
        rows=rows.rows(comm.rank),
        sections=space.sections,
    )
