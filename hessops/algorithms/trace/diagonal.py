"""The diagonal by random probes (Bekas, Kokiopoulou & Saad 2007), with an error for every entry.

E[conj(z) ∘ A z] = diag(A) for any z with E[z z^H] = I. With signs the variance of entry i is the sum
of the squares of the other entries of row i; other probes add a multiple of a_ii² to it.

Variances are summed over blocks of probes as Chan, Golub & LeVeque (1983) merge them. Within a block
each term of a sum has a spread of its own, which leaves as many degrees of freedom as there are terms
for each probe; between blocks only the sum is compared, so that no vector is kept for every term.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hessops.algorithms._common import (
    default_block_size,
    require_positive,
    require_real,
    square_operator,
    warn_if_failed,
)
from hessops.algorithms.trace._probe_plan import ProbePlan
from hessops.algorithms.trace._terms import is_stratified, strata
from hessops.arrays import Array, is_complex, namespace, to_numpy
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, RandomState, Stream, seed_from
from hessops.record import Callback, require_finite, run
from hessops.result import Interval, Result
from hessops.space import Space
from hessops.statistics import t_quantile

__all__ = ["DiagonalResult", "DiagonalState", "EntryMoments", "diagonal", "diagonal_steps"]


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
        within = self.fourth / _or_one(self.spread)
        between = (self.num_blocks - 1) / least**2
        # Where all deviations are zero, any number will do.
        inverse = xp.clip(within**4 + between, 1 / (self.num_terms * least + 2), None)
        freedom: Array = xp.clip(1 / inverse - 2, least, self.num_terms * least)
        return freedom


@dataclass(frozen=True)
class DiagonalState:
    """What a number of probes say of the diagonal.

    Parameters
    ----------
    step : int
        Blocks of probes done.
    num_products : int
        Products with the whole operator.
    moments : EntryMoments
        Over probes, of every entry; ``moments.mean`` is the unbiased estimate.
    norm, error_norm : float
        2-norms of the estimate and of its standard errors.
    """

    step: int
    num_products: int
    moments: EntryMoments
    norm: float
    error_norm: float

    @property
    def num_probes(self) -> int:
        """Return the probes done (for every term, if stratified)."""
        return self.moments.count

    def size(self) -> float:
        """Return the 2-norm of the estimate."""
        return self.norm

    def probe_deviation(self) -> float:
        """Return the 2-norm of the entries' standard deviations of one probe."""
        return self.error_norm * math.sqrt(self.num_probes)

    def quantile(self, confidence: float) -> float:  # noqa: ARG002 - at any confidence
        """Return 1: a tolerance bounds the 2-norm of the standard errors themselves."""
        return 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class DiagonalResult(Result):
    """An estimate of a diagonal, with an error for every entry.

    Parameters
    ----------
    values : array, shape (n,)
        The estimates, in the operator's library; of vectors split over ranks, the rows held here.
    standard_errors : array, shape (n,)
        Real; NaN after a single probe. Where a tolerance fixed the number of probes, from the spread
        of the first stage, which keeps the coverage of `interval`.
    norm : float
        2-norm of the values, over all ranks.
    norm_error : float
        2-norm of the standard errors: the expected size of the error of the whole vector.
    dim : int
        The number n of entries, over all ranks.
    confidence : float
        Coverage of `interval`, entry by entry.
    freedom : float or array, shape (n,)
        Degrees of freedom behind each standard error: one number if not stratified.
    num_probes : int
        Probes used (for every term, if stratified).
    probe : str
        Their distribution.
    """

    values: Array = field(metadata={"long": True}, repr=False)
    standard_errors: Array = field(metadata={"long": True}, repr=False)
    norm: float
    norm_error: float
    dim: int
    confidence: float
    freedom: float | Array = field(metadata={"long": True}, repr=False)
    num_probes: int
    probe: str

    @property
    def interval(self) -> Interval:
        """Return host arrays (low, high): t-intervals of the entries (of real operators)."""
        freedom = self.freedom if isinstance(self.freedom, float) else to_numpy(self.freedom)
        half = t_quantile(self.confidence, freedom) * to_numpy(self.standard_errors)
        values = to_numpy(self.values)
        return Interval(values - half, values + half)

    def __str__(self) -> str:
        return (
            f"diagonal of {self.dim} entries, norm {self.norm:.6g} ± {self.norm_error:.2g} "
            f"({self.num_probes} {self.probe} probes, {self._cost()})"
        )


def diagonal(
    A: Any,
    *,
    num_probes: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    probe: ProbeKind = "rademacher",
    stratify: bool | None = None,
    block_size: int | None = None,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> DiagonalResult:
    """Estimate the diagonal of a square operator from products with random probes.

    Costs `num_probes` products. With `rtol` or `atol`, Stein's two-stage procedure draws a first
    stage, reads off how many probes it takes until the 2-norm of the standard errors is at most
    ``max(atol, rtol * norm of the diagonal)``, and draws those: stopping as soon as the error
    happens to look small would report errors that are too small.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Square, real or complex.
    num_probes : int, optional
        Probes to use, 32 where not given; with a tolerance, the most to use, then 1000.
    rtol, atol : float, optional
        Error asked for of the whole vector in the 2-norm; the looser one counts.
    confidence : float
        Coverage of the entrywise intervals.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Distribution of the probes; signs (for complex operators 'steinhaus') vary least.
    stratify : bool, optional
        Use a fresh probe for every term of a finite sum; done where there is more than one term if
        not given.
    block_size : int, optional
        Probes per product; as many as fit a quarter of a gigabyte, at most 32, where not given.
        Large blocks leave the errors of finite sums more degrees of freedom.
    rng : int, numpy.random.Generator or None
        Where the randomness comes from.
    callback : callable, optional
        Called with every `DiagonalState`; returning True ends the run.

    Returns
    -------
    DiagonalResult
        Values, standard errors, cost.

    Raises
    ------
    ValueError
        If an option is out of range or `A` is rectangular.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If the tolerance takes more probes than allowed.

    References
    ----------
    Bekas, Kokiopoulou & Saad (2007), Appl. Numer. Math. 57; Dharangutte & Musco (2023), SOSA;
    Stein (1945), Ann. Math. Stat. 16(3); Welch (1947), Biometrika 34.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> hessops.diagonal(np.diag([1.0, 2.0, 3.0]), num_probes=4, rng=0).values
    array([1., 2., 3.])
    """
    operator = square_operator(A, "diagonal")
    require_positive(num_probes=num_probes, block_size=block_size)
    tolerances = (1.0 if value is None else value for value in (rtol, atol))
    require_real(confidence=confidence, **dict(zip(("rtol", "atol"), tolerances, strict=True)))
    plan = ProbePlan[DiagonalState](num_probes, rtol, atol, confidence)
    seed = seed_from(rng)
    states = diagonal_steps(
        operator,
        stream=Stream(seed, Purpose.DIAGONAL),
        probe=probe,
        num_probes=plan.limit,
        block_size=block_size or default_block_size(operator.domain, plan.first_stage),
        stratify=is_stratified(operator, stratify),
    )
    outcome = run(
        states,
        space=operator.domain,
        stop=plan.stop,
        row=lambda state: (state.norm, state.error_norm),
        callback=callback,
    )
    state, source = outcome.state, plan.source(outcome.state)
    status, converged = plan.verdict(state, outcome.reason)
    warn_if_failed(converged, status)
    real = operator.xp.abs(operator.domain.zeros(0)).dtype
    errors = source.moments.standard_errors(state.num_probes)
    return DiagonalResult(
        values=operator.domain.coefficients(state.moments.mean),
        standard_errors=operator.xp.astype(errors, real, copy=False),
        norm=state.norm,
        norm_error=source.probe_deviation() / math.sqrt(state.num_probes),
        dim=operator.shape[0],
        confidence=confidence,
        freedom=source.moments.freedom(),
        num_probes=state.num_probes,
        probe=probe,
        num_products=state.num_products,
        status=status,
        converged=converged,
        history=outcome.history,
        seed=seed,
        seconds=outcome.seconds,
    )


def diagonal_steps(
    A: LinearOperator,
    *,
    stream: Stream,
    probe: ProbeKind = "rademacher",
    block_size: int = 8,
    stratify: bool = False,
    num_probes: int | Callable[[], int] | None = None,
) -> Iterator[DiagonalState]:
    """Yield estimates of a diagonal, one block of probes after another.

    Parameters
    ----------
    A : LinearOperator
        Square.
    stream : Stream
        Where the probes come from.
    probe : {'rademacher', 'normal', 'sphere', 'steinhaus'}
        Their distribution.
    block_size : int
        Most probes per product.
    stratify : bool
        Use a fresh probe for every term.
    num_probes : int or callable, optional
        Where to end, or a function that is asked for that before every block; never, if not given.

    Yields
    ------
    DiagonalState
        One block of probes further.
    """
    moments: EntryMoments | None = None
    step = done = 0
    while (end := num_probes() if callable(num_probes) else num_probes) is None or done < end:
        count = block_size if end is None else min(block_size, end - done)
        block = _of_block(A, stream, range(done, done + count), probe, stratify)
        moments = block if moments is None else moments.merged(block)
        done += count
        step += 1
        norm, error = _norms(A.domain, moments.mean, moments.standard_errors(done))
        require_finite(np.asarray(norm), done, A)
        yield DiagonalState(step, done, moments, norm, error)


def _of_block(
    A: LinearOperator, stream: Stream, indices: range, probe: ProbeKind, stratify: bool
) -> EntryMoments:
    xp, count, terms = A.xp, len(indices), 0
    # In double precision from the start, as in single the squares of 1e20 overflow.
    wide = xp.complex128 if is_complex(xp, A.dtype) else xp.float64
    mean = xp.astype(A.domain.zeros(1)[:, 0], wide)
    spread = fourth = xp.abs(mean)
    for terms, term in enumerate(strata(A, stratify), start=1):
        Z = A.domain.probes(stream.for_term(terms - 1), indices, probe)
        samples = xp.astype(xp.conj(Z) if is_complex(xp, Z.dtype) else Z, wide) * term.apply(Z)
        center = xp.sum(samples, axis=1) / count
        deviations = xp.abs(samples - center[:, None])
        largest = _or_one(xp.max(deviations, axis=1))
        of_term = xp.sqrt(xp.sum((deviations / largest[:, None]) ** 2, axis=1)) * largest
        mean, spread = mean + center, xp.hypot(spread, of_term)
        fourth = _fourth_root_of_sum(fourth, of_term / (count + 1) ** 0.25)
    return EntryMoments(count, 1, terms, mean, spread, fourth)


def _or_one(sizes: Array) -> Array:
    """Return what is not negative as a divisor: 1 where it is 0."""
    xp = namespace(sizes)
    divisor: Array = xp.where(xp.greater(sizes, xp.zeros_like(sizes)), sizes, xp.ones_like(sizes))
    return divisor


def _fourth_root_of_sum(left: Array, right: Array) -> Array:
    """Return (left⁴ + right⁴)^(1/4), whose fourth powers need not be representable."""
    xp, largest = namespace(left), _or_one(namespace(left).maximum(left, right))
    root: Array = largest * xp.sqrt(xp.hypot((left / largest) ** 2, (right / largest) ** 2))
    return root


def _norms(space: Space, *vectors: Array) -> list[float]:
    """Return the norms of vectors whose squares may leave the range of numbers; waits once."""
    xp, moduli = space.xp, space.xp.stack([space.xp.abs(vector) for vector in vectors], axis=1)
    # Sums of moduli stay within range where those of squares leave it.
    totals = space.column_inner(moduli, xp.ones_like(moduli))
    with np.errstate(invalid="ignore"):  # infinite totals are returned as they are
        shares = space.column_norms_squared(moduli / _or_one(totals))
    sums, squares = to_numpy(xp.stack([totals, shares]))
    return list(np.where((sums > 0) & (sums < math.inf), sums * np.sqrt(squares), sums).tolist())
