"""A grid of ranks: rows of the vectors along one side, probes along the other."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import hessops
from hessops.agreement import agreed_seed
from hessops.algorithms._common import require_count, self_adjoint_operator, square_operator
from hessops.algorithms.trace.hutchinson import HutchinsonState, hutchinson_steps
from hessops.arrays import Array, HostArray, dtype_name, eps, to_numpy
from hessops.comm import Communicator, require_communicator
from hessops.counted import counted
from hessops.density.spectral_density import SpectralDensity
from hessops.errors import NonFiniteError
from hessops.operator import LinearOperator
from hessops.partition import Partition, even_counts
from hessops.random import ProbeKind, Purpose, RandomState, Stream
from hessops.record import History
from hessops.result import Estimate
from hessops.results.trace import TraceResult
from hessops.row_collectives import jointly, table
from hessops.statistics import MeanVariance
from hessops.together import raise_together, require_same, tried
from hessops_mpi.transfers import RowCommunicator, row_communicator

__all__ = ["ProbeGrid", "grid"]


def grid(comm: Communicator, *, probes: int) -> ProbeGrid:
    """Deal ranks out to groups, each of which takes some of the probes.

    Where one product does not fill the machine (too few rows for each rank, or too few samples), more
    ranks make it no faster, and probes may as well be multiplied side by side. Ranks next to each other
    form a group, which shares the rows; the groups share the probes.

    Parameters
    ----------
    comm : Communicator
        All ranks: `hessops_mpi.world`.
    probes : int
        Number of groups.

    Returns
    -------
    ProbeGrid
        Make the operator with its `rows`, then call its verbs.

    Raises
    ------
    ValueError
        On all ranks, if they cannot be dealt out evenly, or were asked for other numbers of groups.

    Examples
    --------
    >>> import scipy.sparse, hessops_mpi
    >>> ranks = hessops_mpi.grid(hessops_mpi.world(), probes=1)
    >>> matrix = scipy.sparse.diags_array([1.0, 2.0, 3.0], format="csr")
    >>> A = hessops_mpi.sharded_matrix(matrix, ranks.rows)
    >>> round(ranks.trace(A, num_probes=4, rng=0).value, 12)
    6.0
    """
    require_communicator(comm)
    require_same(comm, {"probes": probes}, "call grid with the same on every rank")
    require_count(probes=probes)
    if comm.size % probes:
        raise ValueError(
            f"probes={probes} groups cannot share {comm.size} ranks evenly: choose a divisor"
        )
    ranks = row_communicator(comm)
    width = comm.size // probes
    return ProbeGrid(ranks, ranks.split(comm.rank // width), ranks.split(comm.rank % width))


@dataclass(frozen=True)
class ProbeGrid:
    """Ranks in groups; `grid` makes it.

    Its verbs take the probes that one process with the same seed takes, and return the same answer but
    for rounding, on every rank. Verbs that adapt the number of probes run on one group.

    Parameters
    ----------
    world : RowCommunicator
        All ranks.
    rows : RowCommunicator
        This rank's group: what operators are made with.
    probes : RowCommunicator
        The ranks that stand at the same place in their groups; its rank is the number of this group.
    """

    world: RowCommunicator
    rows: RowCommunicator
    probes: RowCommunicator

    def trace(
        self,
        A: Any,
        *,
        num_probes: int,
        probe: ProbeKind = "rademacher",
        block_size: int = 8,
        confidence: float = 0.95,
        rng: RandomState = None,
    ) -> TraceResult:
        """Estimate a trace by probes that the groups share (Hutchinson's estimator).

        Costs ``num_probes`` products in all, and one reduction over the groups at the end. Before, each
        group makes one more product, which is not counted: it shows whether all have one operator.

        Parameters
        ----------
        A : LinearOperator or anything `aslinearoperator` takes
            The same operator in every group, made with `rows`.
        num_probes : int
            Probes in all, at least one for every group.
        probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
            Their distribution.
        block_size : int
            Most probes per product.
        confidence : float
            Nominal coverage of the interval.
        rng : int, numpy.random.Generator or None
            Where the randomness comes from.

        Returns
        -------
        TraceResult
            As of ``hessops.trace(A, method="hutchinson", stratify=False, num_probes=num_probes)``.

        Raises
        ------
        ValueError
            If an option is out of range, ranks were given different seeds, `A` is made with other
            ranks than `rows`, or the groups have different operators.
        """
        start = time.perf_counter()
        operator = jointly(self.world, lambda: square_operator(A, "trace"))
        require_count(block_size=block_size)
        options = {"probe": probe, "block_size": block_size, "confidence": confidence}
        seed, first, share = self._begin(operator, num_probes, rng, options)
        part = _LaterProbes(operator, first)
        stream = Stream(seed, Purpose.TRACE)
        steps = hutchinson_steps(
            part, stream=stream, probe=probe, block_size=block_size, num_probes=share
        )
        *_, own = steps
        state = self._merged(own, num_probes)
        interval = state.interval(state, confidence)
        return TraceResult(
            value=state.estimate(),
            standard_error=state.standard_error(),
            interval=interval,
            confidence=confidence,
            method="hutchinson",
            reason=f"{counted(self.probes.size, 'group')} of ranks share the probes",
            num_probes=num_probes,
            probe=probe,
            num_terms=1,
            term_scatter=state.term_scatter(),
            sections=_sections(operator, state, confidence),
            num_products=num_probes,
            status=f"used all {counted(num_probes, 'probe')} asked for",
            converged=True,
            history=History([
                (1, num_probes, state.estimate(), state.standard_error(), time.perf_counter() - start)
            ]),
            seed=seed,
            seconds=time.perf_counter() - start,
        )  # fmt: skip

    def spectral_density(
        self,
        A: Any,
        *,
        num_probes: int = 8,
        num_steps: int = 64,
        probe: ProbeKind = "rademacher",
        reorthogonalize: bool = False,
        rng: RandomState = None,
    ) -> SpectralDensity:
        """Estimate the density of eigenvalues by probes that the groups share.

        Each group makes one more product, which is not counted, as `trace` does.

        Parameters
        ----------
        A : LinearOperator or anything `aslinearoperator` takes
            Self-adjoint, the same in every group, made with `rows`.
        num_probes : int
            Probes in all, at least one for every group.
        num_steps : int
            Lanczos steps.
        probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
            Distribution of the start vectors.
        reorthogonalize : bool
            Keep and use the basis of every probe.
        rng : int, numpy.random.Generator or None
            Where the randomness comes from.

        Returns
        -------
        SpectralDensity
            As of ``hessops.spectral_density`` with the same options. Its history is that of the first
            group, and counts its products alone.

        Raises
        ------
        NotSelfAdjointError
            If `A` is not declared self-adjoint, or its products show that it is not.
        ValueError
            If an option is out of range, ranks were given different seeds, `A` is made with other
            ranks than `rows`, or the groups have different operators.
        """
        operator = jointly(self.world, lambda: self_adjoint_operator(A, "spectral_density"))
        options = {"num_steps": num_steps, "probe": probe, "reorthogonalize": reorthogonalize}
        seed, first, share = self._begin(operator, num_probes, rng, options)
        own = hessops.spectral_density(
            _LaterProbes(operator, first),
            num_probes=share,
            num_steps=num_steps,
            probe=probe,
            reorthogonalize=reorthogonalize,
            rng=seed,
        )
        counts = even_counts(num_probes, self.probes.size)
        rows = np.concatenate([own.nodes, own.weights, own.node_errors], axis=1)
        nodes, weights, errors = np.split(self._gathered(rows, counts), 3, axis=1)
        sums = table(self.probes, [own.num_products, own.rounding, own.seconds])
        return replace(
            own,
            nodes=nodes,
            weights=weights,
            node_errors=errors,
            rounding=float(sums[:, 1].max()),
            num_products=int(sums[:, 0].sum()),
            seconds=float(sums[:, 2].max()),
            history=self.world.broadcast(own.history),
            status=self.world.broadcast(
                f"{own.status} in the first of {counted(self.probes.size, 'group')}"
            ),
        )

    def _begin(
        self,
        operator: LinearOperator,
        num_probes: int,
        rng: RandomState,
        options: dict[str, Any],
    ) -> tuple[int, int, int]:
        """Return the seed of all groups, and the first and the number of this one's probes."""
        facts = {"the shape of the operator": operator.shape, "num_probes": num_probes, **options}
        facts["its dtype"] = dtype_name(operator.dtype)
        require_same(self.world, facts, "call with the same on every rank")
        require_count(num_probes=num_probes)
        if num_probes < self.probes.size:
            raise ValueError(
                f"num_probes={num_probes} leaves some of {self.probes.size} groups without a probe: "
                "take more probes, or fewer groups"
            )
        jointly(self.world, lambda: self._require_own_ranks(operator))
        everybody = hessops.ArraySpace(1, comm=self.world)
        seed = agreed_seed(everybody, rng)
        self._require_same_operator(operator)
        first, last = Partition(even_counts(num_probes, self.probes.size)).rows(self.probes.rank)
        return seed, first, last - first

    def _require_own_ranks(self, operator: LinearOperator) -> None:
        """Raise unless a group can multiply without the others, which have other probes."""
        comm = operator.domain.comm
        if comm.size > 1 and self.probes.size > 1 and comm != self.rows:
            raise ValueError(
                f"{operator} is made with {comm!r}, and a group of {self.rows.size} ranks has to "
                "multiply alone: make it with ranks.rows, where ranks = hessops_mpi.grid(...)"
            )

    def _require_same_operator(self, operator: LinearOperator) -> None:
        """Raise on all ranks if groups have different operators: the mean would be of neither."""
        if self.probes.size == 1:
            return
        space = operator.domain
        X = space.probes(Stream(0, Purpose.TRACE), range(1), "rademacher")
        Y, error = tried(lambda: operator.apply(X))
        raise_together(self.world, error)
        assert Y is not None
        forms = to_numpy(space.column_inners((X, Y), (Y, Y)))[:, 0]
        seen = table(self.world, [forms[0].real, forms[0].imag, math.sqrt(abs(forms[1]))])
        norms = seen[:, 2]
        if not np.isfinite(seen).all():
            raise NonFiniteError(f"a product with {operator} holds NaN or infinity, or overflows")
        sizes = np.stack([norms * math.sqrt(space.dim)] * 2 + [norms], axis=1)
        apart = np.abs(seen - seen[0]) > math.sqrt(eps(space.xp, space.dtype)) * sizes.max(axis=0)
        if apart.any():
            other = int(np.argmax(apart.any(axis=1)))
            raise ValueError(
                f"rank {other} has another operator than rank 0: for the same vector x, x·Ax "
                f"is {seen[other, 0]:.9g} and |A x| is {norms[other]:.9g}, rank 0's are "
                f"{seen[0, 0]:.9g} and {norms[0]:.9g}; give every group the same operator"
            )

    def _gathered(self, rows: HostArray, counts: tuple[int, ...]) -> HostArray:
        whole = self.probes.all_gather_rows(np.ascontiguousarray(rows), counts)
        # Sums over rows may differ by rounding from place to place in a group.
        return self.rows.broadcast(whole)

    def _merged(self, own: HutchinsonState, num_probes: int) -> HutchinsonState:
        shape = own.moments.mean.shape
        flat = np.concatenate([own.moments.mean.ravel(), own.moments.spread.ravel()])
        everything = self._gathered(flat[None, :], (1,) * self.probes.size)
        merged: MeanVariance | None = None
        for count, row in zip(even_counts(num_probes, self.probes.size), everything, strict=True):
            mean, spread = (half.reshape(shape) for half in np.split(row, 2))
            part = MeanVariance(count, mean, spread)
            merged = part if merged is None else merged.merged(part)
        assert merged is not None
        return replace(own, num_products=num_probes, moments=merged)


def _sections(
    operator: LinearOperator, state: HutchinsonState, confidence: float
) -> dict[str, Estimate]:
    return {
        name: Estimate(
            value=state.estimate(column),
            standard_error=state.standard_error(column),
            freedom=state.freedom(column),
            confidence=confidence,
        )
        for column, name in enumerate(operator.domain.sections, start=1)
    }


class _LaterProbes(LinearOperator):
    """An operator whose space counts probes from another than the first."""

    def __init__(self, operator: LinearOperator, first: int) -> None:
        super().__init__(
            _LaterSpace(operator.domain, first),
            operator.codomain,
            structure=operator.structure,
        )
        self.operator = operator
        self.returns_own_memory = operator.returns_own_memory
        self._product_error = operator.product_error

    def _apply(self, X: Array) -> Array:
        return self.operator.apply(X)

    def _apply_adjoint(self, X: Array) -> Array:
        return self.operator.apply_adjoint(X)


class _LaterSpace:
    """A space that draws probe `first` where it is asked for probe 0."""

    def __init__(self, space: Any, first: int) -> None:
        self._space, self._first = space, first

    def probes(self, stream: Stream, indices: range, kind: ProbeKind) -> Array:
        later = range(self._first + indices.start, self._first + indices.stop)
        drawn: Array = self._space.probes(stream, later, kind)
        return drawn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)
