"""The diagonal by random probes (Bekas, Kokiopoulou & Saad 2007), with an error for every entry.

E[conj(z) ∘ A z] = diag(A) for any z with E[z z^H] = I. With signs the variance of entry i is the sum
of the squares of the other entries of row i; other probes add a multiple of a_ii² to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from hessops.algorithms._one_line import one_line
from hessops.algorithms.trace._entry_moments import EntryMoments, entry_norms, entry_samples
from hessops.algorithms.trace._probe_blocks import probe_blocks
from hessops.algorithms.trace._terms import OwnTerms, strata
from hessops.arrays import Array
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Stream
from hessops.record import require_finite
from hessops.space import Space

__all__ = ["DiagonalState", "diagonal_steps"]


@dataclass(frozen=True)
class DiagonalState:
    """What a number of probes say of the diagonal.

    Parameters
    ----------
    step : int
        Blocks of probes done.
    num_products : int
        Products with the whole operator.
    moments : EntryMoments
        Over probes, of every entry; ``moments.mean`` is the unbiased estimate.
    norm, error_norm : float
        2-norms of the estimate and of its standard errors.
    """

    step: int
    num_products: int
    moments: EntryMoments
    norm: float
    error_norm: float

    __repr__ = one_line

    @property
    def num_probes(self) -> int:
        """Return the probes done (for every term, if stratified)."""
        return self.moments.count

    def size(self) -> float:
        """Return the 2-norm of the estimate."""
        return self.norm

    def probe_deviation(self) -> float:
        """Return the 2-norm of the entries' standard deviations of one probe."""
        return self.error_norm * math.sqrt(self.num_probes)

    def quantile(self, confidence: float) -> float:  # noqa: ARG002 - at any confidence
        """Return 1: a tolerance bounds the 2-norm of the standard errors themselves."""
        return 1.0


def diagonal_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    probe: ProbeKind = "rademacher",
    block_size: int = 8,
    stratify: bool = False,
    num_probes: int | Callable[[], int] | None = None,
    known: Array | None = None,
) -> Iterator[DiagonalState]:
    """Yield estimates of a diagonal, one block of probes after another.

    Parameters
    ----------
    A : LinearOperator
        Square.
    stream : Stream
        Where the probes come from.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Their distribution.
    block_size : int
        Most probes per product.
    stratify : bool
        Use a fresh probe for every term.
    num_probes : int or callable, optional
        Where to end, or a function that is asked for that before every block; never, if not given.
    known : array, shape (n, p), optional
        Products with the first p probes, which are the first block, if at hand; not of terms.

    Yields
    ------
    DiagonalState
        One block of probes further.
    """
    start = 0 if known is None else known.shape[1]
    given = [] if known is None else [range(start)]
    moments: EntryMoments | None = None
    blocks = chain(given, probe_blocks(block_size, num_probes, start=start))
    for step, indices in enumerate(blocks, start=1):
        block = _of_terms(A, stream, indices, probe, stratify, known if step == 1 else None)
        moments = block if moments is None else moments.merged(block)
        errors = moments.standard_errors(indices.stop)
        norm, error_norm = entry_norms(A.domain, moments.mean, errors)
        require_finite(np.asarray(norm), indices.stop, A)
        yield DiagonalState(step, indices.stop, moments, norm, error_norm)


def _of_terms(
    A: LinearOperator,
    stream: Stream,
    indices: range,
    probe: ProbeKind,
    stratify: bool,
    known: Array | None,
) -> EntryMoments:
    """Return what probes say of the diagonal, with probes of its own for every term."""
    space = A.domain
    # Of the terms that every rank has, and of those that this rank holds.
    found: dict[bool, EntryMoments] = {}
    num_held = 0
    own = OwnTerms()
    for index, term in enumerate(strata(A, stratify)):
        held = term.held_by is not None
        num_held += held
        look = partial(_of_term, space, term, stream.for_term(index), indices, probe, known)
        moments = own.made(term, look)
        if moments is not None:
            found[held] = found[held].beside(moments) if held in found else moments
    if not num_held:
        return found[False]
    here = found.get(True)
    dealt_out = EntryMoments.over_ranks(space, here, len(indices), num_held, own.error)
    return found[False].beside(dealt_out) if False in found else dealt_out


def _of_term(
    space: Space,
    term: LinearOperator,
    stream: Stream,
    indices: range,
    probe: ProbeKind,
    known: Array | None,
) -> EntryMoments:
    Z = space.probes(stream, indices, probe)
    product = term.apply(Z) if known is None else known
    return EntryMoments.of([entry_samples(space, Z, product)])
