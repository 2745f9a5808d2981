"""How wide a stretch of the spectrum each node of a quadrature rule stands for."""

from __future__ import annotations

import numpy as np

from hessops.arrays import HostArray

__all__ = ["node_widths"]


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
