"""Whether eigenvalues were missed: Lanczos from a fresh random vector, off what was found.

What is left of the operator off the pairs found, X, is P A P with P = I - X X^H. Its outermost Ritz
values from a random start are near its outermost eigenvalues but for a probability that Kuczyński &
Woźniakowski (1992) bound, whatever the eigenvalues. So a missed copy or a missed member of a cluster
shows: as a Ritz value beyond the pairs wanted, for certain; or it lies within what that bound leaves.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from hessops.algorithms.eigen._eigsh_goal import Goal
from hessops.algorithms.eigen.thick_restart import EigshState
from hessops.arrays import HostArray
from hessops.bounds import lanczos_overlap_error, lanczos_steps_needed

__all__ = ["CompletenessCheck"]

_FAILURE = 0.01
# At most as many steps as leave so much of the spread of the eigenvalues in doubt: 38 for a dimension
# of 10^9, about as many as well separated pairs take to converge to full precision.
_DOUBT = 0.05


class CompletenessCheck:
    """Decides, in a run from a fresh random vector, when enough was seen.

    Parameters
    ----------
    goal : Goal
        What is wanted.
    found : numpy.ndarray, shape (k,)
        The values found, which the run knows.
    dim : int
        Dimension of the space, above k.
    attempt : int
        How many checks there were before, each of which found something: all of them together fail
        with a probability of at most 1 %.
    """

    def __init__(self, goal: Goal, found: HostArray, dim: int, attempt: int) -> None:
        self.goal = goal
        self.missed = False
        self._found = np.sort(found)
        self._products = 0
        self._others = (-np.inf, np.inf)
        # Half for each end. A start in the complex sphere is as unlikely to be as bad.
        failure = _FAILURE / 2 ** (attempt + 1) / 2
        left = max(2, dim - len(found))
        self._overlap = np.sqrt(betaincinv(0.5, (left - 1) / 2, failure))
        self._most = lanczos_steps_needed(left, _DOUBT, failure)

    def stop(self, state: EigshState) -> str | None:
        """Stop when nothing is in doubt; or, if something was missed, when that has converged."""
        goal, pairs = self.goal, self.goal.wanted(state)
        near = goal.allowed(state)
        self.missed = self.missed or not np.allclose(
            np.sort(state.values[pairs]), self._found, rtol=0, atol=near
        )
        if self.missed:
            return "converged" if goal.reached(state) else None
        self._products = sum(state.lengths)
        self._others = self._others_lie_in(np.delete(state.values, pairs))
        # An exhausted Krylov space holds one copy of every eigenvalue that is left.
        goal.complete = state.exhausted or state.filled
        done = bool(goal.complete or self._clear(near) or self._products >= self._most)
        # The values are those found before, but a copy that the check is about to find may tie.
        goal.settled = done
        return "converged" if done else None

    def sentence(self, state: EigshState) -> str:
        """Return what was checked, and what is known by that."""
        low, high = self._others
        if self._clear(self.goal.allowed(state)):
            what = "no eigenvalue is missing"
        elif self.goal.which == "LA":
            what = f"no eigenvalue above {high:.6g} is missing"
        elif self.goal.which == "SA":
            what = f"no eigenvalue below {low:.6g} is missing"
        elif self.goal.which == "LM":
            what = f"no eigenvalue of modulus above {max(-low, high):.6g} is missing"
        else:
            what = f"no eigenvalue below {low:.6g} or above {high:.6g} is missing"
        return (
            f"with probability {1 - _FAILURE:g} {what}, by a check of {self._products} products "
            "with a random vector"
        )

    def _others_lie_in(self, values: HostArray) -> tuple[float, float]:
        """Return where all other eigenvalues lie but for a small probability."""
        doubt = lanczos_overlap_error(self._products, self._overlap)
        low, high = float(values.min()), float(values.max())
        if doubt >= 1 / 2:
            return -np.inf, np.inf
        # Both ends are within `doubt` of the true spread, which is that much larger.
        margin = float(doubt / (1 - 2 * doubt)) * (high - low)
        return low - margin, high + margin

    def _clear(self, near: float) -> bool:
        low, high = self.goal.inside(self._found)
        return self._others[0] >= low - near and self._others[1] <= high + near
