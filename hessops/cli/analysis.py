"""What ``hessops analyze`` computes, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

import hessops
from hessops.algorithms.eigen.eigsh import EigshState, Which
from hessops.arrays import HostArray, eps
from hessops.blocks.rounding import rounding
from hessops.cli.progress import Progress
from hessops.density.spectral_density import SpectralDensity
from hessops.operator import LinearOperator
from hessops.results.eigenpairs import EigenResult
from hessops.results.trace import TraceResult

__all__ = ["Analysis", "Settings", "analyze_operator"]

_DEFAULT_EIGENVALUES = 5
_QUANTITIES = ("eigenvalues", "trace", "density")


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
        return cls(compute=wanted, which=which, **options)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The results of an analysis; None for what was not asked for.

    Parameters
    ----------
    operator : LinearOperator
        What was analysed.
    settings : Settings
        How.
    eigenpairs : EigenResult or None
        The eigenvalues.
    reached : numpy.ndarray of bool or None
        Which of them have the residual norm asked for.
    trace : TraceResult or None
        The trace.
    density : SpectralDensity or None
        The spectral density.
    """

    operator: LinearOperator = field(repr=False)
    settings: Settings
    eigenpairs: EigenResult | None
    reached: HostArray | None
    trace: TraceResult | None
    density: SpectralDensity | None

    def reached_eigenvalues(self) -> HostArray:
        """Return the eigenvalues whose residual norm is as small as was asked for."""
        if self.eigenpairs is None or self.reached is None:
            return np.empty(0)
        return self.eigenpairs.eigenvalues[self.reached]

    def missed(self) -> tuple[str, ...]:
        """Return the names of the results that are not as accurate as was asked for."""
        results = {
            "eigenvalues": self.eigenpairs,
            "trace": self.trace,
            "density": self.density,
        }
        return tuple(
            name for name, result in results.items() if result is not None and not result.converged
        )


def analyze_operator(operator: LinearOperator, settings: Settings, progress: Progress) -> Analysis:
    """Compute what the settings ask for."""
    eigenpairs, reached = _eigenpairs(operator, settings, progress)
    return Analysis(
        operator=operator,
        settings=settings,
        eigenpairs=eigenpairs,
        reached=reached,
        trace=_trace(operator, settings, progress),
        density=_density(operator, settings, progress),
    )


def _eigenpairs(
    operator: LinearOperator, settings: Settings, progress: Progress
) -> tuple[EigenResult | None, HostArray | None]:
    if "eigenvalues" not in settings.compute:
        return None, None
    scale = 0.0
    with progress.bar("eigenvalues", None) as advance:

        def look(state: EigshState) -> None:
            nonlocal scale
            scale = state.size
            advance(state)

        pairs = hessops.eigsh(
            operator,
            settings.num_eigenvalues or min(_DEFAULT_EIGENVALUES, operator.shape[0]),
            which=settings.which,
            tol=settings.tol,
            max_steps=settings.max_steps,
            rng=settings.seed,
            callback=look,
        )
    return pairs, _reached(pairs, operator, settings.tol, scale)


def _reached(
    pairs: EigenResult, operator: LinearOperator, tol: float | None, scale: float
) -> HostArray:
    """Return which pairs have converged, by the rule of `eigsh`."""
    if pairs.converged:
        return np.ones(len(pairs.eigenvalues), dtype=bool)
    asked = tol or eps(operator.xp, operator.dtype) ** (2 / 3)
    allowed = asked * scale + rounding(operator.domain, scale)
    return np.asarray(pairs.residual_norms <= allowed)


def _trace(operator: LinearOperator, settings: Settings, progress: Progress) -> TraceResult | None:
    if "trace" not in settings.compute:
        return None
    with progress.bar("trace", settings.trace_probes) as advance:
        return hessops.trace(
            operator,
            num_probes=settings.trace_probes,
            rtol=settings.rtol,
            block_size=8,
            confidence=settings.confidence,
            rng=settings.seed,
            callback=advance,
        )


def _density(
    operator: LinearOperator, settings: Settings, progress: Progress
) -> SpectralDensity | None:
    if "density" not in settings.compute:
        return None
    total = settings.density_probes * settings.density_steps
    with progress.bar("density", total) as advance:
        return hessops.spectral_density(
            operator,
            num_probes=settings.density_probes,
            num_steps=settings.density_steps,
            rng=settings.seed,
            callback=advance,
        )
