"""The mean over probes with its standard error."""

from __future__ import annotations

import math

import numpy as np

from hessops.arrays import HostArray
from hessops.result import Estimate

__all__ = ["estimate_of", "over_probes"]


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
    return estimate_of(value, error, count - 1)


def estimate_of(value: HostArray, error: HostArray, freedom: int) -> Estimate:
    """Return an estimate of floats for a single number and of arrays for many.

    Parameters
    ----------
    value, error : numpy.ndarray
        Of one shape.
    freedom : int
        Degrees of freedom of the error.

    Returns
    -------
    Estimate
        The same.
    """
    if value.ndim == 0:
        return Estimate(value=float(value), standard_error=float(error), freedom=freedom)
    return Estimate(value=value, standard_error=error, freedom=freedom)
