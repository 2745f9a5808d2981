"""The outermost Ritz pairs of one Lanczos run, from its tridiagonal matrix alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.algorithms.lanczos import LanczosState
from hessops.arrays import HostArray

__all__ = ["EndPairs", "end_pairs"]


@dataclass(frozen=True)
class EndPairs:
    """Ritz pairs at both ends of one Krylov space of dimension `length`."""

    length: int
    values: HostArray
    residual_norms: HostArray
    vectors: HostArray


def end_pairs(state: LanczosState, num_ends: int) -> EndPairs:
    """Solve the tridiagonal problem for its outermost pairs, so that every step can afford it."""
    diagonal, off_diagonal = state.tridiagonal()
    length = len(diagonal)
    if length <= 2 * num_ends:
        values, vectors = eigh_tridiagonal(diagonal, off_diagonal)
    else:
        ends = [(0, num_ends - 1), (length - num_ends, length - 1)]
        parts = [
            eigh_tridiagonal(diagonal, off_diagonal, select="i", select_range=end) for end in ends
        ]
        values = np.concatenate([part[0] for part in parts])
        vectors = np.concatenate([part[1] for part in parts], axis=1)
    return EndPairs(length, values, state.residual_norm() * np.abs(vectors[-1]), vectors)
