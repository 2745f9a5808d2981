"""A run that has converged, followed by checks from random vectors until nothing is missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hessops.algorithms.eigen._eigsh_completeness import CompletenessCheck
from hessops.algorithms.eigen._eigsh_goal import Goal, RitzState
from hessops.record import History, Outcome

__all__ = ["checked"]

S = TypeVar("S", bound=RitzState)


def checked(
    outcome: Outcome[S],
    goal: Goal,
    check_again: Callable[[S, int], tuple[CompletenessCheck, Outcome[S]]],
    max_steps: int,
) -> tuple[Outcome[S], str | None]:
    """Check a run for what it missed, as often as a check finds something.

    Parameters
    ----------
    outcome : Outcome
        Of the run.
    goal : Goal
        What it was for.
    check_again : callable
        From the last state and the number of the check to a check and how its run ended.
    max_steps : int
        After as many, no further check is begun.

    Returns
    -------
    outcome : Outcome
        Of all runs as one.
    sentence : str or None
        What the last check found, if there was one that missed nothing.
    """
    attempt = 0
    while outcome.reason == "converged" and not goal.complete and outcome.state.step < max_steps:
        attempt += 1
        check, further = check_again(outcome.state, attempt)
        outcome = _joined(outcome, further)
        if not check.missed:
            return outcome, check.sentence(outcome.state)
    return outcome, None


def _joined(before: Outcome[S], after: Outcome[S]) -> Outcome[S]:
    """Return two runs as one, where the second counts its steps and products from the first."""
    later = ({**row, "seconds": row["seconds"] + before.seconds} for row in after.history)
    history = History(tuple(row.values()) for row in (*before.history, *later))
    return Outcome(after.state, after.reason, history, before.seconds + after.seconds)
