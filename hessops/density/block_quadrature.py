"""Quadrature of x^H f(A) x in a block Krylov space, with brackets where f allows them.

V holds an orthonormal basis, T = V^H A V. For an operator convex f, such as 1/x, V^H f(A) V >= f(T)
whatever the space (Davis 1957): the Gauss rule is a lower bound. The upper one is the block
Gauss-Radau rule at a bound a of the spectrum. Among all operators with A >= a and this T and coupling,
(A + t)^-1 is largest on V, for every t > -a at once, where the Schur complement of T - a is 0
(Zimmerling, Druskin & Simoncini 2025); and f is an integral over those. For concave f, such as the
logarithm, the two change sides.

Other functions have no such order. The remainder of a block Gauss rule has no sign, even where the
derivatives of f have (Golub & Meurant 2010). That of the Gauss rule of each probe has, and is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hessops.arrays import HostArray
from hessops.density.compression import Compression
from hessops.density.deflation import Deflation
from hessops.result import Interval
from hessops.spectral_function import SpectralFunction

__all__ = ["Quadrature", "quadrature"]

_KINDS = ("certified", "probable", "open", "none")


@dataclass(frozen=True)
class Quadrature:
    """Estimates of tr f(A), one per probe, and what finer quadrature could make of them.

    Parameters
    ----------
    values, lows, highs : numpy.ndarray, shape (N,)
        The estimates and their brackets.
    kind : {'certified', 'probable', 'open', 'none'}
        How far the brackets may be trusted: 'probable' if one rests on a bound of the spectrum that
        fails with a known probability.
    movement : float
        Where there is no bracket, how much the mean of the rules of single probes changed over the last
        quarter of the steps; else the mean width.
    rounding : float
        About what rounding of products and errors of settled eigenvalues do to the mean.
    """

    values: HostArray
    lows: HostArray
    highs: HostArray
    kind: str
    movement: float
    rounding: float


def quadrature(
    f: SpectralFunction,
    compressions: Sequence[Compression],
    deflation: Deflation,
    known: Interval,
    probable: Interval,
) -> Quadrature:
    """Evaluate tr f(A) by every probe.

    Parameters
    ----------
    f : SpectralFunction
        The function.
    compressions : sequence of Compression
        The Krylov spaces of the probes.
    deflation : Deflation
        The eigenvalues that are settled.
    known : Interval
        Bounds of the spectrum that are certain; infinite where there are none.
    probable : Interval
        Bounds that hold but for a small probability.

    Returns
    -------
    Quadrature
        Of all probes.

    Raises
    ------
    ValueError
        If a Ritz value lies where `f` is not defined.
    """
    parts = [_Part(f, compression, deflation, known, probable) for compression in compressions]
    values = np.concatenate([part.values for part in parts])
    lows = np.concatenate([part.bound(1) for part in parts])
    highs = np.concatenate([part.bound(-1) for part in parts])
    kind = max((part.kind for part in parts), key=_KINDS.index)
    movement = float(np.mean(highs - lows))
    if kind == "none":
        movement = float(np.abs(np.mean(np.concatenate([part.movements() for part in parts]))))
    rounding = float(np.mean(np.concatenate([part.rounding_errors() for part in parts])))
    for node, error in zip(_inside(f, deflation.nodes), deflation.errors, strict=True):
        rounding += float(f.variation(np.array([node]), float(error))[0])
    return Quadrature(values, lows, highs, kind, movement, rounding)


class _Part:
    """The probes of one Krylov space."""

    def __init__(
        self,
        f: SpectralFunction,
        compression: Compression,
        deflation: Deflation,
        known: Interval,
        probable: Interval,
    ) -> None:
        f.require_defined(float(compression.nodes[0]), compression.rounding)
        self.f, self.compression, self.deflation = f, compression, deflation
        # The better of the two at each end, and whether it is certain.
        self.ends = (
            (max(known.low, probable.low), known.low >= probable.low),
            (min(known.high, probable.high), known.high <= probable.high),
        )
        if not f.defined_at(self.ends[0][0]):
            self.ends = ((-math.inf, False), self.ends[1])
        self._values = np.concatenate(
            [f(_inside(f, compression.nodes)), f(_inside(f, deflation.nodes))]
        )
        self.forms = self._values[: len(compression.nodes)] @ compression.weights
        self.values = self._estimates(self.forms)
        self.kind = "certified"
        self._bounds = {side: self._estimates(self._bound(side)) for side in (1, -1)}

    def bound(self, side: int) -> HostArray:
        """Return lower bounds for side 1, upper ones for -1; infinite where there are none."""
        return self._bounds[side]

    def movements(self) -> HostArray:
        """Return how much the rule of each probe changed over the last quarter of its steps."""
        steps = self.compression.steps
        now = [self._single(index, int(k)) for index, k in enumerate(steps)]
        before = [self._single(index, max(1, (3 * int(k)) // 4)) for index, k in enumerate(steps)]
        moved = self.deflation.factors(self.compression) * (np.array(now) - np.array(before))
        return np.asarray(np.where((steps > 1) | self.compression.exhausted, moved, math.inf))

    def rounding_errors(self) -> HostArray:
        """Return about what rounding of the products may do to each value."""
        compression = self.compression
        # Sums of n terms in double precision lose as the root of n.
        distance = compression.rounding * max(1.0, math.sqrt(self.deflation.dim) / 32)
        changes = self.f.variation(_inside(self.f, compression.nodes), distance)
        return np.asarray(changes @ compression.weights)

    def _estimates(self, forms: HostArray) -> HostArray:
        return self.deflation.forms(self.compression, forms, self._values)

    def _bound(self, side: int) -> HostArray:
        """Return bounds of the quadratic forms, and note how far they may be trusted."""
        if self.compression.exhausted:
            return np.asarray(self.forms)
        if self.f.operator_convex is not None:
            if self.f.operator_convex == side:
                return np.asarray(self.forms)
            bound, certain = self.ends[0]
            rule = self.compression.with_node(bound) if math.isfinite(bound) else None
            forms = None if rule is None else self.f(_inside(self.f, rule[0])) @ rule[1]
        else:
            forms, certain = self._by_derivatives(side)
        if forms is None:
            undirected = self.f.operator_convex is None and self.f.even is None
            self._distrust("none" if undirected and self.f.odd is None else "open")
            return np.full_like(self.forms, -side * math.inf)
        if not certain:
            self._distrust("probable")
        # By rounding, converged rules may change sides.
        outer = np.minimum if side > 0 else np.maximum
        return np.asarray(outer(forms, self.forms))

    def _by_derivatives(self, side: int) -> tuple[HostArray | None, bool]:
        """Return bounds by the Gauss and Radau rules of every probe alone."""
        singles = [self.compression.of_probe(i) for i in range(self.compression.num_probes)]
        bounds = [_single_bound(self.f, single, side, self.ends) for single in singles]
        if any(bound is None for bound, _ in bounds):
            return None, False
        return np.array([bound for bound, _ in bounds]), all(certain for _, certain in bounds)

    def _single(self, index: int, steps: int) -> float:
        return _form(self.f, self.compression.of_probe(index, steps))

    def _distrust(self, kind: str) -> None:
        self.kind = max(self.kind, kind, key=_KINDS.index)


def _single_bound(
    f: SpectralFunction, single: Compression, side: int, ends: tuple[tuple[float, bool], ...]
) -> tuple[float | None, bool]:
    """Return a bound of one quadratic form by the signs of derivatives, and whether it is certain."""
    order = 2 * len(single.nodes)
    sign = f.sign(order)
    if single.exhausted or (sign is not None and sign * side >= 0):
        return _form(f, single), True
    sign = f.sign(order + 1)
    for (bound, certain), direction in zip(ends, (1, -1), strict=True):
        if math.isfinite(bound) and sign is not None and sign * direction * side >= 0:
            rule = single.with_node(bound)
            if rule is not None and f.defined_at(bound):
                return float((f(_inside(f, rule[0])) @ rule[1])[0]), certain
    return None, False


def _form(f: SpectralFunction, single: Compression) -> float:
    return float((f(_inside(f, single.nodes)) @ single.weights)[0])


def _inside(f: SpectralFunction, nodes: HostArray) -> HostArray:
    """Return the nodes, with those outside of a closed domain by rounding moved to its end."""
    return np.maximum(nodes, f.low) if f.closed else nodes
