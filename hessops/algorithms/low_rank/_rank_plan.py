"""How large an approximation of low rank gets: to a rank, or until its error is small enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hessops.algorithms._common import default_block_size, require_positive
from hessops.arrays import HostArray, eps
from hessops.blocks.rounding import ROUNDINGS
from hessops.operator import LinearOperator
from hessops.record import History
from hessops.scalars import require_real, require_tolerance
from hessops.space import Space

__all__ = ["RankPlan", "frobenius_rest", "require_not_negative"]

_GROWTH = 16
_DEFAULT_PROBES = 10


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """What was asked for, checked.

    Parameters
    ----------
    name : str
        What the verb calls the rank.
    rank : int or None
        Rank wanted, if no tolerance is.
    tol : float or None
        Relative error wanted, if no rank is.
    max_columns : int
        Columns multiplied at most.
    width : int
        Columns added at once.
    block_size : int
        Columns multiplied at once.
    num_test_probes : int
        Products spent on a bound of the error.
    confidence : float
        Probability that the bound holds.
    norm : float or None
        Frobenius norm of the operator, if known.
    """

    name: str
    rank: int | None
    tol: float | None
    max_columns: int
    width: int
    block_size: int
    num_test_probes: int
    confidence: float
    norm: float | None = None

    @classmethod
    def checked(
        cls,
        operator: LinearOperator,
        *,
        name: str,
        rank: int | None,
        tol: float | None,
        max_rank: int | None,
        oversampling: int,
        num_test_probes: int | None,
        confidence: float,
        block_size: int | None,
        norm: float | None = None,
    ) -> RankPlan:
        """Return the plan, or say what is wrong with the options."""
        largest = min(operator.shape)
        reals = {"tol": tol, "confidence": confidence, "frobenius_norm": norm}
        require_real(**{name: value for name, value in reals.items() if value is not None})
        if (rank is None) == (tol is None):
            raise ValueError(f"give either {name}, the rank wanted, or tol, the error wanted")
        if rank is not None and max_rank is not None:
            raise ValueError(f"max_rank={max_rank} limits a tolerance; {name}={rank} says the rank")
        require_positive(**{name: rank}, max_rank=max_rank, block_size=block_size)
        for count, wanted in ((name, rank), ("max_rank", max_rank)):
            if wanted is not None and wanted > largest:
                raise ValueError(f"{count}={wanted} asked of an operator of shape {operator.shape}")
        require_not_negative(oversampling=oversampling)
        probes = (0 if norm else _DEFAULT_PROBES) if num_test_probes is None else num_test_probes
        require_not_negative(num_test_probes=probes)
        if not 0 < confidence < 1:
            raise ValueError(f"confidence={confidence} must lie between 0 and 1")
        if norm is not None and not (np.isfinite(norm) and norm > 0):
            raise ValueError(f"frobenius_norm={norm} must be positive and finite")
        columns = (max_rank or largest) if rank is None else min(rank + oversampling, largest)
        size = block_size or default_block_size(operator.domain, columns)
        if tol is not None:
            _require_resolved(operator.domain, tol, norm)
            if probes == 0 and norm is None:
                raise ValueError("tol needs num_test_probes above 0, which tell the error")
        growth = min(block_size or default_block_size(operator.domain, _GROWTH), columns)
        return cls(
            name=name,
            rank=None if rank is None else int(rank),
            tol=tol,
            max_columns=columns,
            width=columns if tol is None else growth,
            block_size=size,
            num_test_probes=probes,
            confidence=confidence,
            norm=norm,
        )

    def failure(self, look: int) -> float:
        """Return the probability that the bound may fail at the look of that number, from 1.

        A run that stops when its bound is small enough must hold it at every look: 1/2, 1/6, 1/12,
        ... of the whole, which sum to it.
        """
        share = 1.0 if self.tol is None else look * (look + 1.0)
        return (1 - self.confidence) / share

    def kept(self, values: HostArray, spectral: float, scale: float) -> int:
        """Return how many leading values to keep, given the spectral error with all of them."""
        if self.rank is not None:
            return min(self.rank, len(values))
        if self.tol is None or len(values) == 0:
            return 0
        if self.norm is not None:
            rest = [frobenius_rest(self.norm, values[:count]) for count in range(len(values))]
            small = np.array(rest) <= self.tol * self.norm
        else:
            small = np.hypot(values, spectral) <= self.tol * scale
        return int(np.argmax(small)) if np.any(small) else len(values)

    def judged(
        self,
        kept: int,
        columns: int,
        spectral: float,
        error: float,
        scale: float,
        reason: str | None,
    ) -> tuple[str, bool]:
        """Return the status sentence and whether what was asked for is there."""
        stopped = "" if reason in {None, "converged"} else f"{reason}; "
        if self.tol is None:
            if self.rank is not None and kept < self.rank:
                return f"{stopped}rank {kept}: but for rounding the operator has no more", True
            return f"{stopped}rank {kept} of a basis of {columns} vectors", True
        if self.norm is not None:
            found, asked, what = error, self.tol * self.norm, "Frobenius error"
        else:
            found, asked, what = spectral, self.tol * scale, "bound of the spectral error"
        if found <= asked:
            return f"{stopped}rank {kept}: the {what} is {found:.3g}, asked for {asked:.3g}", True
        return (
            f"{stopped}the {what} at rank {kept} is {found:.3g}, asked for {asked:.3g}; raise "
            "max_rank or tol"
        ), False

    def with_test_products(self, history: History) -> History:
        """Return a history with the products for test vectors, made before the first step."""
        records = [dict(r, num_products=r["num_products"] + self.num_test_probes) for r in history]
        return History(tuple(r[name] for name in History.columns) for r in records)


def frobenius_rest(norm: float, values: HostArray) -> float:
    """Return the root of ‖A‖_F² - Σ λ², whose square is known to rounding and not better."""
    share = float(np.sum((values / norm) ** 2))
    return norm * math.sqrt(max(1.0 - share, 0.0))


def require_not_negative(**values: int) -> None:
    """Raise if a count is negative or no integer."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"{name}={value!r} must be an integer of at least 0")


def _require_resolved(space: Space, tol: float, norm: float | None) -> None:
    smallest = 2 * ROUNDINGS * eps(space.xp, space.dtype)
    # The difference of two squares: the square root of rounding is its last digit.
    smallest = smallest if norm is None else math.sqrt(smallest)
    if not tol >= smallest:
        raise ValueError(
            f"tol={tol} is below {smallest:.2g}, the smallest error that this precision resolves"
            + ("" if norm is None else " by frobenius_norm; leave that out")
        )
    require_tolerance(tol=tol)
