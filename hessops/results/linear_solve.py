"""What the solvers of linear systems return: one solution, residual and ending for every column."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hessops.arrays import Array, HostArray
from hessops.counted import counted
from hessops.result import Result

__all__ = ["LinearSolveResult"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearSolveResult(Result):
    """The solutions of (A + shift I) x = b, one for each right-hand side.

    Parameters
    ----------
    solution : array, shape (n,) or (n, m)
        Like the right-hand sides, in the operator's library.
    residual_norms : numpy.ndarray, shape (m,)
        ‖b - (A + shift I) x‖ / ‖b‖; 0 for b = 0. The error of x is at most that times ‖b‖ over the
        smallest eigenvalue in modulus.
    verified : bool
        Whether the residuals come from a product with the solutions. If not, they come from the
        recurrence, which loses touch with the truth near the attainable accuracy.
    endings : numpy.ndarray of str, shape (m,)
        How each column ended: 'converged'; 'stagnated' at the attainable accuracy;
        'negative curvature' or 'flat', where conjugate gradients cannot go on; 'least squares', where
        the system has no solution and the residual is the least; 'unfinished'.
    curvature : float
        The least p^H (A + shift I) p / p^H p at which conjugate gradients gave up: the smallest
        eigenvalue is not above it. NaN where they did not.
    method : {'cg', 'minres'}
        Which solver it was.
    num_steps : int
        Steps of the column that took most.
    """

    solution: Array = field(metadata={"long": True}, repr=False)
    residual_norms: HostArray
    verified: bool
    endings: HostArray
    curvature: float
    method: str
    num_steps: int

    def __str__(self) -> str:
        kind = "residual" if self.verified else "residual of the recurrence"
        count = len(self.endings)
        sides = "one right-hand side" if count == 1 else f"{count} right-hand sides"
        return (
            f"{self.method} for {sides}: largest relative {kind} "
            f"{np.max(self.residual_norms):.2g} after {counted(self.num_steps, 'step')} "
            f"({self._cost()}); {self.status}"
        )
