"""One sweep of products that tells the traces and the diagonals of all blocks at once.

With signs z, the entries of z ∘ Hz have the diagonal of H as their mean. Summed over a block they give
its trace, over everything the whole trace, and their ratio the block's share, in which much of the
noise of both cancels. The mean square of a block's diagonal is no linear function of it: squares of an
estimate are too large by its variance, so that products of *different* probes are averaged instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hessops.algorithms._one_line import one_line
from hessops.algorithms.trace._probe_blocks import probe_blocks
from hessops.algorithms.trace._term_sums import TermSums
from hessops.algorithms.trace._terms import OwnTerms, forms_of_terms, strata
from hessops.algorithms.trace.hutchinson import HutchinsonState
from hessops.arrays import Array, HostArray, numpy_dtype, to_numpy
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Stream
from hessops.record import require_finite
from hessops.result import Estimate, Interval
from hessops.space import Space
from hessops.statistics import MeanVariance, length, t_quantile, welch_satterthwaite

__all__ = [
    "LayerState",
    "group_count",
    "layer_steps",
    "no_less_than_means",
    "ratio_interval",
    "rms_of_groups",
]

# Sets of probes whose diagonals are compared. Each takes the memory of a vector.
_MOST_GROUPS = 8
_LEAST_GROUPS = 3
_GROUP_BYTES = 2**30


@dataclass(frozen=True)
class LayerState:
    """What a number of probes say of the blocks of an operator.

    Parameters
    ----------
    step : int
        Blocks of probes done.
    sums : HutchinsonState
        Quadratic forms: the whole in column 0, and each block in a column of its own.
    comoments : numpy.ndarray, shape (num_terms, num_blocks)
        Sums over probes of the products of a block's and the whole's deviations.
    groups : array, shape (n, g)
        Sums of z ∘ Hz over the probes of each of g groups.
    counts : numpy.ndarray, shape (g,)
        Probes in each.
    """

    step: int
    sums: HutchinsonState
    comoments: HostArray
    groups: Array
    counts: HostArray

    __repr__ = one_line

    @property
    def num_products(self) -> int:
        """Return the products with the whole operator."""
        return self.sums.num_products

    def trace(self, column: int, confidence: float) -> Estimate:
        """Return the trace of the whole (column 0) or of a block (from 1)."""
        return Estimate(
            value=self.sums.estimate(column),
            standard_error=self.sums.standard_error(column),
            freedom=self.sums.freedom(column),
            confidence=confidence,
        )

    def share(self, column: int, confidence: float) -> tuple[float, Interval]:
        """Return the trace of a block over that of the whole, and an interval by Fieller's theorem.

        All ratios r for which the mean of block - r * whole may be zero: no interval at all, here an
        infinite one, where the trace of the whole may be zero itself.
        """
        sums, count = self.sums, self.sums.num_probes
        block, whole = sums.estimate(column), sums.estimate()
        if whole == 0 or count < 2:
            return (block / whole if whole else math.nan), Interval(-math.inf, math.inf)
        ratio = block / whole
        spreads = sums.moments.spread[:, column], sums.moments.spread[:, 0]
        squares = [spreads[0] ** 2, self.comoments[:, column - 1], spreads[1] ** 2]
        # Of block - ratio * whole; rounding, where a block is nearly the whole.
        both = np.maximum(squares[0] - 2 * ratio * squares[1] + ratio**2 * squares[2], 0.0)
        freedom = float(welch_satterthwaite(np.sqrt(both / (count - 1)), count - 1))
        factor = float(t_quantile(confidence, freedom)) ** 2 / (count * (count - 1))
        sums_of_squares = [factor * float(square.sum()) for square in squares]
        return ratio, ratio_interval(block, whole, sums_of_squares)

    def rms_diagonals(
        self, space: Space, members: Mapping[str, Sequence[str]], confidence: float
    ) -> dict[str, tuple[float, Interval]]:
        """Return the root mean square of every block's diagonal, and an interval for it.

        Errors by leaving out one group of probes at a time: too large where the diagonal is zero.

        Parameters
        ----------
        space : Space
            Of the operator.
        members : mapping of str to sequence of str
            The sections in every block.
        confidence : float
            Nominal coverage of the intervals.

        Returns
        -------
        dict of str to (float, Interval)
            Zero where the unbiased estimate of the mean square is not positive.
        """
        return rms_of_groups(space, members, self.groups, self.counts, confidence)


def layer_steps(
    A: LinearOperator,
    members: Mapping[str, Sequence[str]],
    *,
    stream: Stream,
    num_probes: int | Callable[[], int],
    probe: ProbeKind = "rademacher",
    block_size: int = 1,
    stratify: bool = False,
) -> Iterator[LayerState]:
    """Yield what is known of all blocks, one block of probes after another.

    Parameters
    ----------
    A : LinearOperator
        Real, on a space with sections.
    members : mapping of str to sequence of str
        The sections in every block.
    stream : Stream
        Where the probes come from.
    num_probes : int or callable
        Where to end, or a function that is asked for that before every block.
    probe : {'rademacher', 'normal', 'sphere'}
        Their distribution.
    block_size : int
        Probes per product.
    stratify : bool
        Use a fresh probe for every term.

    Yields
    ------
    LayerState
        One block of probes further.
    """
    space, columns = A.domain, _columns(A.domain, members)
    first = num_probes() if callable(num_probes) else num_probes
    num_groups = min(group_count(space), first)
    groups, counts = space.zeros(num_groups), np.zeros(num_groups, dtype=np.int64)
    moments: MeanVariance | None = None
    comoments = np.zeros(0)
    for step, indices in enumerate(probe_blocks(block_size, num_probes), start=1):
        forms, holders, num_samples = [], [], []
        own, diagonals = OwnTerms(), TermSums(space, space.zeros(len(indices)))
        for index, term in enumerate(strata(A, stratify)):
            look = partial(_seen, space, term, stream.for_term(index), indices, probe)
            form, samples_of_diagonal = own.made(term, look) or (None, None)
            forms.append(form)
            diagonals.add(term, samples_of_diagonal)
            holders.append(term.held_by)
            num_samples.append(term.num_samples)
        shape = (len(space.sections), len(indices))
        together = forms_of_terms(space, holders, forms, shape, own.error)
        samples = columns @ np.real(to_numpy(together))
        require_finite(samples, indices.stop, A)
        block = MeanVariance.of(samples)
        comoments = _merged(comoments, moments, samples, block)
        moments = block if moments is None else moments.merged(block)
        owners = np.arange(indices.start, indices.stop) % num_groups
        chosen = np.asarray(owners[:, None] == np.arange(num_groups), dtype=np.float64)
        groups = groups + diagonals.total(None) @ space.from_host(chosen)
        counts = counts + chosen.sum(axis=0).astype(np.int64)
        sums = HutchinsonState(step, indices.stop, moments, tuple(num_samples))
        yield LayerState(step, sums, comoments, groups, counts)


def rms_of_groups(
    space: Space,
    members: Mapping[str, Sequence[str]],
    groups: Array,
    counts: HostArray,
    confidence: float,
) -> dict[str, tuple[float, Interval]]:
    """Return the root mean square of every block's diagonal, and an interval for it.

    Parameters
    ----------
    space : Space
        Of the operator.
    members : mapping of str to sequence of str
        The sections in every block.
    groups : array, shape (n, g)
        Sums of estimates of the diagonal, independent of one another.
    counts : numpy.ndarray, shape (g,)
        How many were added to each.
    confidence : float
        Nominal coverage of the intervals.

    Returns
    -------
    dict of str to (float, Interval)
        Zero where the unbiased estimate of the mean square is not positive.
    """
    # A run that was ended early may have groups without probes.
    seen = counts > 0
    counts = counts[seen]
    grams = {
        name: gram[np.ix_(seen, seen)]
        for name, gram in zip(space.sections, _grams(space, groups), strict=True)
    }
    sizes = {name: stop - start for name, (start, stop) in space.sections.items()}
    quantile = float(t_quantile(confidence, max(len(counts) - 1, 0)))
    found = {}
    for block, names in members.items():
        gram = np.sum([grams[name] for name in names], axis=0)
        value, error = _of_different_groups(gram, counts)
        size = sum(sizes[name] for name in names)
        found[block] = _root(value / size, error / size, quantile)
    return found


def no_less_than_means(
    rms: Mapping[str, tuple[float, Interval]],
    traces: Mapping[str, Estimate],
    sizes: Mapping[str, int],
) -> dict[str, tuple[float, Interval]]:
    """Return root mean squares that are no less than the mean's modulus, as theirs never are.

    Parameters
    ----------
    rms : mapping of str to (float, Interval)
        Of every block's diagonal.
    traces : mapping of str to Estimate
        Of every block.
    sizes : mapping of str to int
        Entries of every block.

    Returns
    -------
    dict of str to (float, Interval)
        The value raised to the mean's, and the lower end to what the mean's interval leaves.
    """
    found = {}
    for block, (estimate, (low, high)) in rms.items():
        trace, size = traces[block], sizes[block]
        # Zero first, before which what is not a number does not come.
        least = max(0.0, trace.interval.low, -trace.interval.high) / size
        value = max(estimate, abs(float(trace)) / size)
        found[block] = value, Interval(max(low, least), max(high, value))
    return found


def ratio_interval(block: float, whole: float, squares: Sequence[float]) -> Interval:
    """Return the interval of the ratio of two means by Fieller's theorem.

    Parameters
    ----------
    block, whole : float
        The means.
    squares : sequence of three float
        Variances of the first, of both together (their covariance) and of the second, each times the
        square of the quantile.

    Returns
    -------
    Interval
        An infinite one where `whole` may be zero.
    """
    of_block, mixed, of_whole = squares
    # (block - r whole)^2 <= of_block - 2 r mixed + r^2 of_whole
    leading, middle, last = whole**2 - of_whole, block * whole - mixed, block**2 - of_block
    if leading <= 0:
        return Interval(-math.inf, math.inf)
    reach = math.sqrt(max(middle**2 - leading * last, 0.0))
    return Interval((middle - reach) / leading, (middle + reach) / leading)


def group_count(space: Space, copies: int = 1) -> int:
    """Return how many estimates of a diagonal to compare, of which some copies are held.

    Parameters
    ----------
    space : Space
        Of the operator.
    copies : int
        Vectors for each.

    Returns
    -------
    int
        Three to eight, within a gigabyte.
    """
    fitting = _GROUP_BYTES // (copies * space.local_dim * numpy_dtype(space.dtype).itemsize)
    return max(_LEAST_GROUPS, min(_MOST_GROUPS, fitting))


def _seen(
    space: Space, term: LinearOperator, stream: Stream, indices: range, probe: ProbeKind
) -> tuple[Array, Array]:
    """Return what probes say of a term: z^H A_b z by section, and z ∘ A_b z."""
    Z = space.probes(stream, indices, probe)
    Y = term.apply(Z)
    return space.section_inner(Z, Y), Z * Y


def _columns(space: Space, members: Mapping[str, Sequence[str]]) -> HostArray:
    """Return which sections the whole and every block add up, shape (1 + num_blocks, num_sections)."""
    rows = [[float(name in names) for name in space.sections] for names in members.values()]
    return np.array([[1.0] * len(space.sections), *rows])


def _merged(
    before: HostArray, moments: MeanVariance | None, samples: HostArray, block: MeanVariance
) -> HostArray:
    """Return co-moments with the whole, with one more block of probes (Chan, Golub & LeVeque 1983)."""
    deviations = samples - block.mean[..., None]
    within: HostArray = np.sum(deviations[:, 1:] * deviations[:, :1], axis=-1)
    if moments is None:
        return within
    delta = block.mean - moments.mean
    weight = moments.count * block.count / (moments.count + block.count)
    merged: HostArray = before + within + weight * delta[:, 1:] * delta[:, :1]
    return merged


def _grams(space: Space, groups: Array) -> list[HostArray]:
    """Return the inner products of the groups within each section, in double precision."""
    xp, grams = space.xp, []
    for start, stop in space.sections.values():
        rows = xp.astype(groups[start:stop, :], xp.float64)
        grams.append(rows.T @ rows)
    return list(to_numpy(xp.stack(grams)))


def _of_different_groups(gram: HostArray, counts: HostArray) -> tuple[float, float]:
    """Return the mean product of two different groups' means, and its error (Tukey's jackknife)."""
    num_groups = len(counts)
    if num_groups < 2:
        return math.nan, math.nan
    value = _pair_mean(gram, counts)
    if num_groups < 3:
        return value, math.nan
    kept = [np.arange(num_groups) != left_out for left_out in range(num_groups)]
    others = [_pair_mean(gram[np.ix_(one, one)], counts[one]) for one in kept]
    return value, float(length(np.asarray(others) - np.mean(others))) * math.sqrt(
        (num_groups - 1) / num_groups
    )


def _pair_mean(gram: HostArray, counts: HostArray) -> float:
    pairs = float(counts.sum()) ** 2 - float(np.sum(counts**2))
    return float(gram.sum() - np.trace(gram)) / pairs


def _root(square: float, error: float, quantile: float) -> tuple[float, Interval]:
    """Return the root of an estimate, and the longer at each end of two intervals.

    The estimate is nearly normal where it is lost in its error, and its root where it is not.
    """
    root = math.sqrt(max(square, 0.0))
    if math.isnan(error):
        return (math.nan if math.isnan(square) else root), Interval(0.0, math.inf)
    half = quantile * error
    low, high = math.sqrt(max(square - half, 0.0)), math.sqrt(max(square + half, 0.0))
    if root > 0:
        low, high = (
            min(low, max(root - half / (2 * root), 0.0)),
            max(high, root + half / (2 * root)),
        )
    return root, Interval(low, high)
