"""How many probes a budget buys, when an accuracy is reached, and what to say of a run."""

from __future__ import annotations

import math

import numpy as np

from hessops.algorithms.spectrum.spectrum_steps import SpectrumState
from hessops.arrays import HostArray
from hessops.counted import counted
from hessops.scalars import require_real
from hessops.statistics import MeanVariance, t_quantile

__all__ = ["SpectrumGoal"]

_DEFAULT_BUDGET, _LARGEST_BUDGET = 200, 2000
_DEFAULT_PROBES = 8
_CONFIDENCE = 0.95
_SHARE_OF_STEPS = 1 / 3


class SpectrumGoal:
    """The budget, the accuracy, and when either is used up.

    Parameters
    ----------
    budget : int or None
        Most products.
    accuracy : float or None
        Relative accuracy of extreme eigenvalues and trace.
    num_probes : int or None
        Probes of a block.
    num_extremes : int
        Eigenvalues at each end that count.
    dim : int
        The dimension n.

    Raises
    ------
    ValueError
        If one of them is out of range.
    """

    def __init__(
        self,
        budget: int | None,
        accuracy: float | None,
        num_probes: int | None,
        num_extremes: int,
        dim: int,
    ) -> None:
        if accuracy is not None:
            require_real(accuracy=accuracy)
        if accuracy is not None and not (math.isfinite(accuracy) and accuracy > 0):
            raise ValueError(f"accuracy={accuracy} must be positive, e.g. 0.01")
        self.accuracy, self.num_extremes = accuracy, num_extremes
        self.budget = budget or (_DEFAULT_BUDGET if accuracy is None else _LARGEST_BUDGET)
        if num_probes is not None and num_probes > self.budget:
            raise ValueError(
                f"num_probes={num_probes} take a product each, and budget={self.budget}; give fewer "
                "probes or a larger budget"
            )
        self._forecast = math.inf
        chosen = num_probes or self._probes_for_budget()
        self.num_probes = min(chosen, dim)

    def enough(self, state: SpectrumState) -> bool:
        """Tell whether the first Krylov space is large enough for the accuracy.

        Once the extremes are found, more steps may settle further eigenvalues, and so save probes. They
        are taken until they cost a third of what the probes would by the best forecast so far.
        """
        if self.accuracy is None or not self.extremes_found(state):
            return False
        half, size = self._half_width(state)
        if half <= self.accuracy * size or not math.isfinite(half):
            return True
        forecast = state.num_products * (half / size / self.accuracy) ** 2
        self._forecast = min(self._forecast, forecast)
        return state.num_products >= _SHARE_OF_STEPS * self._forecast

    def extremes_found(self, state: SpectrumState) -> bool:
        """Tell whether the outermost Ritz pairs are as accurate as asked for."""
        assert self.accuracy is not None
        residuals = state.ritz()[1]
        if len(residuals) <= 2 * self.num_extremes and not state.exhausted:
            return False
        ends = np.concatenate([residuals[: self.num_extremes], residuals[-self.num_extremes :]])
        return bool(np.all(ends <= self.accuracy * state.size))

    def spaces_wanted(self, state: SpectrumState) -> int:
        """Return how many Krylov spaces of fresh probes the interval of the trace takes yet.

        By Stein's two stages: the scatter of the first probes decides, and stays the one of the
        interval. Looking again after every block would stop on lucky draws.
        """
        if self.accuracy is None:
            return 0
        half, size = self._half_width(state)
        if half <= self.accuracy * size:
            return 0
        first = state.compressions[0].num_probes
        if first < 2:
            return 0
        ratio = half / (self.accuracy * size) if size > 0 else math.inf
        return math.ceil(min(ratio**2, 1e9)) - 1

    def verdict(self, state: SpectrumState, reason: str | None, limit: int) -> tuple[str, bool]:
        """Return the status sentence and whether what was asked for is there."""
        probes = counted(state.num_probes, "probe")
        steps = counted(state.num_steps, "step")
        how = f"{probes}, {steps}"
        stopped = f"{reason}; " if reason else ""
        if state.filled:
            return f"{stopped}the basis is complete: all eigenvalues are known", True
        if self.accuracy is not None:
            sentence, reached = self._accuracy_verdict(state, limit)
            return f"{stopped}{sentence}; {how}", reached
        kept = ""
        if state.block is None:
            kept = f"; without a basis, as max_basis={limit} vectors do not hold the budget"
        elif state.exhausted:
            kept = "; the Krylov space is exhausted, and quadrature in it is exact"
        if state.num_probes < 2:
            return (
                f"{stopped}{how}: a single probe has no interval; give num_probes=2 or more"
            ), False
        return f"{stopped}{how}{kept}", True

    def _accuracy_verdict(self, state: SpectrumState, limit: int) -> tuple[str, bool]:
        assert self.accuracy is not None
        half, size = self._half_width(state)
        trace, extremes = half <= self.accuracy * size, self.extremes_found(state)
        if trace and extremes:
            return f"accuracy {self.accuracy:g} reached", True
        missing = []
        if not extremes:
            residual = self._worst_residual(state)
            missing.append(f"residual norms are up to {residual / (state.size or 1.0):.2g} of ‖A‖")
        if not trace:
            wanted = state.num_products * (half / (self.accuracy * size)) ** 2 if size else math.inf
            missing.append(
                f"the trace is known to {half / (size or math.nan):.2g} of Σ|λ|, and about "
                f"{wanted:.0f} products would do"
            )
        full = state.block is not None and state.block.basis.size + self.num_probes > limit
        why = (
            f"max_basis={limit}"
            if full and not extremes
            else f"the budget of {self.budget} products"
        )
        return (
            f"stopped at {why} before accuracy={self.accuracy:g} was reached: {'; '.join(missing)}"
        ), False

    def _half_width(self, state: SpectrumState) -> tuple[float, float]:
        """Return the half-width of the interval of the trace, and the size that it is relative to.

        That is Σ|λ| by the first probes alone, so that the target stays where it is.
        """
        size = float(np.mean(state.samples(np.abs, 1 if state.block else None)))
        if state.filled:
            return 0.0, size
        first = state.samples(lambda x: x, 1) if state.block else state.samples(lambda x: x)
        if len(first) < 2:
            return math.inf, size
        deviation = float(MeanVariance.of(first).deviation)
        quantile = float(t_quantile(_CONFIDENCE, len(first) - 1))
        return quantile * deviation / math.sqrt(state.num_probes), size

    def _worst_residual(self, state: SpectrumState) -> float:
        residuals: HostArray = state.ritz()[1]
        ends = [residuals[: self.num_extremes], residuals[-self.num_extremes :]]
        return float(np.max(np.concatenate(ends)))

    def _probes_for_budget(self) -> int:
        """Return the probes of a block: more steps than probes, about three for each."""
        if self.accuracy is not None:
            return min(_DEFAULT_PROBES, self.budget)
        least = 2 if self.budget > 1 else 1
        return max(least, round(math.sqrt(self.budget / 3)))
