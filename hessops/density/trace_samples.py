"""Estimates of a trace of a function by every probe, the settled eigenvalues taken as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hessops.arrays import HostArray
from hessops.density.compression import Compression
from hessops.density.deflation import Deflation

__all__ = ["trace_samples"]


def trace_samples(
    f: Callable[[HostArray], HostArray], compressions: Sequence[Compression], deflation: Deflation
) -> HostArray:
    """Return the estimates of tr f(A) by all probes.

    Parameters
    ----------
    f : callable
        Of arrays of eigenvalues.
    compressions : sequence of Compression
        Of the probes.
    deflation : Deflation
        The eigenvalues that are settled.

    Returns
    -------
    numpy.ndarray, shape (N,)
        One for each probe, in the order of the compressions.
    """
    return np.concatenate([
        deflation.forms(c, f(c.nodes) @ c.weights, f(np.append(c.nodes, deflation.nodes)))
        for c in compressions
    ])  # fmt: skip
