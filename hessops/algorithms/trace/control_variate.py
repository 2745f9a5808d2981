"""The trace with the help of an operator that is much like it: a control variate.

If probes see B much as they see A, and tr B is known, what they get wrong about B tells what they get
wrong about A: with a_j = z_j^H A z_j and b_j = z_j^H B z_j,

    tr A ≈ mean_j (a_j - c_j (b_j - tr B)),

where c_j is the regression coefficient of a on b by all probes but j, so that the estimate has no bias.
Its variance is that of a plain probe times 1 - ρ², ρ being the correlation. Where tr B is not known, it
is probed as well, by more probes than A if a product with B is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from hessops.algorithms._one_line import one_line
from hessops.algorithms.trace._control_split import (
    Likeness,
    control_operator,
    left_out_slopes,
    pilot_probes,
    split,
)
from hessops.algorithms.trace._probe_blocks import probe_blocks
from hessops.algorithms.trace._terms import OwnTerms, forms_of_terms, paired_strata
from hessops.arrays import Array, HostArray, to_numpy
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite
from hessops.result import Interval
from hessops.statistics import length, t_quantile

__all__ = ["Control", "ControlState", "as_control", "control_steps"]


@dataclass(frozen=True)
class Control:
    """An operator that is much like another, and what is known of its trace.

    Parameters
    ----------
    operator : LinearOperator
        Of the other's shape; its products should be cheap, or its trace known.
    trace : float, optional
        Its trace; probed, where not given.
    standard_error : float
        Of `trace`.
    cost : float
        Of a product, in products with the other operator.
    """

    operator: LinearOperator
    trace: float | None = None
    standard_error: float = 0.0
    cost: float = 1.0


def as_control(A: LinearOperator, control: Any) -> Control:
    """Return what a user gave as a control variate for A.

    Parameters
    ----------
    A : LinearOperator
        The operator whose trace is wanted.
    control : Control, or tuple of operator and trace
        The trace is a number, a result with `value` and `standard_error`, or None.

    Returns
    -------
    Control
        With the operator wrapped.

    Raises
    ------
    ValueError
        If the operators do not fit each other, or a number is not finite or not positive.
    TypeError
        If `control` is something else.
    """
    if not isinstance(control, Control):
        if not (isinstance(control, tuple | list) and len(control) == 2):
            raise TypeError(
                f"control={control!r} must be (B, trace_of_B), or (B, None) to probe it"
            )
        operator, known = control
        value: Any = getattr(known, "value", known)
        control = Control(
            operator=operator,
            trace=None if value is None else float(value),
            standard_error=float(getattr(known, "standard_error", 0.0)),
        )
    given: Control = control
    operator = control_operator(A, given.operator, given.cost)
    if given.trace is not None and not math.isfinite(given.trace):
        raise ValueError(f"the trace of the control is {given.trace}; it must be finite")
    if not 0 <= given.standard_error < math.inf:
        raise ValueError(f"the standard error of the control's trace is {given.standard_error}")
    return replace(given, operator=operator)


@dataclass(frozen=True)
class ControlState:
    """Quadratic forms of both operators.

    Parameters
    ----------
    step : int
        Blocks of probes done.
    num_products : int
        Products with A.
    num_control_products : int
        Products with B.
    pairs : numpy.ndarray, shape (2, m)
        Forms of A and of B with the same probes.
    extra : numpy.ndarray, shape (k,)
        Forms of B with probes of their own.
    control : Control
        B, and what is known of its trace.
    """

    step: int
    num_products: int
    num_control_products: int
    pairs: HostArray
    extra: HostArray
    control: Control

    __repr__ = one_line

    @property
    def num_probes(self) -> int:
        """Return the probes that both operators saw."""
        return int(self.pairs.shape[1])

    @property
    def helps(self) -> bool:
        """Return whether B's forms are used."""
        return bool(np.any(self.pairs[1]))

    def coefficients(self) -> HostArray:
        """Return the regression coefficient of A's forms on B's by all probes but each."""
        a, b = self.deviations()
        scale = float(np.max(np.abs(b), initial=0.0)) or 1.0
        return left_out_slopes(a * (b / scale), (b / scale) ** 2) / scale

    def deviations(self) -> HostArray:
        """Return the forms less their means."""
        if self.num_probes == 0:
            return self.pairs
        deviations: HostArray = self.pairs - self.pairs.mean(axis=1, keepdims=True)
        return deviations

    def likeness(self) -> Likeness:
        """Return how much alike probes see A and B."""
        a, b = self.deviations()
        sizes = float(length(a)), float(length(b))
        return Likeness(self.num_probes, *sizes, self.correlation())

    def control_trace(self) -> tuple[float, float, float]:
        """Return the trace of B, its standard error and the degrees of freedom of that."""
        if self.control.trace is not None:
            return self.control.trace, self.control.standard_error, math.inf
        if not len(self.extra):  # Nothing is gained yet, and nothing lost.
            return float(self.pairs[1].mean()), 0.0, math.inf
        spread = float(length(self.extra - self.extra.mean()))
        count = len(self.extra)
        if count < 2:
            return float(self.extra.mean()), math.nan, 0
        return float(self.extra.mean()), spread / math.sqrt(count * (count - 1)), count - 1

    def estimate(self) -> float:
        """Return the estimate of the trace of A."""
        return float(self._corrected().mean())

    def standard_error(self) -> float:
        """Return its standard error."""
        return float(length(self._errors()))

    def interval(self, confidence: float) -> Interval:
        """Return the interval by Student's t."""
        errors, (_, _, freedom) = self._errors(), self.control_trace()
        if not np.all(np.isfinite(errors)):
            return Interval(-math.inf, math.inf)
        parts = np.array([self.num_probes - 2, min(freedom, 1e9)])
        total = float(length(errors))
        if total == 0:
            return Interval(self.estimate(), self.estimate())
        effective = 1 / float(np.sum((errors / total) ** 4 / parts))
        half = float(t_quantile(confidence, effective)) * total
        return Interval(self.estimate() - half, self.estimate() + half)

    def correlation(self) -> float:
        """Return the correlation of what probes see of A and of B."""
        a, b = self.deviations()
        sizes = float(length(a)), float(length(b))
        # Divided first, as products of both may leave the range of double precision.
        return float(np.sum((a / sizes[0]) * (b / sizes[1]))) if all(sizes) else 0.0

    def _corrected(self) -> HostArray:
        a, b = self.pairs
        corrected: HostArray = a - self.coefficients() * (b - self.control_trace()[0])
        return corrected

    def _errors(self) -> HostArray:
        """Return the standard errors that A's probes and the trace of B leave."""
        m = self.num_probes
        if m < 3:
            return np.array([math.nan, 0.0])
        values = self._corrected()
        # The regression takes one degree of freedom more than the mean.
        own = float(length(values - values.mean())) / math.sqrt(m * (m - 2))
        return np.array([own, abs(float(self.coefficients().mean())) * self.control_trace()[1]])


def control_steps(
    A: LinearOperator,
    control: Control,
    *,
    stream: Stream,
    budget: int,
    probe: ProbeKind = "rademacher",
    block_size: int = 8,
    stratify: bool = False,
) -> Iterator[ControlState]:
    """Yield estimates of the trace of A, one block of probes after another.

    A pilot of 8 probes (4, if the budget is small) measures how much alike the operators are; the
    rest of the budget is split so that the error is least, and all goes to A if B is of no help.

    Parameters
    ----------
    A : LinearOperator
        Square; self-adjoint if complex.
    control : Control
        B, and what is known of its trace.
    stream : Stream
        Where the probes come from.
    budget : int
        What to spend, in products with A.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the probes.
    block_size : int
        Most probes per product.
    stratify : bool
        Use a fresh probe for every term; both operators then have as many terms, in the same order.

    Yields
    ------
    ControlState
        One block of probes further.

    Raises
    ------
    ValueError
        If the operators have different numbers of terms.
    """
    forms = _Forms(A, control.operator, stream, probe, stratify)
    pilot = pilot_probes(budget, control.cost)
    nothing = ControlState(0, 0, 0, np.zeros((2, 0)), np.zeros(0), control)
    state = nothing
    for state in forms.pairs(nothing, pilot, block_size):
        yield state
    # From rank 0: rounding may differ between ranks.
    num_pairs, num_extra = A.domain.comm.broadcast(
        split(
            state.likeness(),
            cost=control.cost,
            known=control.trace is not None,
            known_error=control.standard_error,
            budget=budget,
        )
    )
    if num_pairs == 0:
        # B's forms are forgotten, and plain probes go on from A's.
        state = replace(state, pairs=state.pairs * np.array([[1.0], [0.0]]))
        left = int(budget - state.num_products - control.cost * state.num_control_products)
        yield from forms.plain(state, state.num_probes + left, block_size)
        return
    seen = state
    for state in forms.pairs(seen, num_pairs, block_size):
        yield state
    yield from forms.extra(state, num_extra, block_size)


class _Forms:
    """Quadratic forms of one or both operators, summed over terms."""

    def __init__(
        self,
        A: LinearOperator,
        B: LinearOperator,
        stream: Stream,
        probe: ProbeKind,
        stratify: bool,
    ) -> None:
        self.A, self.B, self.stream = A, B, stream
        self.probe, self.stratify = probe, stratify

    def pairs(self, state: ControlState, total: int, size: int) -> Iterator[ControlState]:
        for indices in probe_blocks(size, total, start=state.num_probes):
            forms = self._sums((self.A, self.B), self.stream, indices)
            yield (state := self._added(state, forms, len(indices), len(indices)))

    def plain(self, state: ControlState, total: int, size: int) -> Iterator[ControlState]:
        for indices in probe_blocks(size, total, start=state.num_probes):
            forms = self._sums((self.A,), self.stream, indices)
            padded = np.concatenate([forms, np.zeros_like(forms)])
            yield (state := self._added(state, padded, len(indices), 0))

    def extra(self, state: ControlState, total: int, size: int) -> Iterator[ControlState]:
        alone = self.stream.for_purpose(Purpose.SKETCH)
        for indices in probe_blocks(size, total):
            forms = self._sums((self.B,), alone, indices)[0]
            yield (
                state := replace(
                    state,
                    step=state.step + 1,
                    num_control_products=state.num_control_products + len(indices),
                    extra=np.concatenate([state.extra, forms]),
                )
            )

    def _added(
        self, state: ControlState, forms: HostArray, products: int, control_products: int
    ) -> ControlState:
        return replace(
            state,
            step=state.step + 1,
            num_products=state.num_products + products,
            num_control_products=state.num_control_products + control_products,
            pairs=np.concatenate([state.pairs, forms], axis=1),
        )

    def _sums(
        self, operators: tuple[LinearOperator, ...], stream: Stream, indices: range
    ) -> HostArray:
        """Return the forms of some operators with the same probes, shape (len(operators), k)."""
        space = self.A.domain
        forms: list[Array | None] = []
        holders: list[int | None] = []
        own = OwnTerms()
        for index, terms in enumerate(paired_strata(operators, self.stratify)):
            holders.extend(term.held_by for term in terms)
            made = own.made(
                terms[0], partial(self._by_probes, terms, stream.for_term(index), indices)
            )
            forms.extend(made or [None] * len(terms))
        # Small, so that they wait on the device for those of all terms: one copy a block of probes.
        together = forms_of_terms(space, holders, forms, (len(indices),), own.error)
        by_term = np.real(to_numpy(together))
        total = np.zeros((len(operators), len(indices)))
        for first in range(0, len(forms), len(operators)):
            total = total + by_term[first : first + len(operators)]
        require_finite(total, indices.stop, self.A)
        return total

    def _by_probes(
        self, terms: tuple[LinearOperator, ...], stream: Stream, indices: range
    ) -> list[Array]:
        """Return the forms of some terms with the same probes."""
        space = self.A.domain
        Z = space.probes(stream, indices, self.probe)
        return [space.column_inner(Z, term.apply(Z)) for term in terms]
