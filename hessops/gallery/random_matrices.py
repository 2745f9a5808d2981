"""Random matrices whose eigenvalues are known in the limit: Wigner's and sample covariances."""

from __future__ import annotations

import math
from typing import Unpack

import numpy as np

from hessops.arrays import HostArray
from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.limiting_density import MarchenkoPastur, RandomProblem, Semicircle
from hessops.operators.elementary import MatrixOperator
from hessops.random import RandomState, seed_from
from hessops.structure import SELF_ADJOINT

__all__ = ["marchenko_pastur", "wigner"]


def wigner(n: int, *, rng: RandomState = None, **options: Unpack[SpaceOptions]) -> RandomProblem:
    r"""Return a matrix of the Gaussian orthogonal ensemble, :math:`(G + G^T) / \sqrt{2 n}`.

    G has independent standard normal entries. The eigenvalues tend to the semicircle between -2 and 2
    [1]_. The matrix is stored, n^2 numbers.

    Parameters
    ----------
    n : int
        Dimension.
    rng : int, numpy.random.Generator or None
        Where the entries come from.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    RandomProblem
        With a limiting density in place of eigenvalues.

    Raises
    ------
    ValueError
        If `n` is not positive.

    References
    ----------
    .. [1] E. P. Wigner (1958). On the distribution of the roots of certain symmetric matrices. *Annals
       of Mathematics* 67, 325-327.

    Examples
    --------
    >>> import hessops.gallery
    >>> problem = hessops.gallery.wigner(300, rng=0)
    >>> round(float(problem.density.cdf(0.5)), 4)
    0.6575
    """
    require_at_least(1, n=n)
    space = array_space(n, **options)
    G = _normal(rng, n, n)
    matrix = space.from_host((G + G.T) / math.sqrt(2 * n))
    return RandomProblem(
        name=f"wigner({n})",
        operator=MatrixOperator(matrix, space, space, structure=SELF_ADJOINT),
        density=Semicircle(),
    )


def marchenko_pastur(
    n: int, ratio: float = 0.5, *, rng: RandomState = None, **options: Unpack[SpaceOptions]
) -> RandomProblem:
    r"""Return the sample covariance :math:`Z^T Z / m` of n independent normal variables.

    Z holds m = round(n / ratio) samples of n variables. The eigenvalues tend to the law of Marchenko
    and Pastur of ratio n / m [1]_. The samples are stored, n m numbers, and the product of the two is
    never formed.

    Parameters
    ----------
    n : int
        Dimension, the number of variables.
    ratio : float
        Variables per sample, 0 < ratio <= 1.
    rng : int, numpy.random.Generator or None
        Where the samples come from.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    RandomProblem
        Positive semidefinite, with a limiting density in place of eigenvalues.

    Raises
    ------
    ValueError
        If `n` is not positive or the ratio is not in (0, 1].

    References
    ----------
    .. [1] V. A. Marchenko, L. A. Pastur (1967). Distribution of eigenvalues for some sets of random
       matrices. *Mathematics of the USSR-Sbornik* 1, 457-483.

    Examples
    --------
    >>> import hessops.gallery
    >>> problem = hessops.gallery.marchenko_pastur(300, 0.5, rng=0)
    >>> problem.operator.structure.positive_semidefinite, problem.density.moment(2)
    (True, 1.5)
    """
    require_at_least(1, n=n)
    samples = round(n / MarchenkoPastur(ratio).ratio)
    variables, observations = array_space(n, **options), array_space(samples, **options)
    scaled = observations.from_host(_normal(rng, samples, n) / math.sqrt(samples))
    Z = MatrixOperator(
        scaled, variables, observations, adjoint_matrix=variables.xp.matrix_transpose(scaled)
    )
    return RandomProblem(
        name=f"marchenko_pastur({n}, {ratio:g})",
        operator=Z.H @ Z,
        density=MarchenkoPastur(n / samples),
    )


def _normal(rng: RandomState, rows: int, columns: int) -> HostArray:
    return np.random.default_rng(seed_from(rng)).standard_normal((rows, columns))
