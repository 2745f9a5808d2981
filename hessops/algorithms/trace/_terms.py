"""The terms of a finite sum, for estimators that draw a fresh probe for each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from hessops.operator import LinearOperator

__all__ = ["is_stratified", "strata"]


def is_stratified(operator: LinearOperator, stratify: bool | None) -> bool:
    """Return `stratify`; where it is None, whether there is more than one term."""
    if stratify is not None:
        return stratify
    return len(list(islice(operator.terms(), 2))) > 1


def strata(operator: LinearOperator, stratify: bool) -> Iterable[LinearOperator]:
    """Return what gets probes of its own: every term, or the operator as a whole."""
    return operator.terms() if stratify else (operator,)
