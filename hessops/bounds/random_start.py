"""How far power iteration and Lanczos are from the largest eigenvalue, from a random start.

The setting is that of Kuczyński & Woźniakowski (1992): the start is uniform on the real unit sphere,
and nothing is known of the eigenvalues, which may be the worst there are. Their proofs bound the error
by the size of the start's component b along the eigenvector. They then estimate the distribution of b
by elementary functions; it is an incomplete beta function, which is evaluated here as it stands. So
these curves lie below those printed in the paper, and hold for every step from the first one on.

`docs/bounds.md` has the proofs, each a few lines long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincinv, expit, xlogy

from hessops.arrays import HostArray
from hessops.bounds._arguments import Curve, count, counts, curve, inside, reals, sech

__all__ = [
    "lanczos_error",
    "lanczos_failure",
    "lanczos_overlap_error",
    "lanczos_steps_needed",
    "power_error",
    "power_failure",
    "power_steps_needed",
]

# The integral over ε by the trapezoidal rule in log(ε / (1 - ε)), where the integrand is smooth and
# falls off exponentially on both sides.
_LOGITS = np.linspace(-34.0, 34.0, 1089)
_WIDTHS = (_LOGITS[1] - _LOGITS[0]) * expit(_LOGITS) * expit(-_LOGITS)
_MOST_STEPS = 2**52


def power_failure(num_steps: ArrayLike, dim: int, rtol: ArrayLike) -> Curve:
    """Bound the probability that power iteration misses the largest eigenvalue by more than `rtol`.

    The estimate after k products is the Rayleigh quotient θ of ``A^(k-1) b``, and a failure is
    ``λ1 - θ > rtol * λ1``. The bound is attained: some spectrum, which depends on k, reaches it.

    Parameters
    ----------
    num_steps : int or array
        Products k, at least 1.
    dim : int
        Dimension n, at least 2.
    rtol : float or array
        Relative error, above 0 and below 1; broadcast with `num_steps`.

    Returns
    -------
    float or numpy.ndarray
        Probability over starts uniform on the real unit sphere.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    power_steps_needed : The same, solved for the number of steps.

    Notes
    -----
    Assumes a positive semidefinite A. With b the component of the start along the eigenvector,
    failure needs ``b² / (1 - b²) < τ``, where τ is the maximum of ``(1 - ε - x) x^(2k-2) / ε`` over
    [0, 1 - ε]. Its probability is at most ``0.354 √n (1 - ε)^(k-1/2) / √(ε (k - 1))``, the form
    printed in the paper.

    References
    ----------
    Kuczyński & Woźniakowski (1992), the probabilistic bound for the power algorithm.

    Examples
    --------
    >>> power_failure([10, 100, 200], 1000, 0.05).round(4).tolist()
    [1.0, 0.0295, 0.0001]
    """
    k, n = counts(num_steps, "num_steps"), count(dim, "dim", 2)
    eps = inside(rtol, "rtol", 0.0, 1.0)
    return curve(_power_failure(k, n, np.log(eps), np.log1p(-eps)))


def power_error(num_steps: ArrayLike, dim: int) -> Curve:
    """Bound the mean relative error of the largest eigenvalue by power iteration.

    Parameters
    ----------
    num_steps : int or array
        Products k, at least 1.
    dim : int
        Dimension n, at least 2.

    Returns
    -------
    float or numpy.ndarray
        Bound of the mean of ``(λ1 - θ) / λ1`` over starts uniform on the real unit sphere.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a positive semidefinite A. It is the integral of `power_failure` over all errors, below
    the ``0.871 log(n) / (k - 1)`` printed in the paper. Spectra of two eigenvalues reach 0.85
    of it or more, at n = 1000 and from 5 to 100 steps.

    References
    ----------
    Kuczyński & Woźniakowski (1992), the average-case bound for the power algorithm.

    Examples
    --------
    >>> power_error([10, 50, 100], 1000).round(3).tolist()
    [0.254, 0.054, 0.027]
    """
    k, n = counts(num_steps, "num_steps"), count(dim, "dim", 2)
    return curve(_mean(_power_failure(k[..., None], n, *_log_errors())))


def power_steps_needed(dim: int, rtol: ArrayLike, failure: ArrayLike) -> Curve:
    """Return the products after which power iteration is accurate but for a small probability.

    Parameters
    ----------
    dim : int
        Dimension n, at least 2.
    rtol : float or array
        Relative error of the largest eigenvalue, above 0 and below 1.
    failure : float or array
        Probability of a larger error, above 0 and below 1; broadcast with `rtol`.

    Returns
    -------
    float or numpy.ndarray
        The smallest k with ``power_failure(k, dim, rtol) <= failure``, whole numbers.

    Raises
    ------
    ValueError
        If an argument is out of range, or more than 2**52 steps are needed.

    Notes
    -----
    Assumes a positive semidefinite A and a start uniform on the real unit sphere.

    References
    ----------
    Kuczyński & Woźniakowski (1992).

    Examples
    --------
    >>> power_steps_needed(1000, 0.05, 0.01)
    120.0
    """
    n = count(dim, "dim", 2)
    eps = inside(rtol, "rtol", 0.0, 1.0)
    allowed = inside(failure, "failure", 0.0, 1.0)
    eps, allowed = np.broadcast_arrays(eps, allowed)
    logs = np.log(eps), np.log1p(-eps)
    low, high = np.ones(eps.shape), np.full(eps.shape, float(_MOST_STEPS))
    if np.any(_power_failure(high, n, *logs) > allowed):
        raise ValueError(f"rtol {eps.min():g} needs more than 2**52 steps; ask for less accuracy")
    while np.any(low < high):
        middle = np.floor((low + high) / 2)
        enough = _power_failure(middle, n, *logs) <= allowed
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
        low = np.minimum(low, high)
    return curve(high)


def lanczos_failure(num_steps: ArrayLike, dim: int, rtol: ArrayLike) -> Curve:
    """Bound the probability that Lanczos misses the largest eigenvalue by more than `rtol`.

    The estimate θ is the largest Ritz value after k products, and a failure is
    ``λ1 - θ > rtol * (λ1 - λn)``.

    Parameters
    ----------
    num_steps : int or array
        Products k, at least 1.
    dim : int
        Dimension n, at least 2.
    rtol : float or array
        Error relative to the spread of the eigenvalues, above 0 and below 1; broadcast with
        `num_steps`.

    Returns
    -------
    float or numpy.ndarray
        Probability over starts uniform on the real unit sphere.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    lanczos_overlap_error : The error for one start, if its component is known.
    lanczos_steps_needed : The same, solved for the number of steps.

    Notes
    -----
    Assumes a self-adjoint A. Where A is positive semidefinite the spread is at most λ1, so that
    `rtol` bounds the error relative to λ1 too. The bound is the probability that the start's
    component along the eigenvector is below ``1 / cosh((2k - 1) artanh √rtol)``, at most
    ``1.6 √n exp(-(2k - 1) √rtol)``; the paper prints the factor 1.648.

    References
    ----------
    Kuczyński & Woźniakowski (1992), the probabilistic bound for the Lanczos algorithm.

    Examples
    --------
    >>> lanczos_failure([10, 20, 40], 1000, 0.05).round(6).tolist()
    [0.598661, 0.007083, 1e-06]
    """
    k, n = counts(num_steps, "num_steps"), count(dim, "dim", 2)
    eps = inside(rtol, "rtol", 0.0, 1.0)
    return curve(_lanczos_failure(k, n, np.arctanh(np.sqrt(eps))))


def lanczos_error(num_steps: ArrayLike, dim: int) -> Curve:
    """Bound the mean error of the largest Ritz value, relative to the spread of the eigenvalues.

    Parameters
    ----------
    num_steps : int or array
        Products k, at least 1.
    dim : int
        Dimension n, at least 2.

    Returns
    -------
    float or numpy.ndarray
        Bound of the mean of ``(λ1 - θ) / (λ1 - λn)`` over starts uniform on the real unit sphere.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a self-adjoint A. It is the integral of `lanczos_failure` over all errors, below the
    ``0.103 (log(n (k - 1)^4) / (k - 1))²`` printed in the paper for k >= 4.

    References
    ----------
    Kuczyński & Woźniakowski (1992), the average-case bound for the Lanczos algorithm.

    Examples
    --------
    >>> lanczos_error([10, 20, 40], 1000).round(4).tolist()
    [0.0632, 0.0156, 0.0038]
    """
    k, n = counts(num_steps, "num_steps"), count(dim, "dim", 2)
    # artanh √ε = log(1 + √ε) - log(1 - ε) / 2, exact where ε rounds to 1.
    log_eps, log_rest = _log_errors()
    angles = np.log1p(np.exp(0.5 * log_eps)) - 0.5 * log_rest
    return curve(_mean(_lanczos_failure(k[..., None], n, angles)))


def lanczos_overlap_error(num_steps: ArrayLike, overlap: ArrayLike) -> Curve:
    """Bound the error of the largest Ritz value for a start whose overlap is known.

    Parameters
    ----------
    num_steps : int or array
        Products k, at least 1.
    overlap : float or array
        Length b of the projection of the unit start on the eigenspace, above 0 and at most 1;
        broadcast with `num_steps`.

    Returns
    -------
    float or numpy.ndarray
        ``tanh²(arcosh(1 / b) / (2k - 1))``, a bound of ``(λ1 - θ) / (λ1 - λn)``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    hessops.bounds.ritz_value_error : Smaller where the gap is not small, and known.

    Notes
    -----
    Assumes a self-adjoint A and exact arithmetic, and nothing of the gap between the eigenvalues.
    It is what the proof of `lanczos_failure` shows for one start.

    References
    ----------
    After Kuczyński & Woźniakowski (1992); the proof is in docs/bounds.md.

    Examples
    --------
    >>> round(lanczos_overlap_error(20, 0.03), 4)
    0.0115
    """
    k = counts(num_steps, "num_steps")
    b = reals(overlap, "overlap", np.finfo(np.float64).tiny, 1.0)
    return curve(np.tanh(np.arccosh(1.0 / b) / (2.0 * k - 1.0)) ** 2)


def lanczos_steps_needed(dim: int, rtol: ArrayLike, failure: ArrayLike) -> Curve:
    """Return the products after which Lanczos is accurate but for a small probability.

    Parameters
    ----------
    dim : int
        Dimension n, at least 2.
    rtol : float or array
        Error relative to the spread of the eigenvalues, above 0 and below 1.
    failure : float or array
        Probability of a larger error, above 0 and below 1; broadcast with `rtol`.

    Returns
    -------
    float or numpy.ndarray
        The smallest k with ``lanczos_failure(k, dim, rtol) <= failure``, but at most `dim`, after
        which the Krylov space is exhausted. Whole numbers.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a self-adjoint A, a start uniform on the real unit sphere, and exact arithmetic.

    References
    ----------
    Kuczyński & Woźniakowski (1992).

    Examples
    --------
    >>> lanczos_steps_needed(1000, 0.05, 0.01), lanczos_steps_needed(10**9, 0.05, 0.01)
    (20.0, 35.0)
    """
    n = count(dim, "dim", 2)
    eps = inside(rtol, "rtol", 0.0, 1.0)
    allowed = inside(failure, "failure", 0.0, 1.0)
    overlap = np.sqrt(betaincinv(0.5, (n - 1) / 2, allowed))
    steps = np.ceil(0.5 * (1.0 + np.arccosh(1.0 / overlap) / np.arctanh(np.sqrt(eps))))
    return curve(np.minimum(np.maximum(steps, 1.0), n))


def _power_failure(k: HostArray, n: int, log_eps: HostArray, log_rest: HostArray) -> HostArray:
    degree = 2.0 * (k - 1.0)
    log_peak = xlogy(degree, degree / (degree + 1.0)) - np.log(degree + 1.0)
    log_ratio = (2.0 * k - 1.0) * log_rest + log_peak - log_eps
    return _component_below(expit(log_ratio), n)


def _lanczos_failure(k: HostArray, n: int, angle: HostArray) -> HostArray:
    return _component_below(sech((2.0 * k - 1.0) * angle) ** 2, n)


def _component_below(square: HostArray, n: int) -> HostArray:
    """Return the probability that a unit vector's squared component is below `square`."""
    return np.asarray(betainc(0.5, (n - 1) / 2, square))


def _log_errors() -> tuple[HostArray, HostArray]:
    """Return log ε and log(1 - ε) at the nodes of the integral."""
    return np.asarray(-np.logaddexp(0.0, -_LOGITS)), np.asarray(-np.logaddexp(0.0, _LOGITS))


def _mean(failures: HostArray) -> HostArray:
    """Integrate the probability of a larger error over all errors, which is the mean error."""
    # Errors below the first node count in full, so that nothing is left out.
    return np.asarray(failures @ _WIDTHS + expit(_LOGITS[0]))
