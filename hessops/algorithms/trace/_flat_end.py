"""Whether XTrace with the probes at hand promises more than XNysTrace with twice as many.

The right singular vectors of A Ω with the smallest singular values are combinations x of probes
that see next to nothing of the leading eigenvectors: random vectors of the end of the spectrum.
From A x and x follow its mean eigenvalue μ = x^H A x / ‖x‖² and mean square s = ‖A x‖² / ‖x‖², and
with those what both estimators will make of it. Let r directions lead, d = n - r, and d_e = d μ² /
s, the number of equal eigenvalues that would have the same trace and Frobenius norm as the end.

XNysTrace with m probes leaves λ κ / (λ + κ) of an eigenvalue λ, with the root κ = d μ / (m - r) - d
μ / d_e of tr A (A + κ)^{-1} = m for such an end, or nothing if m - r exceeds d_e: then its probes
exhaust the end.

XTrace with p probes leaves d s / (λ (p - r - 1)) of a leading eigenvalue λ (Halko, Martinsson &
Tropp 2011, theorem 10.5), and of the end its deviation from a multiple of the identity, d (s - μ²),
since its probes are given their expected length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hessops.algorithms.trace._leave_one_out import LeaveOneOutState
from hessops.arrays import HostArray, to_numpy
from hessops.blocks.tall_qr import extended_qr
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, Stream
from hessops.record import require_finite

__all__ = ["FlatEnd", "switch_to_xtrace"]

_LEAST_END = 4
# So much better has XTrace to promise to be: a wrong switch costs digits, a missed one a factor.
_MARGIN = 2.0
_TINY = 1e-300


def switch_to_xtrace(
    state: LeaveOneOutState, A: LinearOperator, stream: Stream, probe: ProbeKind
) -> bool:
    """Tell whether XTrace with the probes so far promises more than XNysTrace with twice as many.

    Parameters
    ----------
    state : LeaveOneOutState
        XNysTrace's.
    A : LinearOperator
        Positive semidefinite.
    stream : Stream
        Where the probes came from.
    probe : {'sphere', 'normal'}
        Their distribution.

    Returns
    -------
    bool
        The same on every rank.
    """
    space, p = A.domain, state.num_probes
    Q, R = extended_qr(space, None, state.products, stream.for_purpose(Purpose.RESTART))
    require_finite(R, p, A)
    omega = space.probes(stream, range(p), probe)
    grams = to_numpy(space.joint_gram([Q, omega], omega))
    ends = FlatEnd.splits(R, grams[:p], grams[p:], space.dim)
    of_xtrace = min(end.error_of_xtrace() for end in ends)
    of_xnystrace = max(end.error_of_xnystrace() for end in ends)
    return space.agree(_MARGIN * of_xtrace < of_xnystrace)


@dataclass(frozen=True)
class FlatEnd:
    """The leading eigenvalues and the moments of all others, up to a common factor.

    Parameters
    ----------
    leading : numpy.ndarray, shape (r,)
        Leading eigenvalues, roughly.
    num_probes : int
        Probes that they come from.
    dim : int
        Number of the other eigenvalues.
    mean, mean_square : float
        Of these.
    deviation : float
        Their mean squared deviation from their mean, without cancellation.
    """

    leading: HostArray
    num_probes: int
    dim: int
    mean: float
    mean_square: float
    deviation: float

    @classmethod
    def splits(cls, R: HostArray, overlap: HostArray, gram: HostArray, dim: int) -> list[FlatEnd]:
        """Return what some products show, for several numbers of leading eigenvalues.

        What each claims holds for XTrace as an upper and for XNysTrace as a lower estimate, whichever
        the number: the least and the greatest claim count.

        Parameters
        ----------
        R : numpy.ndarray, shape (p, p)
            ``A Ω = Q R``.
        overlap, gram : numpy.ndarray, shape (p, p)
            ``Q^H Ω`` and ``Ω^H Ω``.
        dim : int
            The dimension of the space.

        Returns
        -------
        list of FlatEnd
            With 1, 2, 3 ... leading eigenvalues, and at least four probes for the end.
        """
        p = len(R)
        # Only ratios count; of scaled numbers no square leaves the range.
        left, sigma, right = np.linalg.svd(R / (float(np.max(np.abs(R))) or 1.0))
        V = right.conj().T
        squared = np.real(np.sum(V.conj() * (gram @ V), axis=0))
        along = np.real(np.sum((overlap @ V).conj() * left, axis=0))  # x^H A x = σ x^H Q u
        # Of a multiple of the identity x is Q u but for its length.
        off = np.maximum(squared - along**2, 0.0)
        means, squares, deviations = (
            part / squared**power
            for part, power in ((sigma * along, 1), (sigma**2, 1), (sigma**2 * off, 2))
        )
        return [
            cls(
                leading=sigma[:rank] / math.sqrt(p),
                num_probes=p,
                dim=dim - rank,
                mean=float(np.mean(means[rank:])),
                mean_square=float(np.mean(squares[rank:])),
                deviation=float(np.mean(deviations[rank:])),
            )
            for rank in range(1, p - _LEAST_END + 1)
        ]

    def error_of_xtrace(self) -> float:
        """Return the standard error of XTrace with the probes at hand."""
        outside = self.dim * self.mean_square / (self.num_probes - len(self.leading) - 1)
        missed = np.sum((outside / np.maximum(self.leading, math.sqrt(outside) + _TINY)) ** 2)
        return math.sqrt(2 * (float(missed) + self.dim * self.deviation) / self.num_probes)

    def error_of_xnystrace(self) -> float:
        """Return the standard error of XNysTrace with twice the probes, no more than it will be."""
        if self.mean_square == 0 or self.mean <= 0:
            return 0.0
        count, rank, trace = 2 * self.num_probes, len(self.leading), self.dim * self.mean
        equal = self.dim * (self.mean / math.sqrt(self.mean_square)) ** 2
        left = trace / (count - rank) - trace / equal
        if left <= 0:
            return 0.0
        missed = left * self.leading / (self.leading + left)
        of_end = left * self.mean / (self.mean + left)
        # A multiple of the identity is no error: its probes, too, are given their expected length.
        offset = (float(np.sum(missed)) + self.dim * of_end) / (rank + self.dim)
        squares = float(np.sum((missed - offset) ** 2)) + self.dim * (of_end - offset) ** 2
        return math.sqrt(2 * squares / count)
