"""The way back: operators on a GPU for CuPy's own solvers."""

from __future__ import annotations

from typing import Any

from array_api_compat import cupy as cupy_namespace

from hessops.wrap import aslinearoperator

__all__ = ["to_cupyx"]


def to_cupyx(operator: Any) -> Any:
    """Return a CuPy ``LinearOperator``, so that the solvers of cupyx run on ours unchanged.

    Parameters
    ----------
    operator : LinearOperator or anything `hessops.aslinearoperator` takes
        On CuPy arrays.

    Returns
    -------
    cupyx.scipy.sparse.linalg.LinearOperator
        Of the same shape and dtype; vectors stay on the device.

    Raises
    ------
    TypeError
        If the operator works on arrays of another library.
    ValueError
        If its vectors are split over ranks.
    """
    operator = aslinearoperator(operator)
    if operator.xp is not cupy_namespace:
        raise TypeError(
            f"{operator} works on arrays of {operator.xp.__name__.split('.')[-1]}, not of CuPy; "
            "hessops.to_scipy makes a SciPy operator of any"
        )
    if operator.domain.comm.size > 1:
        raise ValueError("CuPy's solvers cannot work on vectors that are split over ranks")
    # Its import loads cuBLAS and cuSOLVER, which only the solvers need.
    from cupyx.scipy.sparse.linalg import LinearOperator

    return LinearOperator(
        operator.shape,
        matvec=operator.apply,
        rmatvec=operator.apply_adjoint,
        matmat=operator.apply,
        rmatmat=operator.apply_adjoint,
        dtype=operator.dtype,
    )
