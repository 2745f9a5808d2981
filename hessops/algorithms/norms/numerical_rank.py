"""The numerical rank: how many singular values are larger than a tolerance, by random probes.

It is all of them less the eigenvalues of A^H A up to the square of the tolerance, which are counted as
in `eigenvalue_count`. The null space, where most of a probe's measure sits on one node, is found in a
few steps if there is a gap above it.
"""

from __future__ import annotations

import math
from typing import Any

from hessops.algorithms._common import require_tolerance, warn_if_failed
from hessops.algorithms.norms._count import Range, count
from hessops.algorithms.norms._smaller_gram import smaller_gram
from hessops.random import ProbeKind, RandomState
from hessops.record import Callback
from hessops.results.norms import EigenvalueCountResult
from hessops.wrap import aslinearoperator

__all__ = ["numerical_rank"]


def numerical_rank(
    A: Any,
    tol: float,
    *,
    num_probes: int = 16,
    num_steps: int = 200,
    confidence: float = 0.95,
    probe: ProbeKind = "rademacher",
    reorthogonalize: bool = False,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> EigenvalueCountResult:
    """Estimate how many singular values of an operator are larger than a tolerance.

    Runs on A if it is declared self-adjoint, with at most ``num_probes * num_steps`` products, and
    otherwise on the smaller of A^H A and A A^H, with twice as many.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Of shape (m, n), with an adjoint.
    tol : float
        The largest singular value that counts as zero.
    num_probes : int
        Random start vectors; from two on, errors are known.
    num_steps : int
        Most Lanczos steps with each.
    confidence : float
        Nominal coverage of the statistical interval.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the probes.
    reorthogonalize : bool
        Keep and use the basis of every probe, ``num_probes * num_steps`` vectors.
    rng : int, numpy.random.Generator or None
        Where the randomness comes from.
    callback : callable, optional
        Called with every `CountState`; returning True ends the run.

    Returns
    -------
    EigenvalueCountResult
        Value, statistical interval, and bracket of the quadrature.

    Raises
    ------
    NotSelfAdjointError
        If `A` is declared self-adjoint and its products show that it is not.
    NotImplementedError
        If `A` is not self-adjoint and knows no adjoint.
    ValueError
        If an option is out of range, or `tol` is so small that it is rounding.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the bracket is wider than the scatter of the probes, and than half an eigenvalue.

    Notes
    -----
    Choose `tol` in a gap: singular values close to it cannot be told apart in few steps. Squares of
    singular values below about √(32 eps) ‖A‖ are rounding, 1e-7 ‖A‖ in double precision. For a rank of
    a few, the interval covers less often than it says, as that of `eigenvalue_count` does.

    References
    ----------
    Ubaru & Saad (2016), Fast methods for estimating the numerical rank of large matrices, ICML.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> A = np.random.default_rng(0).standard_normal((40, 7)) @ np.eye(7, 50)
    >>> result = hessops.numerical_rank(A, 1e-3, num_probes=32, rng=0)
    >>> bool(result.interval.low <= 7 <= result.interval.high)
    True
    """
    operator = aslinearoperator(A)
    require_tolerance(tol=tol)
    direct = operator.structure.self_adjoint
    result = count(
        operator if direct else smaller_gram(operator)[1],
        Range(-tol, tol) if direct else Range(-math.inf, tol * tol),
        complement=True,
        root=not direct,
        num_probes=num_probes,
        num_steps=num_steps,
        confidence=confidence,
        probe=probe,
        reorthogonalize=reorthogonalize,
        rng=rng,
        callback=callback,
    )
    warn_if_failed(result.converged, result.status, operator.domain.comm)
    return result
