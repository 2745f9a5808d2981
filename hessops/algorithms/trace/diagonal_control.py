"""The diagonal with the help of an operator that is much like it: a control variate for every entry.

With the samples a_j = conj(z_j) ∘ A z_j and b_j = conj(z_j) ∘ B z_j of the same probes,

    diag(A) ≈ mean_j (a_j - c_j (b_j - diag(B))),

with one coefficient for all entries: the regression of a on b over all of them, by a pilot's probes
(for the pilot's own, by all of them but each), so that no entry has a bias. Its variance, summed over
the entries, is that of a plain probe times 1 - ρ². A diagonal of B that is not known is probed as well,
by more probes than A if a product with B is cheap.
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
from hessops.algorithms.trace._entry_moments import (
    EntryMoments,
    entry_norms,
    entry_samples,
    no_samples,
    or_one,
)
from hessops.algorithms.trace._probe_blocks import probe_blocks
from hessops.algorithms.trace._term_sums import TermSums
from hessops.algorithms.trace._terms import OwnTerms, paired_strata
from hessops.arrays import Array, HostArray, is_array, is_complex, namespace, to_numpy
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite
from hessops.results.diagonal import DiagonalResult

__all__ = [
    "DiagonalControl",
    "DiagonalControlState",
    "as_diagonal_control",
    "diagonal_control_steps",
]


@dataclass(frozen=True)
class DiagonalControl:
    """An operator that is much like another, and what is known of its diagonal.

    Parameters
    ----------
    operator : LinearOperator
        Of the other's shape; its products should be cheap, or its diagonal known.
    diagonal : array, shape (n,), optional
        Its diagonal; probed, where not given.
    standard_errors : array, shape (n,), optional
        Of `diagonal`; it is exact where not given.
    freedom : float or array, shape (n,)
        Degrees of freedom of the standard errors.
    cost : float
        Of a product, in products with the other operator.
    """

    operator: LinearOperator
    diagonal: Array | None = None
    standard_errors: Array | None = None
    freedom: float | Array = math.inf
    cost: float = 1.0


def as_diagonal_control(A: LinearOperator, control: Any) -> DiagonalControl:
    """Return what a user gave as a control variate for the diagonal of A.

    Parameters
    ----------
    A : LinearOperator
        The operator whose diagonal is wanted.
    control : DiagonalControl, or tuple of operator and diagonal
        The diagonal is an array of shape (n,), a result of `diagonal`, or None.

    Returns
    -------
    DiagonalControl
        With the operator wrapped and the vectors in double precision.

    Raises
    ------
    ValueError
        If the operators do not fit each other, or the diagonal is no finite vector of theirs.
    TypeError
        If `control` is something else.
    """
    if not isinstance(control, DiagonalControl):
        if not (isinstance(control, tuple | list) and len(control) == 2):
            raise TypeError(
                f"control={control!r} must be (B, diagonal_of_B), or (B, None) to probe it"
            )
        operator, known = control
        control = DiagonalControl(operator, known)
        if isinstance(known, DiagonalResult):
            control = DiagonalControl(operator, known.values, known.standard_errors, known.freedom)
    given: DiagonalControl = control
    return replace(
        given,
        operator=control_operator(A, given.operator, given.cost),
        diagonal=_widened(A, given.diagonal, "diagonal of the control"),
        standard_errors=_widened(A, given.standard_errors, "standard errors of the control"),
    )


def _widened(A: LinearOperator, vector: Array | None, name: str) -> Array | None:
    if vector is None:
        return None
    space = A.domain
    if not is_array(vector) or tuple(vector.shape) != (space.local_dim,):
        found = f"shape {tuple(vector.shape)}" if is_array(vector) else type(vector).__name__
        raise ValueError(f"the {name} must be an array of shape ({space.local_dim},), got {found}")
    column = space.validate(vector[:, None])[:, 0]
    if not math.isfinite(entry_norms(space, column)[0]):
        raise ValueError(f"the {name} holds NaN or infinity")
    xp = space.xp
    wide: Array = xp.astype(column, xp.complex128 if is_complex(xp, space.dtype) else xp.float64)
    return wide


@dataclass(frozen=True)
class DiagonalControlState:
    """What probes of both operators say of the diagonal of A.

    The estimate is ``moments.mean + slope * (diagonal of B - center)``.

    Parameters
    ----------
    step : int
        Blocks of probes done.
    num_products, num_control_products : int
        Products with A, and with B.
    moments : EntryMoments
        Of a_j - c_j (b_j - center), entry by entry.
    extra : EntryMoments or None
        Of B's samples with probes of their own, where its diagonal is not known.
    center : array, shape (n,)
        B's diagonal if known, else what the pilot saw of it.
    slope : float
        The mean of the coefficients c_j.
    correlation : float
        Between what the pilot's probes saw of A and of B, over all entries.
    values, standard_errors : array, shape (n,)
        The estimate, and its errors.
    freedom : float or array, shape (n,)
        Degrees of freedom of the errors.
    norm, error_norm : float
        2-norms of the estimate and of its standard errors.
    """

    step: int
    num_products: int
    num_control_products: int
    moments: EntryMoments
    extra: EntryMoments | None
    center: Array
    slope: float
    correlation: float
    values: Array
    standard_errors: Array
    freedom: float | Array
    norm: float
    error_norm: float

    __repr__ = one_line

    @property
    def num_probes(self) -> int:
        """Return the probes that A saw."""
        return self.moments.count

    @property
    def helps(self) -> bool:
        """Return whether B's samples are used."""
        return self.slope != 0


def diagonal_control_steps(
    A: LinearOperator,
    control: DiagonalControl,
    *,
    stream: Stream,
    budget: int,
    probe: ProbeKind = "rademacher",
    block_size: int = 8,
    stratify: bool = False,
) -> Iterator[DiagonalControlState]:
    """Yield estimates of the diagonal of A, one block of probes after another.

    A pilot of 8 probes (4, if the budget is small) measures how much alike the operators are; the
    rest of the budget is split so that the error is least, and all goes to A if B is of no help.

    Parameters
    ----------
    A : LinearOperator
        Square.
    control : DiagonalControl
        B, and what is known of its diagonal.
    stream : Stream
        Where the probes come from.
    budget : int
        What to spend, in products with A.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the probes.
    block_size : int
        Most probes per product, but for the pilot's, which are multiplied at once.
    stratify : bool
        Use a fresh probe for every term; both operators then have as many terms, in the same order.

    Yields
    ------
    DiagonalControlState
        One block of probes further.
    """
    run = _Run(A, control, stream, probe, stratify)
    pilot = pilot_probes(budget, control.cost)
    a, b = run.samples((A, control.operator), stream, range(pilot))
    likeness, slopes = run.compared(a, b)
    pairs, extra = A.domain.comm.broadcast(
        split(
            likeness,
            cost=control.cost,
            known=control.diagonal is not None,
            known_error=run.known_error(),
            budget=budget,
        )
    )
    if pairs == 0:
        slopes, pairs = slopes * 0, pilot + int(budget - pilot * (1 + control.cost))
    run.take_pilot(a, b, slopes, likeness.correlation)
    yield run.state()
    for indices in probe_blocks(block_size, pairs, start=pilot):
        run.take_pair(indices)
        yield run.state()
    for indices in probe_blocks(block_size, extra):
        run.take_extra(indices)
        yield run.state()


class _Run:
    """The sums that the engine adds to."""

    def __init__(
        self,
        A: LinearOperator,
        control: DiagonalControl,
        stream: Stream,
        probe: ProbeKind,
        stratify: bool,
    ) -> None:
        self.A, self.control, self.stream = A, control, stream
        self.probe, self.stratify = probe, stratify
        self.step = self.num_control_products = 0
        self.extra: EntryMoments | None = None

    def samples(
        self, operators: tuple[LinearOperator, ...], stream: Stream, indices: range
    ) -> list[Array]:
        """Return the samples of some operators by the same probes, summed over terms."""
        space = self.A.domain
        zero = no_samples(space, len(indices))
        totals = [TermSums(space, zero) for _ in operators]
        own = OwnTerms()
        for index, terms in enumerate(paired_strata(operators, self.stratify)):
            made = own.made(
                terms[0], partial(self._by_probes, terms, stream.for_term(index), indices)
            )
            blocks: list[Array | None] = [*made] if made else [None] * len(terms)
            for total, term, block in zip(totals, terms, blocks, strict=True):
                total.add(term, block)
        return [total.total(own.error) for total in totals]

    def _by_probes(
        self, terms: tuple[LinearOperator, ...], stream: Stream, indices: range
    ) -> list[Array]:
        """Return the samples of some terms by the same probes."""
        space = self.A.domain
        Z = space.probes(stream, indices, self.probe)
        return [entry_samples(space, Z, term.apply(Z)) for term in terms]

    def compared(self, a: Array, b: Array) -> tuple[Likeness, HostArray]:
        """Return how much alike A and B are to the pilot's probes, and a coefficient for each."""
        space, count = self.A.domain, a.shape[1]
        a, b = (block - (space.xp.sum(block, axis=1) / count)[:, None] for block in (a, b))
        forms = np.real(to_numpy(space.column_inners((a, a), (b, b), (b, a))))
        require_finite(forms, count, self.A)
        of_a, of_b, together = forms
        spreads = math.sqrt(float(np.sum(of_a))), math.sqrt(float(np.sum(of_b)))
        size = spreads[0] * spreads[1]
        correlation = float(np.sum(together)) / size if size else 0.0
        return Likeness(count, *spreads, correlation), left_out_slopes(together, of_b)

    def known_error(self) -> float:
        """Return the 2-norm of the standard errors of B's diagonal."""
        errors = self.control.standard_errors
        return 0.0 if errors is None else entry_norms(self.A.domain, errors)[0]

    def take_pilot(self, a: Array, b: Array, slopes: HostArray, correlation: float) -> None:
        """Begin with the pilot's samples."""
        xp, count = self.A.xp, a.shape[1]
        known = self.control.diagonal
        self.center = xp.sum(b, axis=1) / count if known is None else known
        self.correlation, self.slope_of_pilot = correlation, float(slopes.mean())
        self.sum_of_slopes = float(slopes.sum())
        # In the samples' double precision, whatever the precision of the space.
        factors = xp.asarray(slopes, dtype=a.dtype, device=self.A.domain.device)
        self.moments = EntryMoments.of([a - (b - self.center[:, None]) * factors])
        self.num_control_products = count
        self.step = 1

    def take_pair(self, indices: range) -> None:
        """Go on with both operators, or with A alone if B is of no help."""
        helps = self.slope_of_pilot != 0
        operators = (self.A, self.control.operator) if helps else (self.A,)
        samples, *others = self.samples(operators, self.stream, indices)
        for b in others:
            samples = samples - (b - self.center[:, None]) * self.slope_of_pilot
            self.num_control_products += len(indices)
        self.moments = self.moments.merged(EntryMoments.of([samples]))
        self.sum_of_slopes += self.slope_of_pilot * len(indices)
        self.step += 1

    def take_extra(self, indices: range) -> None:
        """Go on with B alone."""
        alone = self.stream.for_purpose(Purpose.SKETCH)
        block = EntryMoments.of(self.samples((self.control.operator,), alone, indices))
        self.extra = block if self.extra is None else self.extra.merged(block)
        self.num_control_products += len(indices)
        self.step += 1

    def state(self) -> DiagonalControlState:
        """Return what is known so far."""
        space, moments, count = self.A.domain, self.moments, self.moments.count
        slope = self.sum_of_slopes / count
        values, errors = moments.mean, moments.standard_errors(count)
        freedom = moments.freedom()
        correction, of_control, its_freedom = self._of_control()
        if correction is not None:
            values = values + correction * slope
        if of_control is not None:
            of_control = of_control * abs(slope)
            total = space.xp.hypot(errors, of_control)
            freedom = _joined_freedom(errors, freedom, of_control, its_freedom, total)
            errors = total
        norm, error_norm = entry_norms(space, values, errors)
        require_finite(np.asarray(norm), count, self.A)
        return DiagonalControlState(
            step=self.step,
            num_products=count,
            num_control_products=self.num_control_products,
            moments=moments,
            extra=self.extra,
            center=self.center,
            slope=slope,
            correlation=self.correlation,
            values=values,
            standard_errors=errors,
            freedom=freedom,
            norm=norm,
            error_norm=error_norm,
        )

    def _of_control(self) -> tuple[Array | None, Array | None, float | Array]:
        """Return what B's diagonal adds to `center`, its errors and their degrees of freedom."""
        if self.control.diagonal is not None:
            return None, self.control.standard_errors, self.control.freedom
        # Before B has probes of its own, nothing is gained, and nothing lost.
        if self.extra is None:
            return None, None, math.inf
        errors = self.extra.standard_errors(self.extra.count)
        return self.extra.mean - self.center, errors, self.extra.freedom()


def _joined_freedom(
    left: Array, left_freedom: Any, right: Array, right_freedom: Any, total: Array
) -> Array:
    """Return the degrees of freedom of two independent errors together (Welch & Satterthwaite)."""
    divisor = or_one(total)
    inverse = (left / divisor) ** 4 / left_freedom + (right / divisor) ** 4 / right_freedom
    # Where all deviations are zero, any number will do.
    joined: Array = 1 / namespace(total).clip(inverse, 1e-9, None)
    return joined
