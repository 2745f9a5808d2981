"""Polynomials with known traces as control variates of stochastic Lanczos quadrature.

Where tr A, ..., tr A^d are known, so is tr p(A) of every polynomial p of degree d, and

    tr f(A) = E[z^H f(A) z - (z^H p(A) z - tr p(A))],

where z^H p(A) z comes with z's quadrature, free of products and, after (d + 1) / 2 steps, of its error.
What is left to chance is (f - p)(A): for normal probes, with variance 2 tr (f - p)(A)². Hence p is the
least squares fit to f over the mean of the probes' measures; for each probe, over those of all others,
so that the estimate has no bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.polynomial import chebyshev, polynomial

from hessops.algorithms.functions.gauss_brackets import GaussBrackets, Rule
from hessops.arrays import HostArray
from hessops.operator import LinearOperator

__all__ = ["PolynomialControl", "known_power_traces"]

# Of the dimension: traces of powers of A - cI that cancel to less than these digits are not used.
_DIGITS = 1e-10
# Of a Gram matrix of Chebyshev polynomials: what is rounding in its eigenvalues.
_SINGULAR = 1e-12


@dataclass(frozen=True)
class PolynomialControl:
    """What polynomials with known traces take off the quadratic forms of some probes.

    Parameters
    ----------
    blocks : sequence of GaussBrackets
        The probes' rules.
    power_traces : tuple of float
        The traces tr A, tr A², ...; none for no control.
    """

    blocks: Sequence[GaussBrackets]
    power_traces: tuple[float, ...]

    @cached_property
    def degree(self) -> int:
        """Return the degree of the polynomials; 0 where there is no control."""
        if not self.power_traces or len(self._rules) < 2:
            return 0
        exact = min(2 * block.steps - 1 for block in self.blocks)
        return min(len(self._traces) - 1, exact)

    @cached_property
    def corrections(self) -> HostArray:
        """Return z^H p(A) z - tr p(A) for every probe, with its own p, shape (num_probes,)."""
        if self.degree == 0:
            return np.zeros(len(self._rules))
        seen = self._grams[:, :, 0] - self._traces[: self.degree + 1]
        return np.asarray(np.sum(self._coefficients * seen, axis=1))

    @cached_property
    def rounding_errors(self) -> HostArray:
        """Return about what rounding of the products may do to the corrections, shape (num_probes,)."""
        if self.degree == 0:
            return np.zeros(len(self._rules))
        distance = max(block.distance for block in self.blocks) / self._half
        errors = [
            rule.weights @ np.abs(self._slope(fit, rule))
            for fit, rule in zip(self._coefficients, self._rules, strict=True)
        ]
        return np.asarray(distance * self._sizes * np.array(errors))

    @cached_property
    def _rules(self) -> list[Rule]:
        return [rule for block in self.blocks for rule in block.rules]

    @cached_property
    def _sizes(self) -> HostArray:
        return np.concatenate([block.squared_norms for block in self.blocks])

    @cached_property
    def _range(self) -> tuple[float, float]:
        low = min(float(rule.nodes[0]) for rule in self._rules)
        high = max(float(rule.nodes[-1]) for rule in self._rules)
        return low, high

    @property
    def _center(self) -> float:
        return sum(self._range) / 2

    @property
    def _half(self) -> float:
        low, high = self._range
        return (high - low) / 2 or abs(high) or 1.0

    @cached_property
    def _traces(self) -> HostArray:
        """Return tr T_i((A - center) / half), as far as they have digits."""
        dim = float(self.blocks[0].lanczos.space.dim)
        powers = np.array([dim, *self.power_traces])
        expanded: HostArray = np.ones(1)
        centered = [dim]
        for count in range(2, len(powers) + 1):
            step = np.array([-self._center, 1.0]) / self._half
            expanded = polynomial.polymul(expanded, step)
            terms = expanded * powers[:count]
            if np.finfo(np.float64).eps * np.sum(np.abs(terms)) > _DIGITS * dim:
                break
            centered.append(float(np.sum(terms)))
        rows = [chebyshev.cheb2poly(np.eye(degree + 1)[-1]) for degree in range(len(centered))]
        return np.array([row @ centered[: len(row)] for row in rows])

    @cached_property
    def _vandermonde(self) -> list[HostArray]:
        scaled = [(rule.nodes - self._center) / self._half for rule in self._rules]
        return [chebyshev.chebvander(nodes, self.degree) for nodes in scaled]

    @cached_property
    def _grams(self) -> HostArray:
        """Return z^H T_i(A) T_j(A) z by quadrature, shape (num_probes, degree + 1, degree + 1)."""
        parts = zip(self._vandermonde, self._rules, self._sizes, strict=True)
        return np.stack(
            [
                size * np.tensordot(V * rule.weights[:, None], V, axes=(0, 0))
                for V, rule, size in parts
            ]
        )

    @cached_property
    def _coefficients(self) -> HostArray:
        """Return the fit of all probes but each, shape (num_probes, degree + 1)."""
        values = [v for block in self.blocks for v in block.function_values]
        parts = zip(self._vandermonde, self._rules, self._sizes, values, strict=True)
        right = np.stack([size * ((rule.weights * v) @ V) for V, rule, size, v in parts])
        grams, right = self._grams.sum(axis=0) - self._grams, right.sum(axis=0) - right
        # With fewer different nodes than coefficients, the smallest of them.
        inverses = np.linalg.pinv(grams, rcond=_SINGULAR, hermitian=True)
        return np.asarray((inverses @ right[:, :, None])[:, :, 0])

    def _slope(self, fit: HostArray, rule: Rule) -> HostArray:
        nodes = (rule.nodes - self._center) / self._half
        return np.asarray(chebyshev.chebval(nodes, chebyshev.chebder(fit)))


def known_power_traces(
    operator: LinearOperator, given: Sequence[float] | Literal["auto"]
) -> tuple[float, ...]:
    """Return the traces of powers that serve as control variates.

    Parameters
    ----------
    operator : LinearOperator
        Who is asked for them by 'auto'.
    given : 'auto' or sequence of float
        What the user says.

    Returns
    -------
    tuple of float
        The traces tr A, tr A², ...

    Raises
    ------
    ValueError
        If a number is not finite, or negative for an even power.
    """
    if isinstance(given, str):
        if given != "auto":
            raise ValueError(f"power_traces={given!r} must be 'auto' or numbers, tr A, tr A², ...")
        return operator.power_traces()
    traces = tuple(float(trace) for trace in given)
    if not all(map(math.isfinite, traces)):
        raise ValueError(f"power_traces={traces} must be finite")
    if any(trace < 0 for trace in traces[1::2]):
        raise ValueError(f"power_traces={traces}: traces of even powers cannot be negative")
    return traces
