"""Bounds of a cdf that some quadrature rules stand for, and of its quantiles.

A Gauss rule puts the weight of a whole stretch of the spectrum on one node. The measure that it stands
for lies between the sums of weights without and with the nodes next to x (Chebyshev, Markov, Stieltjes;
see Golub & Meurant 2010, section 3.3); the rule of an exhausted Krylov space is the measure itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessops.arrays import HostArray
from hessops.density.probe_mean import over_probes
from hessops.result import Interval

__all__ = ["CdfBounds", "Rules"]

# Of a share: cumulative sums of weights round.
_ROUNDING_OF_SUMS = 1e-12


class CdfBounds(NamedTuple):
    """Bounds of the cdf at some points: lower and upper ones, each for every probe or their mean."""

    lows: HostArray
    highs: HostArray


class Rules(NamedTuple):
    """The quadrature rules of some probes.

    Parameters
    ----------
    nodes, weights, node_errors : numpy.ndarray, shape (num_probes, num_steps)
        As of a `SpectralDensity`.
    rounding : float
        Nodes closer than this to a point may lie on either side of it.
    """

    nodes: HostArray
    weights: HostArray
    node_errors: HostArray
    rounding: float

    def bounds(self, points: HostArray) -> CdfBounds:
        """Return bounds of every probe's cdf, each of shape (num_probes, g).

        Parameters
        ----------
        points : numpy.ndarray, shape (g,)
            Where.

        Returns
        -------
        CdfBounds
            For every probe.
        """
        rows = [self._of_probe(index, points) for index in range(len(self.nodes))]
        lows, highs = zip(*rows, strict=True)
        return CdfBounds(np.array(lows), np.array(highs))

    def mean_bounds(self, points: HostArray, errors: float = 0.0) -> CdfBounds:
        """Return bounds of the mean cdf, each of shape (g,).

        Parameters
        ----------
        points : numpy.ndarray, shape (g,)
            Where.
        errors : float
            How many standard errors of the mean over probes to go beyond.

        Returns
        -------
        CdfBounds
            Of the mean.
        """
        low, high = (over_probes(side) for side in self.bounds(points))
        if errors == 0:  # a single probe has no error
            return CdfBounds(np.asarray(low.value), np.asarray(high.value))
        return CdfBounds(
            np.asarray(low.value - errors * low.standard_error),
            np.asarray(high.value + errors * high.standard_error),
        )

    def quantiles(self, shares: HostArray) -> HostArray:
        """Return the quantiles of the mean over probes.

        Parameters
        ----------
        shares : numpy.ndarray
            Between 0 and 1.

        Returns
        -------
        numpy.ndarray
            Nodes, of the shape of `shares`.
        """
        used = self.weights.ravel() > 0
        nodes, weights = self.nodes.ravel()[used], self.weights.ravel()[used]
        order = np.argsort(nodes)
        sums = np.cumsum(weights[order]) / np.sum(weights)
        indices = np.searchsorted(sums, shares * (1 - _ROUNDING_OF_SUMS))
        return np.asarray(nodes[order][np.minimum(indices, len(nodes) - 1)])

    def quantile_bounds(self, shares: HostArray, errors: float = 0.0) -> list[Interval]:
        """Return between which nodes the mean cdf reaches each share; infinite where it need not.

        Parameters
        ----------
        shares : numpy.ndarray
            Between 0 and 1, taken one after another.
        errors : float
            As for `mean_bounds`.

        Returns
        -------
        list of Interval
            One for each share.
        """
        nodes = np.unique(self.nodes[self.weights > 0])
        # Between these points, bounds do not change.
        points = np.concatenate([[-np.inf], nodes, [np.inf]])
        bounds = self.mean_bounds(points, errors)
        return [_between(points, bounds, share, self.rounding) for share in shares.flat]

    def _of_probe(self, index: int, points: HostArray) -> tuple[HostArray, HostArray]:
        used = self.weights[index] > 0
        nodes, sums = self.nodes[index][used], np.cumsum(self.weights[index][used])
        sums = np.concatenate([[0.0], sums])
        below = np.searchsorted(nodes, points - self.rounding, side="left")
        reached = np.searchsorted(nodes, points + self.rounding, side="right")
        if np.max(self.node_errors[index][used]) > self.rounding:
            below, reached = np.maximum(below - 1, 0), np.minimum(reached + 1, len(nodes))
        return sums[below], sums[reached]


def _between(points: HostArray, bounds: CdfBounds, q: float, rounding: float) -> Interval:
    """Return between which points a cdf reaches a share, by bounds that hold everywhere."""
    # A share of 0 begins with the first eigenvalue, and so above nothing.
    share = max(q * (1 - _ROUNDING_OF_SUMS), _ROUNDING_OF_SUMS)
    # An upper bound holds up to the next point, a lower one from the point before.
    first, last = _first(bounds.highs >= share), max(_first(bounds.lows >= share), 2)
    low = points[first] if first < len(points) else points[-1]
    high = points[last - 1] if last < len(points) else points[-1]
    return Interval(float(low) - rounding, float(high) + rounding)


def _first(reached: HostArray) -> int:
    """Return the first index where it holds, the number of points where there is none."""
    return int(np.argmax(reached)) if np.any(reached) else len(reached)
