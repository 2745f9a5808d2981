"""The trace by random probes (Girard 1989; Hutchinson 1990), with a fresh probe for every term.

E[z^H A z] = tr A for any z with E[z z^H] = I. One probe costs one product. For real symmetric A its
variance is 2 (‖A‖_F² - Σ a_ii²) with signs, 2 ‖A‖_F² with normal numbers, and
2 n / (n + 2) (‖A‖_F² - (tr A)² / n) on the sphere: prefer signs, which are never worse than the sphere
by more than a factor of 1 + 2 / n.

If A is a finite sum of terms, the estimator is linear in the terms and may use a fresh probe for
each: the same cost, and the errors of the terms average out instead of adding up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from hessops.algorithms._one_line import one_line
from hessops.algorithms.trace._probe_blocks import probe_blocks
from hessops.algorithms.trace._terms import OwnTerms, forms_of_terms, strata
from hessops.arrays import Array, HostArray, to_numpy
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Stream
from hessops.record import require_finite
from hessops.result import Interval
from hessops.space import Space
from hessops.statistics import MeanVariance, length, t_quantile, welch_satterthwaite

__all__ = ["HutchinsonState", "hutchinson_steps"]


@dataclass(frozen=True)
class HutchinsonState:
    """What a number of probes say of the trace.

    The estimate is ``moments.mean[:, 0].sum()``: the mean over probes of the sum over terms of
    z^H A_b z.

    Parameters
    ----------
    step : int
        Blocks of probes done.
    num_products : int
        Products with the whole operator.
    moments : MeanVariance
        Over probes, of the quadratic form of each term: shape (num_terms, 1 + num_sections), the
        whole in column 0 and each section of the space in a column of its own.
    num_samples : tuple of float
        Samples of data behind each term, as the terms say.
    """

    step: int
    num_products: int
    moments: MeanVariance
    num_samples: tuple[float, ...]

    __repr__ = one_line

    @property
    def num_probes(self) -> int:
        """Return the probes done (for every term, if stratified)."""
        return self.moments.count

    def estimate(self, column: int = 0) -> float:
        """Return the estimate of the trace, or of one section's."""
        return float(self.moments.mean[:, column].sum())

    def size(self) -> float:
        """Return the modulus of the estimate."""
        return abs(self.estimate())

    def probe_deviation(self, column: int = 0) -> float:
        """Return the standard deviation of one probe (a fresh one for every term)."""
        return float(length(self.moments.deviation[:, column]))

    def standard_error(self, column: int = 0) -> float:
        """Return the standard error that the probes leave."""
        return self.probe_deviation(column) / math.sqrt(self.num_probes)

    def freedom(self, column: int = 0) -> float:
        """Return the degrees of freedom of the standard error."""
        if self.num_probes < 2:
            return 0.0
        deviations = self.moments.deviation[:, column]
        return float(welch_satterthwaite(deviations, self.num_probes - 1))

    def quantile(self, confidence: float) -> float:
        """Return the half-width of an interval in standard errors, by Student's t."""
        return float(t_quantile(confidence, self.freedom()))

    def interval(self, source: HutchinsonState, confidence: float) -> Interval:
        """Return the interval about this estimate, by the spread of the probes of `source`."""
        if source.num_probes < 2:
            return Interval(-math.inf, math.inf)
        # With more probes than `source`, whose spread it is by Stein's two stages.
        shrunk = math.sqrt(source.num_probes / self.num_probes)
        half = source.quantile(confidence) * source.standard_error() * shrunk
        return Interval(self.estimate() - half, self.estimate() + half)

    def term_scatter(self) -> float:
        """Return how the traces of terms scatter, each scaled up from its samples to the whole."""
        samples = np.asarray(self.num_samples, dtype=np.float64)
        with_data = samples > 0
        count = int(np.sum(with_data))
        if count < 2 or self.num_probes < 2:
            return math.nan
        weights = samples[with_data] / np.mean(samples[with_data])
        traces = self.moments.mean[with_data, 0]
        roots = np.sqrt(weights)
        # A term of w average terms' samples varies by 1/w as much about the whole.
        scatter = float(length(traces * count / roots - roots * traces.sum()))
        deviations = self.moments.deviation[with_data, 0]
        noise = length(deviations * np.sqrt(np.maximum(1 / weights - 1 / count, 0.0)))
        of_probes = float(noise) * count / math.sqrt(self.num_probes)
        if of_probes >= scatter:
            return 0.0
        return scatter * math.sqrt((1 - (of_probes / scatter) ** 2) / (count - 1))


def hutchinson_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    probe: ProbeKind = "rademacher",
    block_size: int = 1,
    stratify: bool = False,
    num_probes: int | Callable[[], int] | None = None,
) -> Iterator[HutchinsonState]:
    """Yield estimates of a trace, one block of probes after another.

    Parameters
    ----------
    A : LinearOperator
        Square.
    stream : Stream
        Where the probes come from.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Their distribution.
    block_size : int
        Probes per product.
    stratify : bool
        Use a fresh probe for every term.
    num_probes : int or callable, optional
        Where to end, or a function that is asked for that before every block; never, if not given.

    Yields
    ------
    HutchinsonState
        One block of probes further.
    """
    moments: MeanVariance | None = None
    for step, indices in enumerate(probe_blocks(block_size, num_probes), start=1):
        forms: list[Array | None] = []
        holders, num_samples = [], []
        own = OwnTerms()
        for index, term in enumerate(strata(A, stratify)):
            form = partial(_form, A.domain, term, stream.for_term(index), indices, probe)
            forms.append(own.made(term, form))
            holders.append(term.held_by)
            num_samples.append(term.num_samples)
        shape = (max(len(A.domain.sections), 1), len(indices))
        together = forms_of_terms(A.domain, holders, forms, shape, own.error)
        samples = _with_wholes(A.domain, together)
        require_finite(samples, indices.stop, A)
        block = MeanVariance.of(samples)
        moments = block if moments is None else moments.merged(block)
        yield HutchinsonState(step, indices.stop, moments, tuple(num_samples))


def _form(
    space: Space, term: LinearOperator, stream: Stream, indices: range, probe: ProbeKind
) -> Array:
    """Return z^H A_b z of one term by section, for each of some probes."""
    Z = space.probes(stream, indices, probe)
    return space.section_inner(Z, term.apply(Z))


def _with_wholes(space: Space, forms: Array) -> HostArray:
    """Return z^H A z for each term and probe: the whole, then each section, shape (T, 1 + S, k)."""
    # Small, so that they wait on the device for those of all terms: one copy a block of probes.
    together = np.real(to_numpy(forms))
    if not space.sections:
        return together
    # Term by term, as the order of a sum over sections is the axis'.
    wholes = [sections.sum(axis=0, keepdims=True) for sections in together]
    return np.concatenate([np.stack(wholes), together], axis=1)
