"""The terms of a finite sum, for estimators that draw a fresh probe for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest

from hessops.operator import LinearOperator

__all__ = ["is_stratified", "paired_strata", "strata"]


def is_stratified(operator: LinearOperator, stratify: bool | None) -> bool:
    """Return `stratify`; where it is None, whether there is more than one term."""
    if stratify is not None:
        return stratify
    return len(list(islice(operator.terms(), 2))) > 1


def strata(operator: LinearOperator, stratify: bool) -> Iterable[LinearOperator]:
    """Return what gets probes of its own: every term, or the operator as a whole."""
    return operator.terms() if stratify else (operator,)


def paired_strata(
    operators: Iterable[LinearOperator], stratify: bool
) -> Iterator[tuple[LinearOperator, ...]]:
    """Yield the terms of several operators that see the same probes.

    Parameters
    ----------
    operators : iterable of LinearOperator
        With as many terms each.
    stratify : bool
        Whether terms get probes of their own; if not, each operator is one.

    Yields
    ------
    tuple of LinearOperator
        One term of each.

    Raises
    ------
    ValueError
        If the operators have different numbers of terms.
    """
    for terms in zip_longest(*(strata(operator, stratify) for operator in operators)):
        if any(term is None for term in terms):
            raise ValueError(
                "the operator and its control have different numbers of terms, so that no probe "
                "is for the same term of both: build them from the same data, or use "
                "stratify=False"
            )
        yield terms
