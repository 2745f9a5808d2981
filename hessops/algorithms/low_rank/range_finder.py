"""An orthonormal basis of nearly all that an operator maps to, by products with random vectors.

Halko, Martinsson & Tropp (2011). A block of random vectors is multiplied; power steps with the adjoint
bring out the dominant directions; further blocks are made orthogonal to those before, so a basis
grows and no product is made twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hessops.agreement import together_to_host
from hessops.algorithms._common import require_product_in_range
from hessops.algorithms._one_line import one_line
from hessops.arrays import Array, eps, to_numpy
from hessops.blocks.orthogonalize import orthonormalize
from hessops.blocks.rounding import rounding
from hessops.blocks.scaled_gram import scaled_gram
from hessops.operator import LinearOperator
from hessops.random import Stream
from hessops.record import require_finite
from hessops.space import Space

__all__ = ["RangeState", "orthonormal_remainder", "product_in_blocks", "range_finder_steps"]


@dataclass(frozen=True)
class RangeState:
    """The approximation A ≈ Q B with B = Q^H A, whose error is (I - Q Q^H) A.

    Parameters
    ----------
    step : int
        Pairs of products, with A and with its adjoint, so far.
    num_products : int
        Columns multiplied so far.
    Q : array, shape (m, l)
        Orthonormal columns.
    adjoint_product : array, shape (n, l)
        A^H Q, the adjoint of B.
    sketch : array, shape (m, w)
        The products of A with the random vectors of the current block.
    num_blocks : int
        Blocks so far, the current one included.
    finished : bool
        Whether the power steps of the current block are done.
    exhausted : bool
        Whether the current block brought fewer new directions than it has columns: but for rounding,
        the range of A is that of Q.
    """

    step: int
    num_products: int
    Q: Array
    adjoint_product: Array
    sketch: Array
    num_blocks: int
    finished: bool
    exhausted: bool

    __repr__ = one_line


def range_finder_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    width: int,
    max_columns: int,
    power_steps: int = 0,
    block_size: int | None = None,
) -> Iterator[RangeState]:
    """Yield a growing basis of the range after every pair of products; end when it is exhausted.

    Costs ``2 * width`` products a step and ``power_steps + 1`` steps a block. With q power steps, a
    block spans that of (A A^H)^q A Ω, with A deflated of the blocks before.

    Parameters
    ----------
    A : LinearOperator
        Any operator with an adjoint.
    stream : Stream
        Where the random vectors Ω come from.
    width : int
        Columns of a block.
    max_columns : int
        Columns of the basis at most.
    power_steps : int
        Power steps q of every block.
    block_size : int, optional
        Columns multiplied at once; all of a block where not given. It changes nothing else.

    Yields
    ------
    RangeState
        Two products further with every column of a block.
    """
    Q, B_adjoint = A.codomain.zeros(0), A.domain.zeros(0)
    xp, drawn, step, products, blocks = A.xp, 0, 0, 0, 0
    exhausted = False
    while drawn < max_columns and not exhausted:
        count = min(width, max_columns - drawn)
        X = A.domain.probes(stream, range(drawn, drawn + count), "normal")
        drawn += count
        blocks += 1
        Y = sketch = product_in_blocks(A, A.apply, A.codomain, X, products, block_size)
        products += count
        for power in range(power_steps + 1):
            if power:
                Y = product_in_blocks(A, A.apply, A.codomain, X, products, block_size)
                products += X.shape[1]
            fresh = orthonormal_remainder(A.codomain, Q, Y)
            Z = product_in_blocks(A, A.apply_adjoint, A.domain, fresh, products, block_size)
            products += fresh.shape[1]
            step += 1
            exhausted = fresh.shape[1] < count
            wider = xp.concat([Q, fresh], axis=1), xp.concat([B_adjoint, Z], axis=1)
            done = power == power_steps
            yield RangeState(step, products, *wider, sketch, blocks, done, exhausted)
            if not done:
                X = orthonormal_remainder(A.domain, A.domain.zeros(0), Z)
        Q, B_adjoint = wider


def orthonormal_remainder(space: Space, Q: Array, Y: Array) -> Array:
    """Return an orthonormal basis of what a block adds to the span of another, to rounding.

    A Gram matrix squares the condition of a block, so that one singular-value QR resolves directions
    down to the square root of rounding. What it leaves is projected and orthonormalised again.

    Parameters
    ----------
    space : Space
        Where the vectors live.
    Q : array, shape (n, l)
        Orthonormal columns.
    Y : array, shape (n, k)
        Any block; dependent and zero columns are allowed.

    Returns
    -------
    array, shape (n, r)
        Orthonormal columns, orthogonal to `Q`; r is at most k and n - l.
    """
    xp, found, basis = space.xp, space.zeros(0), Q
    room = min(Y.shape[1], space.dim - Q.shape[1])
    made = space.column_norms_squared(Y)
    while found.shape[1] < room:
        rest = _dominant_part(space, _projected(space, basis, Y), made, room - found.shape[1])
        # The transform that orthonormalises blows up what the projection left along the basis.
        rest = orthonormalize(space, _projected(space, basis, rest))
        if rest.shape[1] == 0:
            break
        found = xp.concat([found, rest], axis=1)
        basis = xp.concat([basis, rest], axis=1)
    return found


def product_in_blocks(
    A: LinearOperator,
    apply: Callable[[Array], Array],
    codomain: Space,
    X: Array,
    num_products: int,
    block_size: int | None,
) -> Array:
    """Return the products of an operator or its adjoint with a block, a few columns at a time.

    Parameters
    ----------
    A : LinearOperator
        The operator, for the message if a product is not finite.
    apply : callable
        Its `apply` or `apply_adjoint`.
    codomain : Space
        Where the products live.
    X : array, shape (n, k)
        The block.
    num_products : int
        Columns multiplied before.
    block_size : int, optional
        Columns at once; all where not given.

    Returns
    -------
    array, shape (m, k)
        The products.
    """
    count = X.shape[1]
    size = block_size or max(count, 1)
    parts = [codomain.zeros(0)]
    for first in range(0, count, size):
        part = apply(X[:, first : min(first + size, count)])
        if num_products + first == 0:
            require_product_in_range(A, part, 1)
        else:
            squares = to_numpy(codomain.column_norms_squared(part))
            require_finite(squares, num_products + first + 1, A)
        parts.append(part)
    product: Array = codomain.xp.concat(parts, axis=1)
    return product


def _projected(space: Space, Q: Array, X: Array) -> Array:
    for _ in range(2):
        X = X - Q @ space.coefficients(space.gram(Q, X))
    return X


def _dominant_part(space: Space, X: Array, made: Array, most: int) -> Array:
    """Return normalised principal directions of a block as far as its Gram matrix resolves them.

    Columns are not scaled one by one: next to long ones, a short one may be nothing but rounding of
    what was made, columns with the squared norms given.
    """
    scaled = scaled_gram(space, X)
    before, squares, gram = together_to_host(space, made, scaled.squares, scaled.gram)
    # What is shorter than that is rounding of the product that made the block.
    floor = rounding(space, math.sqrt(float(np.max(before))))
    scale = math.sqrt(float(np.max(squares)))
    if scale <= floor:
        return space.zeros(0)
    gram = gram.astype(np.complex128 if np.iscomplexobj(gram) else np.float64)
    values, vectors = space.comm.broadcast(np.linalg.eigh(gram))
    resolved = 10 * len(values) * eps(space.xp, space.dtype) * values[-1]
    kept = np.flatnonzero(values > max(resolved, (floor / scale) ** 2))[::-1][:most]
    return scaled.block @ space.from_host(vectors[:, kept] / np.sqrt(values[kept]))
