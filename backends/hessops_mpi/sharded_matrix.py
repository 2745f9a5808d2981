"""Sparse matrices split by rows over ranks, on vectors that are split the same way."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from hessops.array_space import ArraySpace
from hessops.arrays import Array, HostArray
from hessops.comm import Communicator
from hessops.errors import NonFiniteError
from hessops.operator import LinearOperator
from hessops.operators.declared import Declared
from hessops.partition import Partition
from hessops.row_collectives import jointly, table
from hessops.structure import Structure
from hessops.together import require_same
from hessops_mpi.asymmetry import asymmetry_and_size
from hessops_mpi.row_blocks import RowBlock
from hessops_mpi.row_powers import power_traces
from hessops_mpi.transfers import RowCommunicator, row_communicator

__all__ = ["ShardedMatrix", "sharded_matrix"]


def sharded_matrix(
    A: Any,
    comm: Communicator,
    *,
    local_rows: bool = False,
    row_counts: Sequence[int] | None = None,
    column_counts: Sequence[int] | None = None,
    self_adjoint: bool | None = None,
    positive_semidefinite: bool = False,
) -> ShardedMatrix:
    """Split a sparse matrix by rows over ranks.

    Every rank keeps its rows of the matrix, and its rows of every vector: of a Krylov basis of k
    vectors, ``k n / P`` numbers on each of P ranks. A product sends each rank the entries that its rows
    refer to and others hold, once for a block of any width, while the rows that need none of them are
    multiplied. Products have the same bits for any number of ranks; sums differ by rounding.

    Collective: all ranks call it, with the same options.

    Parameters
    ----------
    A : scipy.sparse matrix or array, or None
        The whole matrix, on every rank or on rank 0 alone (None elsewhere: rank 0 sends the rows). Or,
        with `local_rows`, this rank's rows, all columns wide; those of the ranks follow each other.
    comm : Communicator
        The ranks: `hessops_mpi.world`, or a part of it.
    local_rows : bool
        Whether `A` holds this rank's rows; no rank then ever holds the whole matrix.
    row_counts : sequence of int, optional
        Rows for every rank, in their order; an even split where not given. What `local_rows` says by
        itself.
    column_counts : sequence of int, optional
        Entries of the vectors to multiply for every rank: as the rows where the matrix is square and it
        is not given, an even split of a rectangular one.
    self_adjoint : bool, optional
        Declares the matrix equal to its conjugate transpose. It is looked at where this is None, and
        refused where the declaration is wrong. False drops what is known.
    positive_semidefinite : bool
        Declares that no eigenvalue is negative; implies `self_adjoint`.

    Returns
    -------
    ShardedMatrix
        Every verb of hessops runs on it. Vectors that a verb takes or returns are this rank's rows;
        numbers are the same on every rank.

    Raises
    ------
    TypeError
        If `A` is no sparse matrix of floating type, or `comm` cannot send rows.
    ValueError
        If the shapes or counts do not fit, or ranks were given different matrices.
    NotSelfAdjointError
        If the matrix is declared self-adjoint and is not.
    NonFiniteError
        If it holds NaN or infinity.

    Examples
    --------
    >>> import scipy.sparse, hessops, hessops_mpi
    >>> A = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(50, 50))
    >>> A = hessops_mpi.sharded_matrix(A, hessops_mpi.world())
    >>> hessops.eigsh(A, 1, which="LA", rng=0).eigenvalues.round(6)
    array([3.996207])
    """
    rows_comm = row_communicator(comm)
    options = {"local_rows": local_rows, "self_adjoint": self_adjoint}
    options |= {"positive_semidefinite": positive_semidefinite}
    require_same(comm, options, "pass the same on every rank")
    declared = jointly(comm, lambda: Declared(self_adjoint, positive_semidefinite))
    if local_rows:
        own, rows = _own_rows(A, rows_comm)
    else:
        own, rows = _dealt_rows(A, rows_comm, row_counts)
    dim = own.shape[1]

    def split_columns() -> Partition:
        counts = rows.counts if column_counts is None and dim == rows.dim else column_counts
        return Partition.of(dim, comm.size, counts, "column_counts")

    columns = jointly(comm, split_columns)
    _require_same(comm, "column_counts", columns.counts)
    structure = declared.unseen()
    looked_at = None
    if rows == columns:
        looked_at = asymmetry_and_size(own, columns, rows_comm)
        structure = declared.held_against(*looked_at, float(np.finfo(own.dtype).eps))
    return ShardedMatrix(own, rows, columns, rows_comm, structure, looked_at)


class ShardedMatrix(LinearOperator):
    """A sparse matrix of which every rank holds rows; `sharded_matrix` makes it.

    Making one is collective.

    Parameters
    ----------
    own : scipy.sparse.csr_array
        The rows held here.
    rows, columns : Partition
        Of products and of the vectors to multiply.
    comm : RowCommunicator
        Of the ranks.
    structure : Structure
        What is known of the matrix.
    asymmetry : tuple of float, optional
        Largest moduli in A - A^H and in A.
    """

    returns_own_memory = True

    def __init__(
        self,
        own: Any,
        rows: Partition,
        columns: Partition,
        comm: RowCommunicator,
        structure: Structure,
        asymmetry: tuple[float, float] | None = None,
    ) -> None:
        domain = ArraySpace(columns.dim, own.dtype, comm=comm, rows=columns.rows(comm.rank))
        codomain = domain
        if rows != columns:
            codomain = ArraySpace(rows.dim, own.dtype, comm=comm, rows=rows.rows(comm.rank))
        super().__init__(domain, codomain, structure=structure)
        self.block = RowBlock(own, columns, comm)
        self.asymmetry = asymmetry
        self._own, self._columns, self._comm = own, columns, comm

    @property
    def neighbours(self) -> tuple[int, ...]:
        """Return the ranks that this one exchanges entries with in every product."""
        return self.block.halo.neighbours

    def _apply(self, X: Array) -> Array:
        return self.block.multiply(_host(X))

    def _apply_adjoint(self, X: Array) -> Array:
        if self.structure.self_adjoint:
            return self._apply(X)
        return self.block.multiply_adjoint(_host(X))

    def power_traces(self) -> tuple[float, ...]:
        """Return tr A and tr A² of a self-adjoint matrix, and the next two if A² costs little."""
        if not self.structure.self_adjoint:
            return ()
        return power_traces(self._own, self._columns, self._comm)

    def _describe(self) -> str:
        space: Any = self.codomain
        first, last = space.rows
        return f"rows {first} to {last} on rank {self._comm.rank} of {self._comm.size}"


def _host(X: Array) -> HostArray:
    return np.ascontiguousarray(X)


def _own_rows(A: Any, comm: RowCommunicator) -> tuple[Any, Partition]:
    """Return this rank's rows as given, and where all ranks' lie."""
    own = jointly(comm, lambda: _checked(A, least_rows=0))
    seen = table(comm, [own.shape[0], own.shape[1], np.dtype(own.dtype).num])
    if len(np.unique(seen[:, 1:], axis=0)) > 1:
        raise ValueError(
            f"the rows of the ranks have {seen[:, 1].astype(int).tolist()} columns, and dtypes of the "
            f"numbers {seen[:, 2].astype(int).tolist()}; they must be rows of one matrix"
        )
    rows = Partition(tuple(int(count) for count in seen[:, 0]))
    if rows.dim == 0:
        raise ValueError("no rank has a row: give each its rows of the matrix")
    return own, rows


def _dealt_rows(
    A: Any, comm: RowCommunicator, counts: Sequence[int] | None
) -> tuple[Any, Partition]:
    """Return this rank's rows of a whole matrix that all ranks hold, or rank 0 alone."""
    given = table(comm, [A is not None])[:, 0] > 0
    if not given[0] or (given.any() and not given.all() and given[1:].any()):
        holders = np.flatnonzero(given).tolist()
        who = (
            f"the ranks {holders} of {comm.size} were" if holders else f"no rank of {comm.size} was"
        )
        raise ValueError(
            f"{who} given a matrix; give the whole to rank 0 alone, or to all, or each rank its rows "
            "with local_rows=True"
        )
    whole = jointly(comm, lambda: None if A is None else _checked(A, least_rows=1))
    num_rows = int(comm.broadcast(None if whole is None else whole.shape[0]) or 0)
    rows = jointly(comm, lambda: Partition.of(num_rows, comm.size, counts, "row_counts"))
    _require_same(comm, "row_counts", rows.counts)
    if given.all():
        assert whole is not None
        facts = {
            "the shape of the matrix": whole.shape,
            "the dtype of the matrix": str(whole.dtype),
            "the number of entries of the matrix": whole.nnz,
            # The others are the same then.
            "what the entries are, by shape, number, dtype and checksum of the matrix": (
                *whole.shape,
                whole.nnz,
                whole.dtype.str,
                _checksum(whole),
            ),
        }
        require_same(comm, facts, "pass the same matrix on every rank, or None on all but rank 0")
        return _rows_of(whole, rows.rows(comm.rank)), rows
    return _sent_rows(whole, rows, comm), rows


def _sent_rows(whole: Any | None, rows: Partition, comm: RowCommunicator) -> Any:
    """Return this rank's rows of a matrix that rank 0 holds and sends."""
    first, last = rows.rows(comm.rank)
    ends = rows.ends
    head = None
    if whole is not None:
        head = (whole.shape[1], whole.dtype.str, whole.indptr[ends].astype(np.int64))
    num_columns, dtype, starts = comm.broadcast(head)  # type: ignore[misc]
    count = int(starts[comm.rank + 1] - starts[comm.rank])
    own = [np.empty(last - first + 1, np.int64), np.empty(count, np.int64), np.empty(count, dtype)]
    pieces = []
    if whole is not None:
        pieces = [_rows_of(whole, rows.rows(rank)) for rank in range(comm.size)]
    for name, array in zip(("indptr", "indices", "data"), own, strict=True):
        parts = [np.ascontiguousarray(getattr(piece, name), array.dtype) for piece in pieces]
        if parts:
            array[...] = parts[0]
        sends = dict(enumerate(parts[1:], start=1))
        comm.exchange(sends, {} if comm.rank == 0 else {0: array}).wait()
    pointers, indices, data = own
    return scipy.sparse.csr_array((data, indices, pointers), shape=(last - first, num_columns))


def _checked(A: Any, least_rows: int) -> Any:
    sparse: Any = A if scipy.sparse.issparse(A) else None
    if sparse is None or sparse.ndim != 2:
        raise TypeError(
            f"expected a SciPy sparse matrix, got {type(A).__name__}; convert it first, e.g. "
            "scipy.sparse.csr_array(A)"
        )
    if not np.issubdtype(sparse.dtype, np.inexact):
        raise TypeError(
            f"the matrix has the dtype {sparse.dtype}, and products would be rounded to it; convert "
            "it to a floating type first, e.g. A.astype('float64')"
        )
    if sparse.shape[0] < least_rows or sparse.shape[1] < 1:
        raise ValueError(f"a matrix of shape {sparse.shape} multiplies no vectors")
    matrix = scipy.sparse.csr_array(sparse)
    bad = int(np.sum(~np.isfinite(matrix.data)))
    if bad:
        raise NonFiniteError(f"the matrix holds {bad} entries that are NaN or infinite")
    return matrix


def _rows_of(matrix: Any, rows: tuple[int, int]) -> Any:
    return matrix[rows[0] : rows[1]]


def _checksum(matrix: Any) -> int:
    return zlib.crc32(matrix.data.tobytes(), zlib.crc32(matrix.indices.tobytes()))


def _require_same(comm: Communicator, name: str, fact: Any) -> None:
    require_same(comm, {name: fact}, "pass the same on every rank")
