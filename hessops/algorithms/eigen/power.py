"""The dominant eigenpairs by power iteration, on a block or one at a time with deflation.

A step multiplies an orthonormal block X and solves the small Rayleigh-Ritz problem X^H A X. The error
of an eigenvector falls by |λ_{p+1} / λ_i| a step with p columns. Convergence is judged by the residual
norm ‖A x - θ x‖, which bounds the error of θ; that θ stops moving bounds nothing.

If +λ and -λ are both dominant, the iteration turns for ever in the plane of the two. The span of two
successive blocks then holds both eigenvectors, and a Rayleigh-Ritz step on it, which costs no product,
finds them: so ties are recognised instead of run into.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from hessops.agreement import agreed_seed
from hessops.algorithms._common import (
    require_count,
    require_in_range,
    require_positive,
    self_adjoint_operator,
    start_block,
    start_width,
    warn_if_failed,
)
from hessops.algorithms._one_line import one_line
from hessops.algorithms._precision import widened
from hessops.algorithms.eigen._eigsh_goal import goal_tolerance
from hessops.algorithms.eigen._rayleigh_ritz import ritz_block
from hessops.algorithms.eigen._ties import TRUSTED, describe_ties, two_block_pairs
from hessops.arrays import Array, HostArray
from hessops.blocks.orthogonalize import complete_orthonormal, extend_orthonormal, orthonormalize
from hessops.blocks.rounding import rounding
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.operators.projected import Projected
from hessops.random import Purpose, RandomState, Stream
from hessops.record import Callback, History, run
from hessops.results.eigenpairs import EigenResult
from hessops.space import rows_here

__all__ = ["PowerState", "power_iteration", "power_steps"]

Method = Literal["block", "deflated"]
_LOOK_BACK = 10
# Residual norms above this, relative to the largest eigenvalue, say little of where others are.
_LOOSE = 1e-3


@dataclass(frozen=True)
class PowerState:
    """The Ritz pairs of one block, ``A X = product``; pair i has the residual norm given.

    Parameters
    ----------
    step : int
        Products with the block so far.
    num_products : int
        Columns multiplied so far.
    values : numpy.ndarray, shape (p,)
        Ritz values by decreasing modulus.
    residual_norms : numpy.ndarray, shape (p,)
        ‖A x - θ x‖ of each.
    X : array, shape (n, p)
        Ritz vectors, orthonormal.
    product : array, shape (n, p)
        A X.
    previous : PowerState or None
        The step before, whose own `previous` is dropped.
    """

    step: int
    num_products: int
    values: HostArray
    residual_norms: HostArray
    X: Array
    product: Array
    previous: PowerState | None

    __repr__ = one_line


def power_iteration(
    A: Any,
    *,
    num_eigenpairs: int = 1,
    tol: float | None = None,
    max_steps: int = 1000,
    method: Method = "block",
    block_size: int | None = None,
    start: Array | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> EigenResult:
    """Compute the eigenpairs of largest modulus of a self-adjoint operator.

    For more than a few digits or a small gap prefer `eigsh`, which takes far fewer products.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    num_eigenpairs : int
        Pairs wanted.
    tol : float, optional
        Residual norm by the largest Ritz value; 1e-5, or `product_error` if larger, where not given.
    max_steps : int
        Most steps; with ``method='deflated'``, for each pair.
    method : {'block', 'deflated'}
        Iterate all pairs together, with guard vectors that speed up the last and show whether it
        has company; or one vector at a time, deflating the operator of what was found.
    block_size : int, optional
        Columns of the block; ``num_eigenpairs + 1`` where not given. A step costs that many
        products, one where deflated.
    start : array, shape (n, block_size), optional
        Start vectors; random where not given.
    rng : int, numpy.random.Generator or None
        Where random start vectors come from.
    callback : callable, optional
        Called with every `PowerState`; returning True ends the run.

    Returns
    -------
    EigenResult
        Sorted by decreasing modulus; its status says where a dominant eigenvalue is not unique.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or the products of a block of several columns show that
        it is not.
    ValueError
        If an option is out of range, or `tol` is below the error of products.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If some residual norm is above the tolerance.

    References
    ----------
    Kuczyński & Woźniakowski (1992), SIAM J. Matrix Anal. Appl. 13(4); Parlett (1998), The Symmetric
    Eigenvalue Problem, chapters 4 and 14.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> result = hessops.power_iteration(np.diag([-5.0, 1.0, 2.0, 0.5]), rng=0)
    >>> result.eigenvalues.round(6)
    array([-5.])
    """
    operator = self_adjoint_operator(A, "power_iteration")
    require_count(num_eigenpairs=num_eigenpairs, max_steps=max_steps)
    require_positive(block_size=block_size)
    tol = goal_tolerance(operator, max(1e-5, operator.product_error) if tol is None else tol)
    if num_eigenpairs > (n := operator.shape[0]):
        raise ValueError(f"num_eigenpairs={num_eigenpairs} asked of an operator of dimension {n}")
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is unknown; choose 'block' or 'deflated'")
    seed = agreed_seed(operator.domain, rng)
    clock = time.perf_counter()
    search = _Search(
        operator=operator,
        wanted=num_eigenpairs,
        tol=tol,
        max_steps=max_steps,
        seed=seed,
        callback=callback,
    )
    if method == "block":
        size = min(n, block_size or num_eigenpairs + 1)
        if size < num_eigenpairs:
            raise ValueError(f"block_size={size} is below num_eigenpairs={num_eigenpairs}")
        found = search.block(start, size)
    else:
        found = search.deflated(start)
    values, residuals = found.values[:num_eigenpairs], found.residual_norms[:num_eigenpairs]
    status, converged = search.verdict(found)
    largest = float(np.max(np.abs(found.values)))
    bounds = widened(residuals, operator, largest)
    warn_if_failed(converged, status, operator.domain.comm)
    return EigenResult(
        eigenvalues=values,
        eigenvectors=found.X[:, :num_eigenpairs],
        residual_norms=residuals,
        # Nothing is known of what lies between the pairs found, so no gap sharpens the residuals.
        error_bounds=np.maximum(bounds, rounding(operator.domain, largest)),
        num_products=found.num_products,
        status=status,
        converged=converged,
        history=found.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
        rows_here=rows_here(operator.domain),
    )


def power_steps(A: LinearOperator, start: Array, *, stream: Stream) -> Iterator[PowerState]:
    """Yield the Ritz pairs of a block under power iteration, for ever.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    start : array, shape (n, p)
        Start vectors.
    stream : Stream
        Replaces columns that the operator maps to nothing.

    Yields
    ------
    PowerState
        One product with the block further.
    """
    space, count = A.domain, start_width(A.domain, start)
    X = complete_orthonormal(space, orthonormalize(space, start), count, stream)
    previous: PowerState | None = None
    step = 0
    while True:
        step += 1
        product = A.apply(X)
        ritz = ritz_block(A, X, product, step * count)
        pairs = ritz.values, ritz.residual_norms, ritz.vectors, ritz.products
        yield PowerState(step, step * count, *pairs, previous)
        previous = PowerState(step, step * count, *pairs, None)
        X = orthonormalize(space, ritz.products * ritz.inverse, ritz.gram)
        X = complete_orthonormal(space, X, count, stream)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Pairs found by decreasing modulus, guards included, and what it took."""

    values: HostArray
    residual_norms: HostArray
    X: Array
    num_products: int
    history: History
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What both methods share: what is wanted, when to stop, where randomness comes from."""

    operator: LinearOperator
    wanted: int
    tol: float
    max_steps: int
    seed: int
    callback: Callback | None

    def block(self, start: Array | None, size: int) -> _Found:
        """Iterate all pairs together, with guards."""
        space = self.operator.domain
        if start is None:
            block = space.probes(Stream(self.seed, Purpose.START), range(size), "normal")
        else:
            given = orthonormalize(space, start_block(space, start, size))
            block = complete_orthonormal(space, given, size, Stream(self.seed, Purpose.START))
        return self._iterate(self.operator, block)

    def deflated(self, start: Array | None) -> _Found:
        """Find one pair after the other, each with the operator deflated of those before."""
        space = self.operator.domain
        # Each pair's residual adds to what those after it may hide.
        single = replace(self, wanted=1, tol=self.tol / math.sqrt(self.wanted))
        given = None if start is None else start_block(space, start, space.dim)
        basis = space.zeros(0)
        parts: list[_Found] = []
        values, visible = np.zeros(0), np.zeros(0)
        while len(values) < self.wanted:
            index = len(values)
            if given is not None and index < given.shape[1]:
                vector = given[:, index : index + 1]
            else:
                vector = space.probes(
                    Stream(self.seed, Purpose.START), range(index, index + 1), "normal"
                )
            vector = vector - basis @ space.gram(basis, vector)
            operator = Projected(self.operator, basis) if index else self.operator
            scale = float(np.max(np.abs(values), initial=0.0))
            part = single._iterate(operator, vector, scale)
            parts.append(part)
            # A tie brings two pairs at once; company that has not converged is left for later.
            done = part.residual_norms <= single._allowed(part.values, scale)
            done[0] = True
            values = np.concatenate([values, part.values[done]])
            visible = np.concatenate([visible, part.residual_norms[done]])
            chosen = space.xp.asarray(np.flatnonzero(done), device=space.device)
            basis = extend_orthonormal(space, basis, space.xp.take(part.X, chosen, axis=1))
            if part.reason != "converged":
                break
        # What the projection hides of A x is at most what the pairs before left over.
        residuals = np.sqrt(np.cumsum(visible**2))
        order = np.argsort(-np.abs(values), kind="stable")
        columns = space.xp.asarray(order, device=space.device)
        return _Found(
            values=values[order],
            residual_norms=residuals[order],
            X=space.xp.take(basis, columns, axis=1),
            num_products=sum(part.num_products for part in parts),
            history=History.joined([part.history for part in parts]),
            reason=parts[-1].reason,
        )

    def _iterate(self, operator: LinearOperator, block: Array, scale: float = 0.0) -> _Found:
        """Iterate a block until its first pairs converge, in itself or with the block before."""
        wanted = self.wanted
        worst: list[float] = []
        arrived: list[int] = []
        tied: list[tuple[HostArray, HostArray, Array]] = []

        def stop(state: PowerState) -> str | None:
            size = max(scale, float(np.max(np.hypot(state.values, state.residual_norms))))
            require_in_range(operator, size, state.product)
            worst.append(float(np.max(state.residual_norms[:wanted])))
            if worst[-1] <= self._allowed(state.values, scale):
                arrived.append(state.step)
                # A guard that may yet be a copy or a mirror image gets as many steps again.
                late = state.step >= 2 * arrived[0] + _LOOK_BACK
                if late or self._told_apart(state.values, state.residual_norms):
                    return "converged"
            stalled = len(worst) > _LOOK_BACK and worst[-1] > 0.5 * worst[-1 - _LOOK_BACK]
            if not (arrived or stalled) or state.previous is None or state.step % _LOOK_BACK:
                return None
            both = [state.previous, state]
            pairs = two_block_pairs(
                operator, [s.X for s in both], [s.product for s in both], state.num_products
            )
            allowed = self._allowed(pairs[0], scale)
            if len(pairs[0]) < wanted or np.any(pairs[1][:wanted] > allowed):
                return None
            if arrived and not (len(pairs[0]) > wanted and self._told_apart(*pairs[:2])):
                return None
            tied.append(pairs)
            return "converged"

        outcome = run(
            power_steps(operator, block, stream=Stream(self.seed, Purpose.RESTART)),
            space=operator.domain,
            stop=stop,
            row=lambda state: (state.values[0], np.max(state.residual_norms[:wanted])),
            max_steps=self.max_steps,
            callback=self.callback,
        )
        state = outcome.state
        values, residuals, X = tied[0] if tied else (state.values, state.residual_norms, state.X)
        return _Found(
            values=values,
            residual_norms=residuals,
            X=X,
            num_products=state.num_products,
            history=outcome.history,
            reason=outcome.reason,
        )

    def verdict(self, found: _Found) -> tuple[str, bool]:
        """Return the status sentence and whether all wanted residual norms are small enough."""
        residuals = found.residual_norms[: self.wanted]
        allowed = self._allowed(found.values)
        steps = len(found.history)
        if len(residuals) < self.wanted or np.any(residuals > allowed):
            reached = int(np.sum(residuals <= allowed))
            stopped = "" if found.reason in {None, "converged"} else f"{found.reason}; "
            return (
                f"{stopped}{reached} of {self.wanted} eigenpairs converged in "
                f"{counted(steps, 'step')}: the largest residual norm is {residuals.max():.3g}, "
                f"asked for {allowed:.3g}; raise max_steps, block_size or tol, or use eigsh, which "
                "converges faster"
            ), False
        if self.tol > _LOOSE:
            blurred = "at so loose a tolerance multiple eigenvalues are not told from close ones"
            return f"converged in {counted(steps, 'step')}; {blurred}", True
        ties = describe_ties(
            found.values,
            found.residual_norms,
            wanted=self.wanted,
            allowed=allowed,
            rounding=rounding(self.operator.domain, float(np.max(np.abs(found.values)))),
        )
        return f"converged in {counted(steps, 'step')}" + (f"; {ties}" if ties else ""), True

    def _told_apart(self, values: HostArray, residuals: HostArray) -> bool:
        """Tell whether it is known of every guard if it ties with a wanted pair in modulus."""
        moduli, guards = np.abs(values), residuals[self.wanted :]
        distance = np.abs(moduli[self.wanted :, None] - moduli[None, : self.wanted])
        near = np.min(distance, axis=1) <= guards
        return not np.any(near & (guards > TRUSTED * self._allowed(values)))

    def _allowed(self, values: HostArray, scale: float = 0.0) -> float:
        return self.tol * float(np.max(np.abs(values), initial=scale))
