"""A spectral density as quadrature rules, one per probe, and what can be read off them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hessops.arrays import HostArray
from hessops.counted import counted
from hessops.density.cdf_bounds import Rules
from hessops.density.node_widths import bells, node_widths, shares_below
from hessops.density.plot import plot_density
from hessops.density.points import real_points, shares_of
from hessops.density.probe_mean import estimate_of, over_probes
from hessops.density.share_in_words import share_in_words
from hessops.result import Estimate, Interval, Result
from hessops.statistics import t_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SpectralDensity"]

_GRID_POINTS = 1024
_DRAWN_POINTS = 4096
# A share of eigenvalues that is worth a word.
_NOTABLE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralDensity(Result):
    """The density of eigenvalues, (1/n) Σ δ(x - λ_i), as one quadrature rule per probe.

    Everything read off it is a mean over probes with a standard error from their spread, NaN for a
    single probe. That error is statistical, but for `quantile`; how finely `nodes` resolve the spectrum
    is a question of the number of steps, and `node_errors` speak of it.

    Parameters
    ----------
    nodes : numpy.ndarray, shape (num_probes, num_steps)
        Ritz values, float64. A run that ends early is filled up with nodes of weight 0.
    weights : numpy.ndarray, shape (num_probes, num_steps)
        At least 0; each row sums to 1.
    node_errors : numpy.ndarray, shape (num_probes, num_steps)
        Residual norms: within that distance of each node lies an eigenvalue.
    rounding : float
        Nodes closer than this to each other, or to zero, cannot be told apart from it in the
        operator's precision.
    dim : int
        The number n of eigenvalues.
    """

    nodes: HostArray = field(repr=False)
    weights: HostArray = field(repr=False)
    node_errors: HostArray = field(repr=False)
    rounding: float
    dim: int

    @property
    def support(self) -> tuple[float, float]:
        """Return the smallest and largest node of positive weight: within the true range."""
        used = self.nodes[self.weights > 0]
        return float(used.min()), float(used.max())

    def grid(self, num_points: int = _GRID_POINTS) -> HostArray:
        """Return points that cover the support and a tenth beyond.

        Parameters
        ----------
        num_points : int
            How many.

        Returns
        -------
        numpy.ndarray, shape (num_points,)
            Equally spaced.
        """
        low, high = self.support
        margin = 0.1 * (high - low) or 0.1 * abs(low) or 1.0
        return np.linspace(low - margin, high + margin, num_points)

    def density(self, grid: HostArray | None = None, width: float | None = None) -> Estimate:
        """Return the density, each node widened to a normal distribution.

        Parameters
        ----------
        grid : float or numpy.ndarray, shape (g,), optional
            Where; `grid()` where not given. It is not renormalised: mass between or beyond the
            points is not moved.
        width : float, optional
            Standard deviation, in units of eigenvalues. Where not given, that of `node_widths`, so that
            converged eigenvalues stay sharp and the rest is smooth, but at least 1/400 of the support.

        Returns
        -------
        Estimate
            Mean and standard error over probes, each (g,); the density integrates to 1.

        Raises
        ------
        ValueError
            If `width` is not positive, or NaN is in the grid.
        """
        points = self.grid() if grid is None else real_points("grid", grid)
        widths = self._widths(width)

        return self._over_probes(
            lambda index: bells(points, self.nodes[index], widths[index]) @ self.weights[index]
        )

    @property
    def node_widths(self) -> HostArray:
        """Return each node's residual norm or, if less, half the way to its nearer neighbour."""
        return node_widths(self.nodes, self.weights, self.node_errors)

    def cdf(self, x: float | HostArray, width: float | None = 0.0) -> Estimate:
        """Return the share of eigenvalues up to `x`.

        Parameters
        ----------
        x : float or numpy.ndarray
            Where. A node at `x` itself counts half, as eigenvalues on both sides of it stand
            behind it.
        width : float or None
            Standard deviation to widen nodes by; 0 leaves steps. None takes `node_widths`: nearer to
            the truth for a smooth density, farther where most eigenvalues crowd between nodes.

        Returns
        -------
        Estimate
            Mean and standard error over probes, of the shape of `x`.

        Raises
        ------
        ValueError
            If `width` is negative or not finite, or an entry of `x` is NaN.
        TypeError
            If an entry of `x` is no real number.
        """
        if width is not None and not (math.isfinite(width) and width >= 0):
            raise ValueError(f"width={width} must not be negative")
        points = real_points("x", x)
        widths = self.node_widths if width is None else np.full_like(self.nodes, width)

        def of_probe(index: int) -> HostArray:
            shares = shares_below(points, self.nodes[index], widths[index], self.rounding)
            return np.asarray(shares @ self.weights[index])

        return self._over_probes(of_probe)

    def quantile(self, q: float | HostArray) -> Estimate:
        """Return the eigenvalue below which a share `q` of all lie.

        Parameters
        ----------
        q : float or numpy.ndarray
            Between 0 and 1.

        Returns
        -------
        Estimate
            The quantile of the mean over probes, of the shape of `q`. Its standard error is such that
            Student's 95 % interval about it holds `quantile_interval`: the scatter of the probes and
            what the nodes do not resolve are both in it, and where they leave an end open it is
            infinite. NaN for a single probe.

        Raises
        ------
        ValueError
            If an entry of `q` is not between 0 and 1.
        """
        shares = shares_of(q)
        values = self._rules.quantiles(shares)
        freedom, error = len(self.nodes) - 1, np.full_like(values, math.nan)
        if freedom > 0:
            errors = float(t_quantile(0.95, freedom))
            ends = self._rules.quantile_bounds(shares, errors)
            between = np.reshape(ends, (*shares.shape, 2))
            half = np.maximum(between[..., 1] - values, values - between[..., 0])
            error = half / errors
        return estimate_of(values, error, freedom)

    def quantile_interval(self, q: float, confidence: float = 0.95) -> Interval:
        """Return where the quantile lies, by the scatter of the probes and by what nodes resolve.

        Student's intervals for the shares of eigenvalues below every node, which begin and end at the
        bounds of `cdf_bracket`: the quantile is where they hold `q`.

        Parameters
        ----------
        q : float
            Between 0 and 1.
        confidence : float
            Nominal coverage.

        Returns
        -------
        Interval
            Infinite on a side where more steps or more probes are needed.

        Raises
        ------
        ValueError
            If `q` or `confidence` is out of range.
        """
        errors, share = float(t_quantile(confidence, len(self.nodes) - 1)), shares_of(q)
        if not math.isfinite(errors):
            return Interval(-math.inf, math.inf)
        return self._rules.quantile_bounds(share, errors)[0]

    def cdf_bracket(self, x: float) -> Interval:
        """Return bounds on what finer quadrature of the same probes could make of ``cdf(x)``.

        A Gauss rule puts the weight of a whole stretch of the spectrum on one node; the measure that
        it stands for lies between the sums without and with the nodes next to `x` (Chebyshev,
        Markov, Stieltjes). Nodes within `rounding` of `x` count as on either side of it, so that in
        a cluster at `x` the bracket is as wide as the cluster is heavy. More steps narrow the rest;
        it holds no statistical error.

        Parameters
        ----------
        x : float
            Where.

        Returns
        -------
        Interval
            Mean over probes of the lower and of the upper bound.
        """
        low, high = self._rules.mean_bounds(np.atleast_1d(float(real_points("x", x))))
        return Interval(float(low[0]), float(high[0]))

    def cdf_interval(self, x: float, confidence: float = 0.95) -> Interval:
        """Return where ``cdf(x)`` lies, by the scatter of the probes and by what nodes resolve.

        Parameters
        ----------
        x : float
            Where.
        confidence : float
            Nominal coverage.

        Returns
        -------
        Interval
            Within 0 and 1: Student's interval, beyond both ends of `cdf_bracket`.

        Raises
        ------
        ValueError
            If `x` is NaN, or `confidence` is out of range.
        """
        errors, point = t_quantile(confidence, len(self.nodes) - 1), float(real_points("x", x))
        if not math.isfinite(errors):
            return Interval(0.0, 1.0)
        low, high = self._rules.mean_bounds(np.atleast_1d(point), float(errors))
        return Interval(max(float(low[0]), 0.0), min(float(high[0]), 1.0))

    def quantile_bracket(self, q: float) -> Interval:
        """Return bounds on what finer quadrature of the same probes could make of ``quantile(q)``.

        Parameters
        ----------
        q : float
            Between 0 and 1.

        Returns
        -------
        Interval
            Where `cdf_bracket` reaches `q`, infinite where it does not.
        """
        return self._rules.quantile_bounds(shares_of(q))[0]

    def moment(self, p: int) -> Estimate:
        """Return the mean p-th power of the eigenvalues, tr(A^p) / n.

        Parameters
        ----------
        p : int
            At least 0. Exact for each probe up to p = 2 num_steps - 1.

        Returns
        -------
        Estimate
            Mean and standard error over probes, skewed where few eigenvalues make nearly all of it: for
            eigenvalues 1/i², 20 probes and p = 2, 95 % intervals held in 89 ± 1.4 % of 500 runs.

        Raises
        ------
        ValueError
            If `p` is negative.
        TypeError
            If it is no integer.
        """
        if isinstance(p, bool) or not isinstance(p, int | np.integer):
            raise TypeError(f"p={p!r} must be an integer; mean_of takes any function")
        if p < 0:
            raise ValueError(f"p={p} must not be negative")
        return self.mean_of(lambda x: x ** int(p))

    def mean_of(self, function: Callable[[HostArray], HostArray]) -> Estimate:
        """Return the mean of a function over the eigenvalues, tr f(A) / n.

        Parameters
        ----------
        function : callable
            From an array of nodes to an array of the same shape.

        Returns
        -------
        Estimate
            Mean and standard error over probes.
        """
        return self._over_probes(
            lambda index: np.asarray(function(self.nodes[index]) @ self.weights[index])
        )

    def mass_below(self, x: float = 0.0) -> Estimate:
        """Return the share of eigenvalues below `x`; of negative ones where `x` is not given.

        A cluster of eigenvalues is one node, so where one lies at `x` within its residual norm, on
        which side of `x` it counts is chance, and no standard error shows that: `cdf_bracket` does.
        For the Hessian of a network, whose eigenvalues crowd about zero, ask for a threshold away
        from the crowd, such as -1e-4 times the largest.

        Parameters
        ----------
        x : float
            Where. A node at `x` to rounding is not below it.

        Returns
        -------
        Estimate
            Mean and standard error over probes.

        Raises
        ------
        ValueError
            If `x` is NaN.
        TypeError
            If it is no real number.
        """
        point = float(real_points("x", x))
        return self.mean_of(lambda nodes: (nodes < point - self.rounding).astype(np.float64))

    def plot(self, ax: Axes | None = None, *, width: float | None = None) -> Axes:
        """Draw the density on a logarithmic scale, with two standard errors as a band.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure where not given.
        width : float, optional
            As for `density`.

        Returns
        -------
        matplotlib.axes.Axes
            What was drawn on.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        grid = self.grid(_DRAWN_POINTS)
        # A tenth of one eigenvalue spread over the picture: below, there is nothing to see.
        lowest = 0.1 / (self.dim * (grid[-1] - grid[0]))
        return plot_density(grid, self.density(grid, width), lowest, ax)

    def __str__(self) -> str:
        low, high = self.support
        below = share_in_words(float(self.mass_below(0.0)), self.cdf_interval(0.0))
        near = np.abs(self.nodes) <= np.maximum(self.rounding, self.node_errors)
        undecided = np.mean(np.sum(self.weights * near, axis=1))
        remark = f", {undecided:.3%} on nodes that may be zero" if undecided > _NOTABLE else ""
        return (
            f"spectral density of {counted(self.dim, 'eigenvalue')}: nodes in [{low:.6g}, {high:.6g}], "
            f"mean {self.moment(1)}, {below} below "
            f"zero{remark} ({counted(len(self.nodes), 'probe')}, {self._cost()})"
        )

    def _widths(self, width: float | None) -> HostArray:
        if width is not None:
            if not (math.isfinite(width) and width > 0):
                raise ValueError(f"width={width} must be positive")
            return np.full_like(self.nodes, width)
        low, high = self.support
        return np.maximum(self.node_widths, (high - low) / 400 or abs(low) / 400 or 1e-3)

    def _over_probes(self, of_probe: Callable[[int], HostArray]) -> Estimate:
        return over_probes(np.array([of_probe(index) for index in range(len(self.nodes))]))

    @property
    def _rules(self) -> Rules:
        return Rules(self.nodes, self.weights, self.node_errors, self.rounding)
