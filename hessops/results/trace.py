"""What an estimate of a trace comes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hessops.counted import counted
from hessops.result import Estimate, Interval, Result
from hessops.results.numbers import estimate_text, interval_text

__all__ = ["TraceResult"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceResult(Result):
    """An estimate of a trace.

    Parameters
    ----------
    value : float
        The estimate, unbiased.
    standard_error : float
        Of the probes alone; NaN after a single probe.
    interval : Interval
        Confidence interval (low, high) by Student's t.
    confidence : float
        Its nominal coverage.
    method : str
        The estimator.
    reason : str
        Why that one.
    num_probes : int
        Probes used (for every term, if stratified); unit vectors, if exact.
    probe : str
        Their distribution.
    num_terms : int
        Terms that had probes of their own; 1 if not stratified.
    term_scatter : float
        Standard deviation between terms of their traces, each scaled up to the whole, with the
        probes' part taken out; NaN for a single term or probe. Terms weigh by their `num_samples`:
        a short last batch counts for less, a weight decay not at all. Not an error of this trace:
        divided by the root of the number of terms with samples, it is the error made in estimating
        the trace of a larger population of which the samples are a random part.
    sections : mapping of str to Estimate
        The trace of each named section of the space (such as a layer) from the same products; empty
        where the method gives none.
    num_control_products : int
        Columns multiplied by the operator that helps, if there is one; not in `num_products`.
    """

    value: float
    standard_error: float
    interval: Interval
    confidence: float
    method: str
    reason: str
    num_probes: int
    probe: str
    num_terms: int
    term_scatter: float
    sections: Mapping[str, Estimate] = field(default_factory=dict)
    num_control_products: int = 0

    def __str__(self) -> str:
        vectors = "vector" if self.method == "exact" else "probe"
        return (
            f"trace = {estimate_text(self.value, self.standard_error)} "
            f"({self.confidence:.0%} interval {interval_text(*self.interval)}; {self.method} with "
            f"{counted(self.num_probes, f'{self.probe} {vectors}')}, {self._cost()})"
        )
