"""How far two spectral densities are from each other."""

from __future__ import annotations

import math

import numpy as np

from hessops.arrays import HostArray
from hessops.density.spectral_density import SpectralDensity
from hessops.result import Estimate

__all__ = ["wasserstein"]


def wasserstein(first: SpectralDensity, second: SpectralDensity | HostArray) -> Estimate:
    """Return the Wasserstein (earth mover's) distance between two densities of eigenvalues.

    The area between the two distribution functions: by how much eigenvalues have to be moved, in the
    mean, to make one spectrum of the other.

    Parameters
    ----------
    first : SpectralDensity
        What `spectral_density` returned.
    second : SpectralDensity or array_like, shape (n,)
        Another, or eigenvalues that are known.

    Returns
    -------
    Estimate
        The distance, in units of eigenvalues, and its jackknife standard error over the probes of
        both. Noise of the probes makes distances larger in the mean; two densities of one operator are
        about their standard error apart. The probes have to be independent: use two seeds.

    Raises
    ------
    ValueError
        If the eigenvalues given are not finite, or none.

    References
    ----------
    Efron & Stein (1981), Ann. Stat. 9(3), for the error.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> eigenvalues = np.linspace(0, 1, 100)
    >>> density = hessops.spectral_density(np.diag(eigenvalues), num_steps=60, rng=0)
    >>> float(hessops.wasserstein(density, eigenvalues)) < 0.05
    True
    """
    one = _Atoms.of(first)
    other = _Atoms.of(second)
    squares, freedom = 0.0, 0
    for mine, theirs in ((one, other), (other, one)):
        if len(mine.nodes) < 2:
            continue
        deleted = np.array([_distance(mine.without(i), theirs) for i in range(len(mine.nodes))])
        count = len(deleted)
        squares += (count - 1) / count * float(np.sum((deleted - deleted.mean()) ** 2))
        freedom += count - 1
    error = math.sqrt(squares) if freedom else math.nan
    return Estimate(value=_distance(one, other), standard_error=error, freedom=freedom)


class _Atoms:
    """Point masses, one row per probe."""

    def __init__(self, nodes: HostArray, weights: HostArray) -> None:
        self.nodes, self.weights = nodes, weights

    @classmethod
    def of(cls, density: SpectralDensity | HostArray) -> _Atoms:
        if isinstance(density, SpectralDensity):
            return cls(density.nodes, density.weights)
        eigenvalues = np.asarray(density, dtype=np.float64)
        if eigenvalues.ndim != 1 or not len(eigenvalues) or not np.all(np.isfinite(eigenvalues)):
            raise ValueError(
                f"expected finite eigenvalues of shape (n,), got shape {eigenvalues.shape}"
            )
        return cls(eigenvalues[None], np.full((1, len(eigenvalues)), 1 / len(eigenvalues)))

    def without(self, probe: int) -> _Atoms:
        return _Atoms(np.delete(self.nodes, probe, axis=0), np.delete(self.weights, probe, axis=0))


def _distance(one: _Atoms, other: _Atoms) -> float:
    places = np.concatenate([one.nodes.ravel(), other.nodes.ravel()])
    masses = np.concatenate(
        [one.weights.ravel() / len(one.nodes), -other.weights.ravel() / len(other.nodes)]
    )
    order = np.argsort(places, kind="stable")
    steps = np.cumsum(masses[order])[:-1]
    return float(np.sum(np.abs(steps) * np.diff(places[order])))
