"""The six spectra on which the XTrace paper compares trace estimators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Unpack, get_args

import numpy as np

from hessops.arrays import HostArray
from hessops.gallery.arguments import SpaceOptions, require_at_least
from hessops.gallery.problem import Problem
from hessops.gallery.rotation import with_eigenvalues
from hessops.random import RandomState

__all__ = ["XTraceSpectrum", "xtrace_matrix"]

XTraceSpectrum = Literal["flat", "poly", "slowexp", "fastexp", "smallstep", "bigstep"]
"""How the eigenvalues decay."""

_LARGE = 50


def xtrace_matrix(
    spectrum: XTraceSpectrum,
    n: int = 1000,
    *,
    rng: RandomState = None,
    **options: Unpack[SpaceOptions],
) -> Problem:
    r"""Return a test matrix of Epperly, Tropp & Webber's comparison of trace estimators.

    The eigenvalues stand in random directions, by `with_eigenvalues` [1]_:

    * ``"flat"``: equally spaced from 3 to 1;
    * ``"poly"``: :math:`i^{-2}` for i = 1, ..., n;
    * ``"slowexp"``, ``"fastexp"``: :math:`0.9^i` and :math:`0.7^i` for i = 0, ..., n - 1;
    * ``"smallstep"``, ``"bigstep"``: fifty ones, and :math:`10^{-3}` or :math:`10^{-8}`.

    Where n exceeds 7,000 or 2,000, the smallest of the exponential ones are zero in double
    precision, and so taken to be zero.

    Parameters
    ----------
    spectrum : {'flat', 'poly', 'slowexp', 'fastexp', 'smallstep', 'bigstep'}
        How the eigenvalues decay.
    n : int
        Dimension; the paper has 1,000.
    rng : int, numpy.random.Generator or None
        Where the directions come from.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Positive semidefinite.

    Raises
    ------
    ValueError
        If the name is unknown or `n` is not positive.

    References
    ----------
    .. [1] E. N. Epperly, J. A. Tropp, R. J. Webber (2024). XTrace: making the most of every sample in
       stochastic trace estimation. *SIAM Journal on Matrix Analysis and Applications* 45, 1-23.

    Examples
    --------
    >>> import hessops.gallery
    >>> for name in ("flat", "slowexp", "smallstep"):
    ...     problem = hessops.gallery.xtrace_matrix(name, rng=0)
    ...     print(problem, round(problem.trace, 6))
    Problem(xtrace_matrix('flat', 1000), 1000x1000, float64) 2000.0
    Problem(xtrace_matrix('slowexp', 1000), 1000x1000, float64) 10.0
    Problem(xtrace_matrix('smallstep', 1000), 1000x1000, float64) 50.95
    """
    require_at_least(1, n=n)
    if spectrum not in _SPECTRA:
        raise ValueError(
            f"spectrum={spectrum!r} is unknown; choose one of {', '.join(get_args(XTraceSpectrum))}"
        )
    problem = with_eigenvalues(_SPECTRA[spectrum](n), rng=rng, **options)
    return replace(problem, name=f"xtrace_matrix({spectrum!r}, {n})")


def _step(n: int, low: float) -> HostArray:
    return np.where(np.arange(n) < _LARGE, 1.0, low)


_SPECTRA: dict[str, Callable[[int], HostArray]] = {
    "flat": lambda n: np.linspace(3.0, 1.0, n),
    "poly": lambda n: np.arange(1.0, n + 1) ** -2,
    "slowexp": lambda n: 0.9 ** np.arange(float(n)),
    "fastexp": lambda n: 0.7 ** np.arange(float(n)),
    "smallstep": lambda n: _step(n, 1e-3),
    "bigstep": lambda n: _step(n, 1e-8),
}
