"""The Lanczos recurrence (Lanczos 1950; Paige 1971) for one or many start vectors in lock-step.

After k steps from a unit vector q_1, the columns of Q = [q_1 ... q_k] are orthonormal and

    A Q = Q T + r e_k^T,   T = tridiag(betas, alphas, betas),   r orthogonal to Q.

Many start vectors share each product but keep a recurrence each: that is what stochastic Lanczos
quadrature wants, one wide product a step. One reduction a step gives alpha and one beta, or one gives
both where vectors are split over ranks (`_local_step`); full reorthogonalisation adds one, by two
passes of classical Gram-Schmidt ("twice is enough"). The coefficients of a step come to the host in
one copy and go back to the device in one. Between full reorthogonalisation and none lies a menu, in
`_reorthogonalize`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessops.agreement import agreed_seed, to_host
from hessops.algorithms._common import (
    require_count,
    require_in_range,
    self_adjoint_operator,
    start_norms,
    start_vector,
    start_width,
)
from hessops.algorithms._one_line import one_line
from hessops.algorithms._precision import product_precision
from hessops.algorithms.krylov._local_step import off_last_two, on_host
from hessops.algorithms.krylov._recurrence import Recurrence
from hessops.algorithms.krylov._reorthogonalize import (
    Reorthogonalize,
    Watch,
    choose_reorthogonalization,
    watch,
)
from hessops.arrays import Array, HostArray
from hessops.blocks.basis import Basis
from hessops.blocks.rounding import rounding
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream
from hessops.record import Callback, run
from hessops.results.lanczos import LanczosResult
from hessops.space import Space, rows_here

__all__ = ["LanczosState", "Reorthogonalize", "lanczos", "lanczos_steps"]


@dataclass(frozen=True)
class LanczosState:
    """The recurrences after k steps; column j satisfies ``A Q = Q T + r e_k^T``.

    Parameters
    ----------
    step : int
        The number k of steps taken.
    num_products : int
        Columns multiplied so far.
    alphas : numpy.ndarray, shape (k, m)
        Diagonals of the m tridiagonal matrices, float64 on the host.
    betas : numpy.ndarray, shape (k, m)
        Off-diagonals; row `lengths` - 1 of a column holds the norm of its residual r.
    lengths : numpy.ndarray, shape (m,)
        Steps until each recurrence ended because its Krylov space was exhausted; k if it goes on.
        Coefficients beyond are 0.
    alive : numpy.ndarray, shape (m,)
        Which recurrences go on.
    scale : float
        Largest absolute row sum of T seen: the size of the operator.
    rounding : float
        What is rounding at that size, in the operator's precision.
    following : array, shape (n, m)
        The next basis vectors q = r / ‖r‖; 0 where a recurrence has ended.
    space : Space
        Where they live.
    basis : Basis or None
        The vectors Q, if kept.
    orthogonality : float
        Largest modulus of an inner product of two vectors of a basis, the following ones among them,
        by the ω-recurrence, which tends to say too much; NaN where it was not asked.
    num_inner_products : int
        Inner products with basis vectors or Ritz vectors so far, to reorthogonalise.
    """

    step: int
    num_products: int
    alphas: HostArray
    betas: HostArray
    lengths: HostArray
    alive: HostArray
    scale: float
    rounding: float
    following: Array
    space: Space
    basis: Basis | None
    orthogonality: float = math.nan
    num_inner_products: int = 0

    __repr__ = one_line

    @property
    def residual(self) -> Array:
        """Return the vectors r, shape (n, m); 0 where a recurrence has ended."""
        return self.following * self.space.from_host(self.betas[-1])

    def tridiagonal(self, column: int = 0) -> tuple[HostArray, HostArray]:
        """Return the diagonal and off-diagonal of one recurrence's T."""
        length = int(self.lengths[column])
        return self.alphas[:length, column], self.betas[: length - 1, column]

    def residual_norm(self, column: int = 0) -> float:
        """Return ‖r‖ of one recurrence; that of its last step once its Krylov space is exhausted."""
        return float(self.betas[self.lengths[column] - 1, column])


def lanczos(
    A: Any,
    *,
    num_steps: int,
    start: Array | None = None,
    reorthogonalize: Reorthogonalize | bool = "full",
    rng: RandomState = None,
    callback: Callback | None = None,
) -> LanczosResult:
    """Tridiagonalise a self-adjoint operator by `num_steps` products.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    num_steps : int
        Steps to take; fewer are taken if the Krylov space is exhausted before.
    start : array, shape (n,), optional
        Start vector; random (normal) where not given.
    reorthogonalize : {'full', 'partial', 'periodic', 'selective', 'none'} or bool
        'full' (or True) keeps the basis and orthogonalises every vector against all before it,
        twice. 'partial' (Simon 1984) does so when an estimate of some inner product passes the root
        of machine epsilon, in two steps in a row, and against those vectors alone whose inner
        products are above its power 3/4; 'periodic' (Grcar 1981) then takes all. 'selective' (Parlett
        & Scott 1979) keeps every vector orthogonal to the Ritz vectors that have converged to half
        the digits; it diagonalises T in every step. With these three T has the same eigenvalues to
        rounding, and Q is orthogonal to about half the digits. 'none' (or False) keeps nothing, the
        cost per step stays constant, and the basis slowly loses orthogonality: quadrature survives
        that, counting eigenvalues does not (copies, `LanczosResult.ghosts`, appear).
    rng : int, numpy.random.Generator or None
        Where a random start vector comes from.
    callback : callable, optional
        Called with every `LanczosState`; returning True ends the run.

    Returns
    -------
    LanczosResult
        T, the basis if kept, the residual norm, cost.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If `num_steps` is no positive integer, `reorthogonalize` is unknown, or the start vector is
        zero or of the wrong shape.
    NonFiniteError
        If a product holds NaN or infinity.

    References
    ----------
    Lanczos (1950), J. Res. NBS 45; Giraud, Langou, Rozložník & van den Eshof (2005), Numer. Math.
    101 (two passes); Simon (1984), Math. Comp. 42; Parlett & Scott (1979), Math. Comp. 33; Grcar
    (1981), PhD thesis, University of Illinois.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> result = hessops.lanczos(np.diag([1.0, 2.0, 2.0, 5.0]), num_steps=10, rng=0)
    >>> result.ritz()[0].round(8)
    array([1., 2., 5.])
    """
    operator = self_adjoint_operator(A, "lanczos")
    require_count(num_steps=num_steps)
    seed = agreed_seed(operator.domain, rng)
    space = operator.domain
    outcome = run(
        lanczos_steps(
            operator,
            start_vector(space, start, Stream(seed, Purpose.START)),
            reorthogonalize=reorthogonalize,
            capacity=min(num_steps, space.dim),
            observe=True,
        ),
        space=space,
        stop=lambda _: None,
        max_steps=num_steps,
        callback=callback,
        row=lambda state: (state.alphas[-1, 0], state.residual_norm()),
    )
    state = outcome.state
    alphas, betas = state.tridiagonal()
    exhausted = not state.alive[0]
    status = outcome.reason or f"took all {counted(state.step, 'step')} asked for"
    if exhausted:
        taken = counted(state.step, "step")
        status = f"the Krylov space is exhausted after {taken}: T holds its eigenvalues"
    return LanczosResult(
        alphas=alphas,
        betas=betas,
        residual_norm=state.residual_norm(),
        basis=None if state.basis is None else state.basis.vectors(),
        orthogonality=state.orthogonality,
        num_inner_products=state.num_inner_products,
        num_products=state.num_products,
        status=status,
        converged=True,
        history=outcome.history,
        seed=seed,
        seconds=outcome.seconds,
        rows_here=rows_here(space),
    )


def lanczos_steps(
    A: LinearOperator,
    start: Array,
    *,
    reorthogonalize: Reorthogonalize | bool = "full",
    basis: Basis | None = None,
    scale: float = 0.0,
    breakdown: float = 0.0,
    capacity: int = 16,
    observe: bool = False,
) -> Iterator[LanczosState]:
    """Yield the state of m Lanczos recurrences in lock-step; end when all are exhausted.

    One product with m columns a step, one copy of coefficients to the host, one back to the device.
    Without reorthogonalisation three blocks of m vectors exist at the peak of a step, besides what
    the operator takes: two basis vectors and the product, which becomes the next; four, if the
    product is not the operator's to give away (`returns_own_memory`); and the start vectors, if they
    are kept elsewhere.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    start : array, shape (n, m)
        Start vectors; they need no particular norm.
    reorthogonalize : {'full', 'partial', 'periodic', 'selective', 'none'} or bool
        As for `lanczos`. Steps in which one of the middle three takes something off cost one more
        reduction and one more synchronisation; those of partial and periodic are the same for all
        recurrences.
    basis : Basis, optional
        Vectors of an earlier run (of an invariant subspace) to stay orthogonal to; extended in
        place. `start` must be orthogonal to them, and reorthogonalisation full.
    scale : float
        Size of the operator as the earlier run saw it: within a null space, everything is rounding.
    breakdown : float
        A Krylov space is exhausted once its residual norm is this small, relative to the scale; at
        least 32 roundings of the operator's precision.
    capacity : int
        Steps to make room for at first.
    observe : bool
        Estimate how orthogonal the bases are also where nothing depends on it: k m operations on
        the host in step k.

    Yields
    ------
    LanczosState
        One step further.

    Raises
    ------
    ValueError
        If a start vector is zero or not finite, the operator so small that squares underflow, or
        `reorthogonalize` unknown.
    NotSelfAdjointError
        If products show that the operator is not self-adjoint: if an inner product <q_i, A q_k>
        that is 0 or known by symmetry differs by more than half the digits. With
        reorthogonalisation, i runs over all vectors before; without, over the one before; in the
        first step, over the other start vectors.
    """
    space = A.domain
    count = start_width(space, start)
    choice = choose_reorthogonalization(reorthogonalize)
    full = choice == "full" or basis is not None
    if choice != "none" and basis is None:
        basis = Basis(space, count, capacity)
    recurrence = Recurrence(A, count, basis, scale, breakdown, local=not full)
    working: Reorthogonalize = "full" if full else choice
    watching = watch(working, basis, count, product_precision(A), observe=observe)
    Q = start * space.from_host(1.0 / start_norms(space, start))
    del start
    # Blocks are let go as soon as they have served.
    previous: Array | None = None
    beta: Array | None = None
    while True:
        W = A.apply(Q)
        overlaps = space.gram(Q, W) if beta is None and count > 1 else None
        if basis is not None:
            basis.append(Q)
        if full and basis is not None:
            W, coefficients = _reorthogonalized(W, basis, recurrence.deflated, beta)
        else:
            W, coefficients = off_last_two(A, W, Q, previous, beta)
            previous = Q
        recurrence.advance(coefficients)
        require_in_range(A, recurrence.scale, W)
        if overlaps is not None:
            recurrence.require_symmetric(to_host(space, overlaps))
        W = watching.inspect(W, recurrence)
        inverse_and_beta = space.from_host(recurrence.coefficients())
        beta = inverse_and_beta[1, :]
        Q = space.scale(W, inverse_and_beta[0, :], overwrite=basis is None)
        del W
        yield _state(recurrence, Q, watching)
        if not recurrence.alive.any():
            return


def _state(recurrence: Recurrence, following: Array, watching: Watch) -> LanczosState:
    space, basis = recurrence.operator.domain, recurrence.basis
    return LanczosState(
        step=len(recurrence.alphas),
        num_products=recurrence.num_products,
        alphas=np.array(recurrence.alphas),
        betas=np.array(recurrence.betas),
        lengths=recurrence.lengths,
        alive=recurrence.alive,
        scale=recurrence.scale,
        rounding=rounding(space, recurrence.scale),
        following=following,
        space=space,
        basis=None if basis is None else basis.snapshot(),
        orthogonality=float(watching.level.max()),
        num_inner_products=watching.num_inner_products,
    )


def _reorthogonalized(
    W: Array, basis: Basis, deflated: int, beta: Array | None
) -> tuple[Array, HostArray]:
    """Take a product off the whole basis; return it with what `Recurrence.advance` takes."""
    space, xp = basis.space, basis.space.xp
    W, first = basis.project(W)
    W, second = basis.project(W)
    alpha = first[:, -1] + second[:, -1]
    if beta is None:
        stray = xp.abs(alpha) * 0
    else:
        # What a self-adjoint operator does not do: <q_i, A q_k> is 0 but for beta_{k-1} and alpha_k.
        others = [first[:, deflated:-2], (first[:, -2] - beta)[:, None]]
        stray = xp.max(xp.abs(xp.concat(others, axis=1)), axis=1)
    return W, on_host(space, alpha, xp.sqrt(space.column_norms_squared(W)), stray)
