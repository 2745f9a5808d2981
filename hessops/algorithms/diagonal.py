"""The diagonal by random probes (Bekas, Kokiopoulou & Saad 2007), with an error for every entry.

E[conj(z) ∘ A z] = diag(A) for any z with E[z z^H] = I. With signs the variance of entry i is the sum
of the squares of the other entries of row i; other probes add a multiple of a_ii² to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hessops.algorithms._common import (
    default_block_size,
    require_positive,
    square_operator,
    warn_if_failed,
)
from hessops.algorithms.hutchinson import has_many_terms
from hessops.arrays import Array, HostArray, is_complex, to_numpy
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, RandomState, Stream, seed_from
from hessops.record import Callback, require_finite, run
from hessops.result import Interval, Result
from hessops.statistics import t_quantile

__all__ = ["DiagonalResult", "DiagonalState", "diagonal", "diagonal_steps"]

_DEFAULT_PROBES = 32
_DEFAULT_BUDGET = 1000


@dataclass(frozen=True)
class DiagonalState:
    """What a number of probes say of the diagonal.

    Parameters
    ----------
    step : int
        Blocks of probes done.
    num_products : int
        Products with the whole operator.
    num_probes : int
        Probes done.
    freedom : int
        Degrees of freedom of the standard errors.
    value_sum : array, shape (n,)
        Sum over probes; divided by `num_probes`, the unbiased estimate.
    variance_sum : array, shape (n,)
        Estimated variance of `value_sum`.
    norm, error_norm : float
        2-norms of the estimate and of its standard errors.
    """

    step: int
    num_products: int
    num_probes: int
    freedom: int
    value_sum: Array
    variance_sum: Array
    norm: float
    error_norm: float


@dataclass(frozen=True, kw_only=True, eq=False)
class DiagonalResult(Result):
    """An estimate of a diagonal, with an error for every entry.

    Parameters
    ----------
    values : array, shape (n,)
        The estimates, in the operator's library.
    standard_errors : array, shape (n,)
        Real; NaN after a single probe.
    norm_error : float
        2-norm of the standard errors: the expected size of the error of the whole vector.
    confidence : float
        Coverage of `interval`, entry by entry.
    freedom : int
        Degrees of freedom behind each standard error.
    num_probes : int
        Probes used (for every term, if stratified).
    probe : str
        Their distribution.
    """

    values: Array = field(metadata={"long": True}, repr=False)
    standard_errors: Array = field(metadata={"long": True}, repr=False)
    norm_error: float
    confidence: float
    freedom: int
    num_probes: int
    probe: str

    @property
    def interval(self) -> Interval:
        """Return host arrays (low, high): t-intervals of the entries (of real operators)."""
        half = t_quantile(self.confidence, self.freedom) * to_numpy(self.standard_errors)
        values = to_numpy(self.values)
        return Interval(values - half, values + half)

    def __str__(self) -> str:
        norm = float(np.linalg.norm(to_numpy(self.values)))
        return (
            f"diagonal of {self.values.shape[0]} entries, norm {norm:.6g} ± {self.norm_error:.2g} "
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

    Costs `num_probes` products. With `rtol` or `atol` it stops when the 2-norm of the standard
    errors is at most ``max(atol, rtol * norm of the diagonal)``.

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
    Bekas, Kokiopoulou & Saad (2007), Appl. Numer. Math. 57; Dharangutte & Musco (2023), SOSA.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> hessops.diagonal(np.diag([1.0, 2.0, 3.0]), num_probes=4, rng=0).values
    array([1., 2., 3.])
    """
    operator = square_operator(A, "diagonal")
    require_positive(num_probes=num_probes, block_size=block_size)
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be positive and finite")
    t_quantile(confidence, 1.0)
    seed = seed_from(rng)
    adaptive = rtol is not None or atol is not None
    budget = num_probes or (_DEFAULT_BUDGET if adaptive else _DEFAULT_PROBES)

    def stop(state: DiagonalState) -> str | None:
        target = max(atol or 0.0, (rtol or 0.0) * state.norm)
        return "tolerance reached" if adaptive and state.error_norm <= target else None

    states = diagonal_steps(
        operator,
        stream=Stream(seed, Purpose.DIAGONAL),
        probe=probe,
        num_probes=budget,
        block_size=block_size or default_block_size(operator.domain, budget),
        stratify=has_many_terms(operator) if stratify is None else stratify,
    )
    outcome = run(
        states,
        space=operator.domain,
        stop=stop,
        row=lambda state: (state.norm, state.error_norm),
        callback=callback,
    )
    state, count = outcome.state, outcome.state.num_probes
    converged = not adaptive or stop(state) is not None
    status = f"{outcome.reason or 'used all probes asked for'}: {count} probes"
    if not converged:
        status = (
            f"the error is {state.error_norm:.3g} in the 2-norm after {count} probes and falls as "
            "one over the square root of their number: raise num_probes or loosen rtol or atol"
        )
    warn_if_failed(converged, status)
    return DiagonalResult(
        values=state.value_sum / count,
        standard_errors=operator.xp.sqrt(state.variance_sum) / count,
        norm_error=state.error_norm,
        confidence=confidence,
        freedom=state.freedom,
        num_probes=count,
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
    num_probes: int,
    block_size: int = 8,
    stratify: bool = False,
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
    num_probes : int
        Where to end.
    block_size : int
        Most probes per product.
    stratify : bool
        Use a fresh probe for every term.

    Yields
    ------
    DiagonalState
        One block of probes further.
    """
    space = A.domain
    value_sum = space.zeros(1)[:, 0]
    variance_sum = _magnitude(A, space.zeros(1))[:, 0]
    done = freedom = 0
    for step, count in enumerate(_even_blocks(num_probes, block_size), start=1):
        indices = range(done, done + count)
        for index, term in enumerate(A.terms() if stratify else (A,)):
            Z = space.probes(stream.for_term(index), indices, probe)
            samples = (A.xp.conj(Z) if is_complex(A.xp, Z.dtype) else Z) * term.apply(Z)
            block_sum = A.xp.sum(samples, axis=1)
            value_sum = value_sum + block_sum
            # One probe has no spread of its own.
            spread = _magnitude(A, samples - (block_sum / count)[:, None]) ** 2
            correction = count / (count - 1) if count > 1 else math.nan
            variance_sum = variance_sum + A.xp.sum(spread, axis=1) * correction
        done += count
        freedom += count - 1
        norms = _norms(A, value_sum, variance_sum) / done
        require_finite(norms[:1], done, A)
        yield DiagonalState(
            step, done, done, freedom, value_sum, variance_sum, float(norms[0]), float(norms[1])
        )


def _even_blocks(total: int, size: int) -> list[int]:
    """Split `total` into blocks of nearly equal size; a single probe would have no variance."""
    count = min(-(-total // size), max(total // 2, 1))
    return [total // count + (index < total % count) for index in range(count)]


def _magnitude(A: LinearOperator, block: Array) -> Array:
    size: Array = A.xp.abs(block)
    return size


def _norms(A: LinearOperator, values: Array, variances: Array) -> HostArray:
    both = [values[:, None], A.xp.sqrt(variances)[:, None]]
    squares = [to_numpy(A.domain.column_norms_squared(column)) for column in both]
    return np.asarray(np.sqrt(np.concatenate(squares)))
