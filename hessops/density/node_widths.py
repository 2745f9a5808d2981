"""Nodes of a quadrature rule as normal distributions: how wide, how high, how much lies below.

A node carries the mass of a stretch that ends before its neighbours (Chebyshev, Markov, Stieltjes), and
within its residual norm lies an eigenvalue.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

from hessops.arrays import HostArray

__all__ = ["bells", "node_widths", "shares_below"]


def node_widths(
    nodes: HostArray, weights: HostArray, errors: HostArray, apart: int = 1
) -> HostArray:
    """Return residual norms, or half the distances to the nearer neighbours where these are less.

    In the midst of many eigenvalues residual norms are several times as large as the distances between
    nodes, and nodes widened by them blur what the rule has resolved. Half the distance makes of equal
    nodes at equal distances a density that is even to a per cent.

    Parameters
    ----------
    nodes, weights, errors : numpy.ndarray, shape (num_probes, num_steps)
        Rules in any order, and residual norms; nodes of weight 0 are no neighbours.
    apart : int
        Which neighbour counts: of a block of so many probes, whose nodes are so many times as many,
        and whose weights for one of them scatter as much more.

    Returns
    -------
    numpy.ndarray, shape (num_probes, num_steps)
        In units of eigenvalues; 0 for nodes of weight 0.
    """
    widths = np.zeros_like(nodes)
    for row, used in enumerate(weights > 0):
        order = np.flatnonzero(used)[np.argsort(nodes[row, used])]
        ends = np.full(apart, np.inf)
        sorted_nodes = np.concatenate([-ends, nodes[row, order], ends])
        gaps = sorted_nodes[apart:] - sorted_nodes[:-apart]
        nearer = np.minimum(gaps[:-apart], gaps[apart:])
        widths[row, order] = np.minimum(errors[row, order], nearer / 2)
    return widths


def bells(points: HostArray, nodes: HostArray, widths: HostArray) -> HostArray:
    """Return the density of each node's distribution at some points.

    Parameters
    ----------
    points : numpy.ndarray, shape (...)
        Where.
    nodes, widths : numpy.ndarray, shape (k,)
        Means and standard deviations, positive.

    Returns
    -------
    numpy.ndarray, shape (..., k)
        Each integrates to 1.
    """
    steps = (points[..., None] - nodes) / widths
    heights: HostArray = np.exp(-0.5 * steps**2) / (math.sqrt(2 * math.pi) * widths)
    return heights


def shares_below(
    points: HostArray, nodes: HostArray, widths: HostArray, rounding: float
) -> HostArray:
    """Return how much of each node's distribution lies below some points.

    Parameters
    ----------
    points : numpy.ndarray, shape (...)
        Where.
    nodes, widths : numpy.ndarray, shape (k,)
        Means and standard deviations; nodes without width are steps.
    rounding : float
        Steps that near to a point count half.

    Returns
    -------
    numpy.ndarray, shape (..., k)
        Between 0 and 1.
    """
    distance = points[..., None] - nodes
    shares: HostArray = np.where(np.abs(distance) <= rounding, 0.5, distance > 0)
    wide = widths > 0
    shares[..., wide] = ndtr(distance[..., wide] / widths[wide])
    return shares
