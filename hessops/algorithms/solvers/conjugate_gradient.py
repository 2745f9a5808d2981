"""Conjugate gradients (Hestenes & Stiefel 1952) for blocks of right-hand sides in lock-step.

Every column has a recurrence of its own; they share the products. Each step makes one product, two
reductions (p^H A p, and then r^H z with r^H r) and one copy to the host; step lengths stay on the
device.
The host finds out afterwards who has converged and where the curvature p^H A p was not positive, which
is why the iterates before a step are at hand until its end.
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

__all__ = ["cg", "cg_steps"]


def cg(
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
    """Solve (A + shift I) X = B with a positive definite A + shift I.

    Costs one product per step for each column that has not ended, as many with the preconditioner and
    one more, one per column if `x0` is given, and one per column to verify the residuals. Seven blocks
    of vectors exist at the peak of a step, besides `B` and what the operator takes; one more with a
    preconditioner.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint.
    B : array, shape (n,) or (n, m)
        Right-hand sides.
    preconditioner : LinearOperator or anything `aslinearoperator` takes, optional
        Self-adjoint, positive definite and near a multiple of the inverse of A + shift I.
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
        If a column has not converged. A search direction p whose curvature p^H A p is negative shows
        that the operator is not positive definite: the column ends there, and `curvature` says at what
        value.

    Notes
    -----
    The error in the norm of A + shift I is at most `hessops.bounds.conjugate_gradient_error` times that
    of the first guess, with the condition number of the preconditioned operator; residual norms need
    not fall at every step.

    References
    ----------
    Hestenes & Stiefel (1952), J. Res. NBS 49; Greenbaum (1997), *Iterative Methods for Solving Linear
    Systems*, for what rounding does; Sleijpen & van der Vorst (1996), Computing 56, for going on from
    true residuals.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> result = hessops.cg(np.diag([1.0, 2.0, 4.0]), np.ones(3))
    >>> result.solution.round(9)
    array([1.  , 0.5 , 0.25])
    >>> result.num_products
    4
    """
    system = LinearSystem.checked(
        A, B, "cg", preconditioner=preconditioner, shift=shift, x0=x0, tol=tol, max_steps=max_steps
    )
    result = system.solved(cg_steps, verify=verify, callback=callback)
    warn_if_failed(result.converged, result.status, system.operator.domain.comm)
    return result


def cg_steps(
    A: LinearOperator,
    R: Array,
    *,
    preconditioner: LinearOperator | None = None,
    shift: float = 0.0,
    targets: HostArray | None = None,
    start: Array | None = None,
) -> Iterator[LinearSolveState]:
    """Yield the iterates of m recurrences of conjugate gradients; end when all columns have ended.

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
    space, xp = A.domain, A.xp
    X = space.zeros(R.shape[1]) if start is None else start
    columns = ActiveColumns(space, R.shape[1])
    watch = _Watch(A, columns, np.zeros(R.shape[1]) if targets is None else targets)
    Z, gamma, norms = _preconditioned(A, R, preconditioner)
    watch.begin(_to_host(A, gamma, norms))
    kept = columns.retire(X)
    yield columns.state(columns.taken(X, kept))
    X, R, Z, gamma = (columns.taken(block, kept) for block in (X, R, Z, gamma))
    P = Z
    while len(columns.indices):
        S = A.apply(P)
        S = S + P * shift if shift else S
        inner = space.column_inners((P, S), (Z, S))
        curvature: Any = real_part(A, inner[0, :])
        usable = curvature > 0
        # Where it is not positive or too small, the host will see to it.
        with np.errstate(over="ignore", invalid="ignore"):
            safe = xp.where(usable, curvature, xp.ones_like(curvature))
            small = space.coefficients(xp.where(usable, gamma / safe, 0.0))
            following, R = X + P * small, R - S * small
        Z, gamma, norms = _preconditioned(A, R, preconditioner)
        stray = xp.abs(inner[0, :] - inner[1, :])
        host = _to_host(A, gamma, norms, curvature, xp.abs(inner[0, :] - curvature), stray)
        columns.advance()
        stuck = watch.advance(host, S)
        columns.num_products += watch.suspicion.held_against(preconditioner, P)
        if stuck.any():
            watch.curvatures(P, S, stuck)
            # Those stay where they were before the step.
            following = masked(A, stuck, X, following)
        X = following
        kept = columns.retire(X)
        X, R, Z, P, gamma = (columns.taken(block, kept) for block in (X, R, Z, P, gamma))
        yield columns.state(X)
        P = Z + P * space.from_host(watch.betas(kept))


class _Watch:
    """What the host keeps of every column at work: enough to tell rounding from what is wrong.

    1 / alpha and beta make the Lanczos matrix of the preconditioned operator, whose row sums are its
    size; lengths are those of the norm in which it is self-adjoint, and come without an inner product.
    """

    def __init__(self, A: LinearOperator, columns: ActiveColumns, targets: HostArray) -> None:
        self.operator, self.columns, self.targets = A, columns, targets
        self._eps = eps(A.xp, A.dtype)
        self.suspicion = Suspicion(A)
        count = len(targets)
        # r^H z, (alpha, beta) of the step before, squared lengths of p and of the p before.
        self.gamma = np.zeros(count)
        self.beta = np.zeros(count)
        self._forms_before = np.zeros(count)
        self._lengths = np.zeros(count)
        self._lengths_before = np.zeros(count)
        self._scales = np.zeros(count)

    def begin(self, host: HostArray) -> None:
        """Take r^H z and ‖r‖ of the first residuals."""
        gamma, norms = host
        require_finite(host, 0, "the right-hand side or the preconditioner")
        require_definite(gamma, norms**2)
        self.columns.record(norms)
        self.columns.mark(norms <= self.targets, "converged")
        going = self.columns.endings == ""
        self.gamma, self._lengths = gamma[going], gamma[going]
        self.targets, self._scales = self.targets[going], self._scales[going]
        self._forms_before = np.zeros(going.sum())
        self.beta = self._lengths_before = np.zeros(going.sum())

    def advance(self, host: HostArray, product: Array) -> HostArray:
        """Take a step's coefficients, mark who has ended, and return the mask of who could not go.

        Parameters
        ----------
        host : numpy.ndarray, shape (5, a)
            r^H z and ‖r‖ after the step, p^H A p, its imaginary part and |(p - z)^H A p|.
        product : array, shape (n, a)
            A p.

        Returns
        -------
        numpy.ndarray of bool, shape (a,)
            Where the curvature is not positive.
        """
        gamma, norms, form, imaginary, stray = host
        columns = self.columns
        require_finite(host[2:], columns.num_products, self.operator)
        inverse_alpha = np.abs(form) / self.gamma
        diagonal = inverse_alpha + self.beta * self._forms_before
        self._scales = np.maximum(self._scales, diagonal)
        # First, as what is divided by tiny products is no longer finite.
        require_in_range(self.operator, float(np.max(self._scales)), product)
        require_finite(host, columns.num_products, self.operator)
        # From a null vector the first step sees nothing but rounding.
        if columns.step > 1 and not self.suspicion.settled:
            self.suspicion.raised = self._looks_asymmetric(imaginary, stray)
        stuck: HostArray = form <= ROUNDINGS * self._eps * self._scales * self._lengths
        columns.record(norms, ~stuck)
        require_definite(gamma[~stuck], norms[~stuck] ** 2)
        negative = form < -ROUNDINGS * self._eps * self._scales * self._lengths
        columns.mark(stuck & negative, "negative curvature")
        columns.mark(stuck, "flat")
        columns.mark(norms <= self.targets, "converged")
        beta = gamma / self.gamma
        self._lengths, self._lengths_before = gamma + beta**2 * self._lengths, self._lengths
        self._forms_before, self.gamma, self.beta = inverse_alpha, gamma, beta
        return stuck

    def curvatures(self, P: Array, S: Array, stuck: HostArray) -> None:
        """Note the least p^H A p / p^H p of search directions at which columns end."""
        space = self.operator.domain
        both = to_host(space, space.column_inners((P, S), (P, P)))
        forms, squares = np.real(both[:, stuck])
        self.columns.curvature = float(np.fmin(self.columns.curvature, np.min(forms / squares)))

    def betas(self, kept: HostArray | None) -> HostArray:
        """Return r^H z over that of the step before, of the columns that go on."""
        if kept is not None:
            for name in (
                "targets", "gamma", "beta", "_forms_before", "_lengths", "_lengths_before", "_scales"
            ):  # fmt: skip
                setattr(self, name, getattr(self, name)[kept])
        return self.beta

    def _looks_asymmetric(self, imaginary: HostArray, stray: HostArray) -> bool:
        # (p - z)^H A p = beta p_before^H A p vanishes if A p_before^H p does, up to rounding at the
        # lengths of both.
        mixed = np.sqrt(self._lengths_before * self._lengths) + self._lengths_before
        allowed = half_the_digits(self.operator) * self._scales
        signs = (imaginary > allowed * self._lengths) | (stray > allowed * self.beta * mixed)
        return bool(signs.any())


def _preconditioned(
    A: LinearOperator, R: Array, preconditioner: LinearOperator | None
) -> tuple[Array, Array, Array]:
    """Return z, r^H z and r^H r, by one reduction."""
    space = A.domain
    if preconditioner is None:
        squares = space.column_norms_squared(R)
        return R, squares, squares
    Z = preconditioned(preconditioner, R)
    inner = real_part(A, space.column_inners((R, Z), (R, R)))
    return Z, inner[0, :], inner[1, :]


def _to_host(A: LinearOperator, gamma: Array, squares: Array, *rest: Array) -> HostArray:
    """Copy a step's coefficients to the host together: the step's one synchronisation."""
    xp = A.xp
    return to_host(
        A.domain, xp.stack([gamma, xp.sqrt(squares), *(real_part(A, row) for row in rest)])
    )
