"""Haydock's continued fraction: the resolvent of a Lanczos run that is there already."""

from __future__ import annotations

import math

import numpy as np

from hessops.arrays import HostArray
from hessops.density.probe_mean import over_probes
from hessops.density.spectral_density import SpectralDensity
from hessops.result import Estimate

__all__ = ["haydock"]


def haydock(
    density: SpectralDensity, grid: HostArray, broadening: float, *, terminate: bool = False
) -> Estimate:
    """Return the density as -Im G(x + iη) / π, with G the continued fraction of a Lanczos run.

    G(z) = 1 / (z - α_1 - β_1² / (z - α_2 - β_2² / ...)) is the resolvent that the quadrature rule
    stands for, so that each node is widened to a Lorentz curve of half-width η. With a square-root
    terminator the fraction goes on for ever, as it does for a spectrum without gaps between the
    outermost nodes: then η may be small.

    Parameters
    ----------
    density : SpectralDensity
        What `spectral_density` returned.
    grid : numpy.ndarray, shape (g,)
        Where.
    broadening : float
        The half-width η, in units of eigenvalues.
    terminate : bool
        Whether to continue the fraction by the coefficients of a semicircle over the support.

    Returns
    -------
    Estimate
        Mean and standard error over probes, each (g,).

    Raises
    ------
    ValueError
        If `broadening` is not positive.

    References
    ----------
    Haydock, Heine & Kelly (1972), J. Phys. C 5; Lin, Saad & Yang (2016), SIAM Rev. 58(1).

    Examples
    --------
    >>> import numpy as np, hessops
    >>> density = hessops.spectral_density(np.diag([0.0, 0.0, 1.0, 3.0]), rng=0)
    >>> round(float(hessops.haydock(density, np.array([0.0]), 0.01).value[0]), 1)
    15.9
    """
    if not (math.isfinite(broadening) and broadening > 0):
        raise ValueError(f"broadening={broadening} must be positive")
    z = np.asarray(grid, dtype=np.float64) + 1j * broadening
    samples = np.array(
        [
            -_resolvent(
                z, nodes[weights > 0], weights[weights > 0], density.support, terminate
            ).imag
            for nodes, weights in zip(density.nodes, density.weights, strict=True)
        ]
    )
    return over_probes(samples / math.pi)


def _resolvent(
    z: HostArray,
    nodes: HostArray,
    weights: HostArray,
    support: tuple[float, float],
    terminate: bool,
) -> HostArray:
    if not terminate:
        resolvent: HostArray = np.sum(weights / (z[..., None] - nodes), axis=-1)
        return resolvent
    alphas, betas = _coefficients(nodes, weights)
    low, high = support
    center, quarter = (high + low) / 2, (high - low) / 4
    # t = β² / (z - α - t): the root that falls off as 1 / z.
    shifted = z - center
    tail = (shifted - np.sqrt(shifted - 2 * quarter) * np.sqrt(shifted + 2 * quarter)) / 2
    for alpha, beta in zip(alphas[::-1], np.insert(betas, 0, 1.0)[::-1], strict=True):
        tail = beta**2 / (z - alpha - tail)
    fraction: HostArray = tail
    return fraction


def _coefficients(nodes: HostArray, weights: HostArray) -> tuple[HostArray, HostArray]:
    """Return the tridiagonal matrix with these Ritz values and first components, by Lanczos."""
    basis = [np.sqrt(weights / weights.sum())]
    alphas, betas = [], []
    for _ in range(len(nodes)):
        image = nodes * basis[-1]
        alphas.append(float(basis[-1] @ image))
        for _ in range(2):
            for vector in basis:
                image = image - (vector @ image) * vector
        betas.append(float(np.linalg.norm(image)))
        if betas[-1] <= np.finfo(float).eps * float(np.max(np.abs(nodes))):
            break
        basis.append(image / betas[-1])
    return np.array(alphas), np.array(betas[: len(alphas) - 1])
