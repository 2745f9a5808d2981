"""Errors of Lanczos quadrature, of functions of a matrix, and of the density of eigenvalues."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ive

from hessops.arrays import HostArray
from hessops.bounds._arguments import Curve, count, counts, curve, inside, reals

__all__ = [
    "exponential_chebyshev_error",
    "exponential_error",
    "matrix_function_error",
    "quadrature_error",
    "quadrature_wasserstein_error",
    "wasserstein_error",
    "wasserstein_needed",
]


def wasserstein_error(
    num_steps: ArrayLike, num_probes: ArrayLike, dim: int, failure: float
) -> Curve:
    """Bound the Wasserstein distance of stochastic Lanczos quadrature from the true density.

    Parameters
    ----------
    num_steps : int or array
        Lanczos steps k for each probe, at least 1.
    num_probes : int or array
        Probes m, at least 1; broadcast with `num_steps`.
    dim : int
        Dimension n.
    failure : float
        Probability η of a larger distance, above 0 and below 1.

    Returns
    -------
    float or numpy.ndarray
        ``12 / (2k - 1) + √(log(2n/η) / ((n + 2) m))``, in units of ``λ1 - λn``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    quadrature_wasserstein_error : A smaller first term.

    Notes
    -----
    Assumes a real symmetric A, probes uniform on the real sphere, and exact arithmetic.

    References
    ----------
    Chen, Trogdon & Ubaru (2021), whose number of steps and of probes make both terms t / 2.

    Examples
    --------
    >>> round(wasserstein_error(121, 5, 1000, 0.01), 4)
    0.0992
    """
    k, m = counts(num_steps, "num_steps"), counts(num_probes, "num_probes")
    return curve(12.0 / (2.0 * k - 1.0) + _sampling(m, dim, failure))


def wasserstein_needed(tol: float, dim: int, failure: float) -> tuple[int, int]:
    """Return steps and probes after which the density is within `tol` but for a small probability.

    Parameters
    ----------
    tol : float
        Wasserstein distance t, in units of ``λ1 - λn``, above 0 and below 1.
    dim : int
        Dimension n.
    failure : float
        Probability η of a larger distance, above 0 and below 1.

    Returns
    -------
    num_steps : int
        ``⌈12 / t + 1/2⌉``.
    num_probes : int
        ``⌈4 log(2n/η) / ((n + 2) t²)⌉``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a real symmetric A, probes uniform on the real sphere, and exact arithmetic.

    References
    ----------
    Chen, Trogdon & Ubaru (2021), abstract and main theorem.

    Examples
    --------
    >>> wasserstein_needed(0.1, 1000, 0.01)
    (121, 5)
    """
    t = float(inside(tol, "tol", 0.0, 1.0))
    probes = (2.0 * _sampling(np.asarray(1), dim, failure) / t) ** 2
    return math.ceil(12.0 / t + 0.5), math.ceil(float(probes))


def quadrature_wasserstein_error(num_steps: ArrayLike) -> Curve:
    """Bound the Wasserstein distance of one Gauss quadrature from the measure it is for.

    Parameters
    ----------
    num_steps : int or array
        Lanczos steps k, at least 1.

    Returns
    -------
    float or numpy.ndarray
        ``π / (4 k)``, in units of ``λ1 - λn``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a self-adjoint A and exact arithmetic. Two measures on [-1, 1] whose moments agree to degree
    ``2k - 1`` differ on a function of slope 1 by at most twice its distance from the polynomials of
    that degree, which is at most ``π / (4k)`` by Favard, Achieser and Krein. It holds for each probe
    and thus for their mean.

    References
    ----------
    Cheney (1966), *Introduction to Approximation Theory*, chapter 4, for the polynomials.

    Examples
    --------
    >>> quadrature_wasserstein_error([8, 64]).round(4).tolist()
    [0.0982, 0.0123]
    """
    return curve(math.pi / (4.0 * counts(num_steps, "num_steps")))


def quadrature_error(num_steps: ArrayLike, rho: ArrayLike, maximum: ArrayLike = 1.0) -> Curve:
    """Bound the error of ``bᴴ f(A) b`` by k steps of Lanczos quadrature.

    Parameters
    ----------
    num_steps : int or array
        Lanczos steps k, at least 1.
    rho : float or array
        Sum of the half axes of a Bernstein ellipse, above 1, whose foci are the ends of an interval
        that has all eigenvalues, scaled to -1 and 1; f is analytic in it.
    maximum : float or array
        Bound M of ``|f|`` in the ellipse.

    Returns
    -------
    float or numpy.ndarray
        ``4 M ρ^(-2k) / (1 - 1/ρ)``, for a start of norm 1; for another, times its square.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a self-adjoint A and exact arithmetic. Twice the distance of f from the polynomials of
    degree 2k - 1, which the quadrature integrates exactly.

    References
    ----------
    Golub & Meurant (2010); Trefethen (2013), *Approximation Theory and Approximation Practice*,
    Theorem 8.2, for the distance; Ubaru, Chen & Saad (2017).

    Examples
    --------
    >>> [quadrature_error(k, 2.0) for k in (1, 2, 10)]
    [2.0, 0.5, 7.62939453125e-06]
    """
    k = counts(num_steps, "num_steps")
    return curve(2.0 * _distance(2 * k - 1, rho, maximum))


def matrix_function_error(num_steps: ArrayLike, rho: ArrayLike, maximum: ArrayLike = 1.0) -> Curve:
    """Bound the error of ``f(A) b`` by k steps of Lanczos.

    Parameters
    ----------
    num_steps : int or array
        Lanczos steps k, at least 1.
    rho : float or array
        Sum of the half axes of a Bernstein ellipse, as for `quadrature_error`.
    maximum : float or array
        Bound M of ``|f|`` in the ellipse.

    Returns
    -------
    float or numpy.ndarray
        ``4 M ρ^(-k) / (1 - 1/ρ)``, for a start of norm 1; for another, times its norm.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a self-adjoint A and exact arithmetic. Twice the distance of f from the polynomials of
    degree k - 1: half as many as for a quadratic form.

    References
    ----------
    Saad (1992), *SIAM J. Numer. Anal.* 29; Trefethen (2013), Theorem 8.2.

    Examples
    --------
    >>> matrix_function_error(20, 2.0) == quadrature_error(10, 2.0)
    True
    """
    k = counts(num_steps, "num_steps")
    return curve(2.0 * _distance(k - 1, rho, maximum))


def exponential_error(num_steps: ArrayLike, spread: float) -> Curve:
    """Bound the error of ``exp(-A) b`` by k steps of Lanczos, in the form of Hochbruck and Lubich.

    Parameters
    ----------
    num_steps : int or array
        Lanczos steps k, at least 1.
    spread : float
        Upper bound of the eigenvalues of A, of which none is negative; above 0. For ``exp(-τA)``
        scale it by τ.

    Returns
    -------
    float or numpy.ndarray
        With ``r = spread / 4``: 2 for ``k < √(4r)``, which holds trivially; ``10 exp(-k² / (5r))`` up
        to ``k = 2r``; the smaller of ``(10 / r) exp(-r) (e r / k)^k`` and what was
        reached from there on. For a start of norm 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    exponential_chebyshev_error : Smaller, without a closed form.

    Notes
    -----
    Assumes a positive semidefinite A and exact arithmetic.

    References
    ----------
    Hochbruck & Lubich (1997), Theorem 2.

    Examples
    --------
    >>> [float(f"{error:.3g}") for error in exponential_error([5, 20, 40], 40.0)]
    [2.0, 0.00335, 8.84e-12]
    """
    k = counts(num_steps, "num_steps")
    r = float(inside(spread, "spread", 0.0)) / 4.0
    middle = 10.0 * np.exp(-(k**2) / (5.0 * r))
    late = np.exp(math.log(10.0 / r) - r + k * (1.0 + np.log(r / k)))
    # What both forms bound cannot grow with k; the second begins six times above the end of the first.
    turn = math.floor(2.0 * r)
    reached = 10.0 * math.exp(-(turn**2) / (5.0 * r)) if turn >= math.sqrt(4.0 * r) else 2.0
    late = np.minimum(late, reached)
    bound = np.where(k > 2.0 * r, late, np.where(k >= math.sqrt(4.0 * r), middle, 2.0))
    return curve(np.minimum(bound, 2.0))


def exponential_chebyshev_error(num_steps: ArrayLike, spread: float) -> Curve:
    """Bound the error of ``exp(-A) b`` by k steps of Lanczos, by the Chebyshev series itself.

    Parameters
    ----------
    num_steps : int or array
        Lanczos steps k, at least 1.
    spread : float
        Upper bound of the eigenvalues of A, of which none is negative; above 0.

    Returns
    -------
    float or numpy.ndarray
        ``4 exp(-s) Σ_{j>=k} I_j(s)``, with s half the spread and I_j the modified Bessel functions, but
        at most 2. For a start of norm 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a positive semidefinite A and exact arithmetic. Twice the sum of all coefficients from
    degree k on.

    References
    ----------
    Druskin & Knizhnerman (1989); the series is classical.

    Examples
    --------
    >>> [float(f"{error:.3g}") for error in exponential_chebyshev_error([5, 20, 40], 40.0)]
    [0.623, 4.34e-05, 1.41e-15]
    """
    k = counts(num_steps, "num_steps")
    half = float(inside(spread, "spread", 0.0)) / 2.0
    last = int(k.max(initial=1)) + 40 + 2 * math.ceil(math.sqrt(half))
    orders = np.arange(max(last, math.ceil(12.0 * math.sqrt(half)) + 40) + 1)
    tails = np.cumsum(ive(orders, half)[::-1])[::-1]
    return curve(np.minimum(4.0 * tails[k], 2.0))


def _sampling(num_probes: HostArray, dim: int, failure: float) -> HostArray:
    n, eta = count(dim, "dim"), float(inside(failure, "failure", 0.0, 1.0))
    return np.asarray(np.sqrt(math.log(2.0 * n / eta) / ((n + 2.0) * num_probes)))


def _distance(degree: HostArray, rho: ArrayLike, maximum: ArrayLike) -> HostArray:
    """Return 2 M ρ^-degree / (ρ - 1), a bound of f's distance from polynomials of that degree."""
    axes, height = inside(rho, "rho", 1.0), reals(maximum, "maximum", 0.0)
    return np.asarray(2.0 * height * axes ** (-degree.astype(np.float64)) / (axes - 1.0))
