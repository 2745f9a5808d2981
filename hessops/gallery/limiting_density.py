"""Densities that the eigenvalues of large random matrices tend to, with their edges and moments."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hessops.arrays import HostArray, dtype_name
from hessops.operator import LinearOperator

__all__ = ["LimitingDensity", "MarchenkoPastur", "RandomProblem", "Semicircle"]


class LimitingDensity(ABC):
    """The distribution that the eigenvalues of a random matrix tend to as it grows."""

    @property
    @abstractmethod
    def edges(self) -> tuple[float, float]:
        """Return the ends of the interval that holds the whole mass."""

    @abstractmethod
    def pdf(self, x: ArrayLike) -> HostArray:
        """Return the density at the points `x`."""

    @abstractmethod
    def cdf(self, x: ArrayLike) -> HostArray:
        """Return the share of eigenvalues up to the points `x`."""

    @abstractmethod
    def moment(self, order: int) -> float:
        """Return the mean of the eigenvalues' powers of this order."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RandomProblem:
    """A random operator and the density that its eigenvalues tend to.

    Nothing here is exact for the one matrix at hand. What is known is the limit: sums over all
    eigenvalues, such as the moments, deviate from n times their limit by an amount that stays bounded
    as n grows, and the extreme eigenvalues from the edges by an amount of order n^(-2/3). A test
    should allow for that.

    Parameters
    ----------
    name : str
        How it was asked for.
    operator : LinearOperator
        Self-adjoint, of dimension n.
    density : LimitingDensity
        What the eigenvalues tend to.

    Examples
    --------
    >>> import hessops.gallery
    >>> hessops.gallery.wigner(200, rng=0).density.edges
    (-2.0, 2.0)
    """

    name: str
    operator: LinearOperator
    density: LimitingDensity

    def __repr__(self) -> str:
        rows, columns = self.operator.shape
        return f"RandomProblem({self.name}, {rows}x{columns}, {dtype_name(self.operator.dtype)})"


@dataclass(frozen=True)
class Semicircle(LimitingDensity):
    r"""Wigner's semicircle :math:`\frac{1}{2 \pi} \sqrt{4 - x^2}` between -2 and 2."""

    @property
    def edges(self) -> tuple[float, float]:
        """Return -2 and 2."""
        return -2.0, 2.0

    def pdf(self, x: ArrayLike) -> HostArray:
        """Return the density at the points `x`."""
        squared = np.asarray(x, dtype=np.float64) ** 2
        density: HostArray = np.sqrt(np.maximum(4 - squared, 0)) / (2 * np.pi)
        return density

    def cdf(self, x: ArrayLike) -> HostArray:
        """Return the share of eigenvalues up to the points `x`."""
        inside: HostArray = np.clip(np.asarray(x, dtype=np.float64), -2, 2)
        area = inside * np.sqrt(4 - inside**2) / 4 + np.arcsin(inside / 2)
        share: HostArray = 0.5 + area / np.pi
        return share

    def moment(self, order: int) -> float:
        """Return 0 for odd orders and the Catalan number of half the order for even ones."""
        half = _order(order) // 2
        return 0.0 if order % 2 else float(math.comb(2 * half, half) // (half + 1))


@dataclass(frozen=True)
class MarchenkoPastur(LimitingDensity):
    r"""The law of Marchenko and Pastur, of sample covariance matrices of white noise.

    Its density is :math:`\sqrt{(b - x)(x - a)} / (2 \pi \gamma x)` between
    :math:`a, b = (1 \mp \sqrt \gamma)^2`.

    Parameters
    ----------
    ratio : float
        Variables per sample, 0 < ratio <= 1 (with more, some eigenvalues would be zero).

    Raises
    ------
    ValueError
        If the ratio is out of range.

    Examples
    --------
    >>> from hessops.gallery import MarchenkoPastur
    >>> law = MarchenkoPastur(0.25)
    >>> law.edges, law.moment(2)
    ((0.25, 2.25), 1.25)
    """

    ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio} must be in (0, 1]: take at least n samples")

    @property
    def edges(self) -> tuple[float, float]:
        """Return the squares of 1 minus and plus the root of the ratio."""
        root = math.sqrt(self.ratio)
        return (1 - root) ** 2, (1 + root) ** 2

    def pdf(self, x: ArrayLike) -> HostArray:
        """Return the density at the points `x`; infinite at 0 where the ratio is 1."""
        points: HostArray = np.asarray(x, dtype=np.float64)
        low, high = self.edges
        inside = (points >= low) & (points <= high)
        safe = np.where(inside, points, high)
        root = np.sqrt(np.maximum((high - safe) * (safe - low), 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            density: HostArray = root / (2 * np.pi * self.ratio * safe)
        return np.where((points == 0) & inside, np.inf, density)

    def cdf(self, x: ArrayLike) -> HostArray:
        """Return the share of eigenvalues up to the points `x`."""
        low, high = self.edges
        clipped = np.clip(np.asarray(x, dtype=np.float64), low, high)
        # x = 1 + ratio + 2 sqrt(ratio) cos(angle) makes the integrand smooth and elementary.
        middle, reach = 1 + self.ratio, 2 * math.sqrt(self.ratio)
        angle = np.arccos(np.clip((clipped - middle) / reach, -1, 1))
        slope = (reach / 2 - self.ratio) / (reach / 2 + self.ratio)
        turned = np.arctan2(slope * np.sin(angle / 2), np.cos(angle / 2))
        beyond = middle * angle - reach * np.sin(angle) - 2 * (1 - self.ratio) * turned
        share: HostArray = 1 - beyond / (2 * np.pi * self.ratio)
        return share

    def moment(self, order: int) -> float:
        """Return the moment, a sum of Narayana numbers times powers of the ratio."""
        order = _order(order)
        if order == 0:
            return 1.0
        return math.fsum(
            math.comb(order, r) * math.comb(order - 1, r) / (r + 1) * self.ratio**r
            for r in range(order)
        )

    @property
    def mean_log(self) -> float:
        """Return the mean logarithm of the eigenvalues, so that logdet is about n times it."""
        if self.ratio == 1:
            return -1.0
        return (self.ratio - 1) / self.ratio * math.log1p(-self.ratio) - 1


def _order(order: int) -> int:
    if order < 0:
        raise ValueError(f"order={order}: a moment's order is a whole number from 0 on")
    return order
