"""Sums of blocks over terms, of which some every rank has, and others one rank alone."""

from __future__ import annotations

from hessops.arrays import Array
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.together import summed_together

__all__ = ["TermSums"]


class TermSums:
    """Adds up blocks of terms; what ranks hold each is added over ranks at the end.

    Parameters
    ----------
    space : Space
        Of the vectors.
    zero : array
        A block of zeros, which a rank without terms adds.
    """

    def __init__(self, space: Space, zero: Array) -> None:
        self._comm = space.comm
        self._whole: Array | None = None
        self._held = zero
        self._dealt_out = False

    def add(self, term: LinearOperator, block: Array | None) -> None:
        """Add the block of the next term; None if there is none on this rank."""
        if term.held_by is not None:
            self._dealt_out = True
            if block is not None:
                self._held = self._held + block
        elif block is not None:
            self._whole = block if self._whole is None else self._whole + block

    def total(self, error: Exception | None) -> Array:
        """Return the sum, on every rank; by one reduction if ranks hold terms of their own.

        Parameters
        ----------
        error : Exception or None
            Of this rank's `OwnTerms`.

        Returns
        -------
        array
            In the shape of the blocks.

        Raises
        ------
        Exception
            On all ranks, if there was an error on any.
        """
        if not self._dealt_out:
            assert self._whole is not None
            return self._whole
        total = summed_together(self._comm, self._held, error)
        return total if self._whole is None else self._whole + total
