"""Variances, tails and numbers of probes of random estimates of a trace."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike

from hessops.arrays import HostArray
from hessops.bounds._arguments import Curve, count, counts, curve, inside, reals
from hessops.random import ProbeKind

__all__ = [
    "hutchinson_failure",
    "hutchinson_probes_needed",
    "hutchinson_variance",
    "hutchpp_variance",
]

_PROBES_PER_SQUARE = {"rademacher": 6.0, "normal": 8.0}


def hutchinson_variance(
    probe: ProbeKind,
    *,
    frobenius: ArrayLike,
    diagonal: ArrayLike = 0.0,
    trace: ArrayLike = 0.0,
    dim: int | None = None,
) -> Curve:
    """Return the exact variance of one probe ``zᴴ A z``.

    Parameters
    ----------
    probe : {"rademacher", "steinhaus", "normal", "sphere"}
        Distribution of z. All are real but "steinhaus", whose entries are uniform on the complex
        unit circle.
    frobenius : float or array
        ``‖A‖_F``.
    diagonal : float or array
        ``(Σ a_ii²)^(1/2)``, used by "rademacher" and "steinhaus".
    trace : float or array
        ``tr A``, used by "sphere".
    dim : int, optional
        Dimension n, needed by "sphere".

    Returns
    -------
    float or numpy.ndarray
        For normal ``2 ‖A‖_F²``; rademacher ``2 (‖A‖_F² - Σ a_ii²)``; steinhaus ``‖A‖_F² - Σ a_ii²``;
        sphere ``2n/(n+2) (‖A‖_F² - tr(A)²/n)``. The mean of m probes has this over m.

    Raises
    ------
    ValueError
        If an argument is out of range, or the diagonal or the trace is too large for ``‖A‖_F``.

    Notes
    -----
    Assumes a real symmetric A; for a real probe of another real A give its symmetric part, which has
    the same quadratic form.

    References
    ----------
    Girard (1989); Hutchinson (1990); for the sphere, Epperly, Tropp & Webber (2024). Each is a sum of
    fourth moments.

    Examples
    --------
    >>> hutchinson_variance("normal", frobenius=5.0)
    50.0
    >>> hutchinson_variance("rademacher", frobenius=5.0, diagonal=4.0)
    18.0
    """
    _known(probe, get_args(ProbeKind))
    square = reals(frobenius, "frobenius", 0.0) ** 2
    if probe == "normal":
        return curve(2.0 * square)
    if probe == "sphere":
        if dim is None:
            raise ValueError("dim is None; the variance of probes on the sphere depends on it")
        n = count(dim, "dim")
        rest = square - reals(trace, "trace", -np.inf) ** 2 / n
        return curve(2.0 * n / (n + 2.0) * _not_negative(rest, square, "trace"))
    rest = _not_negative(square - reals(diagonal, "diagonal", 0.0) ** 2, square, "diagonal")
    return curve((2.0 if probe == "rademacher" else 1.0) * rest)


def hutchinson_failure(
    num_probes: ArrayLike, atol: ArrayLike, *, frobenius: float, spectral: float
) -> Curve:
    """Bound the probability that the mean of normal probes misses the trace by `atol` or more.

    Parameters
    ----------
    num_probes : int or array
        Probes m, at least 1.
    atol : float or array
        Absolute error ε, above 0; broadcast with `num_probes`.
    frobenius : float
        ``‖A‖_F``.
    spectral : float
        ``‖A‖``, at most ``‖A‖_F``.

    Returns
    -------
    float or numpy.ndarray
        ``2 exp(-m ε² / (4 ‖A‖_F² + 4 ε ‖A‖))``, but at most 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a real symmetric A, which may be indefinite, and real standard normal probes.

    References
    ----------
    Cortinovis & Kressner (2022), Theorem 1, as later authors quote it.

    Examples
    --------
    >>> hutchinson_failure([10, 20], 10.0, frobenius=10.0, spectral=1.0).round(4).tolist()
    [0.2061, 0.0212]
    """
    m, eps = counts(num_probes, "num_probes"), inside(atol, "atol", 0.0)
    frob = float(inside(frobenius, "frobenius", 0.0))
    norm = float(reals(spectral, "spectral", 0.0, frob))
    return curve(np.minimum(2.0 * np.exp(-m * eps**2 / (4.0 * frob**2 + 4.0 * eps * norm)), 1.0))


def hutchinson_probes_needed(
    rtol: ArrayLike, failure: ArrayLike, *, probe: ProbeKind = "rademacher"
) -> Curve:
    """Return a number of probes that is enough for any positive semidefinite matrix.

    Parameters
    ----------
    rtol : float or array
        Relative error ε of the trace, above 0 and at most 0.5.
    failure : float or array
        Probability δ of a larger error, above 0 and below 1; broadcast with `rtol`.
    probe : {"rademacher", "normal"}
        Distribution of the probes.

    Returns
    -------
    float or numpy.ndarray
        ``6 ε⁻² log(2 / δ)`` for "rademacher", ``8 ε⁻² log(2 / δ)`` for "normal", rounded up.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Assumes a real positive semidefinite A and nothing else, so that for most matrices far fewer do:
    the worst is of rank one. For ε up to 1/2 the proof is short, see docs/bounds.md.

    References
    ----------
    Roosta-Khorasani & Ascher (2015), Theorems 1 and 3.

    Examples
    --------
    >>> hutchinson_probes_needed(0.1, 0.05), hutchinson_probes_needed(0.1, 0.05, probe="normal")
    (2214.0, 2952.0)
    """
    _known(probe, tuple(_PROBES_PER_SQUARE))
    eps = reals(rtol, "rtol", np.finfo(np.float64).tiny, 0.5)
    allowed = inside(failure, "failure", 0.0, 1.0)
    return curve(np.ceil(_PROBES_PER_SQUARE[probe] / eps**2 * np.log(2.0 / allowed)))


def hutchpp_variance(sketch_size: ArrayLike, num_probes: ArrayLike, *, trace: float = 1.0) -> Curve:
    """Bound the variance of Hutch++ for any positive semidefinite matrix.

    Parameters
    ----------
    sketch_size : int or array
        Columns s of the Gaussian sketch, at least 3; it takes 2s products.
    num_probes : int or array
        Normal probes t of the rest, independent of the sketch; broadcast with `sketch_size`.
    trace : float
        ``tr A``.

    Returns
    -------
    float or numpy.ndarray
        ``tr(A)² / (t k)`` with ``k = ⌊(s - 1) / 2⌋``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    hessops.bounds.range_finder_frobenius_error : The error of the sketch itself, for a known spectrum;
        2 / t times it bounds the variance too.

    Notes
    -----
    Assumes a real positive semidefinite A, a real standard normal sketch and normal probes. With m
    products split as ``s = (m + 2) / 4`` and ``t = (m - 2) / 2`` it is ``16 tr(A)² / (m - 2)²``.

    References
    ----------
    Meyer, Musco, Musco & Woodruff (2021) for the method; the constant follows from Halko, Martinsson &
    Tropp (2011), Theorem 10.5, see docs/bounds.md.

    Examples
    --------
    >>> m = 50
    >>> hutchpp_variance((m + 2) // 4, (m - 2) // 2) == 16 / (m - 2) ** 2
    True
    """
    s, t = counts(sketch_size, "sketch_size", 3), counts(num_probes, "num_probes")
    total = float(reals(trace, "trace", 0.0))
    return curve(total**2 / (t * ((s - 1) // 2)))


def _known(probe: str, kinds: tuple[str, ...]) -> None:
    if probe not in kinds:
        raise ValueError(f"probe is {probe!r}; this is known for {', '.join(map(repr, kinds))}")


def _not_negative(rest: HostArray, square: HostArray, name: str) -> HostArray:
    """Return what is left of ‖A‖_F², without the rounding of a difference that should be zero."""
    if np.any(rest < -1e-12 * square):
        raise ValueError(
            f"{name} is larger than any matrix with this frobenius norm has; "
            f"‖A‖_F is {math.sqrt(float(np.min(square))):g}"
        )
    return np.asarray(np.maximum(rest, 0.0))
