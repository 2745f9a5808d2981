"""The inverse of a self-adjoint operator as an operator: every product solves a linear system."""

from __future__ import annotations

from typing import Any, Literal

from hessops.algorithms._common import require_positive, self_adjoint_operator
from hessops.algorithms._precision import require_exact_products
from hessops.algorithms.solvers._linear_solve import (
    LinearSystem,
    checked_preconditioner,
    solve_tolerance,
)
from hessops.algorithms.solvers.conjugate_gradient import cg_steps
from hessops.algorithms.solvers.minres import minres_steps
from hessops.arrays import Array
from hessops.errors import ConvergenceError
from hessops.operator import LinearOperator

__all__ = ["InverseOperator", "inverse"]

_ENGINES = {"cg": cg_steps, "minres": minres_steps}

Method = Literal["auto", "cg", "minres"]


def inverse(
    A: Any,
    *,
    tol: float | None = None,
    method: Method = "auto",
    preconditioner: Any = None,
    max_steps: int | None = None,
) -> InverseOperator:
    """Return the inverse of a self-adjoint operator, accurate to a tolerance.

    A product costs one linear solve per column: as many products with `A` as steps, and one more.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Self-adjoint and not singular; ``A - sigma * Identity(A.domain)`` for shift-and-invert.
    tol : float, optional
        Residual norm of each solve, relative to that of its right-hand side; eps^(3/4) of the precision
        where not given (1.8e-12 in float64, 6.4e-6 in float32). About the rounding of a product times
        the condition number of `A` is the least that can be had.
    method : {'auto', 'cg', 'minres'}
        'auto' is 'cg' for an operator that is declared positive semidefinite, else 'minres'.
    preconditioner : LinearOperator or anything `aslinearoperator` takes, optional
        Self-adjoint and positive definite, as for the solver.
    max_steps : int, optional
        Most steps of a solve, 10 000 where not given.

    Returns
    -------
    InverseOperator
        Declared as self-adjoint and as definite as `A`.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint.
    ValueError
        If an option is out of range, or products with `A` are in a lower precision than its dtype's.
    TypeError
        If `tol` is no number.

    Notes
    -----
    A product X has A X = B + R with ‖R‖ at most `tol` ‖B‖, column by column: it is off by A^-1 R, which
    is no linear function of B. So the operator is linear, self-adjoint and the same within blocks only
    up to `tol` times the norm of A^-1. Keep `tol` below the tolerance of what is computed from it.
    A product that misses the tolerance raises `ConvergenceError`.

    References
    ----------
    Ericsson & Ruhe (1980), Math. Comp. 35, for shift-and-invert.

    Examples
    --------
    The eigenvalue of a diagonal matrix that is nearest to 4.4:

    >>> import numpy as np, hessops
    >>> A = hessops.Diagonal(np.arange(1.0, 21.0))
    >>> shifted = hessops.inverse(A - 4.4 * hessops.Identity(20))
    >>> found = hessops.eigsh(shifted, 1, which="LM", rng=0)
    >>> (4.4 + 1 / found.eigenvalues).round(9)
    array([4.])
    """
    operator = self_adjoint_operator(A, "inverse")
    if method not in {"auto", *_ENGINES}:
        raise ValueError(f"method={method!r} is unknown; choose 'auto', 'cg' or 'minres'")
    require_positive(max_steps=max_steps)
    require_exact_products(
        operator,
        "those with its inverse by up to its condition number times as much, which nobody knows",
    )
    definite = operator.structure.positive_semidefinite
    return InverseOperator(
        operator,
        tol=solve_tolerance(operator, tol, 0.75),
        method=("cg" if definite else "minres") if method == "auto" else method,
        preconditioner=checked_preconditioner(operator, preconditioner, "inverse"),
        max_steps=max_steps,
    )


class InverseOperator(LinearOperator):
    """The inverse of a self-adjoint operator, by a linear solve per product.

    Parameters
    ----------
    operator : LinearOperator
        Self-adjoint and not singular.
    tol : float
        Relative residual norm of each solve.
    method : {'cg', 'minres'}
        The solver.
    preconditioner : LinearOperator, optional
        For the solver.
    max_steps : int, optional
        Most steps of a solve.

    Attributes
    ----------
    num_solver_products : int
        Columns multiplied by the operator so far.
    """

    def __init__(
        self,
        operator: LinearOperator,
        *,
        tol: float,
        method: Literal["cg", "minres"],
        preconditioner: Any = None,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(operator.domain, structure=operator.structure)
        self.operator = operator
        self.tol = tol
        self.method: Literal["cg", "minres"] = method
        self.preconditioner = preconditioner
        self.max_steps = max_steps
        self.num_solver_products = 0

    def _apply(self, X: Array) -> Array:
        if X.shape[1] == 0:
            return X
        system = LinearSystem.checked(
            self.operator,
            X,
            self.method,
            preconditioner=self.preconditioner,
            shift=0.0,
            x0=None,
            tol=self.tol,
            max_steps=self.max_steps,
        )
        # By the engine, as what is a warning of the solver's is an error here.
        result = system.solved(_ENGINES[self.method], verify=True, callback=None)
        self.num_solver_products += result.num_products
        if not result.converged:
            raise ConvergenceError(
                f"a product of {self} is not accurate to its tol: {result.status}"
            )
        return result.solution

    def _describe(self) -> str:
        return f"{type(self.operator).__name__} by {self.method} to {self.tol:.2g}"
