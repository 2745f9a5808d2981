"""Everything that one block Krylov run shows of a spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hessops.arrays import Array, HostArray
from hessops.density.block_quadrature import quadrature
from hessops.density.compression import Compression, probable_bounds, unlucky_share
from hessops.density.deflated_density import DeflatedDensity, deflated_density
from hessops.density.deflation import Deflation, settled
from hessops.density.plot import mark_eigenvalues
from hessops.density.trace_samples import trace_samples
from hessops.result import Estimate, Interval, Result
from hessops.results._spectrum_verdicts import known_bounds, quadrature_verdict
from hessops.results.functions import TraceFunctionResult
from hessops.results.norms import (
    ConditionNumberResult,
    EigenvalueCountResult,
    FrobeniusNormResult,
    SpectralNormResult,
)
from hessops.results.spectrum_report import Finding, findings, written
from hessops.spectral_function import FunctionName, SpectralFunction, spectral_function
from hessops.statistics import MeanVariance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Spectrum"]

_CONFIDENCE = 0.95
_FAILURE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum(Result):
    """What one run has shown of the spectrum of a self-adjoint operator.

    Every number is read off the same Krylov spaces, which are kept in small form; so further ones,
    `function(f)` for any f, cost no product. Intervals are of 95 %, by the scatter of the probes, and
    cover a little less where eigenvalues decay geometrically. 'Certified' bounds hold without a
    probability; 'probable' ones unless all probes together overlap too little with an extreme
    eigenvector, by a chance of 0.1 %, `failure`.

    Parameters
    ----------
    eigenvalues : numpy.ndarray, shape (k,)
        The outermost Ritz values, ascending: half of them from each end.
    residual_norms : numpy.ndarray, shape (k,)
        Within that distance of each lies an eigenvalue.
    error_bounds : numpy.ndarray, shape (k,)
        Sharper ones, see `EigenResult`; they hold if no eigenvalue was missed.
    eigenvectors : array, shape (n, k), or None
        Ritz vectors, in the operator's library; None if no basis was kept.
    dim : int
        The number n of eigenvalues.
    num_probes : int
        Independent probes, uniform on the sphere.
    num_deciding : int
        Of them those whose scatter decided on their number, and gives the standard errors.
    num_steps : int
        Blocks multiplied in a Krylov space, or Lanczos steps of every probe.
    semidefinite : bool
        Whether the operator is declared positive semidefinite.
    complex_valued : bool
        Whether its vectors are complex.
    filled : bool
        Whether the basis spans the whole space: then all eigenvalues are known, and nothing is random.
    nodes, probes, couplings, node_errors, node_steps : tuple of numpy.ndarray
        The Krylov spaces, see `hessops.density.compression.Compression`.
    breadths : tuple of int
        See there.
    rounding : float
        What is rounding in a Ritz value.
    """

    eigenvalues: HostArray
    residual_norms: HostArray
    error_bounds: HostArray
    eigenvectors: Array | None = field(metadata={"long": True}, repr=False)
    dim: int
    num_probes: int
    num_deciding: int
    num_steps: int
    semidefinite: bool
    complex_valued: bool
    filled: bool
    nodes: tuple[HostArray, ...] = field(metadata={"long": True}, repr=False)
    probes: tuple[HostArray, ...] = field(metadata={"long": True}, repr=False)
    couplings: tuple[HostArray, ...] = field(metadata={"long": True}, repr=False)
    node_errors: tuple[HostArray, ...] = field(metadata={"long": True}, repr=False)
    node_steps: tuple[HostArray, ...] = field(metadata={"long": True}, repr=False)
    breadths: tuple[int, ...] = field(metadata={"long": True}, repr=False)
    rounding: float

    @cached_property
    def compressions(self) -> tuple[Compression, ...]:
        """Return the Krylov spaces; all else is read off them."""
        small = zip(self.nodes, self.probes, self.couplings, strict=True)
        known = zip(self.node_errors, self.node_steps, self.breadths, strict=True)
        return tuple(
            Compression(*one, *other, self.rounding)
            for one, other in zip(small, known, strict=True)
        )

    @cached_property
    def deflation(self) -> Deflation:
        """Return the eigenvalues that are settled and need no probes."""
        return settled(self.compressions, self.dim)

    @cached_property
    def density(self) -> DeflatedDensity:
        """Return the spectral density, with cdf, quantiles and moments."""
        return deflated_density(self.compressions, self.deflation, **self._run())

    @property
    def failure(self) -> float:
        """Return the probability that one of the probable bounds fails."""
        return _FAILURE

    @cached_property
    def bounds(self) -> Interval:
        """Return between which numbers all eigenvalues lie, but for a probability of `failure`."""
        if self.filled:
            ends = self.compressions[0].nodes[[0, -1]]
            return Interval(float(ends[0]) - self.rounding, float(ends[1]) + self.rounding)
        share = unlucky_share(
            self.num_probes, self.dim, complex_valued=self.complex_valued, failure=_FAILURE / 2
        )
        low, high = probable_bounds(self.compressions, share)
        return Interval(max(low, 0.0) if self.semidefinite else low, high)

    @property
    def trace(self) -> Estimate:
        """Return the trace."""
        return self._estimate(lambda x: x)

    @property
    def mean(self) -> Estimate:
        """Return the mean of the eigenvalues, tr A / n."""
        return self.density.moment(1)

    def moment(self, p: int) -> Estimate:
        """Return the mean p-th power of the eigenvalues, tr A^p / n.

        Parameters
        ----------
        p : int
            At least 0; without quadrature error up to 2 num_steps - 1.

        Returns
        -------
        Estimate
            Mean and standard error over probes.
        """
        return self.density.moment(p)

    @cached_property
    def frobenius_norm(self) -> FrobeniusNormResult:
        """Return ‖A‖_F; the squares are exact for every probe."""
        squares = np.concatenate([self._squares(c) for c in self.compressions])
        square = self._estimate_of(squares)
        value = math.sqrt(max(float(square.value), 0.0))
        low, high = (math.sqrt(max(end, 0.0)) for end in map(float, square.interval))
        error = float(square.standard_error) / (2 * value) if value > 0 else 0.0
        return FrobeniusNormResult(
            value=value,
            standard_error=error,
            interval=Interval(low, high),
            confidence=_CONFIDENCE,
            num_probes=self.num_probes,
            probe="sphere",
            **self._run(),
        )

    @cached_property
    def spectral_norm(self) -> SpectralNormResult:
        """Return ‖A‖: at least the largest Ritz value in modulus."""
        value = float(np.max(np.abs(self.eigenvalues)))
        return SpectralNormResult(
            value=value,
            lower_bound=max(value - self.rounding, 0.0),
            upper_bound=max(abs(end) for end in self.bounds),
            failure=0.0 if self.filled else _FAILURE,
            num_steps=self.num_steps,
            **self._run(),
        )

    @property
    def stable_rank(self) -> Estimate:
        """Return the effective rank ‖A‖_F² / ‖A‖², given the largest Ritz value; NaN if A is zero."""
        norm = self.spectral_norm.value
        if norm == 0:
            return Estimate(value=math.nan, standard_error=math.nan, freedom=0)
        return self._estimate_of(
            np.concatenate([self._squares(c) for c in self.compressions]) / norm**2
        )

    @property
    def condition_number(self) -> ConditionNumberResult | None:
        """Return the largest modulus over the smallest; None for zero or if signs differ."""
        low, high = float(self.eigenvalues[0]), float(self.eigenvalues[-1])
        sign = 1.0 if high >= -low else -1.0
        least, most = (low, high) if sign > 0 else (-high, -low)
        if most <= self.rounding or least < -self.rounding:
            return None
        outer = sorted(sign * end for end in self.bounds)
        return ConditionNumberResult(
            value=most / least if least > self.rounding else math.inf,
            lower_bound=max(1.0, (most - self.rounding) / (max(least, 0.0) + self.rounding)),
            upper_bound=outer[1] / outer[0] if outer[0] > 0 else math.inf,
            failure=0.0 if self.filled else _FAILURE,
            largest=sign * most,
            smallest=sign * least,
            rounding=self.rounding,
            num_steps=self.num_steps,
            **self._run(),
        )

    @property
    def log_determinant(self) -> TraceFunctionResult | None:
        """Return tr log A; None if a Ritz value shows that A is not positive definite to rounding."""
        lowest = min(float(c.nodes[0]) for c in self.compressions)
        return self.function("log") if lowest > self.rounding else None

    def function(
        self,
        f: FunctionName | SpectralFunction | Callable[[HostArray], HostArray],
        *,
        interval: tuple[float, float] | None = None,
        derivative_signs: tuple[int | None, int | None] | None = None,
    ) -> TraceFunctionResult:
        """Return tr f(A) for any function, from the products already made.

        Parameters
        ----------
        f : str, SpectralFunction or callable
            As for `trace_function`.
        interval : tuple of float, optional
            Bounds (low, high) of the spectrum that are certain, which certify the bracket.
        derivative_signs : tuple of int or None, optional
            As there.

        Returns
        -------
        TraceFunctionResult
            Value, interval, bracket. 'probable' is a bracket that rests on `bounds`.

        Raises
        ------
        ValueError
            If `f` is unknown, or a Ritz value lies where it is not defined or outside of `interval`.
        """
        function = spectral_function(f, derivative_signs)
        known = known_bounds(
            np.concatenate(self.nodes), self.rounding, interval, semidefinite=self.semidefinite
        )
        rules = quadrature(function, self.compressions, self.deflation, known, self.bounds)
        estimate = self._estimate_of(rules.values)
        status, trusted = quadrature_verdict(
            rules, estimate, self.num_steps, single=self.num_probes < 2 and not self.filled
        )
        run = {**self._run(), "status": status, "converged": trusted}
        return TraceFunctionResult(
            value=float(estimate.value),
            standard_error=float(estimate.standard_error),
            interval=Interval(
                estimate.interval.low - rules.rounding, estimate.interval.high + rules.rounding
            ),
            confidence=_CONFIDENCE,
            bracket=Interval(float(np.mean(rules.lows)), float(np.mean(rules.highs))),
            bracket_kind=rules.kind,
            bounds=self.bounds,
            quadrature_error=rules.movement,
            rounding_error=rules.rounding,
            function=function.name,
            num_probes=self.num_probes,
            num_steps=self.num_steps,
            steps_needed=float(self.num_steps) if trusted else math.inf,
            probe="sphere",
            **run,
        )

    def count_below(self, x: float = 0.0) -> EigenvalueCountResult:
        """Return how many eigenvalues are below `x`: the negative ones where `x` is not given.

        Parameters
        ----------
        x : float
            Where. An eigenvalue at `x` to rounding is not below it.

        Returns
        -------
        EigenvalueCountResult
            Value, interval, and the bracket that so few steps leave open.
        """
        density = self.density
        below = density.weights * (density.nodes < x - self.rounding)
        estimate = self._estimate_of(self.dim * np.sum(below, axis=1))
        # Clear of what is at x to rounding, which is not below it.
        clear = x - 2 * self.rounding if self.rounding > 0 else np.nextafter(x, -np.inf)
        low, high = (self.dim * end for end in density.cdf_bracket(float(clear)))
        interval = Interval(*(float(np.clip(end, 0, self.dim)) for end in estimate.interval))
        wide = high - low > max(interval.high - interval.low, 0.5)
        note = f"these steps leave {high - low:.2g} eigenvalues open"
        run = {**self._run(), "status": note, "converged": not wide}
        return EigenvalueCountResult(
            value=float(estimate.value),
            standard_error=float(estimate.standard_error),
            interval=interval,
            confidence=_CONFIDENCE,
            bracket=Interval(low, high),
            rounding=self.rounding,
            dim=self.dim,
            num_probes=self.num_probes,
            num_steps=self.num_steps,
            probe="sphere",
            **run,
        )

    def report(self) -> list[Finding]:
        """Return the numbers with their errors, what kind of errors, and what each rests on."""
        return findings(self)

    def plot(self, ax: Axes | None = None, *, width: float | None = None) -> Axes:
        """Draw the density with two standard errors as a band, and mark the outermost eigenvalues.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure where not given.
        width : float, optional
            As for `SpectralDensity.density`.

        Returns
        -------
        matplotlib.axes.Axes
            What was drawn on.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        return mark_eigenvalues(
            self.density.plot(ax, width=width), self.eigenvalues, self.residual_norms
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the findings, and the scalars and small arrays, as plain Python objects.

        Returns
        -------
        dict
            With the rows of `report` under 'findings'.
        """
        return {**super().to_dict(), "findings": [finding._asdict() for finding in self.report()]}

    def __str__(self) -> str:
        title = f"Spectrum of {self.dim} eigenvalues ({self._cost()}): {self.status}"
        return written(title, self.report())

    def _estimate(self, f: Callable[[HostArray], HostArray]) -> Estimate:
        return self._estimate_of(trace_samples(f, self.compressions, self.deflation))

    def _estimate_of(self, samples: HostArray) -> Estimate:
        """Return the mean over probes, with the deviation of those that decided on their number."""
        mean = float(np.mean(samples))
        if self.filled:
            return Estimate(value=mean, standard_error=0.0, freedom=math.inf)
        deviation = float(MeanVariance.of(samples[: self.num_deciding]).deviation)
        error = deviation / math.sqrt(len(samples))
        return Estimate(value=mean, standard_error=error, freedom=self.num_deciding - 1)

    def _squares(self, compression: Compression) -> HostArray:
        """Return unbiased estimates of ‖A‖_F² by every probe: ‖A x‖², exact after one step."""
        deflation = self.deflation
        beyond = np.sum(np.abs(compression.couplings @ compression.probes) ** 2, axis=0)
        forms = compression.nodes**2 @ compression.weights + beyond
        return deflation.forms(
            compression, forms, np.append(compression.nodes, deflation.nodes) ** 2
        )

    def _run(self) -> dict[str, Any]:
        names = ("num_products", "status", "converged", "history", "seed", "seconds")
        return {name: getattr(self, name) for name in names}
