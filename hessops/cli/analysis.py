"""What ``hessops analyze`` computes, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import hessops
from hessops.algorithms.eigsh import Which
from hessops.algorithms.hutchinson import TraceResult
from hessops.cli.progress import ProgressBars
from hessops.density import SpectralDensity
from hessops.eigenpairs import EigenResult
from hessops.operator import LinearOperator

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
    """The results of an analysis; None for what was not asked for."""

    operator: LinearOperator = field(repr=False)
    settings: Settings
    eigenpairs: EigenResult | None
    trace: TraceResult | None
    density: SpectralDensity | None


def analyze_operator(
    operator: LinearOperator, settings: Settings, progress: ProgressBars
) -> Analysis:
    """Compute what the settings ask for."""
    return Analysis(
        operator=operator,
        settings=settings,
        eigenpairs=_eigenpairs(operator, settings, progress),
        trace=_trace(operator, settings, progress),
        density=_density(operator, settings, progress),
    )


def _eigenpairs(
    operator: LinearOperator, settings: Settings, progress: ProgressBars
) -> EigenResult | None:
    if "eigenvalues" not in settings.compute:
        return None
    with progress.bar("eigenvalues", None) as advance:
        return hessops.eigsh(
            operator,
            settings.num_eigenvalues or min(_DEFAULT_EIGENVALUES, operator.shape[0]),
            which=settings.which,
            tol=settings.tol,
            max_steps=settings.max_steps,
            rng=settings.seed,
            callback=advance,
        )


def _trace(
    operator: LinearOperator, settings: Settings, progress: ProgressBars
) -> TraceResult | None:
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
    operator: LinearOperator, settings: Settings, progress: ProgressBars
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
