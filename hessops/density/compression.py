"""What is left of an operator on a Krylov space: Ritz values, probes and couplings.

With Ritz vectors Y, a block Q orthogonal to them, and probes X that lie in their span,

    A Y = Y diag(θ) + Q G,   X = Y P.

θ, P and G are small and say all that one run has learnt: x^H f(A) x is close to Σ |p_i|² f(θ_i), and G
bounds what is missing. One probe alone or a block of them, with or without a basis, look the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import gammaincinv

from hessops.arrays import HostArray
from hessops.result import Interval

__all__ = ["Compression", "mass_bounds", "probable_bounds", "unlucky_share"]

# Distances from the outermost Ritz value at which an eigenvalue is looked for, a ratio apart.
_RATIO = 1.05
_ENTRIES_AT_ONCE = 2**22


@dataclass(frozen=True)
class Compression:
    """A Krylov space in the basis of its Ritz vectors: ``A Y = Y diag(nodes) + Q couplings``.

    Parameters
    ----------
    nodes : numpy.ndarray, shape (m,)
        Ritz values, ascending.
    probes : numpy.ndarray, shape (m, N)
        P of ``X = Y P``; the columns have norm sqrt(n).
    couplings : numpy.ndarray, shape (w, m)
        G; of no row if the space is invariant.
    residual_norms : numpy.ndarray, shape (m,)
        Of the Ritz pairs: norms of the columns of G, and what was left out of the identity.
    steps : numpy.ndarray, shape (N,)
        For each probe, half of one more than the degree up to which quadrature is exact; m if there
        is no limit.
    breadth : int
        Eigenvalues of fewer copies than this, if converged, are there with all of them.
    rounding : float
        What is rounding in a Ritz value.
    """

    nodes: HostArray
    probes: HostArray
    couplings: HostArray
    residual_norms: HostArray
    steps: HostArray
    breadth: int
    rounding: float

    @cached_property
    def weights(self) -> HostArray:
        """Return the quadrature weights of each probe, squared moduli of `probes`, shape (m, N)."""
        return np.asarray(np.abs(self.probes) ** 2)

    @property
    def num_probes(self) -> int:
        """Return N."""
        return int(self.probes.shape[1])

    @property
    def exhausted(self) -> bool:
        """Tell whether the space is invariant."""
        return len(self.couplings) == 0

    def of_probe(self, index: int, steps: int | None = None) -> Compression:
        """Return the Krylov space of one probe alone, which lies within this one.

        Its quadrature is the Gauss rule of as many nodes as it took steps, by Lanczos on the small
        matrix: coarser than that of the whole, but it keeps all theorems on Gauss rules.

        Parameters
        ----------
        index : int
            Of the probe.
        steps : int, optional
            To use fewer of the steps taken.

        Returns
        -------
        Compression
            Of one probe.
        """
        alphas, betas, coupling = self._lanczos(
            index, min(steps or self.steps[index], self.steps[index])
        )
        T = np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1)
        nodes, vectors = np.linalg.eigh(T)
        couplings = coupling * vectors[-1:]
        return Compression(
            nodes,
            np.linalg.norm(self.probes[:, index]) * vectors[:1].T,
            couplings if coupling > self.rounding else couplings[:0],
            np.abs(couplings[0]),
            np.array([len(nodes)]),
            1,
            self.rounding,
        )

    def with_node(self, bound: float) -> tuple[HostArray, HostArray] | None:
        """Return nodes and weights of the Radau rule: that of a space with more nodes at a bound.

        The smallest extension of diag(nodes) by w rows that has the eigenvalue `bound` w times,
        ``[[diag(θ), G^H], [G, D]]`` with ``D = bound + G (diag(θ) - bound)^-1 G^H``.

        Parameters
        ----------
        bound : float
            Below or above all nodes.

        Returns
        -------
        tuple of numpy.ndarray or None
            Nodes (m + w,) and weights (m + w, N); None where `bound` lies among the nodes.
        """
        if self.exhausted:
            return self.nodes, self.weights
        distances = self.nodes - bound
        if not (np.all(distances > 0) or np.all(distances < 0)):
            return None
        G = self.couplings
        corner = bound * np.eye(len(G)) + (G / distances) @ np.conjugate(G.T)
        extended = np.block([[np.diag(self.nodes), np.conjugate(G.T)], [G, corner]])
        nodes, vectors = np.linalg.eigh(extended)
        inside = np.conjugate(vectors[: len(self.nodes)].T) @ self.probes
        # The nodes that were asked for, without the rounding of the eigenvalue solver.
        clipped = np.maximum(nodes, bound) if distances[0] > 0 else np.minimum(nodes, bound)
        return clipped, np.abs(inside) ** 2

    def visibility(self, points: HostArray) -> HostArray:
        """Return the most that the square of ‖u^H X‖ can be for an eigenvector u of eigenvalue λ.

        From 0 = u^H (A - λ) Y: u^H X = -u^H Q G (diag(θ) - λ)^-1 P, and ‖u^H Q‖ is at most 1.

        Parameters
        ----------
        points : numpy.ndarray, shape (g,)
            Candidates λ, none of them a node.

        Returns
        -------
        numpy.ndarray, shape (g,)
            Squared 2-norms of G (diag(θ) - λ)^-1 P.
        """
        if self.exhausted:
            return np.zeros(len(points))
        parts = np.array_split(points, 1 + len(points) * self.couplings.size // _ENTRIES_AT_ONCE)
        squares = [
            np.linalg.norm(
                (self.couplings / (self.nodes - part[:, None])[:, None, :]) @ self.probes,
                2,
                axis=(-2, -1),
            )
            ** 2
            for part in parts
        ]
        return np.concatenate(squares)

    def _lanczos(self, index: int, steps: int) -> tuple[HostArray, HostArray, float]:
        """Return T of one probe by Lanczos on diag(nodes), and the norm of the residual."""
        q = self.probes[:, index] / np.linalg.norm(self.probes[:, index])
        basis = [q]
        alphas: list[float] = []
        betas: list[float] = []
        scale = float(np.max(np.abs(self.nodes), initial=0.0))
        for step in range(int(steps)):
            w = self.nodes * q
            alphas.append(float(np.real(np.vdot(q, w))))
            Q = np.stack(basis, axis=1)
            for _ in range(2):
                w = w - Q @ (np.conjugate(Q.T) @ w)
            # The rest of A q leaves the space, in the last step alone.
            outside = float(np.linalg.norm(self.couplings @ q)) if not self.exhausted else 0.0
            inside = float(np.linalg.norm(w))
            beta = math.hypot(inside, outside if step + 1 == self.steps[index] else 0.0)
            if beta <= self.rounding or inside <= 1e-14 * scale:
                return np.array(alphas), np.array(betas[: len(alphas) - 1]), beta
            betas.append(beta)
            q = w / inside
            basis.append(q)
        return np.array(alphas), np.array(betas[:-1]), betas[-1]


def mass_bounds(
    nodes: HostArray, weights: HostArray, couplings: HostArray, x: float, rounding: float
) -> tuple[float, float]:
    """Return bounds on the mass below x and up to x that all measures with this Gauss rule share.

    A rule with one more node at x has the least mass below and the most up to it (Chebyshev, Markov,
    Stieltjes; Golub 1973). Nodes at x to rounding may be on either side.

    Parameters
    ----------
    nodes, weights, couplings : numpy.ndarray, shape (k,)
        Of one probe.
    x : float
        Where.
    rounding : float
        What is rounding in a node.

    Returns
    -------
    tuple of float
        At most the mass of numbers below x, and at least the mass of those up to x.
    """
    distances = nodes - x
    if np.all(np.abs(distances) > rounding) and np.any(couplings):
        corner = x + float(np.sum(couplings**2 / distances))
        extended = np.block([[np.diag(nodes), couplings[:, None]], [couplings[None, :], corner]])
        values, vectors = np.linalg.eigh(extended)
        shares = np.abs(vectors[:-1].T @ np.sqrt(weights)) ** 2
        # Eigenvalues that touch x by rounding are the node that was asked for.
        at = int(np.argmin(np.abs(values - x)))
        values[at] = x
    else:
        values, shares = nodes, weights
    below, up_to = values < x - rounding, values <= x + rounding
    return float(np.sum(shares[below])), float(np.sum(shares[up_to]))


def probable_bounds(compressions: Sequence[Compression], share: float) -> Interval:
    """Return bounds of the spectrum that hold if its extreme eigenvectors overlap with the probes.

    Parameters
    ----------
    compressions : sequence of Compression
        Of independent probes.
    share : float
        Least sum over all probes of |u^H x|² that is taken for granted, see `unlucky_share`.

    Returns
    -------
    Interval
        No eigenvalue with such eigenvectors lies outside.
    """
    rounding = max(compression.rounding for compression in compressions)
    low = min(float(compression.nodes[0]) for compression in compressions)
    high = max(float(compression.nodes[-1]) for compression in compressions)
    return Interval(
        low - _reach(compressions, low, -1.0, share, rounding) - rounding,
        high + _reach(compressions, high, 1.0, share, rounding) + rounding,
    )


def unlucky_share(num_probes: int, dim: int, *, complex_valued: bool, failure: float) -> float:
    """Return what the sum over probes of |u^H x|² falls below that rarely, for one unit vector u.

    For normal probes the sum has a chi-squared law. For probes on the sphere of radius sqrt(n) the
    density of each term is at most exp(3 t / (2 n)) times that of a squared normal number (exp(2 t / n)
    for complex ones), which is allowed for.

    Parameters
    ----------
    num_probes : int
        Independent probes.
    dim : int
        The dimension n.
    complex_valued : bool
        Whether they are complex.
    failure : float
        Probability of a smaller sum.

    Returns
    -------
    float
        A little less than the quantile.
    """
    half = 1.0 if complex_valued else 0.5

    def quantile(probability: float) -> float:
        return float(gammaincinv(half * num_probes, probability)) / half

    return quantile(failure * math.exp(-2 * quantile(failure) / dim))


def _reach(
    compressions: Sequence[Compression], end: float, side: float, share: float, rounding: float
) -> float:
    """Return how far beyond the outermost node an eigenvalue may be visible enough."""
    # Farther out than this, no probe sees so much.
    farthest = math.sqrt(
        sum(
            (float(np.linalg.norm(c.couplings, 2)) * float(np.linalg.norm(c.probes, 2))) ** 2
            for c in compressions
            if not c.exhausted
        )
        / share
    )
    if farthest <= rounding or rounding == 0:
        return min(farthest, rounding)

    def visible(distances: HostArray) -> HostArray:
        points = end + side * distances
        return np.asarray(sum(c.visibility(points) for c in compressions) >= share)

    count = math.ceil(math.log(farthest / rounding) / math.log(_RATIO)) + 1
    distances = np.geomspace(farthest, rounding, count)
    seen = np.flatnonzero(visible(distances))
    if len(seen) == 0:
        return rounding
    if seen[0] == 0:
        return farthest
    return float(distances[seen[0] - 1])
