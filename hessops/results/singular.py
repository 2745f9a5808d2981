"""Singular triplets with residual norms, and what those bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hessops.arrays import Array, HostArray
from hessops.counted import counted
from hessops.result import Result
from hessops.results.eigenpairs import error_bounds
from hessops.results.numbers import errors_in_column, values_in_column

__all__ = ["SingularResult", "singular_error_bounds"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SingularResult(Result):
    """Approximate singular triplets of an operator, A v = σ u and A^H u = σ v.

    Parameters
    ----------
    singular_values : numpy.ndarray, shape (k,)
        Not negative, float64, on the host.
    left_vectors : array, shape (m, k)
        The u: orthonormal columns, in the operator's library.
    right_vectors : array, shape (n, k)
        The v: orthonormal columns, in the operator's library.
    residual_norms : numpy.ndarray, shape (k,)
        √(‖A v - σ u‖² + ‖A^H u - σ v‖²): each σ is that close to a singular value, whatever else is
        true.
    error_bounds : numpy.ndarray, shape (k,)
        Sharper bounds on the error of each singular value, residual² / gap, with the gap to the other
        Ritz values (and to 0, of a rectangular operator), where residual and neighbours have converged;
        the residual over √2 elsewhere, or the residual near 0. They hold if no singular value was
        missed inside the gap.
    """

    singular_values: HostArray
    left_vectors: Array = field(metadata={"long": True}, repr=False)
    right_vectors: Array = field(metadata={"long": True}, repr=False)
    residual_norms: HostArray
    error_bounds: HostArray

    def __str__(self) -> str:
        columns = (
            values_in_column(list(self.singular_values), list(self.error_bounds)),
            errors_in_column(list(self.residual_norms)),
            errors_in_column(list(self.error_bounds)),
        )
        rows = [
            f"      {value}   residual {residual}   error bound {bound}"
            for value, residual, bound in zip(*columns, strict=True)
        ]
        return "\n".join(
            [f"{counted(len(rows), 'singular triplet')} ({self._cost()}); {self.status}", *rows]
        )


def singular_error_bounds(
    values: HostArray,
    residuals: HostArray,
    others: HostArray,
    other_residuals: HostArray,
    precision: float,
    *,
    square: bool,
) -> HostArray:
    """Return bounds on the distance of each of some Ritz values to a singular value.

    They are those of the eigenvalues of [[0, A], [A^H, 0]], which are the singular values, their mirror
    images, and zeros if A is not square. (u, v) / √2 is a unit vector with a residual norm 1/√2 of the
    triplet's.

    Parameters
    ----------
    values, residuals : numpy.ndarray, shape (k,)
        Ritz values and the residual norms of their triplets.
    others, other_residuals : numpy.ndarray, shape (l,)
        The other Ritz values known and their residual norms.
    precision : float
        Machine epsilon of the products.
    square : bool
        Whether A is.

    Returns
    -------
    numpy.ndarray, shape (k,)
        Never above the residual norms, but for rounding.
    """
    own, other = residuals / np.sqrt(2), other_residuals / np.sqrt(2)
    zeros = np.zeros(0 if square else 1)
    bounds = error_bounds(
        values,
        own,
        np.concatenate([others, -values, -others, zeros]),
        np.concatenate([other, own, other, zeros]),
        precision,
    )
    # The zero of a rectangular matrix within reach is no singular value. But |A v| <= σ + residual:
    # the smallest one is as close, and σ as small.
    near_zero = (values <= own) & (not square)
    return np.where(near_zero, np.maximum(bounds, residuals), bounds)
