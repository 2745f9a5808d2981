"""Mean and variance of every entry of a vector, over probes, merged block by block.

Variances are summed over blocks of probes as Chan, Golub & LeVeque (1983) merge them. Within a block
each term of a sum has a spread of its own, which leaves as many degrees of freedom as there are terms
for each probe; between blocks only the sum is compared, so that no vector is kept for every term.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hessops.arrays import Array, DType, is_complex, namespace, to_numpy
from hessops.space import Space
from hessops.together import summed_together

__all__ = ["EntryMoments", "entry_norms", "entry_samples", "no_samples", "or_one"]


@dataclass(frozen=True)
class EntryMoments:
    """Mean and variance of every entry, over probes, in double precision.

    Spreads are lengths, as squares of 1e-160 or 1e160 leave the range of double precision.

    Parameters
    ----------
    count : int
        Probes seen (for every term, if there are several).
    num_blocks : int
        Blocks of probes that were merged.
    num_terms : int
        Terms that had probes of their own.
    mean : array, shape (n,)
        Of the sum of all terms.
    spread : array, shape (n,)
        Root of the sum of squared deviations, in the mean ``count - 1`` variances of one probe.
    fourth : array, shape (n,)
        Fourth root of the sum, over blocks and terms, of s⁴ / (f + 2) for spreads s with f degrees.
    """

    count: int
    num_blocks: int
    num_terms: int
    mean: Array
    spread: Array
    fourth: Array

    @classmethod
    def of(cls, samples_of_terms: Iterable[Array]) -> EntryMoments:
        """Return the moments of the sum of some terms, of samples in double precision.

        Parameters
        ----------
        samples_of_terms : iterable of array, shape (n, k)
            What k probes of its own say of each term.

        Returns
        -------
        EntryMoments
            Of all entries.
        """
        moments: EntryMoments | None = None
        for samples in samples_of_terms:
            xp, count = namespace(samples), samples.shape[1]
            center = xp.sum(samples, axis=1) / count
            deviations = xp.abs(samples - center[:, None])
            largest = or_one(xp.max(deviations, axis=1))
            spread = xp.sqrt(xp.sum((deviations / largest[:, None]) ** 2, axis=1)) * largest
            fourth = spread / (count + 1) ** 0.25
            term = cls(count, 1, 1, center, spread, fourth)
            moments = term if moments is None else moments.beside(term)
        assert moments is not None
        return moments

    @classmethod
    def over_ranks(
        cls,
        space: Space,
        here: EntryMoments | None,
        count: int,
        num_terms: int,
        error: Exception | None,
    ) -> EntryMoments:
        """Return the moments of the sum of terms of which every rank holds some, or none.

        Parameters
        ----------
        space : Space
            Of the vectors.
        here : EntryMoments or None
            Of one block of probes, for the terms that this rank holds.
        count : int
            Probes in the block.
        num_terms : int
            Terms of all ranks.
        error : Exception or None
            What kept this rank from its moments.

        Returns
        -------
        EntryMoments
            The same on every rank, by two reductions.

        Raises
        ------
        Exception
            On all ranks, if there was an error on any.
        """
        xp, comm = space.xp, space.comm
        of_none = no_samples(space, 1)[:, 0]
        mean, sizes = of_none, xp.stack([xp.abs(of_none)] * 2)
        if here is not None:
            mean, sizes = here.mean, xp.stack([here.spread, here.fourth])
        parts = [xp.real(mean), xp.imag(mean)] if is_complex(xp, mean.dtype) else [mean]
        sums = summed_together(comm, xp.stack([*parts, sizes[0, ...], sizes[1, ...]]), error)
        # A sum of lengths, to scale them by: their own powers may leave the range of numbers.
        scales = or_one(sums[-2:, ...])
        shares = sizes / scales
        powers = comm.all_reduce(xp.stack([shares[0, ...] ** 2, shares[1, ...] ** 4]))
        roots = xp.sqrt(powers)
        mean = sums[0, ...] + 1j * sums[1, ...] if len(parts) == 2 else sums[0, ...]
        spread, fourth = roots[0, ...] * scales[0, ...], xp.sqrt(roots[1, ...]) * scales[1, ...]
        return cls(count, 1, num_terms, mean, spread, fourth)

    def beside(self, term: EntryMoments) -> EntryMoments:
        """Return the moments with more terms, which had probes of their own."""
        return EntryMoments(
            count=self.count,
            num_blocks=self.num_blocks,
            num_terms=self.num_terms + term.num_terms,
            mean=self.mean + term.mean,
            spread=namespace(self.spread).hypot(self.spread, term.spread),
            fourth=_fourth_root_of_sum(self.fourth, term.fourth),
        )

    def merged(self, other: EntryMoments) -> EntryMoments:
        """Return the moments of both blocks of probes (Chan, Golub & LeVeque 1983)."""
        xp = namespace(self.mean)
        count = self.count + other.count
        delta = other.mean - self.mean
        between = xp.abs(delta) * math.sqrt(self.count * other.count / count)
        return EntryMoments(
            count=count,
            num_blocks=self.num_blocks + other.num_blocks,
            num_terms=self.num_terms,
            mean=self.mean + delta * (other.count / count),
            spread=xp.hypot(xp.hypot(self.spread, other.spread), between),
            fourth=_fourth_root_of_sum(self.fourth, other.fourth),
        )

    def standard_errors(self, num_probes: int) -> Array:
        """Return the standard errors of a mean over so many such probes, NaN if unknown."""
        share = 1 / ((self.count - 1) * num_probes) if self.count > 1 else math.nan
        return self.spread * math.sqrt(share)

    def freedom(self) -> float | Array:
        """Return the degrees of freedom behind standard errors, of each entry if there are terms.

        As `hessops.statistics.welch_satterthwaite` does, in Welch's (1947) form.
        """
        least = float(self.count - 1)
        if self.num_terms == 1 or self.count < 2:
            return least
        xp = namespace(self.spread)
        within = self.fourth / or_one(self.spread)
        between = (self.num_blocks - 1) / least**2
        # Where all deviations are zero, any number will do.
        inverse = xp.clip(within**4 + between, 1 / (self.num_terms * least + 2), None)
        freedom: Array = xp.clip(1 / inverse - 2, least, self.num_terms * least)
        return freedom


def entry_samples(space: Space, Z: Array, product: Array) -> Array:
    """Return conj(Z) ∘ product, which has the diagonal as its mean, in double precision.

    From the start, as in single precision the squares of 1e20 overflow.
    """
    xp = space.xp
    mirrored = xp.conj(Z) if is_complex(xp, Z.dtype) else Z
    samples: Array = xp.astype(mirrored, _wide(space)) * product
    return samples


def no_samples(space: Space, count: int) -> Array:
    """Return zeros in the place of `entry_samples`, for a rank that has no terms."""
    zeros: Array = space.xp.zeros((space.local_dim, count), dtype=_wide(space), device=space.device)
    return zeros


def entry_norms(space: Space, *vectors: Array) -> list[float]:
    """Return the 2-norms of vectors whose squares may leave the range of numbers; waits once."""
    xp = space.xp
    moduli = xp.stack([xp.abs(vector) for vector in vectors], axis=1)
    # Sums of moduli stay within range where those of squares leave it.
    totals = space.column_inner(moduli, xp.ones_like(moduli))
    with np.errstate(invalid="ignore"):  # infinite totals are returned as they are
        shares = space.column_norms_squared(moduli / or_one(totals))
    sums, squares = to_numpy(xp.stack([totals, shares]))
    finite = (sums > 0) & (sums < math.inf)
    return [float(norm) for norm in np.where(finite, sums * np.sqrt(squares), sums)]


def or_one(sizes: Array) -> Array:
    """Return what is not negative as a divisor: 1 where it is 0."""
    xp = namespace(sizes)
    divisor: Array = xp.where(xp.greater(sizes, xp.zeros_like(sizes)), sizes, xp.ones_like(sizes))
    return divisor


def _wide(space: Space) -> DType:
    xp = space.xp
    return xp.complex128 if is_complex(xp, space.dtype) else xp.float64


def _fourth_root_of_sum(left: Array, right: Array) -> Array:
    """Return (left⁴ + right⁴)^(1/4), whose fourth powers need not be representable."""
    xp, largest = namespace(left), or_one(namespace(left).maximum(left, right))
    root: Array = largest * xp.sqrt(xp.hypot((left / largest) ** 2, (right / largest) ** 2))
    return root
