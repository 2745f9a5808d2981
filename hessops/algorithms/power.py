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
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hessops.algebra import Projected
from hessops.algorithms._common import (
    require_positive,
    self_adjoint_operator,
    warn_if_failed,
)
from hessops.arrays import Array, HostArray, eps, is_complex, to_numpy
from hessops.eigenpairs import EigenResult, error_bounds
from hessops.operator import LinearOperator
from hessops.orthogonalize import complete_orthonormal, orthonormalize
from hessops.random import RandomState, Stream, seed_from
from hessops.record import Callback, History, Outcome, require_finite, run
from hessops.space import Space

__all__ = ["PowerState", "power_iteration", "power_steps"]

Method = Literal["block", "deflated"]
_LOOK_BACK = 10


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


def power_iteration(
    A: Any,
    *,
    num_eigenpairs: int = 1,
    tol: float = 1e-5,
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
    tol : float
        Residual norm asked for, relative to the largest Ritz value in modulus.
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
        If `A` is not declared self-adjoint.
    ValueError
        If an option is out of range.
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
    require_positive(num_eigenpairs=num_eigenpairs, max_steps=max_steps, block_size=block_size)
    n = operator.shape[0]
    if num_eigenpairs > n:
        raise ValueError(f"num_eigenpairs={num_eigenpairs} asked of an operator of dimension {n}")
    if not tol > 0:
        raise ValueError(f"tol={tol} must be positive")
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is unknown; choose 'block' or 'deflated'")
    seed = seed_from(rng)
    clock = time.perf_counter()
    if method == "block":
        size = min(n, block_size or num_eigenpairs + 1)
        if size < num_eigenpairs:
            raise ValueError(f"block_size={size} is below num_eigenpairs={num_eigenpairs}")
        found = _block(operator, num_eigenpairs, size, tol, max_steps, start, seed, callback)
    else:
        found = _deflated(operator, num_eigenpairs, tol, max_steps, start, seed, callback)
    values, residuals = found.values[:num_eigenpairs], found.residual_norms[:num_eigenpairs]
    status, converged = _verdict(found, num_eigenpairs, tol, operator)
    warn_if_failed(converged, status)
    return EigenResult(
        eigenvalues=values,
        eigenvectors=found.X[:, :num_eigenpairs],
        residual_norms=residuals,
        error_bounds=error_bounds(
            values,
            residuals,
            found.values[num_eigenpairs:],
            found.residual_norms[num_eigenpairs:],
            eps(operator.xp, operator.dtype),
        ),
        num_products=found.num_products,
        status=status,
        converged=converged,
        history=found.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
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
    space, count = A.domain, start.shape[1]
    X = complete_orthonormal(space, orthonormalize(space, start), count, stream)
    previous: PowerState | None = None
    step = 0
    while True:
        step += 1
        product = A.apply(X)
        values, residuals, X, product = _rayleigh_ritz(space, X, product, A, step * count)
        state = PowerState(step, step * count, values, residuals, X, product, previous)
        yield state
        previous = PowerState(step, step * count, values, residuals, X, product, None)
        X = complete_orthonormal(space, orthonormalize(space, product), count, stream)


@dataclass(frozen=True)
class _Found:
    """Pairs found, guards included, and what it took."""

    values: HostArray
    residual_norms: HostArray
    X: Array
    num_products: int
    history: History
    reason: str | None


def _block(
    operator: LinearOperator,
    wanted: int,
    size: int,
    tol: float,
    max_steps: int,
    start: Array | None,
    seed: int,
    callback: Callback | None,
) -> _Found:
    space = operator.domain
    block = (
        space.probes(Stream(seed), range(size), "normal")
        if start is None
        else _as_block(space, start, size)
    )
    outcome, tied = _iterate(operator, block, wanted, tol, max_steps, Stream(seed, 1), callback)
    pairs = tied or outcome.state
    return _Found(
        pairs.values,
        pairs.residual_norms,
        pairs.X,
        outcome.state.num_products,
        outcome.history,
        outcome.reason,
    )


def _deflated(
    operator: LinearOperator,
    wanted: int,
    tol: float,
    max_steps: int,
    start: Array | None,
    seed: int,
    callback: Callback | None,
) -> _Found:
    """Find one pair after the other, each with the operator deflated of those before."""
    space = operator.domain
    found = space.zeros(0)
    values, residuals = np.zeros(0), np.zeros(0)
    rows: list[History] = []
    num_products, reason = 0, None
    while len(values) < wanted:
        index = len(values)
        if start is not None and index < start.shape[1]:
            block = space.validate(start[:, index : index + 1])
        else:
            block = space.probes(Stream(seed), range(index, index + 1), "normal")
        block = block - found @ space.gram(found, block)
        deflated = Projected(operator, found) if index else operator
        outcome, tied = _iterate(deflated, block, 1, tol, max_steps, Stream(seed, 1), callback)
        pairs = tied or outcome.state
        values = np.concatenate([values, pairs.values])
        residuals = np.concatenate([residuals, pairs.residual_norms])
        found = orthonormalize_against(space, found, pairs.X)
        num_products += outcome.state.num_products
        rows.append(outcome.history)
        reason = outcome.reason
        if np.any(pairs.residual_norms > tol * np.max(np.abs(values))):
            break
    return _Found(values, residuals, found, num_products, _joined(rows), reason)


def _iterate(
    operator: LinearOperator,
    block: Array,
    wanted: int,
    tol: float,
    max_steps: int,
    stream: Stream,
    callback: Callback | None,
) -> tuple[Outcome[PowerState], PowerState | None]:
    """Iterate one block until its first pairs converge, in itself or with the block before."""
    worst: list[float] = []
    tied: list[PowerState] = []

    def stop(state: PowerState) -> str | None:
        allowed = tol * float(np.max(np.abs(state.values)))
        worst.append(float(np.max(state.residual_norms[:wanted])))
        if worst[-1] <= allowed:
            return "converged"
        stalled = len(worst) > _LOOK_BACK and worst[-1] > 0.5 * worst[-1 - _LOOK_BACK]
        if stalled and state.previous is not None and state.step % _LOOK_BACK == 0:
            both = _two_blocks(operator, state, state.previous)
            if np.all(both.residual_norms[:wanted] <= tol * np.max(np.abs(both.values))):
                tied.append(both)
                return "converged"
        return None

    outcome = run(
        power_steps(operator, block, stream=stream),
        space=operator.domain,
        stop=stop,
        row=lambda state: (state.values[0], np.max(state.residual_norms[:wanted])),
        max_steps=max_steps,
        callback=callback,
    )
    return outcome, tied[0] if tied else None


def _two_blocks(operator: LinearOperator, state: PowerState, previous: PowerState) -> PowerState:
    """Return the converged Ritz pairs of the span of two successive blocks; no product needed."""
    space, xp = operator.domain, operator.xp
    X = xp.concat([previous.X, state.X], axis=1)
    product = xp.concat([previous.product, state.product], axis=1)
    gram = to_numpy(space.gram(X, X))
    shares, directions = np.linalg.eigh(gram)
    kept = shares > math.sqrt(eps(xp, space.dtype))
    transform = space.from_host(directions[:, kept] / np.sqrt(shares[kept]))
    values, residuals, X, product = _rayleigh_ritz(
        space, X @ transform, product @ transform, operator, state.num_products
    )
    small = residuals <= 10 * np.min(residuals) + 1e-3 * np.max(np.abs(values))
    keep = np.flatnonzero(small)
    columns = xp.asarray(keep, device=space.device)
    return PowerState(
        state.step,
        state.num_products,
        values[keep],
        residuals[keep],
        xp.take(X, columns, axis=1),
        xp.take(product, columns, axis=1),
        None,
    )


def _rayleigh_ritz(
    space: Space, X: Array, product: Array, operator: LinearOperator, number: int
) -> tuple[HostArray, HostArray, Array, Array]:
    """Return Ritz values, residual norms, Ritz vectors and their products, by modulus."""
    projected = to_numpy(space.gram(X, product)).astype(
        np.complex128 if is_complex(space.xp, space.dtype) else np.float64
    )
    require_finite(projected, number, operator)
    values, small = np.linalg.eigh((projected + projected.conj().T) / 2)
    order = np.argsort(-np.abs(values), kind="stable")
    values, rotation = values[order], space.from_host(small[:, order])
    X, product = X @ rotation, product @ rotation
    residual = product - X * space.from_host(values)
    norms = np.sqrt(to_numpy(space.column_norms_squared(residual)))
    return values, norms, X, product


def _verdict(found: _Found, wanted: int, tol: float, operator: LinearOperator) -> tuple[str, bool]:
    residuals = found.residual_norms[:wanted]
    allowed = tol * float(np.max(np.abs(found.values)))
    steps = len(found.history)
    if len(residuals) < wanted or np.any(residuals > allowed):
        reached = int(np.sum(residuals <= allowed))
        stopped = "" if found.reason in {None, "converged"} else f"{found.reason}; "
        return (
            f"{stopped}{reached} of {wanted} eigenpairs converged in {steps} steps: the largest "
            f"residual norm is {residuals.max():.3g}, asked for {allowed:.3g}; raise max_steps, "
            "block_size or tol, or use eigsh, which converges faster"
        ), False
    # A guard that is far from converged says nothing of where its eigenvalue is.
    company = _company(found, wanted, found.residual_norms <= 10 * allowed, operator)
    return f"converged in {steps} steps" + (f"; {company}" if company else ""), True


def _company(found: _Found, wanted: int, trusted: HostArray, operator: LinearOperator) -> str:
    """Say which of the wanted eigenvalues are multiple or tied in modulus with another."""
    rounding = 32 * eps(operator.xp, operator.dtype) * float(np.max(np.abs(found.values)))
    remarks: list[str] = []
    seen: set[int] = set()
    for index in range(wanted):
        if index in seen:
            continue
        value = found.values[index]
        near = found.residual_norms + found.residual_norms[index] + rounding
        copies = np.flatnonzero(trusted & (np.abs(found.values - value) <= near))
        mirrored = np.flatnonzero(trusted & (np.abs(found.values + value) <= near))
        seen.update(copies.tolist())
        if len(copies) > 1:
            remarks.append(f"{value:.6g} is multiple, at least {len(copies)} times")
        if abs(value) > rounding and len(set(mirrored) - set(copies)) > 0:
            seen.update(mirrored.tolist())
            dominant = "no unique dominant eigenvalue: " if index == 0 else ""
            remarks.append(f"{dominant}{abs(value):.6g} and {-abs(value):.6g} tie in modulus")
    return "; ".join(remarks)


def _as_block(space: Space, start: Array, size: int) -> Array:
    if start.ndim != 2 or start.shape[1] > size:
        raise ValueError(f"start must have shape (n, {size}) or fewer columns, got {start.shape}")
    return space.validate(start)


def orthonormalize_against(space: Space, Q: Array, X: Array) -> Array:
    """Return the orthonormal columns of `Q` with those of `X` added, made orthogonal to them."""
    for _ in range(2):
        X = X - Q @ space.gram(Q, X)
        norms = space.from_host(1 / np.sqrt(to_numpy(space.column_norms_squared(X))))
        X = X * norms
    joined: Array = space.xp.concat([Q, X], axis=1)
    return joined


def _joined(parts: list[History]) -> History:
    rows: list[tuple[float, ...]] = []
    offset = {"step": 0.0, "num_products": 0.0, "seconds": 0.0}
    for part in parts:
        for record in part:
            rows.append(tuple(record[c] + offset.get(c, 0) for c in History.columns))
        for column, last in zip(History.columns, rows[-1], strict=True):
            if column in offset:
                offset[column] = last
    return History(rows)
