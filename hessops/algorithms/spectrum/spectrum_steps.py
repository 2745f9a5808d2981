"""The runs behind `spectrum`: one block of probes, more of them for more accuracy, or none kept.

Every state is a tuple of compressions, which are all that is ever read off: the Krylov space of a block
with its basis, or those of single probes by Lanczos in lock-step, which keeps no basis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.algorithms._one_line import one_line
from hessops.algorithms.functions.quadrature import checkpoint
from hessops.algorithms.krylov.lanczos import LanczosState, lanczos_steps
from hessops.algorithms.spectrum.block_krylov import BlockKrylovState, block_krylov_steps
from hessops.arrays import HostArray
from hessops.density.compression import Compression
from hessops.density.deflation import Deflation, settled
from hessops.density.trace_samples import trace_samples
from hessops.operator import LinearOperator
from hessops.random import Stream
from hessops.statistics import MeanVariance

__all__ = ["SpectrumState", "block_spectrum_steps", "lock_step_spectrum_steps"]

_SMALLEST = 1e-140
# Between the first probes of Krylov spaces, which draw as they go.
_FAR = 2**32


@dataclass(frozen=True)
class SpectrumState:
    """What some products have shown of a spectrum.

    Parameters
    ----------
    step : int
        Blocks multiplied so far.
    num_products : int
        Their columns.
    dim : int
        The dimension n.
    compressions : tuple of Compression
        The Krylov spaces so far; each satisfies ``A Y = Y diag(θ) + Q G`` and ``X = Y P``.
    block : BlockKrylovState or None
        The first of them with its basis, if kept.
    """

    step: int
    num_products: int
    dim: int
    compressions: tuple[Compression, ...]
    block: BlockKrylovState | None

    __repr__ = one_line

    @property
    def num_probes(self) -> int:
        """Return the number of probes."""
        return sum(compression.num_probes for compression in self.compressions)

    @property
    def filled(self) -> bool:
        """Tell whether all eigenvalues are known."""
        return self.block is not None and self.block.filled

    @property
    def exhausted(self) -> bool:
        """Tell whether all Krylov spaces are invariant."""
        return all(compression.exhausted for compression in self.compressions)

    @property
    def num_deciding(self) -> int:
        """Return the probes whose scatter decided on the number of probes: those of the first block."""
        return self.num_probes if self.block is None else self.compressions[0].num_probes

    @property
    def num_steps(self) -> int:
        """Return the blocks multiplied in the first Krylov space."""
        return self.step // (1 if self.block is None else len(self.compressions))

    @property
    def size(self) -> float:
        """Return the largest modulus of a Ritz value."""
        return max(float(np.max(np.abs(c.nodes))) for c in self.compressions)

    @cached_property
    def deflation(self) -> Deflation:
        """Return the eigenvalues that are settled."""
        return settled(self.compressions, self.dim)

    def samples(self, f: Callable[[HostArray], HostArray], count: int | None = None) -> HostArray:
        """Return the estimates of tr f(A) by the probes of the first `count` Krylov spaces, or all."""
        return trace_samples(f, self.compressions[:count], self.deflation)

    def ritz(self) -> tuple[HostArray, HostArray]:
        """Return Ritz values, ascending, and residual norms: of the first basis, or of one probe.

        Without bases, each end is of the probe that knows most of it; copies by rounding are left out.
        """
        first = self.compressions[0]
        if self.block is not None:
            # Smaller ones are the floor of the engine.
            errors = np.where(first.residual_norms <= _SMALLEST, 0.0, first.residual_norms)
            return first.nodes, errors
        low = min(self.compressions, key=lambda c: c.residual_norms[0])
        high = min(self.compressions, key=lambda c: c.residual_norms[-1])
        middle = (low.nodes[0] + high.nodes[-1]) / 2
        below, above = low.nodes < middle, high.nodes >= middle
        nodes = np.concatenate([low.nodes[below], high.nodes[above]])
        errors = np.concatenate([low.residual_norms[below], high.residual_norms[above]])
        return _without_copies(nodes, errors, first.rounding)

    def trace(self) -> tuple[float, float]:
        """Return the estimate of the trace and its standard error."""
        moments = MeanVariance.of(self.samples(lambda x: x))
        error = 0.0 if self.filled else float(moments.deviation) / math.sqrt(moments.count)
        return float(moments.mean), error


def block_spectrum_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    num_probes: int,
    max_products: int,
    max_basis: int,
    enough: Callable[[SpectrumState], bool] = lambda _: False,
    more: Callable[[SpectrumState], int] = lambda _: 0,
) -> Iterator[SpectrumState]:
    """Yield a growing block Krylov space, and then further ones as large, of fresh probes.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    stream : Stream
        Where the probes come from.
    num_probes : int
        Probes of a block.
    max_products : int
        Most columns to multiply.
    max_basis : int
        Most basis vectors of one Krylov space.
    enough : callable
        Asked whether the first Krylov space is large enough.
    more : callable
        Asked, when it is, how many further ones are wanted.

    Yields
    ------
    SpectrumState
        At checkpoints of the first Krylov space, and at the end of each further one.
    """
    space = A.domain
    states = block_krylov_steps(
        A, stream=stream, num_probes=num_probes, max_products=min(max_products, max_basis)
    )
    for block in states:
        state = SpectrumState(
            block.step, block.num_products, space.dim, (block.compression,), block
        )
        yield state
        if space.agree(enough(state)):
            break
    cost, steps, drawn = state.num_products, state.step, _FAR
    wanted = 0 if state.filled else space.comm.broadcast(more(state))
    for _ in range(min(wanted, (max_products - cost) // cost)):
        *_, block = block_krylov_steps(
            A, stream=stream, num_probes=num_probes, max_products=cost, first_probe=drawn
        )
        drawn += _FAR
        state = replace(
            state,
            step=state.step + steps,
            num_products=state.num_products + block.num_products,
            compressions=(*state.compressions, block.compression),
        )
        yield state


def lock_step_spectrum_steps(
    A: LinearOperator, *, stream: Stream, num_probes: int, num_steps: int
) -> Iterator[SpectrumState]:
    """Yield the Krylov spaces of single probes, of which no basis is kept.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    stream : Stream
        Where the probes come from.
    num_probes : int
        Probes in lock-step.
    num_steps : int
        Most Lanczos steps.

    Yields
    ------
    SpectrumState
        At checkpoints, and at the end.
    """
    space = A.domain
    start = space.probes(stream, range(num_probes), "sphere")
    states = lanczos_steps(A, start, reorthogonalize=False)
    del start
    for lanczos in states:
        ended = lanczos.step >= num_steps or not lanczos.alive.any()
        if ended or checkpoint(lanczos.step):
            compressions = tuple(_compression(lanczos, probe) for probe in range(num_probes))
            yield SpectrumState(lanczos.step, lanczos.num_products, space.dim, compressions, None)
        if ended:
            return


def _without_copies(
    nodes: HostArray, errors: HostArray, rounding: float
) -> tuple[HostArray, HostArray]:
    """Return values of which those closer together than their errors are one, the most accurate."""
    kept: list[int] = []
    for index in range(len(nodes)):
        if kept and nodes[index] - nodes[kept[-1]] <= errors[index] + errors[kept[-1]] + rounding:
            if errors[index] < errors[kept[-1]]:
                kept[-1] = index
        else:
            kept.append(index)
    return nodes[kept], errors[kept]


def _compression(lanczos: LanczosState, probe: int) -> Compression:
    diagonal, off_diagonal = lanczos.tridiagonal(probe)
    # Scaled, so that tiny or huge operators do not under- or overflow in LAPACK's squares.
    scale = float(max(np.max(np.abs(diagonal)), np.max(off_diagonal, initial=0.0))) or 1.0
    values, vectors = eigh_tridiagonal(diagonal / scale, off_diagonal / scale)
    couplings = lanczos.residual_norm(probe) * vectors[-1:]
    return Compression(
        nodes=scale * values,
        probes=math.sqrt(lanczos.space.dim) * vectors[:1].T,
        couplings=couplings if lanczos.alive[probe] else couplings[:0],
        residual_norms=np.abs(couplings[0]),
        steps=np.array([len(values)]),
        breadth=1,
        rounding=lanczos.rounding,
    )
