"""MINRES (Paige & Saunders 1975) for blocks of right-hand sides in lock-step.

Lanczos with the residual as start vector, A V = Y T, and the QR factorisation of T by plane rotations,
one a step. With a preconditioner M, the y are orthonormal in the inner product of M, and v = M y. Every
column has a recurrence of its own; they share the products. Each step makes one product, two reductions
and one copy to the host and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hessops.agreement import to_host
from hessops.algorithms._common import require_in_range, warn_if_failed
from hessops.algorithms._precision import half_the_digits
from hessops.algorithms.solvers._linear_solve import LinearSystem
from hessops.algorithms.solvers._lock_step import (
    Suspicion,
    masked,
    preconditioned,
    real_part,
    require_definite,
)
from hessops.algorithms.solvers.linear_solve_state import ActiveColumns, LinearSolveState
from hessops.arrays import Array, HostArray, eps
from hessops.blocks.rounding import ROUNDINGS
from hessops.operator import LinearOperator
from hessops.record import Callback, require_finite
from hessops.results.linear_solve import LinearSolveResult

__all__ = ["minres", "minres_steps"]

# In exact arithmetic ‖A r‖ vanishes for least squares; 1 to 2 roots of the precision were seen.
_LEAST, _PATIENCE, _FALLEN = 4.0, 20, 0.01


def minres(
    A: Any,
    B: Array,
    *,
    preconditioner: Any = None,
    shift: float = 0.0,
    tol: float | None = None,
    max_steps: int | None = None,
    x0: Array | None = None,
    verify: bool = True,
    callback: Callback | None = None,
) -> LinearSolveResult:
    r"""Solve (A + shift I) X = B with a self-adjoint A + shift I, definite or not.

    Costs one product per step for each column that has not ended, as many with the preconditioner and
    one more, one per column if `x0` is given, and one per column to verify the residuals. Nine blocks
    of vectors exist at the peak of a step, besides `B` and what the operator takes; five more with a
    preconditioner.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    B : array, shape (n,) or (n, m)
        Right-hand sides.
    preconditioner : LinearOperator or anything `aslinearoperator` takes, optional
        Self-adjoint, positive definite (even if `A` is not) and near a multiple of the inverse of
        \|A + shift I\|.
    shift : float
        What is added to every eigenvalue of `A`.
    tol : float, optional
        Residual norm asked for, relative to that of the right-hand side; the root of the precision
        where not given (1.5e-8 in float64, 3.5e-4 in float32).
    max_steps : int, optional
        Most steps, 10 000 where not given.
    x0 : array, shape of `B`, optional
        First guess; 0 where not given.
    verify : bool
        Multiply the solutions once more and report the residual norms so found instead of those of the
        recurrence; where they are above `tol`, go on from them as long as they shrink.
    callback : callable, optional
        Called with every `LinearSolveState`; returning True ends the run.

    Returns
    -------
    LinearSolveResult
        The solutions, residual norms, how each column ended, cost. In its history, `estimate` is the
        number of columns that go on, and `error` the largest relative residual norm.

    Raises
    ------
    NotSelfAdjointError
        If `A` or the preconditioner is not declared self-adjoint, or products show that one is not.
    ValueError
        If an option is out of range, a shape does not fit, or the preconditioner is not positive
        definite.
    TypeError
        If `B` is no array of the operator's library, or an option is no number.
    NonFiniteError
        If `B` or a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If a column has not converged; 'least squares' are those whose system has no solution.

    Notes
    -----
    Without a preconditioner, residual norms never grow: each is the smallest of all vectors in the
    Krylov space. With one that is true in the norm of M, while those reported are Euclidean. Of a
    singular system that has solutions, started from 0 and without a preconditioner, the shortest one is
    found. Where there is none, the run ends with the least residual there is (in the norm of M), after
    twice the steps that led there, and the solution need not be the shortest (Choi, Paige & Saunders
    2011).

    References
    ----------
    Paige & Saunders (1975), SIAM J. Numer. Anal. 12(4); Choi, Paige & Saunders (2011), SIAM J. Sci.
    Comput. 33(4); Sleijpen & van der Vorst (1996), Computing 56, for going on from true residuals.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> hessops.minres(np.diag([1.0, -2.0, 4.0]), np.ones(3)).solution.round(9)
    array([ 1.  , -0.5 ,  0.25])
    """
    system = LinearSystem.checked(
        A,
        B,
        "minres",
        preconditioner=preconditioner,
        shift=shift,
        x0=x0,
        tol=tol,
        max_steps=max_steps,
    )
    result = system.solved(minres_steps, verify=verify, callback=callback)
    warn_if_failed(result.converged, result.status, system.operator.domain.comm)
    return result


def minres_steps(
    A: LinearOperator,
    R: Array,
    *,
    preconditioner: LinearOperator | None = None,
    shift: float = 0.0,
    targets: HostArray | None = None,
    start: Array | None = None,
) -> Iterator[LinearSolveState]:
    """Yield the iterates of m recurrences of MINRES; end when all columns have ended.

    Parameters
    ----------
    A : LinearOperator
        Self-adjoint.
    R : array, shape (n, m)
        Residuals of the first guess; the right-hand sides, if that is 0.
    preconditioner : LinearOperator, optional
        Self-adjoint and positive definite.
    shift : float
        What is added to every eigenvalue of `A`.
    targets : numpy.ndarray, shape (m,), optional
        Residual norms at which a column ends; 0 where not given.
    start : array, shape (n, m), optional
        First guess; 0 where not given.

    Yields
    ------
    LinearSolveState
        One step further, from step 0 on.

    Raises
    ------
    NotSelfAdjointError
        If inner products of a step show that the operator or the preconditioner is not self-adjoint.
    ValueError
        If the preconditioner is not positive definite, or the operator so small that squares underflow.
    NonFiniteError
        If a product holds NaN or infinity.
    """
    space = A.domain
    count = R.shape[1]
    X = space.zeros(count) if start is None else start
    columns = ActiveColumns(space, count)
    rotations = _Rotations(A, columns, np.zeros(count) if targets is None else targets)
    V = R if preconditioner is None else preconditioned(preconditioner, R)
    rotations.begin(np.real(to_host(space, space.column_inners((R, V), (R, R)))))
    kept = columns.retire(X)
    X, R, V = (columns.taken(block, kept) for block in (X, R, V))
    yield columns.state(X)
    unit = space.from_host(rotations.inverse_betas())
    plain = preconditioner is None
    Y = R * unit
    # Without a preconditioner, v and y are the same and the residual is not followed.
    V, R = (Y, Y) if plain else (V * unit, R)
    # Blocks may share memory, as none is written to; they are let go as soon as they have served.
    W = W_before = Y_before = V_before = Y * 0
    beta, at_least = unit * 0, X
    while len(columns.indices):
        Q = A.apply(V)
        Q = (Q + V * shift if shift else Q) - Y_before * beta
        inner = space.column_inners((V, Q), (V_before, Q))
        Q = Q - Y * space.coefficients(real_part(A, inner[0, :]))
        Z = Q if preconditioner is None else preconditioned(preconditioner, Q)
        lengths = [(Q, Z)] if plain else [(Q, Z), (R, Q), (Q, Q), (R, R)]
        columns.advance()
        rotations.advance(_to_host(A, inner, space.column_inners(*lengths)), Q)
        columns.num_products += rotations.suspicion.held_against(preconditioner, V)
        at_least = masked(A, rotations.found_least, X, at_least) if rotations.watched() else X
        small = space.from_host(rotations.coefficients())
        W, W_before = (V - W_before * small[0, :] - W * small[1, :]) * small[2, :], W
        X = masked(A, rotations.void, at_least, X + W * small[3, :])
        at_least = at_least if rotations.watched() else X
        Y_before, V_before, Y, beta = Y, V, Q * small[6, :], small[7, :]
        V, R = (Y, Y) if plain else (Z * small[6, :], R * small[4, :] - Q * small[5, :])
        del Q, Z
        kept = columns.retire(X)
        rotations.keep(kept)
        X, at_least, R, Y, Y_before, V, V_before, W, W_before, beta = (
            columns.taken(block, kept)
            for block in (X, at_least, R, Y, Y_before, V, V_before, W, W_before, beta)
        )
        yield columns.state(X)


class _Rotations:
    """The tridiagonal matrices of the columns at work and their QR factorisations, on the host.

    The rotation [[c, s], [s, -c]] of a step takes the last column of T to gamma, and the last entry
    phi of the right-hand side to (c phi, s phi). The new s phi is the residual norm, in the inner
    product of the preconditioner.
    """

    def __init__(self, A: LinearOperator, columns: ActiveColumns, targets: HostArray) -> None:
        self.operator, self.columns, self._targets = A, columns, targets
        self._eps = eps(A.xp, A.dtype)
        self.suspicion = Suspicion(A)
        self._values: dict[str, HostArray] = {}
        self._moves: dict[str, HostArray] = {}
        # Where the iterate before this step may be a solution in the sense of least squares, and where
        # it is settled that the one so marked is.
        self.found_least = self.void = np.zeros(0, dtype=bool)

    def begin(self, host: HostArray) -> None:
        """Take r^H M r and r^H r of the first residuals."""
        squares, norms = host[0], np.sqrt(host[1])
        require_finite(host, 0, "the preconditioner or with x0")
        require_definite(squares, host[1])
        self.columns.record(norms)
        self.columns.mark(norms <= self._targets, "converged")
        zero = np.zeros(len(norms))
        self._values = {
            "target": self._targets, "phi": np.sqrt(squares), "beta": zero, "dbar": zero,
            "epsilon": zero, "c": zero - 1.0, "s": zero, "scale": zero, "norm": norms,
            "least_step": zero, "least_norm": zero,
        }  # fmt: skip
        if (ended := self.columns.marked()).any():
            self.keep(np.flatnonzero(~ended))

    def watched(self) -> bool:
        """Tell whether any iterate is marked as one that may solve in the sense of least squares."""
        return bool(np.any(self._values["least_step"] > 0))

    def inverse_betas(self) -> HostArray:
        """Return 1 / sqrt(r^H M r) of the first residuals."""
        inverse: HostArray = 1.0 / self._values["phi"]
        return inverse

    def keep(self, kept: HostArray | None) -> None:
        """Forget the columns that do not go on."""
        if kept is not None:
            self._values = {name: value[kept] for name, value in self._values.items()}

    def advance(self, host: HostArray, product: Array) -> None:
        """Take a step's coefficients, rotate, and mark who has ended.

        Parameters
        ----------
        host : numpy.ndarray, shape (4, a) or (7, a)
            alpha, its imaginary part, |<v_before, A v> - beta_before|, and q^H M q of what is left of
            A v; with a preconditioner also r^H q, q^H q and r^H r.
        product : array, shape (n, a)
            What is left of A v.
        """
        old, columns = self._values, self.columns
        alpha, imaginary, stray, square, *euclidean = host
        require_finite(host, columns.num_products, self.operator)
        if euclidean:
            require_definite(square, euclidean[1])
        beta = np.sqrt(np.maximum(square, 0.0))
        scale = np.maximum(old["scale"], np.abs(alpha) + beta + old["beta"])
        require_in_range(self.operator, float(np.max(scale)), product)
        # From a null vector the first step sees nothing but rounding.
        if columns.step > 1 and not self.suspicion.settled:
            # Locally orthogonal vectors are so to rounding / beta (Paige 1971).
            seen = imaginary * scale + stray * old["beta"]
            allowed = half_the_digits(self.operator) * scale**2
            self.suspicion.raised = bool(np.any(seen > allowed))
        root = np.hypot(old["s"] * old["dbar"] - old["c"] * alpha, old["c"] * beta)
        self._look_for_least(root, scale)
        new = self._rotated(alpha, beta)
        norms = new["phi"] if not euclidean else self._norms(*euclidean)
        norms = np.where(self.void, self._values["least_norm"], norms)
        self._values.update(new, scale=scale, norm=norms)
        columns.record(norms)
        columns.mark(self.void, "least squares")
        columns.mark(norms <= old["target"], "converged")
        columns.mark(beta <= ROUNDINGS * self._eps * scale, "exhausted")

    def coefficients(self) -> HostArray:
        """Return what the vectors of the step are combined by, shape (8, a)."""
        moves, beta = self._moves, self._values["beta"]
        goes_on = ~self.columns.marked()
        inverse = np.divide(1.0, beta, where=goes_on, out=np.zeros_like(beta))
        names = ("epsilon", "delta", "inverse_gamma", "step", "shrink", "turn")
        return np.stack([*(moves[name] for name in names), inverse, beta])

    def _look_for_least(self, root: HostArray, scale: HostArray) -> None:
        """Find out which iterates have the least residual there is, of a system without solution.

        `root` is ‖A r‖ / ‖r‖ of the iterate before this step, in the inner product of the
        preconditioner. Relative to ‖A‖ it falls to the root of the precision when r is orthogonal to
        the range; but also when an ill-conditioned system is about to be solved along its small
        eigenvalues. Then the residual goes on to fall: it is given as many steps again to fall to a
        hundredth. To fall by less is no sign: iterates that run off along a null vector round so badly
        that the residual of the recurrence, though not the true one, goes down.
        """
        v, step = self._values, self.columns.step
        fallen = (v["least_step"] > 0) & (v["norm"] <= _FALLEN * v["least_norm"])
        v["least_step"] = np.where(fallen, 0, v["least_step"])
        rounding = root <= ROUNDINGS * self._eps * scale
        small = rounding | (root <= _LEAST * np.sqrt(self._eps) * scale)
        self.found_least = small & (v["least_step"] == 0)
        v["least_step"] = np.where(self.found_least, step, v["least_step"])
        v["least_norm"] = np.where(self.found_least, v["norm"], v["least_norm"])
        waited = (v["least_step"] > 0) & (step >= 2 * v["least_step"] + _PATIENCE)
        # Where it is rounding, this step would divide by it.
        self.void = rounding | waited

    def _rotated(self, alpha: HostArray, beta: HostArray) -> dict[str, HostArray]:
        c, s, dbar, epsilon, phi = (
            self._values[name] for name in ("c", "s", "dbar", "epsilon", "phi")
        )
        delta, gbar = c * dbar + s * alpha, s * dbar - c * alpha
        epsilon_next, dbar_next = s * beta, -c * beta
        void = self.void
        gamma = np.where(void, 1.0, np.hypot(gbar, beta))
        c, s = gbar / gamma, beta / gamma
        self._moves = {
            "epsilon": epsilon,
            "delta": delta,
            "inverse_gamma": np.where(void, 0.0, 1.0 / gamma),
            "step": np.where(void, 0.0, c * phi),
            "shrink": np.where(void, 1.0, s**2),
            # r = s^2 r_before - (c phi_before / gamma) q, where q = beta y.
            "turn": np.where(void, 0.0, c * phi / gamma),
        }
        following = np.where(void, phi, s * phi)
        return {
            "c": c, "s": s, "dbar": dbar_next, "epsilon": epsilon_next, "phi": following, "beta": beta,
        }  # fmt: skip

    def _norms(self, overlap: HostArray, square: HostArray, residual: HostArray) -> HostArray:
        """Return the Euclidean norms of the residuals after the step, from inner products before it."""
        shrink, turn = self._moves["shrink"], self._moves["turn"]
        squares = shrink**2 * residual - 2 * shrink * turn * overlap + turn**2 * square
        norms: HostArray = np.sqrt(np.maximum(squares, 0.0))
        return norms


def _to_host(A: LinearOperator, inner: Array, lengths: Array) -> HostArray:
    """Copy a step's coefficients to the host together."""
    xp = A.xp
    alpha, real = inner[0, :], real_part(A, lengths)
    rows = [real_part(A, alpha), xp.abs(alpha - real_part(A, alpha)), xp.abs(inner[1, :])]
    return to_host(A.domain, xp.stack([*rows, *(real[i, :] for i in range(real.shape[0]))]))
