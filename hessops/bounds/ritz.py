"""How fast Ritz values, Ritz vectors and conjugate gradients converge, by Chebyshev polynomials."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hessops.arrays import HostArray
from hessops.bounds._arguments import Curve, count, counts, curve, reals, sech, spectrum

__all__ = [
    "conjugate_gradient_error",
    "krylov_angle",
    "ritz_value_error",
    "ritz_vector_error",
]


def ritz_value_error(
    eigenvalues: ArrayLike,
    num_steps: ArrayLike,
    tangent: float,
    *,
    index: int = 0,
    ritz_values: ArrayLike = (),
) -> Curve:
    """Bound the error ``λi - θi`` of a Ritz value by Kaniel, Paige and Saad.

    Parameters
    ----------
    eigenvalues : array, shape (n,)
        All eigenvalues in any order; equal ones count once. It is enough that the first `index` + 2
        and the smallest one are right.
    num_steps : int or array
        Products k, at least `index` + 1.
    tangent : float
        Tangent of the angle between the start and the eigenspace of the eigenvalue.
    index : int
        Which eigenvalue, 0 for the largest. For the smallest ones give ``-eigenvalues``.
    ritz_values : array, shape (index,) or (len(num_steps), index)
        The Ritz values above this one, at this step; each above eigenvalue number `index`.

    Returns
    -------
    float or numpy.ndarray
        Bound of ``λi - θi``, which is never negative.

    Raises
    ------
    ValueError
        If an argument is out of range, or a larger Ritz value has not yet passed this eigenvalue.

    See Also
    --------
    hessops.bounds.lanczos_overlap_error : A bound that needs no gap.

    Notes
    -----
    Assumes a self-adjoint A and exact arithmetic. With i counted from 1 and
    ``γ = (λi - λi+1) / (λi+1 - λn)``::

        λi - θi <= (λi - λn) (K tan φ / T_(k-i)(1 + 2γ))²,  K = Π_(j<i) (θj - λn) / (θj - λi)

    References
    ----------
    Kaniel (1966), Paige (1971), Saad (1980).

    Examples
    --------
    >>> errors = ritz_value_error([3.0, 2.0, 1.0, 0.0], [1, 2, 3], tangent=1.0)
    >>> [float(f"{error:.3g}") for error in errors]
    [3.0, 0.75, 0.0612]
    """
    distinct, i = _distinct(eigenvalues, index)
    k = counts(num_steps, "num_steps", i + 1)
    slope = float(reals(tangent, "tangent", 0.0))
    decay = _decay(distinct, i, k - 1 - i)
    larger = reals(ritz_values, "ritz_values", -np.inf)
    if larger.shape[-1:] != (i,) or larger.shape[:-1] not in {(), k.shape}:
        raise ValueError(
            f"ritz_values has the shape {larger.shape}; give the {i} above number {i}, "
            "for all steps or for each of num_steps"
        )
    if np.any(larger <= distinct[i]):
        raise ValueError(
            f"ritz_values holds {larger.min():g}, not above the eigenvalue {distinct[i]:g}; "
            "the bound begins at the step where it is"
        )
    factor = np.prod((larger - distinct[-1]) / (larger - distinct[i]), axis=-1)
    return curve((distinct[i] - distinct[-1]) * (factor * slope * decay) ** 2)


def krylov_angle(
    eigenvalues: ArrayLike, num_steps: ArrayLike, tangent: float, *, index: int = 0
) -> Curve:
    """Bound the tangent of the angle between an eigenvector and the Krylov space.

    Parameters
    ----------
    eigenvalues : array, shape (n,)
        All eigenvalues in any order; equal ones count once.
    num_steps : int or array
        Dimension k of the Krylov space, at least `index` + 1.
    tangent : float
        Tangent of the angle between the start and the eigenspace of the eigenvalue.
    index : int
        Which eigenvalue, 0 for the largest.

    Returns
    -------
    float or numpy.ndarray
        Bound of ``tan ∠(u, span(b, A b, ..., A^(k-1) b))``, with u the projection of the start on
        the eigenspace.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    ritz_vector_error : From this angle to that of the Ritz vector.

    Notes
    -----
    Assumes a self-adjoint A. With i counted from 1, the factor of the start's tangent is
    ``Π_(j<i) (λj - λn) / (λj - λi) / T_(k-i)(1 + 2γ)``.

    References
    ----------
    Saad (1980).

    Examples
    --------
    >>> [float(f"{t:.3g}") for t in krylov_angle([3.0, 2.0, 1.0, 0.0], [1, 2, 3], tangent=1.0)]
    [1.0, 0.5, 0.143]
    """
    distinct, i = _distinct(eigenvalues, index)
    k = counts(num_steps, "num_steps", i + 1)
    slope = float(reals(tangent, "tangent", 0.0))
    above = distinct[:i]
    factor = np.prod((above - distinct[-1]) / (above - distinct[i]))
    return curve(factor * slope * _decay(distinct, i, k - 1 - i))


def ritz_vector_error(angle: ArrayLike, coupling: ArrayLike, separation: ArrayLike) -> Curve:
    """Bound the sine of the angle between an eigenvector and its Ritz vector.

    Parameters
    ----------
    angle : float or array
        Sine of the angle between the eigenvector and the subspace.
    coupling : float or array
        ``‖P A (I - P)‖`` with P the projector on the subspace; for Lanczos the last β.
    separation : float or array
        Distance between the eigenvalue and the nearest *other* Ritz value, above 0.

    Returns
    -------
    float or numpy.ndarray
        ``angle * sqrt(1 + (coupling / separation)²)``, at most 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a self-adjoint A, for any subspace.

    References
    ----------
    Saad (1980); Parlett (1998), section 11.

    Examples
    --------
    >>> ritz_vector_error(0.01, 3.0, 4.0)
    0.0125
    """
    sine = reals(angle, "angle", 0.0, 1.0)
    ratio = reals(coupling, "coupling", 0.0) / reals(
        separation, "separation", np.finfo(np.float64).tiny
    )
    return curve(np.minimum(sine * np.hypot(1.0, ratio), 1.0))


def conjugate_gradient_error(num_steps: ArrayLike, condition_number: ArrayLike) -> Curve:
    """Bound the error of conjugate gradients in the A-norm, relative to that of the first guess.

    Parameters
    ----------
    num_steps : int or array
        Products k, at least 0.
    condition_number : float or array
        ``κ = λ1 / λn``, at least 1; broadcast with `num_steps`.

    Returns
    -------
    float or numpy.ndarray
        ``1 / T_k((κ + 1) / (κ - 1))``, at most ``2 ((√κ - 1) / (√κ + 1))^k``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a positive definite A and exact arithmetic. No bound that knows only κ is smaller: some
    spectrum in ``[1, κ]`` attains it.

    References
    ----------
    Saad (2003), *Iterative Methods for Sparse Linear Systems*, section 6.11; Greenbaum (1979) for
    sharpness.

    Examples
    --------
    >>> conjugate_gradient_error([0, 10, 50], 100.0).round(4).tolist()
    [1.0, 0.2641, 0.0001]
    """
    k = counts(num_steps, "num_steps", 0)
    kappa = reals(condition_number, "condition_number", 1.0)
    with np.errstate(divide="ignore"):
        angle = 2.0 * np.arctanh(1.0 / np.sqrt(kappa))
    return curve(_inverse_chebyshev(k, angle))


def _distinct(eigenvalues: ArrayLike, index: int) -> tuple[HostArray, int]:
    """Return the distinct eigenvalues in descending order, and the index once it is one of them."""
    distinct = np.unique(spectrum(eigenvalues, "eigenvalues"))[::-1]
    i = count(index, "index", 0)
    if i >= distinct.size - 1:
        raise ValueError(
            f"index is {i}, but below it there is none of {distinct.size} distinct eigenvalues"
        )
    return distinct, i


def _decay(distinct: HostArray, i: int, degree: HostArray) -> HostArray:
    rest = distinct[i + 1] - distinct[-1]
    with np.errstate(divide="ignore"):
        gap = np.divide(distinct[i] - distinct[i + 1], rest)
    # arcosh(1 + 2γ) without cancellation where γ is small.
    return _inverse_chebyshev(degree, np.asarray(2.0 * np.arcsinh(np.sqrt(gap))))


def _inverse_chebyshev(degree: HostArray, angle: HostArray) -> HostArray:
    """Return 1 / T_degree(cosh angle), where angle may be infinite and degree 0."""
    with np.errstate(invalid="ignore"):
        return np.where(degree == 0, 1.0, sech(degree * angle))
