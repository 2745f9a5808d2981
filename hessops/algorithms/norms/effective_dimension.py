"""The effective dimension tr A (A + μ I)^-1: how many eigenvalues are large beside a shift.

In kernel and ridge regression it is the number of degrees of freedom that a regularisation of μ leaves
(Hastie, Tibshirani & Friedman 2009), and for a Hessian the number of directions that data determine
(MacKay 1992).
"""

from __future__ import annotations

import math
from typing import Any, Unpack

from hessops.algorithms._common import require_options, require_real, self_adjoint_operator
from hessops.algorithms.functions.trace_function import TraceFunctionOptions, trace_function
from hessops.arrays import HostArray
from hessops.results.functions import TraceFunctionResult
from hessops.spectral_function import SpectralFunction

__all__ = ["effective_dimension"]


def effective_dimension(
    A: Any, shift: float, **options: Unpack[TraceFunctionOptions]
) -> TraceFunctionResult:
    """Estimate tr A (A + shift I)^-1 of a positive semidefinite operator.

    Costs ``num_probes * num_steps`` products; about √(‖A‖ / shift) steps bring a digit or two.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Positive semidefinite; where it is declared so, the bracket is certified.
    shift : float
        Above 0, in units of eigenvalues.
    **options : dict
        The options of `trace_function`, but for `f` and `derivative_signs`.

    Returns
    -------
    TraceFunctionResult
        Value, interval and bracket of the effective dimension.

    Raises
    ------
    NotSelfAdjointError
        If `A` is not declared self-adjoint, or its products show that it is not.
    ValueError
        If `shift` is not positive, a Ritz value is negative, or an option is out of range.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the bracket is wider than the interval, or a tolerance was not reached.

    Notes
    -----
    x / (x + shift) has even derivatives below and odd ones above 0, so that Gauss and Gauss-Radau
    rules bracket it; its singularity is at -shift, outside of the spectrum.

    References
    ----------
    MacKay (1992), Neural Computation 4(3); Hastie, Tibshirani & Friedman (2009), The Elements of
    Statistical Learning.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = np.diag([3.0, 1.0, 0.0])
    >>> round(hessops.effective_dimension(A, 1.0, num_probes=4, rng=0).value, 9)
    1.25
    """
    require_options("effective_dimension", options, TraceFunctionOptions)
    operator = self_adjoint_operator(A, "effective_dimension")
    require_real(shift=shift)
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift={shift} must be positive and finite")

    def share(x: HostArray) -> HostArray:
        return x / (x + shift)

    function = SpectralFunction(
        f"x/(x + {shift:g})", share, even=-1, odd=1, first_order=1, low=0.0, closed=True
    )
    return trace_function(operator, function, **options)
