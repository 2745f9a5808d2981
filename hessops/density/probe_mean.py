"""The mean over probes with its standard error."""

from __future__ import annotations

import math

import numpy as np

from hessops.arrays import HostArray
from hessops.result import Estimate

__all__ = ["over_probes"]


def over_probes(samples: HostArray) -> Estimate:
    """Return the mean over probes, and the standard error from their spread.

    Parameters
    ----------
    samples : numpy.ndarray, shape (num_probes, ...)
        One number, or one array, per probe.

    Returns
    -------
    Estimate
        Floats for single numbers, arrays for many; the error is NaN for a single probe.
    """
    count = len(samples)
    value = samples.mean(axis=0)
    error = np.full_like(value, math.nan)
    if count > 1:
        error = samples.std(axis=0, ddof=1) / math.sqrt(count)
    if value.ndim == 0:
        return Estimate(value=float(value), standard_error=float(error), freedom=count - 1)
    return Estimate(value=value, standard_error=error, freedom=count - 1)
