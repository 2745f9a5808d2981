"""One product held against another that should be the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["difference_of", "relative_difference"]


def difference_of(found: Tensor, expected: Tensor, precision: float) -> str | None:
    """Return by how much two products differ in words, None if in no more than half their digits.

    Parameters
    ----------
    found, expected : torch.Tensor
        Of one shape.
    precision : float
        Machine epsilon of the products.

    Returns
    -------
    str or None
        Such as "0.1 in a norm of 2".
    """
    difference, size = (
        float(torch.linalg.vector_norm(x, dtype=torch.float64))
        for x in (found - expected, expected)
    )
    if difference <= math.sqrt(precision) * size:
        return None
    return f"{difference:.3g} in a norm of {size:.3g}"


def relative_difference(found: Tensor, expected: Tensor) -> Tensor:
    """Return by how much rows differ, relative to the norms of those expected; NaN for rows of zeros.

    Parameters
    ----------
    found, expected : torch.Tensor, shape (k, n)
        One product per row.

    Returns
    -------
    torch.Tensor, shape (k,)
        In float64.
    """
    difference, size = (
        torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
        for x in (found - expected, expected)
    )
    relative: Tensor = difference / size
    return relative
