"""Schatten norms, and the nuclear norm among them, by stochastic Lanczos quadrature.

‖A‖_p^p = Σ σ_i^p = tr (A^H A)^(p/2), the trace of a function of a semidefinite operator. The signs of
its derivatives are known, so that the quadrature comes with a bracket; those of |x|^p change at 0. That
is why A^H A is used for self-adjoint operators, too, where they may be indefinite.
"""

from __future__ import annotations

import math
from typing import Any, TypedDict, Unpack

from hessops.algorithms._common import require_options, require_real
from hessops.algorithms.functions.trace_function import trace_function
from hessops.algorithms.norms._roots import power_rtol, root, root_error, root_interval
from hessops.algorithms.norms._smaller_gram import smaller_gram
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, RandomState
from hessops.record import Callback
from hessops.results.functions import TraceFunctionResult
from hessops.results.norms import SchattenNormResult
from hessops.spectral_function import power
from hessops.wrap import aslinearoperator

__all__ = ["SchattenOptions", "nuclear_norm", "schatten_norm"]

# Of powers that are still normal numbers, with sixteen digits more for the errors beside them.
_SMALLEST_EXPONENT = -290.0


class SchattenOptions(TypedDict, total=False):
    """The options that `schatten_norm` and `nuclear_norm` share."""

    num_probes: int | None
    num_steps: int | None
    confidence: float
    probe: ProbeKind
    block_size: int | None
    reorthogonalize: bool
    rng: RandomState
    callback: Callback | None


def schatten_norm(
    A: Any, p: float, *, rtol: float | None = None, **options: Unpack[SchattenOptions]
) -> SchattenNormResult:
    """Estimate the Schatten p-norm of any operator, rectangular or not.

    Costs ``num_probes * num_steps`` products if A is declared positive semidefinite or p is even and A
    self-adjoint, and otherwise twice as many: it then runs on the smaller of A^H A and A A^H.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Of shape (m, n), with an adjoint.
    p : float
        At least 1 and finite: 1 for the nuclear norm. For 2 `frobenius_norm` is cheaper; for infinity
        see `spectral_norm`.
    rtol : float, optional
        Distance asked for between the estimate and either end of the interval, relative to the
        estimate.
    **options : dict
        The options `num_probes`, `num_steps`, `confidence`, `probe`, `block_size`, `reorthogonalize`,
        `rng` and `callback` of `trace_function`.

    Returns
    -------
    SchattenNormResult
        Value, statistical interval, and bracket of the quadrature.

    Raises
    ------
    NotSelfAdjointError
        If `A` is declared self-adjoint and its products show that it is not.
    NotImplementedError
        If `A` is not self-adjoint and knows no adjoint.
    ValueError
        If `p` or an option is out of range, or the p-th power of the norm is.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the bracket is wider than the interval, or a tolerance was not reached.

    Notes
    -----
    Squares lose singular values below about √eps ‖A‖ in rounding; `rounding_error` says what that may
    do.

    References
    ----------
    Bai, Fahey & Golub (1996), J. Comput. Appl. Math. 74; Ubaru, Chen & Saad (2017), SIAM J. Matrix
    Anal. Appl. 38(4).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> round(hessops.schatten_norm(np.diag([3.0, -4.0]), 4, num_probes=2, rng=0).value ** 4, 6)
    337.0
    """
    require_options("schatten_norm", options, SchattenOptions)
    require_real(p=p)
    if not (math.isfinite(p) and p >= 1):
        raise ValueError(
            f"p={p} must be at least 1 and finite; for the largest singular value use spectral_norm"
        )
    operator = aslinearoperator(A)
    rtol = power_rtol(rtol, p)
    known = operator.structure
    direct = known.positive_semidefinite or (known.self_adjoint and p % 2 == 0)
    on, exponent = (operator, p) if direct else (smaller_gram(operator)[1], p / 2)
    result = trace_function(on, power(exponent), rtol=rtol, **options)
    _require_power_in_range(operator, result, exponent, p)
    return _as_norm(result, p, 1 if direct else 2)


def nuclear_norm(
    A: Any, *, rtol: float | None = None, **options: Unpack[SchattenOptions]
) -> SchattenNormResult:
    """Estimate the nuclear norm, the sum of all singular values.

    Costs twice ``num_probes * num_steps`` products. Of an operator declared positive semidefinite it is
    the trace, at a product a probe where `num_steps` is not given; see `trace` for cheaper ways.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Of shape (m, n), with an adjoint.
    rtol : float, optional
        As for `schatten_norm`.
    **options : dict
        As for `schatten_norm`.

    Returns
    -------
    SchattenNormResult
        Value, statistical interval, and bracket of the quadrature.

    Raises
    ------
    NotImplementedError
        If `A` is not self-adjoint and knows no adjoint.
    ValueError
        If an option is out of range.

    Warns
    -----
    ConvergenceWarning
        If the bracket is wider than the interval, or a tolerance was not reached.

    See Also
    --------
    schatten_norm : The same for other exponents, with all that may go wrong.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> round(hessops.nuclear_norm(np.diag([3.0, -4.0]), num_probes=2, rng=0).value, 6)
    7.0
    """
    require_options("nuclear_norm", options, SchattenOptions)
    operator = aslinearoperator(A)
    if operator.structure.positive_semidefinite and options.get("num_steps") is None:
        # One step integrates x exactly.
        options["num_steps"] = 1
    return schatten_norm(operator, 1, rtol=rtol, **options)


def _require_power_in_range(
    A: LinearOperator, result: TraceFunctionResult, exponent: float, p: float
) -> None:
    """Raise if powers of the largest eigenvalue underflow, which would pass for a norm of 0."""
    size = max(abs(result.bounds.low), abs(result.bounds.high))
    if size == 0 or exponent * math.log10(size) >= _SMALLEST_EXPONENT:
        return
    norm = exponent / p * math.log10(size)
    raise ValueError(
        f"the norm of {A} is about 1e{norm:.0f}, and the power {p:g} of that leaves the range of "
        f"double precision; work with 1e{-norm:.0f} * A, and divide what comes out by 1e{-norm:.0f}"
    )


def _as_norm(result: TraceFunctionResult, p: float, products: int) -> SchattenNormResult:
    """Return the p-th root of a trace with all that comes with it."""
    return SchattenNormResult(
        value=root(result.value, p),
        standard_error=root_error(result.value, result.standard_error, p),
        interval=root_interval(result.interval, p),
        confidence=result.confidence,
        p=float(p),
        num_probes=result.num_probes,
        probe=result.probe,
        bracket=root_interval(result.bracket, p),
        bracket_kind=result.bracket_kind,
        rounding_error=root_error(result.value, result.rounding_error, p),
        num_steps=result.num_steps,
        num_products=products * result.num_products,
        status=result.status,
        converged=result.converged,
        history=result.history,
        seed=result.seed,
        seconds=result.seconds,
    )
