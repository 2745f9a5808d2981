"""A spectral density of probes in common Krylov spaces, where settled eigenvalues count once each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hessops.arrays import HostArray
from hessops.density.compression import Compression, mass_bounds
from hessops.density.deflation import Deflation
from hessops.density.node_widths import node_widths
from hessops.density.spectral_density import SpectralDensity
from hessops.result import Interval

__all__ = ["DeflatedDensity", "deflated_density"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DeflatedDensity(SpectralDensity):
    """A density whose rules are finer than Gauss rules, and settled eigenvalues are in it exactly.

    The nodes of a probe are the Ritz values of its block, and the settled eigenvalues with the weight
    1/n each, filled up with nodes of weight 0. Bounds come from the Gauss rule of each probe alone, for
    which there are theorems.

    Parameters
    ----------
    gauss_nodes, gauss_weights, gauss_couplings : numpy.ndarray, shape (num_probes, k)
        The Gauss rules of the single probes, before anything was taken out, and by how much each
        node is coupled to what the rule has not seen.
    settled : numpy.ndarray, shape (c,)
        The settled eigenvalues.
    removed_nodes, removed_weights : numpy.ndarray, shape (num_probes, r)
        What was taken out of every probe for them.
    """

    gauss_nodes: HostArray = field(repr=False)
    gauss_weights: HostArray = field(repr=False)
    gauss_couplings: HostArray = field(repr=False)
    settled: HostArray = field(repr=False)
    removed_nodes: HostArray = field(repr=False)
    removed_weights: HostArray = field(repr=False)

    @property
    def node_widths(self) -> HostArray:
        """Return the standard deviation for which each node stands, shape (num_probes, num_nodes).

        As for any density, but by the neighbour as many nodes away as a block has probes.
        """
        apart = max(1, round(self.nodes.shape[1] / self.gauss_nodes.shape[1]))
        return node_widths(self.nodes, self.weights, self.node_errors, apart)

    def cdf_bracket(self, x: float) -> Interval:
        """Return bounds on what finer quadrature of the same probes could make of ``cdf(x)``.

        Parameters
        ----------
        x : float
            Where.

        Returns
        -------
        Interval
            Mean over probes of the lower and of the upper bound.
        """
        lows, highs = [], []
        removed = np.sum(self.removed_weights, axis=1)
        left = 1 - len(self.settled) / self.dim
        factors = np.divide(left, 1 - removed, out=np.zeros_like(removed), where=removed < 1)
        for probe, factor in enumerate(factors):
            used = self.gauss_weights[probe] > 0
            low, high = mass_bounds(
                self.gauss_nodes[probe][used],
                self.gauss_weights[probe][used],
                self.gauss_couplings[probe][used],
                x,
                self.rounding,
            )
            nodes, weights = self.removed_nodes[probe], self.removed_weights[probe]
            # Nodes at x to rounding count as on either side of it.
            low -= float(weights @ (nodes <= x + self.rounding))
            high -= float(weights @ (nodes < x - self.rounding))
            share = factor * np.clip([low, high], 0.0, 1 - removed[probe])
            lows.append(share[0] + np.sum(self.settled < x - self.rounding) / self.dim)
            highs.append(share[1] + np.sum(self.settled <= x + self.rounding) / self.dim)
        return Interval(float(np.mean(lows)), float(np.mean(highs)))


def deflated_density(
    compressions: Sequence[Compression], deflation: Deflation, **run: Any
) -> DeflatedDensity:
    """Return the density that some Krylov spaces show.

    Parameters
    ----------
    compressions : sequence of Compression
        The Krylov spaces of the probes.
    deflation : Deflation
        The eigenvalues that are settled.
    **run : dict
        The fields of every `Result`.

    Returns
    -------
    DeflatedDensity
        One rule per probe.
    """
    dim = deflation.dim
    rules: list[tuple[HostArray, HostArray, HostArray]] = []
    gauss: list[tuple[HostArray, HostArray, HostArray]] = []
    removed: list[tuple[HostArray, HostArray]] = []
    for compression in compressions:
        inside = deflation.inside(compression.nodes)
        factors = deflation.factors(compression)
        for probe in range(compression.num_probes):
            weights = compression.weights[:, probe] / np.sum(compression.weights[:, probe])
            single = compression.of_probe(probe)
            shares = single.weights[:, 0] / np.sum(single.weights)
            # With the sign of the first components, as the weights have lost it.
            signs = np.sign(np.real(single.probes[:, 0]))
            couplings = single.couplings if len(single.couplings) else np.zeros((1, len(shares)))
            gauss.append((single.nodes, shares, signs * np.real(couplings[0])))
            removed.append((compression.nodes[inside], weights[inside]))
            rest = factors[probe] * compression.weights[~inside, probe] / dim
            ones = np.full(len(deflation.nodes), 1 / dim)
            rules.append((
                np.append(compression.nodes[~inside], deflation.nodes),
                np.append(rest, ones),
                np.append(compression.residual_norms[~inside], deflation.errors),
            ))  # fmt: skip
    nodes, weights, errors = (_filled(column) for column in zip(*rules, strict=True))
    gauss_nodes, gauss_weights, gauss_couplings = (
        _filled(column) for column in zip(*gauss, strict=True)
    )
    removed_nodes, removed_weights = (_filled(column) for column in zip(*removed, strict=True))
    return DeflatedDensity(
        nodes=nodes,
        weights=weights,
        node_errors=errors,
        rounding=max(compression.rounding for compression in compressions),
        dim=dim,
        gauss_nodes=gauss_nodes,
        gauss_weights=gauss_weights,
        gauss_couplings=gauss_couplings,
        settled=deflation.nodes,
        removed_nodes=removed_nodes,
        removed_weights=removed_weights,
        **run,
    )


def _filled(rows: Sequence[HostArray]) -> HostArray:
    """Return rows of different lengths as one array, filled up with zeros: nodes of weight 0."""
    block = np.zeros((len(rows), max(len(row) for row in rows)))
    for target, row in zip(block, rows, strict=True):
        target[: len(row)] = row
    return block
