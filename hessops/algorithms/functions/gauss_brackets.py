"""Brackets of quadratic forms v^H f(A) v by Gauss and Gauss-Radau rules (Golub & Meurant 2010).

k Lanczos steps from v give the k-point Gauss rule of v's measure, whose error is

    f^(2k)(x) / (2k)! ∫ Π (t - θ_i)² dμ(t),

and, with a bound a of the spectrum as one more node, the Gauss-Radau rule, whose error is

    f^(2k+1)(x) / (2k+1)! ∫ (t - a) Π (t - θ_i)² dμ(t).

Where the signs of those derivatives are known, the two bracket the exact value. They hold for this v
alone: what other probes would say is another error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.algorithms.krylov.lanczos import LanczosState
from hessops.arrays import HostArray
from hessops.result import Interval
from hessops.spectral_function import SpectralFunction

__all__ = ["BracketKind", "GaussBrackets", "Rule", "gauss_rule", "radau_rule", "worst"]

BracketKind: TypeAlias = Literal["certified", "estimated", "open", "none"]
"""How far a bracket may be trusted.

'certified': by the signs of the derivatives and by bounds of the spectrum that were given, or the
Krylov spaces are exhausted; 'estimated': an end rests on a bound of the spectrum read off the Ritz
values; 'open': an end is infinite; 'none': the signs of the derivatives are not known.
"""

_KINDS: tuple[BracketKind, ...] = ("certified", "estimated", "open", "none")


@dataclass(frozen=True)
class Rule:
    """A quadrature rule of a measure of mass 1.

    Parameters
    ----------
    nodes : numpy.ndarray, shape (k,)
        Ascending.
    weights : numpy.ndarray, shape (k,)
        At least 0, of sum 1.
    last : numpy.ndarray, shape (k,)
        Moduli of the last components of T's eigenvectors.
    """

    nodes: HostArray
    weights: HostArray
    last: HostArray


def gauss_rule(diagonal: HostArray, off_diagonal: HostArray) -> Rule:
    """Return the Gauss rule of a tridiagonal matrix (Golub & Welsch 1969).

    Parameters
    ----------
    diagonal : numpy.ndarray, shape (k,)
        Of T.
    off_diagonal : numpy.ndarray, shape (k - 1,)
        Of T.

    Returns
    -------
    Rule
        Eigenvalues, and squared first components of the eigenvectors.
    """
    # Scaled, so that tiny or huge operators do not under- or overflow in LAPACK's squares.
    scale = _scale(diagonal, off_diagonal)
    values, vectors = eigh_tridiagonal(diagonal / scale, off_diagonal / scale)
    weights = vectors[0] ** 2
    return Rule(scale * values, weights / np.sum(weights), np.abs(vectors[-1]))


def radau_rule(diagonal: HostArray, off_diagonal: HostArray, bound: float) -> Rule | None:
    """Return the Gauss-Radau rule with one more node at a bound of the spectrum.

    The last diagonal entry is ``bound + d_k``, where ``(T - bound I) d = beta_k² e_k`` (Golub 1973).

    Parameters
    ----------
    diagonal : numpy.ndarray, shape (k,)
        Of T.
    off_diagonal : numpy.ndarray, shape (k,)
        Of T, and the norm of the residual.
    bound : float
        Below or above all eigenvalues of T.

    Returns
    -------
    Rule or None
        The rule, of k + 1 nodes; None if ``T - bound I`` is not definite in double precision.
    """
    scale = max(_scale(diagonal, off_diagonal), abs(bound))
    a, alphas, betas = bound / scale, diagonal / scale, off_diagonal / scale
    side = 1.0 if alphas[0] > a else -1.0
    # The last entry of d takes no more than elimination from the top, whose pivots keep their sign.
    pivot = alphas[0] - a
    for alpha, beta in zip(alphas[1:], betas[:-1], strict=True):
        if side * pivot <= 0:
            return None
        pivot = alpha - a - beta**2 / pivot
    if side * pivot <= 0:
        return None
    rule = gauss_rule(np.append(alphas, a + betas[-1] ** 2 / pivot), betas)
    nodes = scale * rule.nodes
    # The node that was asked for, without the rounding of the eigenvalue solver.
    nodes[0 if side > 0 else -1] = bound
    return Rule(nodes, rule.weights, rule.last)


@dataclass(frozen=True)
class GaussBrackets:
    """Quadrature of v^H f(A) v for m start vectors after k Lanczos steps, with two-sided bounds.

    Parameters
    ----------
    function : SpectralFunction
        The function f.
    lanczos : LanczosState
        The recurrences.
    squared_norms : numpy.ndarray, shape (m,)
        Squares v^H v of the start vectors.
    known : Interval
        Bounds of the spectrum that are certain; infinite where there are none.
    steps : int
        How many of the steps taken to use.

    Raises
    ------
    ValueError
        On use, if Ritz values lie outside of `known` or where f is not defined.
    """

    function: SpectralFunction
    lanczos: LanczosState
    squared_norms: HostArray
    known: Interval
    steps: int

    def after(self, steps: int) -> GaussBrackets:
        """Return the rules after fewer steps, for the same bounds of the spectrum as here."""
        shorter = GaussBrackets(
            self.function, self.lanczos, self.squared_norms, self.known, max(1, steps)
        )
        shorter.__dict__["bounds"] = self.bounds
        return shorter

    @cached_property
    def rules(self) -> list[Rule]:
        """Return the Gauss rule of every start vector."""
        rules = [gauss_rule(diagonal, betas[:-1]) for diagonal, betas in self._tridiagonals()]
        low, high = min(r.nodes[0] for r in rules), max(r.nodes[-1] for r in rules)
        margin = self.lanczos.rounding
        if low < self.known.low - margin or high > self.known.high + margin:
            outside = low if low < self.known.low - margin else high
            raise ValueError(
                f"interval=({self.known.low:.6g}, {self.known.high:.6g}) does not hold the spectrum: "
                f"there is an eigenvalue beyond the Ritz value {outside:.6g}"
            )
        self.function.require_defined(float(low), margin)
        return rules

    @cached_property
    def values(self) -> HostArray:
        """Return the Gauss quadrature of v^H f(A) v, shape (m,)."""
        pairs = zip(self.rules, self.function_values, strict=True)
        return np.asarray(self.squared_norms * np.array([r.weights @ v for r, v in pairs]))

    @cached_property
    def rounding_errors(self) -> HostArray:
        """Return about what rounding of the products may do to the values, shape (m,).

        Products and recurrences with rounding are those of a nearby operator, whose eigenvalues differ
        by about `lanczos.rounding`, or by what sums of n terms in double precision lose, which goes as
        the root of n: so much may f change at every node.
        """
        forms = [
            rule.weights @ self.function.variation(self._inside(rule.nodes), self.distance)
            for rule in self.rules
        ]
        return np.asarray(self.squared_norms * np.array(forms))

    @property
    def distance(self) -> float:
        """Return about how far rounding moves eigenvalues."""
        lanczos = self.lanczos
        of_sums = np.finfo(np.float64).eps * math.sqrt(lanczos.space.dim) * lanczos.scale
        return max(lanczos.rounding, float(of_sums))

    @cached_property
    def function_values(self) -> list[HostArray]:
        """Return f at the nodes of every Gauss rule."""
        return [self.function(self._inside(rule.nodes)) for rule in self.rules]

    @cached_property
    def bounds(self) -> Interval:
        """Return the interval whose ends the Gauss-Radau rules use: known where possible."""
        low, high = self.known
        estimate = self._estimated()
        if not self.function.defined_at(low):
            low = max(estimate.low, self.function.low)
        return Interval(low, high if math.isfinite(high) else estimate.high)

    @cached_property
    def lows(self) -> HostArray:
        """Return a lower bound of v^H f(A) v for every start vector, -inf where there is none."""
        return self._side(1)

    @cached_property
    def highs(self) -> HostArray:
        """Return an upper bound of v^H f(A) v for every start vector, inf where there is none."""
        return self._side(-1)

    @property
    def kind(self) -> BracketKind:
        """Return how far the brackets may be trusted."""
        if not self._going_on.any():
            return "certified"
        if not (np.all(np.isfinite(self.lows)) and np.all(np.isfinite(self.highs))):
            signs = {self.function.sign(2 * self.steps + i) for i in (0, 1)}
            return "none" if signs == {None} else "open"
        certain = all(self._best(side)[1] for side in (1, -1))
        return "certified" if certain else "estimated"

    @property
    def _lengths(self) -> HostArray:
        return np.minimum(self.lanczos.lengths, self.steps)

    @property
    def _going_on(self) -> HostArray:
        return np.asarray(self.lanczos.alive | (self.lanczos.lengths > self.steps))

    def _tridiagonals(self) -> Iterable[tuple[HostArray, HostArray]]:
        """Yield the diagonals and off-diagonals, the norm of the residual last."""
        for column, length in enumerate(self._lengths):
            yield self.lanczos.alphas[:length, column], self.lanczos.betas[:length, column]

    def _inside(self, nodes: HostArray) -> HostArray:
        """Return the nodes, with those outside of a closed domain by rounding moved to its end."""
        return np.maximum(nodes, self.function.low) if self.function.closed else nodes

    def _sums(self, rules: list[Rule]) -> HostArray:
        forms = [rule.weights @ self.function(self._inside(rule.nodes)) for rule in rules]
        return np.asarray(self.squared_norms * np.array(forms))

    def _side(self, side: int) -> HostArray:
        """Return the bounds on one side: lower ones for side 1, upper ones for -1."""
        # An exhausted Krylov space leaves no error but rounding.
        return np.where(self._going_on, self._best(side)[0], self.values)

    def _best(self, side: int) -> tuple[HostArray, bool]:
        """Return what bounds on one side there are, and whether they are certified.

        The Gauss rule comes first, though a Radau rule may be a little sharper: the estimate is then
        an end of its bracket and never outside.
        """
        of_gauss, of_radau = (self.function.sign(2 * self.steps + i) for i in (0, 1))
        if of_gauss is not None and of_gauss * side >= 0:
            return self.values, True
        for bound, known, sign in zip(self.bounds, self.known, (1, -1), strict=True):
            if of_radau is not None and of_radau * sign * side >= 0:
                values = self._radau(bound)
                if values is not None:
                    # By rounding, converged rules may change sides.
                    outer = np.minimum if side > 0 else np.maximum
                    return outer(values, self.values), bound == known
        return np.full_like(self.values, -side * math.inf), False

    def _radau(self, bound: float) -> HostArray | None:
        """Return the Gauss-Radau quadrature for a bound, None where the rule does not exist."""
        cache = self.__dict__.setdefault("_radau_values", {})
        if bound not in cache:
            cache[bound] = self._radau_values_at(bound)
        values: HostArray | None = cache[bound]
        return values

    def _radau_values_at(self, bound: float) -> HostArray | None:
        low = min(rule.nodes[0] for rule in self.rules)
        high = max(rule.nodes[-1] for rule in self.rules)
        # Where a Ritz value has reached the bound, the rule needs a little room beyond both.
        if abs(bound - low) <= self.lanczos.rounding:
            bound = min(bound, low) - self.lanczos.rounding
        elif abs(bound - high) <= self.lanczos.rounding:
            bound = max(bound, high) + self.lanczos.rounding
        if not self.function.defined_at(float(self._inside(np.array(bound)))):
            return None
        rules = []
        for alive, rule, (diagonal, betas) in zip(
            self._going_on, self.rules, self._tridiagonals(), strict=True
        ):
            extended = radau_rule(diagonal, betas, bound) if alive else rule
            if extended is None:
                return None
            rules.append(extended)
        return self._sums(rules)

    def _estimated(self) -> Interval:
        """Return bounds of the spectrum by how far the outer Ritz values are from converged.

        An eigenvalue lies within the residual norm of each, and they still move by as much as they
        did in the last quarter of the steps; nothing excludes eigenvalues that no probe has seen.

        An eigenvector has a share of about 1 / n in a probe, which grows by exp(2 k t) over k steps for
        an eigenvalue that lies beyond all others by a share (cosh(t) - 1) / 2 of their range. So ln n
        steps show any that lies 6 % or more beyond (t = 1/2); before them there is no estimate.
        """
        lows, highs = [], []
        fewest = max(2.0, math.log(self.lanczos.space.dim))
        for column, (rule, (diagonal, betas)) in enumerate(
            zip(self.rules, self._tridiagonals(), strict=True)
        ):
            length = len(diagonal)
            residuals = betas[-1] * rule.last + self.lanczos.rounding
            margins = residuals[[0, -1]]
            if self._going_on[column]:
                if length < fewest:
                    return Interval(-math.inf, math.inf)
                before = gauss_rule(*_leading(diagonal, betas, (3 * length) // 4)).nodes
                margins = np.maximum(
                    margins, [before[0] - rule.nodes[0], rule.nodes[-1] - before[-1]]
                )
            lows.append(rule.nodes[0] - margins[0])
            highs.append(rule.nodes[-1] + margins[1])
        return Interval(float(min(lows)), float(max(highs)))


def _leading(diagonal: HostArray, betas: HostArray, steps: int) -> tuple[HostArray, HostArray]:
    return diagonal[:steps], betas[: steps - 1]


def _scale(diagonal: HostArray, off_diagonal: HostArray) -> float:
    largest = max(np.max(np.abs(diagonal)), np.max(off_diagonal, initial=0.0))
    return float(largest) or 1.0


def worst(kinds: Iterable[BracketKind]) -> BracketKind:
    """Return the kind that may be trusted least."""
    return max(kinds, key=_KINDS.index)
