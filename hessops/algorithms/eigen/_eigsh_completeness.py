"""Whether eigenvalues were missed: Lanczos from a fresh random vector, off what was found.

What is left of the operator off the pairs found, X, is P A P with P = I - X X^H. Its outermost Ritz
values from a random start are near its outermost eigenvalues but for a probability that Kuczyński &
Woźniakowski (1992) bound, whatever the eigenvalues. So a missed copy or a missed member of a cluster
shows: as a Ritz value beyond the pairs wanted, for certain; or it lies within what that bound leaves.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from hessops.algorithms.eigen._eigsh_goal import Goal, RitzState
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
        The number of the check, from 1; all before it found something, and all of them together fail
        with a probability of at most 1 %.
    singular : bool
        Whether the values are singular values of A: the bound then is of their squares, the
        eigenvalues of A^H A, and every step takes two products.
    """

    def __init__(
        self, goal: Goal, found: HostArray, dim: int, attempt: int, *, singular: bool = False
    ) -> None:
        self.goal = goal
        self._singular = singular
        self.missed = False
        self._found = np.sort(found)
        self._steps = 0
        self._others = (-np.inf, np.inf)
        # Half for each end. A start in the complex sphere is as unlikely to be as bad.
        failure = _FAILURE / 2**attempt / 2
        left = max(2, dim - len(found))
        self._overlap = np.sqrt(betaincinv(0.5, (left - 1) / 2, failure))
        self._most = lanczos_steps_needed(left, _DOUBT, failure)

    def stop(self, state: RitzState) -> str | None:
        """Stop when nothing is in doubt; or, if something was missed, when that has converged."""
        goal, pairs = self.goal, self.goal.wanted(state)
        near = goal.allowed(state)
        self.missed = self.missed or not np.allclose(
            np.sort(state.values[pairs]), self._found, rtol=0, atol=near
        )
        if self.missed:
            return "converged" if goal.reached(state) else None
        self._steps = sum(state.lengths)
        self._others = self._others_lie_in(np.delete(state.values, pairs))
        # An exhausted Krylov space holds one copy of every eigenvalue that is left.
        goal.complete = state.exhausted or state.filled
        done = bool(goal.complete or self._clear(near) or self._steps >= self._most)
        # The values are those found before, but a copy that the check is about to find may tie.
        goal.settled = done
        return "converged" if done else None

    def sentence(self, state: RitzState) -> str:
        """Return what was checked, and what is known by that."""
        low, high = self._others
        where = {
            "LA": f" above {high:.6g}",
            "SA": f" below {low:.6g}",
            "LM": f" of modulus above {max(-low, high):.6g}",
            "BE": f" below {low:.6g} or above {high:.6g}",
        }[self.goal.which]
        if self._clear(self.goal.allowed(state)):
            where = ""
        products = (2 if self._singular else 1) * self._steps
        return (
            f"with probability {1 - _FAILURE:g} no {self.goal.value_name}{where} is missing, by a "
            f"check of {products} products with a random vector"
        )

    def _others_lie_in(self, values: HostArray) -> tuple[float, float]:
        """Return where all other eigenvalues lie but for a small probability."""
        doubt = lanczos_overlap_error(self._steps, self._overlap)
        if doubt >= 1 / 2:
            return -np.inf, np.inf
        bounded = np.square(values) if self._singular else values
        low, high = float(bounded.min()), float(bounded.max())
        # Both ends are within `doubt` of the true spread, which is that much larger.
        margin = float(doubt / (1 - 2 * doubt)) * (high - low)
        low, high = low - margin, high + margin
        return (np.sqrt(max(low, 0.0)), np.sqrt(high)) if self._singular else (low, high)

    def _clear(self, near: float) -> bool:
        low, high = self.goal.inside(self._found)
        return self._others[0] >= low - near and self._others[1] <= high + near
