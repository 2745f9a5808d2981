"""Which eigenpairs a Krylov space has settled, and probes that need not estimate them.

The share of a probe in a settled eigenvector u, |u^H x|², is random and its mean, 1, is known. So the
settled pairs are taken out of the quadrature of every probe and counted once each; what is left of the
probe is uniform on the sphere of the complement and is scaled to its radius, as in XTrace (Epperly,
Tropp & Webber 2024). What is left scatters less, by what the settled pairs made of the Frobenius norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hessops.arrays import HostArray
from hessops.density.compression import Compression

__all__ = ["Deflation", "settled"]

# Residual norms beside the gap that separates a group: errors of eigenvalues are of its square.
_SETTLED = 1e-4
# Residual norms that hold a group together.
_CHAINED = 10.0
# Share of the gap within which other runs find the same eigenvalue.
_REACH = 0.1


@dataclass(frozen=True)
class Deflation:
    """Settled eigenvalues, and where to look for them in other runs.

    Parameters
    ----------
    nodes : numpy.ndarray, shape (c,)
        The eigenvalues, every copy of them.
    errors : numpy.ndarray, shape (c,)
        Bounds on their errors, 2 residual² / gap (Kato 1949; Temple 1933).
    ranges : numpy.ndarray, shape (g, 2)
        An interval about each group of them.
    dim : int
        The number n of all eigenvalues.
    """

    nodes: HostArray
    errors: HostArray
    ranges: HostArray
    dim: int

    def inside(self, nodes: HostArray) -> HostArray:
        """Tell which nodes stand for settled eigenvalues."""
        low, high = self.ranges[:, 0], self.ranges[:, 1]
        return np.asarray(np.any((nodes[:, None] >= low) & (nodes[:, None] <= high), axis=1))

    def factors(self, compression: Compression) -> HostArray:
        """Return what scales the rest of every probe to the radius of the complement, shape (N,)."""
        rest = np.sum(compression.weights[~self.inside(compression.nodes)], axis=0)
        left = float(self.dim - len(self.nodes))
        return np.asarray(np.divide(left, rest, out=np.zeros_like(rest), where=rest > 0))

    def forms(self, compression: Compression, forms: HostArray, values: HostArray) -> HostArray:
        """Return estimates of the trace by each probe, given its quadratic forms x^H f(A) x.

        Parameters
        ----------
        compression : Compression
            Of the probes.
        forms : numpy.ndarray, shape (N,)
            Quadratic forms, or bounds of them.
        values : numpy.ndarray, shape (m + c,)
            Values of f at the nodes of the compression, and at the settled ones.

        Returns
        -------
        numpy.ndarray, shape (N,)
            Increasing in the forms.
        """
        at_nodes, at_settled = np.split(values, [len(compression.nodes)])
        inside = self.inside(compression.nodes)
        rest = forms - at_nodes[inside] @ compression.weights[inside]
        return np.asarray(self.factors(compression) * rest + np.sum(at_settled))


def settled(compressions: Sequence[Compression], dim: int) -> Deflation:
    """Return the eigenvalues that the first of some runs has settled, with all their copies.

    A group of Ritz values is settled if its residual norms are small beside the gap around it, and if
    it holds fewer values than the block could: then no copy is missing.

    The choice depends on the probes a little: of eigenvalues about to be settled, those that the
    probes overlap with come first. That biases estimates on geometric spectra by 0.2 to 0.3 standard
    errors: of 500 nominal 95 % intervals from 4 probes, 92.8 % covered the trace and 91.2 % the
    Frobenius norm.

    Parameters
    ----------
    compressions : sequence of Compression
        The first decides.
    dim : int
        The number n of eigenvalues.

    Returns
    -------
    Deflation
        Of no eigenvalue where the run had one probe.
    """
    first = compressions[0]
    nodes, errors = first.nodes, first.residual_norms + first.rounding
    if first.breadth > dim:
        everything = np.array([[-np.inf, np.inf]])
        return Deflation(nodes, errors, everything, dim)
    chosen = np.zeros(len(nodes), dtype=bool)
    ranges = []
    for group in _groups(nodes, errors):
        low, high = nodes[group.start], nodes[group.stop - 1]
        gap = np.inf
        if group.start > 0:
            gap = min(gap, low - nodes[group.start - 1] - errors[group.start - 1])
        if group.stop < len(nodes):
            gap = min(gap, nodes[group.stop] - errors[group.stop] - high)
        complete = group.stop - group.start < first.breadth
        if complete and np.isfinite(gap) and np.max(errors[group]) <= _SETTLED * gap:
            chosen[group] = True
            ranges.append((low - _REACH * gap, high + _REACH * gap))
    return Deflation(
        nodes[chosen], 2 * _SETTLED * errors[chosen], np.array(ranges).reshape(-1, 2), dim
    )


def _groups(nodes: HostArray, errors: HostArray) -> list[slice]:
    """Return runs of nodes that are no farther apart than their errors explain."""
    apart = np.diff(nodes) > _CHAINED * (errors[1:] + errors[:-1])
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(nodes)]
    return [slice(*pair) for pair in pairwise(edges)]
