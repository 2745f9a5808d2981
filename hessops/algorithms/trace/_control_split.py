"""How a control variate's budget is split: by the variances and costs that a pilot shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hessops.arrays import HostArray
from hessops.operator import LinearOperator
from hessops.wrap import aslinearoperator

__all__ = ["Likeness", "control_operator", "left_out_slopes", "pilot_probes", "split"]

_PILOT = 8
_LEAST_PILOT = 4
_MOST_EXTRA = 1000


def control_operator(A: LinearOperator, operator: object, cost: float) -> LinearOperator:
    """Return a control as an operator, or say why it does not fit A."""
    control = aslinearoperator(operator)
    if control.shape != A.shape or not control.domain.compatible_with(A.domain):
        raise ValueError(f"the control {control} does not act on the vectors of {A}")
    if not 0 < cost < math.inf:
        raise ValueError(f"the cost of the control is {cost}; it must be positive")
    return control


def pilot_probes(budget: int, cost: float) -> int:
    """Return how many probes measure how much alike the operators are, or say that none can."""
    both = 1 + cost
    if budget < _LEAST_PILOT * both:
        raise ValueError(
            f"max_products={budget} does not pay for the {_LEAST_PILOT} probes of both operators that "
            f"show whether the control helps, {_LEAST_PILOT * both:g} products: raise it"
        )
    return int(min(_PILOT, max(_LEAST_PILOT, budget / both // 4)))


def left_out_slopes(together: HostArray, alone: HostArray) -> HostArray:
    """Return the regression coefficient of A's samples on B's by all probes but each.

    Parameters
    ----------
    together, alone : numpy.ndarray, shape (m,)
        Products of each probe's deviations of A and B from their means, and squares of B's.

    Returns
    -------
    numpy.ndarray, shape (m,)
        Zero where B's samples do not vary.
    """
    m = len(together)
    if m < 2:
        return np.zeros(m)
    # Without probe j, sums of products of deviations from the mean of the others.
    weight = m / (m - 1)
    above = np.sum(together) - weight * together
    below = np.sum(alone) - weight * alone
    slopes: HostArray = np.divide(above, below, out=np.zeros(m), where=below > 0)
    return slopes


@dataclass(frozen=True)
class Likeness:
    """What a pilot shows of two operators.

    Parameters
    ----------
    num_probes : int
        Of the pilot.
    spread, control_spread : float
        Lengths of the deviations of A's and B's samples from their means.
    correlation : float
        Between them.
    """

    num_probes: int
    spread: float
    control_spread: float
    correlation: float


def split(
    seen: Likeness, *, cost: float, known: bool, known_error: float, budget: float
) -> tuple[int, int]:
    """Return how many probes for both operators, and for B alone; (0, 0) if B is of no help.

    Parameters
    ----------
    seen : Likeness
        What the pilot showed.
    cost : float
        Of a product with B, in products with A.
    known : bool
        Whether what A's estimate is corrected by is known of B.
    known_error : float
        Its standard error, then.
    budget : float
        In products with A, with the pilot.

    Returns
    -------
    tuple of int
        Both numbers, the pilot's probes among the first.
    """
    # No correlation is seen exactly: of a pilot of m probes, a square of 1 - 1/m² at most is believed.
    square = min(seen.correlation**2, 1 - 1 / seen.num_probes**2)
    ratio = 0.0 if known else min(math.sqrt(square / ((1 - square) * cost)), _MOST_EXTRA)
    num_pairs = int(budget / (1 + cost + ratio * cost))
    num_extra = int((budget - num_pairs * (1 + cost)) / cost) if not known else 0
    if num_pairs < seen.num_probes:
        num_pairs = seen.num_probes
        num_extra = 0 if known else max(0, int((budget - num_pairs * (1 + cost)) / cost))
    of_control = 0.0 if known else square / max(num_extra, 1)
    if known and seen.control_spread > 0:
        # The uncertainty about B comes in with the slope, beside one probe's deviation of A.
        slope = seen.correlation * seen.spread / seen.control_spread
        deviation = seen.spread / math.sqrt(seen.num_probes - 1)
        if deviation > 0:
            of_control = (slope * known_error / deviation) ** 2
    if (1 - square) / num_pairs + of_control >= 1 / budget:
        return 0, 0
    return num_pairs, num_extra
