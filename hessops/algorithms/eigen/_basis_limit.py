"""How many basis vectors a restarted Krylov method keeps: at most, and over a restart."""

from __future__ import annotations

from collections.abc import Sequence

from hessops.arrays import numpy_dtype
from hessops.space import Space

__all__ = ["basis_limit", "kept"]

_BASIS_BYTES = 2**30
_LEAST_BASIS, _MOST_BASIS = 20, 500


def basis_limit(
    spaces: Sequence[Space], what: str, k: int, block_size: int, max_basis: int | None
) -> int:
    """Return how many basis vectors to keep, or say that they are too few.

    Parameters
    ----------
    spaces : sequence of Space
        Where the bases live: one vector of each is kept for each other. The first is the smallest.
    what : str
        What `k` counts, for the message.
    k : int
        Pairs or triplets wanted.
    block_size : int
        Vectors multiplied at once.
    max_basis : int or None
        What the user asks for.

    Returns
    -------
    int
        The same on all ranks.

    Raises
    ------
    ValueError
        If `max_basis` leaves no room for a step after a restart.
    """
    space = spaces[0]
    least = min(k + 2 * block_size, space.dim)
    if max_basis is not None:
        if max_basis < least:
            blocks = f" in blocks of {block_size}" if block_size > 1 else ""
            raise ValueError(
                f"max_basis={max_basis} is too small for k={k} {what}{blocks}; it must be at least "
                f"{least}"
            )
        return min(max_basis, space.dim)
    vector_bytes = sum(max(each.local_dim, 1) * numpy_dtype(each.dtype).itemsize for each in spaces)
    limit = min(max(_BASIS_BYTES // vector_bytes, 2 * k + _LEAST_BASIS), _MOST_BASIS + 10 * k)
    # The ranks may hold different numbers of rows.
    return space.comm.broadcast(min(max(limit, least), space.dim))


def kept(k: int, limit: int, width: int) -> int:
    """Return how many Ritz vectors to keep at a restart."""
    return max(k, min(k + (limit - k) // 2, limit - 2 * width))
