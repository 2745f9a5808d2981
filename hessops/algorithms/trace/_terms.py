"""The terms of a finite sum, for estimators that draw a fresh probe for each.

Where the terms are dealt out to ranks, each multiplies with its own, and what they find is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from typing import TypeVar

from hessops.arrays import Array, is_complex
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.together import summed_together, tried

__all__ = ["OwnTerms", "forms_of_terms", "is_stratified", "paired_strata", "strata"]

T = TypeVar("T")


def is_stratified(operator: LinearOperator, stratify: bool | None) -> bool:
    """Return `stratify`; where it is None, whether there is more than one term."""
    if stratify is not None:
        return stratify
    return len(list(islice(operator.terms(), 2))) > 1


def strata(operator: LinearOperator, stratify: bool) -> Iterable[LinearOperator]:
    """Return what gets probes of its own: every term, or the operator as a whole."""
    return operator.terms() if stratify else (operator,)


class OwnTerms:
    """What this rank makes of the terms that it multiplies with, one after the other.

    A rank that raised alone would leave the others waiting. So an error with a term that it alone holds
    is put aside, no more of these are multiplied with, and all ranks raise it when they meet: where
    they add up what they have found. Errors with terms that all ranks have come to all of them anyway.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def made(self, term: LinearOperator, action: Callable[[], T]) -> T | None:
        """Return what an action makes of the next term.

        Parameters
        ----------
        term : LinearOperator
            Every rank passes all terms, in their order.
        action : callable
            Multiplies with it; must not communicate if one rank holds the term.

        Returns
        -------
        object or None
            None of a term that another rank multiplies with, and where there was an error.
        """
        if term.held_by is None:
            return action()
        if term.held_by != term.domain.comm.rank or self.error is not None:
            return None
        value, self.error = tried(action)
        return value


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
        If the operators have different numbers of terms, or deal them out to ranks otherwise.
    """
    for terms in zip_longest(*(strata(operator, stratify) for operator in operators)):
        if any(term is None for term in terms):
            raise ValueError(
                "the operator and its control have different numbers of terms, so that no probe "
                "is for the same term of both: build them from the same data, or use "
                "stratify=False"
            )
        if len({term.held_by for term in terms}) > 1:
            raise ValueError(
                "the operator and its control have dealt their terms out to ranks otherwise, so that "
                "no probe is for the same term of both: build both with the same data and comm"
            )
        yield terms


def forms_of_terms(
    space: Space,
    holders: Sequence[int | None],
    forms: Sequence[Array | None],
    shape: tuple[int, ...],
    error: Exception | None,
) -> Array:
    """Return the quadratic forms of all terms, one below the other, the same on every rank.

    Parameters
    ----------
    space : Space
        Of the probes.
    holders : sequence of int or None
        The `held_by` of every term.
    forms : sequence of array or None
        What the probes say of every term; None of one that another rank holds.
    shape : tuple of int
        Of the forms of one term.
    error : Exception or None
        Of this rank's `OwnTerms`.

    Returns
    -------
    array, shape (len(holders), *shape)
        Of terms that every rank has, rank 0's: nothing is rounded by adding. By one reduction if ranks
        hold terms of their own, and by none if not.

    Raises
    ------
    Exception
        On all ranks, if there was an error on any.
    """
    xp, rank = space.xp, space.comm.rank
    if all(holder is None for holder in holders):
        return xp.stack(forms)  # type: ignore[no-any-return]
    # Small, and real parts are what is asked for: a rank without terms must know the type, too.
    table = xp.zeros((len(holders), *shape), dtype=xp.float64, device=space.device)
    for index, (holder, form) in enumerate(zip(holders, forms, strict=True)):
        if form is not None and rank == (holder or 0):
            table[index, ...] = xp.real(form) if is_complex(xp, form.dtype) else form
    return summed_together(space.comm, table, error)
