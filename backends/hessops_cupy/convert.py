"""What the core asks this backend to turn into an operator."""

from __future__ import annotations

from typing import Any

from cupyx.scipy.sparse import issparse

from hessops.operator import LinearOperator
from hessops_cupy.sparse import SparseOperator

__all__ = ["convert"]


def convert(obj: Any) -> LinearOperator | None:
    """Make an operator of what `hessops.aslinearoperator` was given.

    Parameters
    ----------
    obj : object
        A sparse matrix or array of ``cupyx.scipy.sparse``, of any format.

    Returns
    -------
    LinearOperator or None
        The operator; None if `obj` is not for this backend. Dense arrays and CuPy's own
        ``LinearOperator`` the core takes as they are.
    """
    return SparseOperator(obj) if issparse(obj) else None
