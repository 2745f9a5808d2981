"""Randomised Nyström preconditioning (Frangella, Tropp & Udell 2023) of a regularised operator.

With a Nyström approximation U diag(λ) U^H of a positive semidefinite A, the operator

    M = (λ_l + μ) U (diag(λ) + μ)^-1 U^H + (I - U U^H)

takes the large eigenvalues of A + μ I down to where the small ones are, λ_l + μ.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hessops.algorithms._common import require_real
from hessops.algorithms.low_rank.nystrom import nystrom
from hessops.arrays import Array
from hessops.operator import LinearOperator
from hessops.random import RandomState
from hessops.results.low_rank import NystromResult
from hessops.space import Space
from hessops.structure import POSITIVE_SEMIDEFINITE
from hessops.wrap import aslinearoperator

__all__ = ["NystromPreconditioner", "nystrom_preconditioner"]


def nystrom_preconditioner(
    A: Any,
    rank: int,
    shift: float,
    *,
    num_test_probes: int = 10,
    confidence: float = 0.99,
    block_size: int | None = None,
    rng: RandomState = None,
) -> NystromPreconditioner:
    """Precondition A + shift I by the Nyström approximation of a positive semidefinite operator.

    Costs `rank` products once, and `num_test_probes` more for the bound of the condition number. Each
    application takes of the order of n `rank` operations and no product; `rank` vectors are kept.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Positive semidefinite, and declared to be.
    rank : int
        Random vectors.
    shift : float
        What the solver adds to every eigenvalue of `A`; positive.
    num_test_probes : int
        Products with fresh random vectors, by which the condition number is bounded; 0 for no bound.
    confidence : float
        Probability that the bound holds.
    block_size : int, optional
        Columns multiplied at once.
    rng : int, numpy.random.Generator or None
        Where random vectors come from.

    Returns
    -------
    NystromPreconditioner
        Positive definite; to be passed to `hessops.cg` or `hessops.minres` with the same `shift`.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If `A` is not declared positive semidefinite, or its products show that it is not; if `shift` is
        not positive or another option is out of range.
    TypeError
        If `shift` is no real number.
    NonFiniteError
        If a product holds NaN or infinity.

    Notes
    -----
    The effective dimension is d = Σ λ_i / (λ_i + shift). With ``rank >= 2 * ceil(1.5 d) + 1`` the
    expected condition number of the preconditioned operator is below 28 (theorem 1.1 of the paper), and
    conjugate gradients take a few dozen steps, whatever that of A. A rank that is much lower buys
    little: where the eigenvalues do not decay down to the shift, there is nothing to gain.

    References
    ----------
    Frangella, Tropp & Udell (2023), SIAM J. Matrix Anal. Appl. 44(2).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = hessops.Diagonal(0.9 ** np.arange(500.0))
    >>> M = hessops.nystrom_preconditioner(A, 150, shift=1e-5, rng=0)
    >>> plain = hessops.cg(A, np.ones(500), shift=1e-5)
    >>> helped = hessops.cg(A, np.ones(500), shift=1e-5, preconditioner=M)
    >>> bool(helped.num_steps < plain.num_steps / 4)
    True
    """
    require_real(shift=shift)
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(
            f"shift={shift} must be positive and finite: without one, the preconditioned operator is "
            "as ill-conditioned as what the approximation leaves out"
        )
    operator = aslinearoperator(A)
    result = nystrom(
        operator,
        rank,
        num_test_probes=num_test_probes,
        confidence=confidence,
        block_size=block_size,
        rng=rng,
    )
    # Fewer pairs than asked for are all that A has, to rounding.
    smallest = float(result.eigenvalues[-1]) if result.rank == rank else 0.0
    return NystromPreconditioner(operator.domain, result, float(shift), smallest)


class NystromPreconditioner(LinearOperator):
    """The operator (λ + shift) U (diag(λ_i) + shift)^-1 U^H + I - U U^H, positive definite.

    Parameters
    ----------
    space : Space
        Where it acts.
    result : NystromResult
        The approximation U diag(λ_i) U^H.
    shift : float
        What is added to every eigenvalue of A.
    smallest : float
        Where the eigenvalues that the approximation leaves out are thought to begin: the λ above.

    Attributes
    ----------
    condition_bound : float
        The condition number of the preconditioned A + shift I is not above it, with probability
        `result.confidence`: 1 + (smallest + error) / shift (proposition 5.3 of the paper). NaN without
        test probes.
    num_products : int
        What it cost.
    """

    def __init__(self, space: Space, result: NystromResult, shift: float, smallest: float) -> None:
        super().__init__(space, structure=POSITIVE_SEMIDEFINITE)
        self.result = result
        self.shift = shift
        self.num_products = result.num_products
        self.condition_bound = 1 + (smallest + result.spectral_bound) / shift
        self._vectors = result.eigenvectors
        factors = (smallest + shift) / (result.eigenvalues + shift) - 1
        self._factors = space.from_host(np.asarray(factors)[:, None])

    def _apply(self, X: Array) -> Array:
        space = self.domain
        inner = space.coefficients(space.gram(self._vectors, X))
        return X + self._vectors @ (self._factors * inner)

    def _describe(self) -> str:
        return f"rank {self.result.rank}, shift {self.shift:g}"
