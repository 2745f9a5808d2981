"""What thick-restart Lanczos knows at each step, and what it may begin with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hessops.algorithms._one_line import one_line
from hessops.arrays import HostArray, eps
from hessops.blocks.basis import Basis
from hessops.results.eigenpairs import error_bounds

__all__ = ["EigshState", "KnownPairs", "known_pairs"]


@dataclass(frozen=True)
class EigshState:
    """The Ritz pairs at both ends of the spectrum after some number of products.

    Parameters
    ----------
    step : int
        Blocks multiplied so far.
    num_products : int
        Their columns.
    values : numpy.ndarray, shape (r,)
        Outermost Ritz values, ascending.
    residual_norms : numpy.ndarray, shape (r,)
        Of each: by the Lanczos identity, and what was left out of it.
    coefficients : numpy.ndarray, shape (basis.size, r)
        Column i holds Ritz vector i in the basis.
    size : float
        Largest modulus of a Ritz value so far.
    lengths : tuple of int
        Products with each Krylov space so far, the current one last.
    exhausted : bool
        Whether the current one is invariant.
    blurred_after : int
        Products with the current one when a residual had lost half its digits to rounding, which then
        brings in copies of multiple eigenvalues, some of them and not others; 0 if none has.
    num_restarts : int
        How often the basis was full.
    basis : Basis
        The vectors V; they serve until the next restart.
    orthogonality : float
        Largest inner product of two of them where it is estimated; NaN where all are kept orthogonal
        to rounding.
    """

    step: int
    num_products: int
    values: HostArray
    residual_norms: HostArray
    coefficients: HostArray
    size: float
    lengths: tuple[int, ...]
    exhausted: bool
    blurred_after: int
    num_restarts: int
    basis: Basis
    orthogonality: float = math.nan

    __repr__ = one_line

    @property
    def filled(self) -> bool:
        """Tell whether the basis spans the whole space."""
        return self.basis.size >= self.basis.space.dim

    def error_bounds(self) -> HostArray:
        """Return a bound on the error of every value, as `EigenResult` explains them."""
        nothing = np.zeros(0)
        precision = eps(self.basis.space.xp, self.basis.space.dtype)
        return error_bounds(self.values, self.residual_norms, nothing, nothing, precision)


@dataclass(frozen=True)
class KnownPairs:
    """Approximate eigenpairs to begin with.

    Parameters
    ----------
    basis : Basis
        The vectors; it is extended in place.
    values, residual_norms : numpy.ndarray, shape (p,)
        Their Ritz values and residual norms.
    scale : float
        Size of the operator as it was seen.
    size : float
        Largest modulus of a Ritz value seen.
    step, num_products, num_restarts : int
        What was done to find them.
    """

    basis: Basis
    values: HostArray
    residual_norms: HostArray
    scale: float = 0.0
    size: float = 0.0
    step: int = 0
    num_products: int = 0
    num_restarts: int = 0


def known_pairs(state: EigshState, pairs: HostArray) -> KnownPairs:
    """Return some Ritz pairs of a state to begin with; their vectors replace its basis."""
    space = state.basis.space
    state.basis.replace(space.from_host(state.coefficients[:, pairs]))
    return KnownPairs(
        state.basis,
        state.values[pairs],
        state.residual_norms[pairs],
        state.size,
        state.size,
        state.step,
        state.num_products,
        state.num_restarts,
    )
