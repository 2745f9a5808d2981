"""Eigenpairs with residual norms, and what those bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hessops.arrays import Array, HostArray
from hessops.blocks.rounding import ROUNDINGS
from hessops.counted import counted
from hessops.result import Result
from hessops.results.numbers import errors_in_column, values_in_column

__all__ = ["EigenResult", "error_bounds"]

_RESOLVED = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class EigenResult(Result):
    """Approximate eigenpairs of a self-adjoint operator.

    Parameters
    ----------
    eigenvalues : numpy.ndarray, shape (k,)
        Real, float64, on the host.
    eigenvectors : array, shape (n, k)
        Orthonormal columns, in the operator's library.
    residual_norms : numpy.ndarray, shape (k,)
        ‖A x - λ x‖: each λ is that close to an eigenvalue, whatever else is true.
    error_bounds : numpy.ndarray, shape (k,)
        Sharper bounds on the error of each eigenvalue, 2 residual² / gap (Kato 1949; Temple 1933;
        the 2 for safety), with the gap to the other Ritz values, where residual and neighbours have
        converged; the residual elsewhere. They hold if no eigenvalue was missed inside the gap.
    num_preconditioned : int
        Columns multiplied by a preconditioner; not in `num_products`.
    """

    eigenvalues: HostArray
    eigenvectors: Array = field(metadata={"long": True}, repr=False)
    residual_norms: HostArray
    error_bounds: HostArray
    num_preconditioned: int = 0

    def __str__(self) -> str:
        columns = (
            values_in_column(list(self.eigenvalues), list(self.error_bounds)),
            errors_in_column(list(self.residual_norms)),
            errors_in_column(list(self.error_bounds)),
        )
        rows = [
            f"      {value}   residual {residual}   error bound {bound}"
            for value, residual, bound in zip(*columns, strict=True)
        ]
        return "\n".join(
            [f"{counted(len(rows), 'eigenpair')} ({self._cost()}); {self.status}", *rows]
        )


def error_bounds(
    values: HostArray,
    residuals: HostArray,
    others: HostArray,
    other_residuals: HostArray,
    precision: float,
) -> HostArray:
    """Return the smaller of residual and 2 residual² / gap for each of some Ritz values.

    Parameters
    ----------
    values, residuals : numpy.ndarray, shape (k,)
        Ritz values and their residual norms.
    others, other_residuals : numpy.ndarray, shape (l,)
        The other Ritz values known and their residual norms.
    precision : float
        Machine epsilon of the products: no bound is below the rounding they make, a few of it
        relative to the largest Ritz value.

    Returns
    -------
    numpy.ndarray, shape (k,)
        Bounds on the distance to an eigenvalue.
    """
    everything = np.concatenate([values, others])
    uncertainty = np.concatenate([residuals, other_residuals])
    bounds = np.array(residuals, dtype=np.float64)
    # Before that, a run has yet to see what else is there, and gaps mean nothing.
    resolved = _RESOLVED * float(np.max(np.abs(everything)))
    for index, (value, residual) in enumerate(zip(values, residuals, strict=True)):
        distance = np.abs(everything - value)
        distance[index] = np.inf
        nearest = int(np.argmin(distance - uncertainty))
        gap = distance[nearest] - uncertainty[nearest]
        # A neighbour that has not converged shows that there is something, and not where.
        converged = uncertainty[nearest] <= 0.1 * distance[nearest]
        if residual <= resolved and np.isfinite(gap) and converged and gap > residual:
            # Half of it, as another eigenvalue may lie nearer than the Ritz value shows.
            bounds[index] = min(residual, 2 * residual**2 / gap)
    rounding = ROUNDINGS * precision * float(np.max(np.abs(everything)))
    return np.asarray(np.maximum(bounds, rounding))
