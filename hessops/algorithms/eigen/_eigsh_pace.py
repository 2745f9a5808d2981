"""How many steps may pass before the Ritz pairs are worth another look."""

from __future__ import annotations

import math

from hessops.algorithms.eigen._eigsh_goal import Goal
from hessops.algorithms.eigen.eigsh_state import EigshState

__all__ = ["Pace"]

# Of the steps that the last two looks foretell, so many pass before the next; and at most so many of
# those made, as convergence may set in at any time.
_SHARE_OF_FORETOLD, _SHARE_OF_MADE = 1 / 2, 1 / 16


class Pace:
    """Foretells convergence from the residual norms at the last two looks.

    A look takes the eigenpairs of the small matrix, which for cheap products costs more than a step.

    Parameters
    ----------
    goal : Goal
        What is wanted.
    max_steps : int
        The step that is looked at whatever comes.
    """

    def __init__(self, goal: Goal, max_steps: int) -> None:
        self._goal, self._max_steps = goal, max_steps
        self._before: tuple[int, float] | None = None

    def __call__(self, state: EigshState) -> int:
        """Return the number of steps to the next look, at least 1."""
        left = max(1, self._max_steps - state.step)
        width = max(1, state.num_products // state.step)
        missing = self._goal.k - len(state.values)
        if missing > 0:
            return min(left, -(-missing // width))
        error, allowed = self._goal.row(state)[1], self._goal.allowed(state)
        excess = math.log(max(error, 1e-300) / allowed) if allowed > 0 else 0.0
        before, self._before = self._before, (state.step, excess)
        most = max(1, int(state.step * _SHARE_OF_MADE))
        if before is not None and before[1] > excess > 0:
            rate = (before[1] - excess) / (state.step - before[0])
            most = min(most, int(_SHARE_OF_FORETOLD * excess / rate))
        return max(1, min(most, left))
