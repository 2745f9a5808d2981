"""A few eigenpairs at one end of the spectrum by LOBPCG, with a preconditioner where there is one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hessops.agreement import agreed_seed
from hessops.algorithms._common import (
    require_positive,
    self_adjoint_operator,
    start_block,
    warn_if_failed,
)
from hessops.algorithms._precision import widened
from hessops.algorithms.eigen._eigsh_goal import goal_tolerance
from hessops.algorithms.eigen._verified_pairs import verified_pairs
from hessops.algorithms.eigen.locally_optimal import LobpcgState, lobpcg_steps
from hessops.algorithms.solvers._linear_solve import checked_preconditioner
from hessops.arrays import Array, HostArray, eps
from hessops.blocks.orthogonalize import complete_orthonormal, orthonormalize
from hessops.blocks.rounding import rounding
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream
from hessops.record import Callback, run
from hessops.results.eigenpairs import EigenResult, error_bounds
from hessops.space import rows_here

__all__ = ["LobpcgState", "lobpcg", "lobpcg_steps"]

Which = Literal["SA", "LA"]
_MOST_STEPS = 2_000
# A guard with a residual norm up to this many times the tolerance has converged.
_TRUSTED = 10
_PATIENCE = 10
_CONVERGED = "converged"


def lobpcg(
    A: Any,
    k: int = 6,
    *,
    preconditioner: Any = None,
    which: Which = "SA",
    tol: float | None = None,
    block_size: int | None = None,
    max_steps: int | None = None,
    start: Array | None = None,
    verify: bool = True,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> EigenResult:
    """Compute `k` eigenpairs at one end of the spectrum, with a preconditioner if there is one.

    Costs one product for every column of the block that has not converged, with `A` and with the
    preconditioner each, a step; and `k` products with `A` to verify the residuals. 12 blocks of
    memory, however many steps it takes. Without a preconditioner prefer `eigsh`, which takes fewer
    products.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    k : int
        Pairs wanted.
    preconditioner : LinearOperator or anything `aslinearoperator` takes, optional
        M, self-adjoint and positive definite, near the inverse of `A` for 'SA' (of ``A - σ I``, σ below
        the spectrum, where `A` is not positive definite), near that of ``σ I - A``, σ above it, for
        'LA': `hessops.inverse`, `hessops.nystrom_preconditioner`, a factorisation.
    which : {'SA', 'LA'}
        Smallest or largest eigenvalues.
    tol : float, optional
        Residual norm asked for, relative to the size of the operator as its products show it;
        eps^(2/3) of its precision where not given (3.7e-11 in float64, 2.4e-5 in float32), or its
        `product_error` if that is more: no less can be had.
    block_size : int, optional
        Columns of the block, at least `k`; ``k + 1`` where not given, or the dimension if less. Those
        beyond `k` are guards: they show whether the last wanted has company, and the gap that counts is
        the one after the last of them. More of them take fewer steps, and seldom fewer products.
    max_steps : int, optional
        Most steps, 2 000 where not given.
    start : array, shape (n, block_size), optional
        Start vectors, or fewer columns; random where not given. They may be dependent.
    verify : bool
        Multiply the computed eigenvectors once more and report the residual norms so found, instead of
        those from combined products.
    rng : int, numpy.random.Generator or None
        Where random start vectors come from.
    callback : callable, optional
        Called with every `LobpcgState`; returning True ends the run.

    Returns
    -------
    EigenResult
        Increasing for 'SA', decreasing for 'LA'.

    Raises
    ------
    NotSelfAdjointError
        If `A` or the preconditioner is not declared self-adjoint, or products of `A` show that it is
        not.
    ValueError
        If an option is out of range, the preconditioner is found not to be positive definite, or
        verified values show that `A` is not linear.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If some residual norm is above the tolerance.

    Notes
    -----
    SciPy's `lobpcg` is for NumPy arrays alone, and gives up where its basis is ill-conditioned (SciPy's
    issues 3601, 14784 and 16408). This is an engine of its own, whose basis is orthonormal.

    References
    ----------
    Knyazev (2001), SIAM J. Sci. Comput. 23; Hetmaniuk & Lehoucq (2006), J. Comput. Phys. 218; Duersch,
    Shao, Yang & Gu (2018), SIAM J. Sci. Comput. 40.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = hessops.Diagonal(np.linspace(1.0, 100.0, 500) ** 2)
    >>> M = hessops.Diagonal(1 / (A.values + 10.0))
    >>> hessops.lobpcg(A, 1, preconditioner=M, rng=0).eigenvalues.round(8)
    array([1.])
    """
    operator = self_adjoint_operator(A, "lobpcg")
    space = operator.domain
    require_positive(k=k, block_size=block_size, max_steps=max_steps)
    size = _block_size(space.dim, k, block_size)
    if which not in get_args(Which):
        raise ValueError(f"which={which!r} is unknown; choose one of {', '.join(get_args(Which))}")
    goal = _Goal(k, which, goal_tolerance(operator, tol))
    M = checked_preconditioner(operator, preconditioner, "lobpcg")
    seed = agreed_seed(space, rng)
    clock = time.perf_counter()
    outcome = run(
        lobpcg_steps(
            operator,
            _start(operator, start, size, seed),
            stream=Stream(seed, Purpose.RESTART),
            preconditioner=M,
            largest=which == "LA",
            tol=goal.tol,
        ),
        space=space,
        stop=goal.stop,
        row=lambda state: (state.values[0], np.max(state.residual_norms[:k])),
        max_steps=max_steps or _MOST_STEPS,
        callback=callback,
    )
    state = outcome.state
    values, residuals, vectors = state.values[:k], state.residual_norms[:k], state.X[:, :k]
    if verify:
        values, residuals = verified_pairs(
            operator,
            vectors,
            values,
            num_products=state.num_products,
            size=state.size,
            method="LOBPCG",
        )
    status, converged = goal.verdict(state, residuals, rounding(space, state.size), outcome.reason)
    warn_if_failed(converged, status, space.comm)
    bounds = error_bounds(
        values, residuals, state.values[k:], state.residual_norms[k:], eps(space.xp, space.dtype)
    )
    return EigenResult(
        eigenvalues=values,
        eigenvectors=vectors,
        residual_norms=residuals,
        # Rounding is relative to the largest eigenvalue, which is not among the smallest.
        error_bounds=np.maximum(widened(bounds, operator, state.size), rounding(space, state.size)),
        num_products=state.num_products + (k if verify else 0),
        num_preconditioned=state.num_preconditioned,
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
        rows_here=rows_here(space),
    )


@dataclass
class _Goal:
    """Which pairs are wanted, when they are there, and what to say of them."""

    k: int
    which: Which
    tol: float
    arrived: int | None = None

    def stop(self, state: LobpcgState) -> str | None:
        """Stop when the wanted pairs have converged, and the guards are not about to overtake them."""
        if np.any(state.residual_norms[: self.k] > self.tol * state.size):
            return None
        if self.arrived is None:
            self.arrived = state.step
        # A guard of the same eigenvalue is never told apart; it gets as many steps again.
        late = state.step >= 2 * self.arrived + _PATIENCE
        return _CONVERGED if late or not self._overtaking(state) else None

    def verdict(
        self, state: LobpcgState, residuals: HostArray, rounding: float, reason: str | None
    ) -> tuple[str, bool]:
        """Return the status sentence and whether all residual norms are small enough."""
        allowed = self.tol * state.size
        reached = residuals <= allowed + rounding
        helped = state.num_preconditioned
        cost = counted(state.step, "step") + (
            f" with {counted(helped, 'product')} of M" if helped else ""
        )
        if np.all(reached):
            if self._overtaking(state):
                end = "smallest" if self.which == "SA" else "largest"
                return (
                    f"converged in {cost}; a guard that has not converged may belong among the {end}: "
                    "raise block_size"
                ), True
            return f"converged in {cost}", True
        stopped = "" if reason in {None, _CONVERGED} else f"{reason}; "
        advice = "raise max_steps, block_size or tol" + (
            "" if helped else ", give a preconditioner, or use eigsh"
        )
        return (
            f"{stopped}{int(np.sum(reached))} of {self.k} pairs converged in {cost}: the largest "
            f"residual norm is {residuals.max():.3g}, asked for {allowed:.3g}; {advice}"
        ), False

    def _overtaking(self, state: LobpcgState) -> bool:
        """Tell whether an eigenvalue that a guard is on its way to may be among the wanted."""
        sign = 1 if self.which == "SA" else -1
        worst = np.max(sign * state.values[: self.k])
        guards, residuals = sign * state.values[self.k :], state.residual_norms[self.k :]
        open_ = residuals > _TRUSTED * self.tol * state.size
        return bool(np.any(open_ & (guards - residuals <= worst)))


def _block_size(dim: int, k: int, block_size: int | None) -> int:
    """Return how many columns to iterate, or say that they are too few."""
    if k > dim:
        raise ValueError(f"k={k} eigenpairs asked of an operator of dimension {dim}")
    size = min(dim, k + 1 if block_size is None else block_size)
    if size < k:
        raise ValueError(f"block_size={block_size} is below k={k}")
    return size


def _start(operator: LinearOperator, start: Array | None, size: int, seed: int) -> Array:
    space, stream = operator.domain, Stream(seed, Purpose.START)
    if start is None:
        return space.probes(stream, range(size), "normal")
    given = orthonormalize(space, start_block(space, start, size))
    return complete_orthonormal(space, given, size, stream)
