"""What ``hessops analyze`` computes, in which order, and with which settings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np

import hessops
from hessops.algorithms._common import self_adjoint_operator
from hessops.algorithms.eigen._eigsh_goal import Goal, goal_tolerance, least_tolerance
from hessops.algorithms.eigen.eigsh import Which
from hessops.algorithms.eigen.eigsh_state import EigshState
from hessops.algorithms.trace.trace_estimator import TraceEstimator, trace_estimator_of
from hessops.arrays import HostArray
from hessops.blocks.rounding import rounding
from hessops.cli.known_traces import exact_trace, known_traces
from hessops.cli.progress import Progress
from hessops.cli.sentence import sentence_of
from hessops.density.spectral_density import SpectralDensity
from hessops.operator import LinearOperator
from hessops.random import MAX_SEED
from hessops.results.eigenpairs import EigenResult
from hessops.results.trace import TraceResult

__all__ = ["Analysis", "Settings", "analyze_operator"]

_DEFAULT_EIGENVALUES = 5
# In the order in which they are computed: what may take long comes last.
_QUANTITIES = ("trace", "density", "eigenvalues")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of an analysis; see ``hessops analyze --help``."""

    compute: tuple[str, ...] = _QUANTITIES
    which: Which = "LM"
    num_eigenvalues: int | None = None
    tol: float | None = None
    max_steps: int | None = None
    trace_probes: int | None = None
    rtol: float | None = None
    confidence: float = 0.95
    density_probes: int = 4
    density_steps: int = 40
    seed: int = 0

    @classmethod
    def parse(cls, compute: str, which: str, **options: Any) -> Settings:
        """Return the settings, or say which word is unknown."""
        wanted = tuple(word.strip() for word in compute.split(",") if word.strip())
        unknown = [word for word in wanted if word not in _QUANTITIES]
        if unknown or not wanted:
            raise ValueError(
                f"cannot compute {', '.join(unknown) or 'nothing'}: choose from "
                f"{', '.join(_QUANTITIES)}"
            )
        if which not in get_args(Which):
            raise ValueError(
                f"--which {which} is unknown: choose from {', '.join(get_args(Which))}"
            )
        settings = cls(compute=wanted, which=which, **options)  # type: ignore[arg-type]
        settings.require_sound()
        return settings

    def require_sound(self) -> None:
        """Raise ValueError for the first option that is out of range, before anything is loaded."""
        for name in ("tol", "rtol"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"--{name} {value} must be positive and finite")
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"--confidence {self.confidence} must be between 0 and 1, such as 0.95"
            )
        if not 0 <= self.seed < MAX_SEED:
            raise ValueError(f"--seed {self.seed} must be at least 0 and below 2**64")

    def require_fit(self, operator: LinearOperator) -> None:
        """Raise ValueError if more eigenvalues are asked for than the operator has."""
        count, dim = self.num_eigenvalues or 1, operator.shape[0]
        if "eigenvalues" in self.compute and count > dim:
            raise ValueError(
                f"--num-eigenvalues {count} is more than the {dim} that the operator has"
            )


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The results of an analysis; None for what was not asked for, or is missing.

    Parameters
    ----------
    operator : LinearOperator
        What was analysed.
    settings : Settings
        How.
    known : tuple of float
        The traces of A and A², as far as stored entries tell them.
    eigenpairs : EigenResult or None
        The eigenvalues.
    reached : numpy.ndarray of bool or None
        Which of them have the residual norm asked for.
    trace : TraceResult or None
        The trace.
    density : SpectralDensity or None
        The spectral density.
    missing : mapping of str to str
        What was asked for and is not there, and why.
    interrupted : bool
        Whether the user ended it.
    seconds : float
        Wall time of all of it.
    """

    operator: LinearOperator = field(repr=False)
    settings: Settings
    known: tuple[float, ...] = ()
    eigenpairs: EigenResult | None = None
    reached: HostArray | None = None
    trace: TraceResult | None = None
    density: SpectralDensity | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    interrupted: bool = False
    seconds: float = 0.0

    def reached_eigenvalues(self) -> HostArray:
        """Return the eigenvalues whose residual norm is as small as was asked for."""
        if self.eigenpairs is None or self.reached is None:
            return np.empty(0)
        return self.eigenpairs.eigenvalues[self.reached]

    def known_moments(self) -> dict[str, float]:
        """Return what is known of the mean over eigenvalues without an estimate, by name."""
        names = ("mean eigenvalue", "mean square")
        dim = self.operator.shape[0]
        return {name: trace / dim for name, trace in zip(names, self.known, strict=False)}

    def results(self) -> dict[str, EigenResult | TraceResult | SpectralDensity]:
        """Return what there is, by name, in the order in which it was computed."""
        found = {"trace": self.trace, "density": self.density, "eigenvalues": self.eigenpairs}
        return {name: result for name, result in found.items() if result is not None}

    def missed(self) -> tuple[str, ...]:
        """Return the names of the results that are not as accurate as was asked for."""
        return tuple(name for name, result in self.results().items() if not result.converged)


def analyze_operator(
    operator: LinearOperator,
    settings: Settings,
    progress: Progress,
    show: Callable[[Analysis, str], None],
    *,
    raising: bool = False,
) -> Analysis:
    """Compute what the settings ask for; keep what there is if something fails later on.

    Parameters
    ----------
    operator : LinearOperator
        What to analyse.
    settings : Settings
        How.
    progress : Progress
        Where to report.
    show : callable
        Called with the results so far and the name of the latest.
    raising : bool
        Raise whatever fails.

    Returns
    -------
    Analysis
        The results, and what is missing.

    Raises
    ------
    Exception
        What the first quantity raises, and KeyboardInterrupt before it is there.
    """
    wanted = [name for name in _QUANTITIES if name in settings.compute]
    if wanted != ["trace"]:
        # Before a trace, which needs less, has taken its time.
        verb = "eigsh" if "eigenvalues" in wanted else "spectral_density"
        self_adjoint_operator(operator, verb)
    settings.require_fit(operator)
    start = time.perf_counter()
    analysis = Analysis(operator=operator, settings=settings, known=known_traces(operator))
    missing: dict[str, str] = {}
    for index, name in enumerate(wanted):
        try:
            results = _COMPUTE[name](analysis, progress)
        except KeyboardInterrupt:
            if not analysis.results():
                raise
            missing |= dict.fromkeys(wanted[index:], "interrupted")
            seconds = time.perf_counter() - start
            return replace(analysis, missing=missing, interrupted=True, seconds=seconds)
        except Exception as error:
            if raising or not analysis.results():
                raise
            missing[name] = sentence_of(error)
            continue
        analysis = replace(analysis, **results)
        show(analysis, name)
    return replace(analysis, missing=missing, seconds=time.perf_counter() - start)


def _eigenpairs(analysis: Analysis, progress: Progress) -> dict[str, Any]:
    operator, settings = analysis.operator, analysis.settings
    count = settings.num_eigenvalues or min(_DEFAULT_EIGENVALUES, operator.shape[0])
    asked = goal_tolerance(operator, settings.tol)
    goal = Goal(count, settings.which, asked, 1, least=least_tolerance(operator))
    scale = 0.0

    def note(state: EigshState) -> str:
        residuals = state.residual_norms[goal.wanted(state)]
        arrived, allowed = int(np.sum(residuals <= goal.allowed(state))), goal.allowed(state)
        return (
            f"{arrived} of {count} converged, residual norms up to {np.max(residuals):.1e}, "
            f"asked for {allowed:.1e}"
        )

    with progress.bar("eigenvalues", None, note) as advance:

        def look(state: EigshState) -> None:
            nonlocal scale
            scale = state.size
            advance(state)

        pairs = hessops.eigsh(
            operator,
            count,
            which=settings.which,
            tol=settings.tol,
            max_steps=settings.max_steps,
            rng=settings.seed,
            callback=look,
        )
    return {"eigenpairs": pairs, "reached": _reached(pairs, operator, asked, scale)}


def _reached(pairs: EigenResult, operator: LinearOperator, asked: float, scale: float) -> HostArray:
    """Return which pairs have converged, by the rule of `eigsh`."""
    if pairs.converged:
        return np.ones(len(pairs.eigenvalues), dtype=bool)
    allowed = asked * scale + rounding(operator.domain, scale)
    return np.asarray(pairs.residual_norms <= allowed)


def _trace(analysis: Analysis, progress: Progress) -> dict[str, Any]:
    operator, settings = analysis.operator, analysis.settings
    # Who asks for probes wants to see what they do.
    if analysis.known and settings.trace_probes is None:
        exact = exact_trace(
            operator, analysis.known, confidence=settings.confidence, seed=settings.seed
        )
        return {"trace": exact}
    estimator = _own_estimator(operator, settings)
    if estimator is not None:
        with progress.bar("trace", None) as advance:
            own = estimator(
                max_products=settings.trace_probes,
                rtol=settings.rtol,
                confidence=settings.confidence,
                sections=True,
                rng=settings.seed,
                callback=advance,
            )
        return {"trace": own}
    with progress.bar("trace", settings.trace_probes) as advance:
        trace = hessops.trace(
            operator,
            num_probes=settings.trace_probes,
            rtol=settings.rtol,
            block_size=8,
            confidence=settings.confidence,
            rng=settings.seed,
            callback=advance,
        )
    return {"trace": trace}


def _own_estimator(operator: LinearOperator, settings: Settings) -> TraceEstimator | None:
    """Return the operator's own way to its trace, unless a number of probes is asked for."""
    if settings.trace_probes is not None and settings.rtol is None:
        return None
    return trace_estimator_of(operator, settings.trace_probes)


def _density(analysis: Analysis, progress: Progress) -> dict[str, Any]:
    operator, settings = analysis.operator, analysis.settings
    total = settings.density_probes * settings.density_steps
    with progress.bar("density", total) as advance:
        density = hessops.spectral_density(
            operator,
            num_probes=settings.density_probes,
            num_steps=settings.density_steps,
            rng=settings.seed,
            callback=advance,
        )
    return {"density": density}


_COMPUTE = {"trace": _trace, "density": _density, "eigenvalues": _eigenpairs}
