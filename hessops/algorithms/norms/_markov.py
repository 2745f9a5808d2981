"""How much of a measure lies below a point, by Lanczos coefficients: Chebyshev-Markov-Stieltjes.

A rule of m nodes that is exact for degree 2m - 2 and has a node at x bounds the measure on both sides:

    Σ_{θ < x} w <= μ(-∞, x) <= μ(-∞, x] <= Σ_{θ <= x} w,

and no bound from the same moments is sharper (Krein & Nudelman 1977). k Lanczos steps give such a rule
for any x: with k + 1 nodes, the last diagonal entry of T chosen so that x is one (Golub 1973). In a gap
of the spectrum the weight at x, the width of the bracket, falls exponentially with k.
"""

from __future__ import annotations

import numpy as np

from hessops.algorithms.functions.gauss_brackets import Rule, gauss_rule
from hessops.arrays import HostArray
from hessops.result import Interval

__all__ = ["mass_below"]

# A node this far outside, in units of the operator's size, would cost the others their digits.
_FAR = 1e3


def mass_below(
    diagonal: HostArray,
    off_diagonal: HostArray,
    x: float,
    rounding: float,
    *,
    exhausted: bool,
    inclusive: bool = True,
) -> Interval:
    """Return bounds on the share of a measure below x.

    Parameters
    ----------
    diagonal : numpy.ndarray, shape (k,)
        Of T.
    off_diagonal : numpy.ndarray, shape (k,)
        Of T, and the norm of the residual.
    x : float
        Where.
    rounding : float
        Nodes this close to x may lie on either side of it.
    exhausted : bool
        Whether the Krylov space is invariant, so that T has the measure itself.
    inclusive : bool
        Whether what sits at x counts: told only of an exhausted Krylov space, as without one the bounds
        hold for both.

    Returns
    -------
    Interval
        Lower and upper bound.
    """
    rule = gauss_rule(diagonal, off_diagonal[:-1])
    if exhausted:
        mass = float(rule.weights[rule.nodes < x + (rounding if inclusive else -rounding)].sum())
        return Interval(mass, mass)
    if np.any(np.abs(rule.nodes - x) <= rounding):
        return _sums(rule, x, rounding, beside=0)
    # T and T without its last row have no eigenvalue in common: x is far from one of the two sets.
    for length in (len(diagonal), len(diagonal) - 1):
        extended = _with_node(diagonal[:length], off_diagonal[:length], x) if length else None
        if extended is not None:
            return _sums(extended, x, rounding, beside=0)
    return _sums(rule, x, rounding, beside=1)


def _with_node(diagonal: HostArray, off_diagonal: HostArray, x: float) -> Rule | None:
    """Return the rule with one more node at x, None if its other nodes would lie far outside."""
    scale = float(max(np.max(np.abs(diagonal)), np.max(off_diagonal), abs(x)))
    alphas, betas, point = diagonal / scale, off_diagonal / scale, x / scale
    pivot = float(alphas[0] - point)
    for alpha, beta in zip(alphas[1:], betas[:-1], strict=True):
        # A pivot of 0 is as good as one of rounding's size.
        pivot = alpha - point - beta**2 / (pivot or np.finfo(np.float64).eps)
    if abs(pivot) * _FAR <= betas[-1] ** 2:
        return None
    rule = gauss_rule(np.append(alphas, point + betas[-1] ** 2 / pivot), betas)
    nodes = scale * rule.nodes
    nodes[np.argmin(np.abs(nodes - x))] = x
    return Rule(nodes, rule.weights, rule.last)


def _sums(rule: Rule, x: float, rounding: float, beside: int) -> Interval:
    """Return the sums of weights below x and up to x, without and with some nodes beside it."""
    below = int(np.sum(rule.nodes < x - rounding))
    upto = int(np.sum(rule.nodes <= x + rounding))
    low = rule.weights[: max(below - beside, 0)].sum()
    high = rule.weights[: upto + beside].sum()
    return Interval(float(low), float(min(high, 1.0)))
