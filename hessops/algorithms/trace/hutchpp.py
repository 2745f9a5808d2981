"""The trace by Hutch++: large eigenvalues exactly, the rest by probes (Meyer et al. 2021).

s products A S, s products A Q with an orthonormal basis Q of their range, and the rest of the
products on what is left: tr A = tr(Q^H A Q) + tr((I - QQ^H) A (I - QQ^H)). The second trace is
Hutchinson's, with all that it offers: independent probes, so that intervals are Student's, a fresh
probe for every term of a finite sum, traces by section.

Its non-adaptive form draws all probes beforehand and multiplies them in one block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial

import numpy as np

from hessops.agreement import together_to_host
from hessops.algorithms._common import require_product_in_range
from hessops.algorithms._one_line import one_line
from hessops.algorithms.trace._probe_blocks import multiplied
from hessops.algorithms.trace.hutchinson import HutchinsonState, hutchinson_steps
from hessops.arrays import Array, HostArray, eps, to_numpy
from hessops.blocks.rounding import rounding
from hessops.blocks.tall_qr import extended_qr
from hessops.operator import LinearOperator
from hessops.operators.projected import Projected
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite
from hessops.result import Interval
from hessops.space import Space
from hessops.statistics import MeanVariance

__all__ = ["DeflatedState", "deflated_steps", "hutchpp_steps", "na_hutchpp"]


@dataclass(frozen=True)
class DeflatedState(HutchinsonState):
    """A trace that is known on a subspace and probed outside of it.

    `moments` are those of the operator outside; `num_products` counts what the subspace took, too.

    Parameters
    ----------
    known : numpy.ndarray, shape (1 + num_sections,)
        The trace on the subspace, of the whole and of each section.
    rounding : float
        What is rounding in the estimate.
    """

    known: HostArray = field(default_factory=lambda: np.zeros(1))
    rounding: float = 0.0

    __repr__ = one_line

    def standard_error(self, column: int = 0) -> float:
        """Return the standard error that the probes and rounding leave."""
        return math.hypot(super().standard_error(column), self.rounding)

    def interval(self, source: HutchinsonState, confidence: float) -> Interval:
        """Return the interval about this estimate, no narrower than rounding."""
        low, high = super().interval(source, confidence)
        return Interval(low - self.rounding, high + self.rounding)

    def estimate(self, column: int = 0) -> float:
        """Return the estimate of the trace, or of one section's."""
        return float(self.known[column]) + super().estimate(column)


def hutchpp_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    num_directions: int,
    probe: ProbeKind = "rademacher",
    block_size: int = 1,
    stratify: bool = False,
    num_probes: int | Callable[[], int] | None = None,
    known: Array | None = None,
) -> Iterator[DeflatedState]:
    """Yield estimates of a trace, one block of probes after another, deflated of a sketched range.

    Parameters
    ----------
    A : LinearOperator
        Square; self-adjoint where traces of sections are to come along.
    stream : Stream
        Where sketch and probes come from.
    num_directions : int
        Directions to deflate; each costs two products.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the probes; the sketch is normal.
    block_size : int
        Probes per product.
    stratify : bool
        Use a fresh probe for every term of a finite sum.
    num_probes : int or callable, optional
        As of `hutchinson_steps`: probes on what is left.
    known : array, shape (n, num_directions), optional
        Products with a sketch that is independent of the probes, if at hand.

    Yields
    ------
    DeflatedState
        One block of probes further.
    """
    space = A.domain
    if known is None:
        sketch = space.probes(stream.for_purpose(Purpose.SKETCH), range(num_directions), "normal")
        known = multiplied(A, sketch, block_size)
    judge = partial(require_finite, product=num_directions, operator=A)
    # Not `orthonormalize`, which drops directions beyond half the digits.
    Q, _R = extended_qr(space, None, known, stream.for_purpose(Purpose.RESTART), judge=judge)
    yield from deflated_steps(
        A,
        Q,
        stream=stream,
        probe=probe,
        block_size=block_size,
        stratify=stratify,
        num_probes=num_probes,
        spent=num_directions,
    )


def deflated_steps(
    A: LinearOperator,
    basis: Array,
    *,
    stream: Stream,
    eigenvalues: HostArray | None = None,
    probe: ProbeKind = "rademacher",
    block_size: int = 1,
    stratify: bool = False,
    num_probes: int | Callable[[], int] | None = None,
    spent: int = 0,
) -> Iterator[DeflatedState]:
    """Yield estimates of a trace, one block of probes after another, deflated of given directions.

    Parameters
    ----------
    A : LinearOperator
        Square; self-adjoint where traces of sections are to come along.
    basis : array, shape (n, r)
        Orthonormal columns, each of which costs a product.
    stream : Stream
        Where the probes come from.
    eigenvalues : numpy.ndarray, shape (r,), optional
        Rayleigh quotients of the columns, whose sum is the trace on the subspace: they save the
        products with the basis where the space has no sections.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the probes.
    block_size : int
        Probes per product.
    stratify : bool
        Use a fresh probe for every term of a finite sum.
    num_probes : int or callable, optional
        As of `hutchinson_steps`: probes on what is left.
    spent : int
        Products that went into the basis.

    Yields
    ------
    DeflatedState
        One block of probes further.
    """
    space, outside = A.domain, Projected(A, basis)
    if eigenvalues is not None and not space.sections:
        known, entries = np.array([float(np.sum(eigenvalues))]), eigenvalues
    else:
        Z = multiplied(A, basis, block_size)
        spent += basis.shape[1]
        squares, entries, by_section = together_to_host(
            space,
            space.column_norms_squared(Z),
            space.column_inner(basis, Z),
            _known_by_section(space, basis, Z),
        )
        require_finite(squares, spent, A)
        known = _known_traces(entries, by_section)
    states = hutchinson_steps(
        outside,
        stream=stream,
        probe=probe,
        block_size=block_size,
        stratify=stratify,
        num_probes=num_probes,
    )
    floor = rounding(space, float(np.sum(np.abs(entries))))
    for state in states:
        parts = {item.name: getattr(state, item.name) for item in fields(state)}
        parts["num_products"] += spent
        yield DeflatedState(**parts, known=known, rounding=floor)


def _known_by_section(space: Space, Q: Array, Z: Array) -> Array:
    """Return what of tr(A) - tr((I - QQ^H) A (I - QQ^H)) is each section's, by directions."""
    if not space.sections or Q.shape[1] == 0:
        shape = len(space.sections), Q.shape[1]
        nothing: Array = space.xp.zeros(shape, dtype=space.dtype, device=space.device)
        return nothing
    # Within a section QQ^H A + A QQ^H - QQ^H A QQ^H does not reduce to its last term.
    inner = Q @ space.coefficients(space.gram(Q, Z))
    return space.section_inner(Q, Z) * 2.0 - space.section_inner(Q, inner)


def _known_traces(entries: HostArray, by_section: HostArray) -> HostArray:
    """Return what of the trace is known: of the whole, and of every section if there are any."""
    if len(by_section) == 0:
        return np.real(np.sum(entries, keepdims=True))
    parts = np.real(by_section.sum(axis=1))
    return np.concatenate([parts.sum(keepdims=True), parts])


def na_hutchpp(
    A: LinearOperator,
    *,
    stream: Stream,
    num_products: int,
    probe: ProbeKind = "rademacher",
    block_size: int = 32,
) -> DeflatedState:
    """Return the estimate of non-adaptive Hutch++, by one block of products.

    A quarter of the products sketch the rows of a low-rank approximation, half its columns, and a
    quarter probe what it misses. Fewer digits than Hutch++, and nothing to wait for between
    products.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    stream : Stream
        Where the sketches and probes come from.
    num_products : int
        Products to spend, at least 4.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the probes on what the approximation misses.
    block_size : int
        Most vectors per product.

    Returns
    -------
    DeflatedState
        With independent probes.
    """
    space = A.domain
    rows = num_products // 4
    columns = 2 * rows
    sketches = space.probes(stream.for_purpose(Purpose.SKETCH), range(rows + columns), "normal")
    G = space.probes(stream, range(num_products - rows - columns), probe)
    vectors = space.xp.concat([sketches, G], axis=1)
    products = multiplied(A, vectors, block_size)
    require_product_in_range(A, products, num_products)
    squared = to_numpy(space.column_norms_squared(products))
    # Scaled, so that products of products stay within range.
    size = float(np.sqrt(np.max(squared))) or 1.0
    products = products * (1 / size)
    gram, squares = together_to_host(
        space, space.gram(vectors, products), space.gram(products, products)
    )
    s, r, g = slice(rows), slice(rows, rows + columns), slice(rows + columns, None)
    # A is nearly Z (S^H Z)^+ W^H with Z = A R and W = A S.
    scale = float(np.max(np.abs(gram))) or 1.0
    # Beyond half the digits the inverse would blow up more rounding than it explains.
    unit = eps(space.xp, space.dtype)
    # From rank 0, as rounding decides what is beyond.
    core = space.comm.broadcast(np.linalg.pinv(gram[s, r] / scale, rcond=math.sqrt(unit))) / scale
    low_rank = float(np.real(np.trace(core @ squares[s, r])))
    floor = unit * float(np.linalg.norm(core, 2) * np.linalg.norm(squares[s, r], 2))
    missed = np.real(np.diag(gram[g, g] - gram[g, r] @ core @ gram[s, g]))
    return DeflatedState(
        step=1,
        num_products=num_products,
        moments=MeanVariance.of(size * missed[None, None, :]),
        num_samples=(A.num_samples,),
        known=np.array([size * low_rank]),
        rounding=size * floor,
    )
