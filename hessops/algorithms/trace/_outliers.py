"""Whether deflation pays for a finite sum, whose terms' errors already average out.

With a fresh probe for each of T terms a probe has the variance V = Σ_b var(z^H A_b z). Directions that
all terms share add (f - g) / T to it, where f and g are the variances of one probe of the whole
operator and of what lies outside of the range of the others: to be had by deflation, at two products a
direction. If terms do not share them alike, V holds more, and deflation gains more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from hessops.algorithms.trace._probe_blocks import multiplied
from hessops.algorithms.trace._term_sums import TermSums
from hessops.algorithms.trace._terms import OwnTerms, forms_of_terms, strata
from hessops.algorithms.trace.xtrace import removed_directions
from hessops.arrays import Array, to_numpy
from hessops.blocks.tall_qr import extended_qr
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite

__all__ = ["Outliers"]

# Of the variance at equal cost: less is no more than what the pilot's few probes may err by.
_WORTH = 0.8


@dataclass(frozen=True)
class Outliers:
    """What a few products with all terms show.

    Parameters
    ----------
    products : array, shape (n, p)
        A Ω, with probes that are for nothing else.
    share : float
        The part of the variance that deflation would leave.
    """

    products: Array
    share: float

    @classmethod
    def of(
        cls, A: LinearOperator, count: int, *, stream: Stream, probe: ProbeKind, block_size: int
    ) -> Outliers:
        """Multiply every term with the same few probes."""
        space = A.domain
        omega = space.probes(stream.for_purpose(Purpose.SKETCH), range(count), probe)
        sums = TermSums(space, space.zeros(count))
        by_term: list[Array | None] = []
        holders = []
        own = OwnTerms()
        for term in strata(A, stratify=True):
            y = own.made(term, partial(multiplied, term, omega, block_size))
            by_term.append(None if y is None else space.column_inner(omega, y))
            holders.append(term.held_by)
            sums.add(term, y)
        products = sums.total(own.error)
        forms = np.real(to_numpy(forms_of_terms(space, holders, by_term, (count,), None)))
        require_finite(forms, count, A)
        Q, R = extended_qr(space, None, products, stream.for_purpose(Purpose.RESTART))
        S = removed_directions(R)
        along = np.sum(S.conj() * to_numpy(space.gram(Q, omega)), axis=0)
        outside = np.real(along.conj() * np.sum(S.conj() * R, axis=0))  # ω_i^H (I - P_i) A ω_i
        size = float(np.max(np.abs(forms))) or 1.0
        scaled = forms / size
        each = float(np.sum(np.var(scaled, axis=1, ddof=1)))
        whole, left = (float(np.var(f, ddof=1)) for f in (scaled.sum(axis=0), outside / size))
        gain = max(whole - left, 0.0) / len(forms)
        return cls(products, space.comm.broadcast(1 - gain / each if each else 1.0))

    def worth_deflating(self, budget: int) -> bool:
        """Tell whether the products for their range leave less variance than those that it costs."""
        count = self.products.shape[1]
        plain, deflated = budget - count, budget - 2 * count
        return self.share / deflated < _WORTH / plain
