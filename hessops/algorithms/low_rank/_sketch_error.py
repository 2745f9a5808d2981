"""What products with random vectors tell of the error of an approximation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from hessops.agreement import to_host, together_to_host
from hessops.algorithms.low_rank.range_finder import RangeState, product_in_blocks
from hessops.arrays import Array, HostArray, is_complex
from hessops.blocks.scaled_gram import scaled_gram
from hessops.operator import LinearOperator
from hessops.random import Stream
from hessops.space import Space

__all__ = ["ErrorProbes", "block_norms", "bound_factor", "leave_one_out", "outside_of"]


def bound_factor(failure: float, num_probes: int, *, complex_valued: bool) -> float:
    """Return c such that ‖E‖_2 <= c max ‖E ω_i‖ but for a probability `failure`.

    ‖E ω‖ is at least ‖E‖_2 |g| with g = v^H ω standard normal, v the leading right singular vector;
    all of r such numbers are below 1/c with the r-th power of the probability that one is. Lemma 4.1
    of Halko, Martinsson & Tropp (2011) follows for c = 10 sqrt(2/π) and failure = 10^-r, as
    P(|g| < t) <= sqrt(2/π) t.
    """
    one = failure ** (1 / num_probes)
    quantile = math.sqrt(-math.log1p(-one)) if complex_valued else float(ndtri((1 + one) / 2))
    return 1 / quantile


@dataclass(frozen=True)
class ErrorProbes:
    """Products A ω_i with normal vectors that no approximation has seen.

    Parameters
    ----------
    vectors : array, shape (n, r)
        Random vectors ω.
    products : array, shape (m, r)
        Their products A ω.
    space : Space
        Where the products live.
    """

    vectors: Array
    products: Array
    space: Space

    @classmethod
    def drawn(
        cls, A: LinearOperator, stream: Stream, count: int, block_size: int | None
    ) -> ErrorProbes:
        """Draw vectors and multiply them, at the cost of `count` products."""
        vectors = A.domain.probes(stream, range(count), "normal")
        products = product_in_blocks(A, A.apply, A.codomain, vectors, 0, block_size)
        return cls(vectors, products, A.codomain)

    def bound(self, error: Callable[[Array, Array], Array], failure: float) -> float:
        """Return a bound of the spectral norm; `error` makes E ω of ω and A ω."""
        count = self.vectors.shape[1]
        complex_valued = is_complex(self.space.xp, self.space.dtype)
        factor = bound_factor(failure, count, complex_valued=complex_valued)
        return factor * float(np.max(self._norms(error)))

    def frobenius(self, error: Callable[[Array, Array], Array]) -> float:
        """Return an estimate of the Frobenius norm, whose square has no bias."""
        norms = self._norms(error)
        largest = float(np.max(norms))
        return largest * math.sqrt(np.mean((norms / largest) ** 2)) if largest > 0 else 0.0

    def _norms(self, error: Callable[[Array, Array], Array]) -> HostArray:
        residual = error(self.vectors, self.products)
        return np.asarray(np.sqrt(to_host(self.space, self.space.column_norms_squared(residual))))


def outside_of(space: Space, Q: Array, products: Array) -> Array:
    """Return (I - Q Q^H) A ω."""
    for _ in range(2):
        products = products - Q @ space.coefficients(space.gram(Q, products))
    return products


def leave_one_out(state: RangeState, space: Space) -> float:
    """Return the Frobenius error of a basis by its own random vectors, without a product.

    ‖(I - Q_j Q_j^H) A ω_j‖², with Q_j from all random vectors but ω_j, is an unbiased estimate of the
    mean squared error of a basis from one vector less (Epperly & Tropp 2024); as A Ω = Q R, its root
    is 1 / ‖row j of R^-1‖. Of a single block without power steps.
    """
    R = to_host(space, space.gram(state.Q, state.sketch))
    R = R.astype(np.complex128 if np.iscomplexobj(R) else np.float64)
    lengths = np.linalg.norm(R, axis=0)
    # Dependent columns: each one is a combination of the others.
    if R.shape[0] < R.shape[1] or not np.all(lengths > 0):
        return 0.0
    try:
        rows = np.linalg.norm(np.linalg.inv(R / lengths), axis=1)
    except np.linalg.LinAlgError:
        return 0.0
    left_out = lengths / rows
    largest = float(np.max(left_out))
    return largest * math.sqrt(np.mean((left_out / largest) ** 2))


def block_norms(space: Space, X: Array) -> tuple[float, float]:
    """Return the spectral and the Frobenius norm of a block."""
    if X.shape[1] == 0:
        return 0.0, 0.0
    scaled = scaled_gram(space, X)
    squares, gram = together_to_host(space, scaled.squares, scaled.gram)
    lengths = np.sqrt(squares)
    size, longest = float(np.linalg.norm(lengths)), float(np.max(lengths))
    gram = gram.astype(np.complex128 if np.iscomplexobj(gram) else np.float64)
    return longest * math.sqrt(max(float(np.linalg.eigvalsh(gram)[-1]), 0.0)), size
