"""Which eigenpairs are wanted, when they are there, and what may be said of them."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np

from hessops.algorithms._common import require_positive, require_tolerance
from hessops.arrays import HostArray, eps
from hessops.blocks.rounding import ROUNDINGS
from hessops.counted import counted
from hessops.operator import LinearOperator

__all__ = ["Goal", "RitzState", "Which", "eigsh_goal", "goal_tolerance", "least_tolerance"]

Which = Literal["LM", "LA", "SA", "BE"]

_LOOSE = 1e-4


class RitzState(Protocol):
    """What a goal asks of the state of an engine."""

    @property
    def values(self) -> HostArray:
        """Return the outermost Ritz values."""

    @property
    def residual_norms(self) -> HostArray:
        """Return their residual norms."""

    @property
    def size(self) -> float:
        """Return the largest modulus of a Ritz value so far."""

    @property
    def step(self) -> int:
        """Return the blocks multiplied."""

    @property
    def num_products(self) -> int:
        """Return the products made."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the products with each Krylov space."""

    @property
    def exhausted(self) -> bool:
        """Tell whether the last one is invariant."""

    @property
    def blurred_after(self) -> int:
        """Return after how many products rounding may have brought in copies, 0 if it has not."""

    @property
    def filled(self) -> bool:
        """Tell whether the basis spans the whole space."""


def eigsh_goal(
    operator: LinearOperator, k: int, which: Which, tol: float | None, block_size: int
) -> Goal:
    """Return what is wanted, or say which option is out of range."""
    require_positive(k=k)
    if which not in get_args(Which):
        raise ValueError(f"which={which!r} is unknown; choose one of {', '.join(get_args(Which))}")
    if k > operator.domain.dim:
        raise ValueError(
            f"k={k} eigenpairs asked of an operator of dimension {operator.domain.dim}"
        )
    asked = goal_tolerance(operator, tol)
    return Goal(k, which, asked, block_size, least=least_tolerance(operator))


def goal_tolerance(operator: LinearOperator, tol: float | None) -> float:
    """Return the residual norm asked for, relative to the operator's size, or say what is wrong."""
    if tol is None:
        tol = max(eps(operator.xp, operator.dtype) ** (2 / 3), operator.product_error)
    require_tolerance(tol=tol)
    if tol < operator.product_error:
        raise ValueError(
            f"tol={tol:g} is not to be had: products with {operator} are off by "
            f"{operator.product_error:.2g} of their norm; ask for no less than that, or compute them "
            "in full precision"
        )
    return float(tol)


def least_tolerance(operator: LinearOperator) -> float:
    """Return the relative residual norm below which there is rounding alone."""
    return ROUNDINGS * eps(operator.xp, operator.dtype)


class Goal:
    """Which pairs are wanted, when they are there, and what to claim of them.

    Parameters
    ----------
    k : int
        How many.
    which : {'LM', 'LA', 'SA', 'BE'}
        Where.
    tol : float
        Residual norm relative to the largest Ritz value in modulus.
    block_size : int
        Vectors in a block: a Krylov space holds as many copies of an eigenvalue.
    least : float
        What rounding allows; a smaller `tol`, which no number of steps would reach, counts as this.
    value_name, unit_name : str
        What the values are called, and what there are k of.
    """

    def __init__(
        self,
        k: int,
        which: Which,
        tol: float,
        block_size: int,
        *,
        least: float,
        value_name: str = "eigenvalue",
        unit_name: str = "pairs",
    ) -> None:
        self.k, self.which, self.tol = k, which, max(tol, least)
        self.value_name, self.unit_name = value_name, unit_name
        self.complete = False
        self.settled = False
        self._asked = tol
        self._block_size = block_size
        self._before: HostArray | None = None

    def select(self, values: HostArray, count: int) -> HostArray:
        """Return the indices of the most wanted of some values, in the order of the result."""
        ascending = np.argsort(values, kind="stable")
        if self.which == "LM":
            return np.argsort(-np.abs(values), kind="stable")[:count]
        if self.which == "LA":
            return ascending[::-1][:count]
        if self.which == "SA":
            return ascending[:count]
        low = min(count // 2, len(values))
        high = ascending[low:][max(0, len(values) - low - (count - count // 2)) :]
        return np.concatenate([ascending[:low], high])

    def wanted(self, state: RitzState) -> HostArray:
        """Return the indices of the wanted Ritz pairs, in the order of the result."""
        pairs = self.select(state.values, self.k)
        return self._converged_of_ties(state, pairs) if self.settled else pairs

    def allowed(self, state: RitzState) -> float:
        """Return the residual norm asked for."""
        return self.tol * state.size

    def reached(self, state: RitzState) -> bool:
        """Tell whether all wanted pairs are as accurate as asked for."""
        pairs = self.wanted(state)
        return len(pairs) == self.k and bool(
            np.all(state.residual_norms[pairs] <= self.allowed(state))
        )

    def inside(self, values: HostArray) -> tuple[float, float]:
        """Return the interval that eigenvalues next to the wanted ones may lie in."""
        if self.which == "LM":
            least = float(np.min(np.abs(values)))
            return -least, least
        ascending = np.sort(values)
        low = {"LA": 0, "SA": self.k, "BE": self.k // 2}[self.which]
        return (
            float(ascending[low - 1]) if low else -np.inf,
            float(ascending[low]) if low < self.k else np.inf,
        )

    def stop(self, state: RitzState) -> str | None:
        """Stop when the wanted pairs have converged and a fresh Krylov space adds none."""
        pairs = self.wanted(state)
        if len(pairs) < self.k:
            return None
        *earlier, current = state.lengths
        if state.exhausted:
            # The space may lack copies of multiple eigenvalues: hold it against the one before.
            values, before = np.sort(state.values[pairs]), self._before
            self._before = values
            near = self.allowed(state)
            self.complete = before is not None and np.allclose(values, before, rtol=0, atol=near)
        if not self.reached(state):
            return None
        self.complete = self.complete or state.filled
        # From a random start, later Krylov spaces are no longer than the first, but for what rounding
        # adds. One that is says that the start was special, and counts as the first.
        first = not earlier or current > 2 * max(earlier) + 10
        # Where few eigenvalues are distinct, copies come in by rounding and the space is soon
        # exhausted; where a bulk of small ones has made the residual small, not for thousands of steps.
        waits = state.blurred_after > 0 and current <= 2 * state.blurred_after + 10
        return "converged" if self.complete or (first and not waits) else None

    def row(self, state: RitzState) -> tuple[float, float]:
        """Return the leading wanted Ritz value and the largest residual norm of the wanted."""
        pairs = self.wanted(state)
        return float(state.values[pairs[0]]), float(np.max(state.residual_norms[pairs]))

    def verdict(
        self,
        state: RitzState,
        residuals: HostArray,
        rounding: float,
        reason: str | None,
        checked: str | None,
    ) -> tuple[str, bool]:
        """Return the status sentence and whether all residual norms are small enough.

        Parameters
        ----------
        state : RitzState
            The last one.
        residuals : numpy.ndarray
            Residual norms of the wanted pairs.
        rounding : float
            What the products of verified residuals add.
        reason : str or None
            Why the run ended.
        checked : str or None
            What a check of completeness found, if there was one.

        Returns
        -------
        status : str
            A sentence.
        converged : bool
            Whether all pairs are there.
        """
        allowed = self.allowed(state)
        reached = residuals <= allowed + rounding
        cost = counted(state.step, "step") + self._rounded()
        if bool(np.all(reached)) and len(residuals) == self.k:
            if self.complete or state.filled:
                nothing = f"no copies of multiple {self.value_name}s are missing"
                return f"converged in {cost}; {nothing}", True
            return f"converged in {cost}; {checked or self._missed(state)}", True
        stopped = "" if reason in {None, "converged"} else f"{reason}; "
        return (
            f"{stopped}{int(np.sum(reached))} of {self.k} {self.unit_name} converged in {cost}: the "
            f"largest residual norm is {residuals.max():.3g}, asked for {allowed:.3g}; raise "
            "max_steps or tol"
        ), False

    def _converged_of_ties(self, state: RitzState, pairs: HostArray) -> HostArray:
        """Return the pairs with those that have converged instead of others of the same value."""
        allowed, pairs = self.allowed(state), pairs.copy()
        for place in np.flatnonzero(state.residual_norms[pairs] > allowed):
            ties = np.abs(state.values - state.values[pairs[place]]) <= allowed
            ties[pairs] = False
            for other in np.flatnonzero(ties & (state.residual_norms <= allowed))[:1]:
                pairs[place] = other
        return pairs

    def _rounded(self) -> str:
        if self._asked >= self.tol:
            return ""
        return f" to {self.tol:.2g} of the largest, less than which is rounding (tol={self._asked:.3g})"

    def _missed(self, state: RitzState) -> str:
        times = {1: "once", 2: "at most twice"}.get(
            self._block_size, f"at most {self._block_size} times"
        )
        missed = f"a multiple {self.value_name} would appear {times}"
        if state.blurred_after:
            missed += ", or more often by rounding"
        if self.tol > _LOOSE:
            missed += ", and at so loose a tolerance any may have been passed over"
        return missed
