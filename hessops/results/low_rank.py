"""Approximations of low rank: their factors, the operator they make, and what is known of the error.

Two statements are kept apart: a bound of the spectral norm, which holds with a stated probability,
and an estimate of another norm, which bounds nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hessops.arrays import Array, HostArray, device, namespace
from hessops.operators.elementary import LowRank
from hessops.result import Result

__all__ = ["LowRankEigen", "LowRankSVD", "NystromResult", "error_statement"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRankSVD(Result):
    """A truncated singular value decomposition, A ≈ U diag(S) V^H.

    Parameters
    ----------
    U : array, shape (m, r)
        Orthonormal left singular vectors, in the operator's library.
    S : numpy.ndarray, shape (r,)
        Singular values by decreasing size, float64, on the host; but for rounding never above the
        operator's own.
    V : array, shape (n, r)
        Orthonormal right singular vectors, in the operator's library.
    shape : tuple of int
        (m, n) of the operator.
    spectral_bound : float
        ‖A - U diag(S) V^H‖_2 is not above it, with probability `confidence`; NaN without test
        probes.
    confidence : float
        Probability of `spectral_bound`; 1 where it follows from a known norm of A, NaN where there
        is none.
    error : float
        The error in `error_norm`: an exact value or an estimate, as `error_kind` says.
    error_norm : str
        'Frobenius'.
    error_kind : str
        'exact' (by a known norm of A, or of a basis of full dimension), 'leave-one-out',
        'test probes', or 'unknown'.
    """

    U: Array = field(metadata={"long": True}, repr=False)
    S: HostArray
    V: Array = field(metadata={"long": True}, repr=False)
    shape: tuple[int, int]
    spectral_bound: float
    confidence: float
    error: float
    error_norm: str
    error_kind: str

    @property
    def rank(self) -> int:
        """Return the number of singular values."""
        return len(self.S)

    @property
    def operator(self) -> LowRank:
        """Return U diag(S) V^H as an operator; of vectors that are split over ranks there is none."""
        return _operator(self.U, self.S, self.V, tuple(self.shape))

    def __str__(self) -> str:
        return "\n".join(
            [
                f"rank {self.rank} ({self._cost()}); {self.status}",
                error_statement(self),
                _listed("singular values", self.S),
            ]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRankEigen(Result):
    """The dominant eigenpairs of a self-adjoint operator, A ≈ X diag(λ) X^H.

    Parameters
    ----------
    eigenvalues : numpy.ndarray, shape (r,)
        By decreasing modulus, float64, on the host.
    eigenvectors : array, shape (n, r)
        Orthonormal columns, in the operator's library.
    residual_norms : numpy.ndarray, shape (r,)
        ‖A x - λ x‖: each λ is that close to an eigenvalue, whatever else is true.
    shape : tuple of int
        (n, n).
    spectral_bound : float
        ‖A - X diag(λ) X^H‖_2 is not above it, with probability `confidence`; NaN without test
        probes.
    confidence : float
        Probability of `spectral_bound`; 1 where it follows from a known norm of A, NaN where there
        is none.
    error : float
        The error in `error_norm`: an exact value or an estimate, as `error_kind` says.
    error_norm : str
        'Frobenius'.
    error_kind : str
        'exact' (by a known norm of A, or of a basis of full dimension), 'leave-one-out',
        'test probes', or 'unknown'.
    """

    eigenvalues: HostArray
    eigenvectors: Array = field(metadata={"long": True}, repr=False)
    residual_norms: HostArray
    shape: tuple[int, int]
    spectral_bound: float
    confidence: float
    error: float
    error_norm: str
    error_kind: str

    @property
    def rank(self) -> int:
        """Return the number of eigenvalues."""
        return len(self.eigenvalues)

    @property
    def operator(self) -> LowRank:
        """Return X diag(λ) X^H as an operator; of vectors that are split over ranks there is none."""
        return _operator(self.eigenvectors, self.eigenvalues, None, tuple(self.shape))

    def __str__(self) -> str:
        return "\n".join(
            [
                f"rank {self.rank} ({self._cost()}); {self.status}",
                error_statement(self),
                _listed("eigenvalues", self.eigenvalues),
            ]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class NystromResult(Result):
    """The Nyström approximation of a positive semidefinite operator, never above it.

    Parameters
    ----------
    eigenvalues : numpy.ndarray, shape (r,)
        Of the approximation, positive, by decreasing size, float64, on the host; but for rounding
        none is above the operator's own.
    eigenvectors : array, shape (n, r)
        Of the approximation: orthonormal columns, in the operator's library.
    shift : float
        What was added to the operator for a stable factorisation, and taken off the eigenvalues.
    shape : tuple of int
        (n, n).
    spectral_bound : float
        ‖A - X diag(λ) X^H‖_2 is not above it, with probability `confidence`; NaN without test
        probes.
    confidence : float
        Probability of `spectral_bound`; NaN where there is none.
    error : float
        The error in `error_norm`, an estimate.
    error_norm : str
        'nuclear': the trace of A less the trace of the approximation.
    error_kind : str
        'exact' (of a basis of full dimension) or 'leave-one-out'.
    """

    eigenvalues: HostArray
    eigenvectors: Array = field(metadata={"long": True}, repr=False)
    shift: float
    shape: tuple[int, int]
    spectral_bound: float
    confidence: float
    error: float
    error_norm: str
    error_kind: str

    @property
    def rank(self) -> int:
        """Return the number of eigenvalues."""
        return len(self.eigenvalues)

    @property
    def operator(self) -> LowRank:
        """Return X diag(λ) X^H as an operator; of vectors that are split over ranks there is none."""
        return _operator(self.eigenvectors, self.eigenvalues, None, tuple(self.shape))

    def __str__(self) -> str:
        return "\n".join(
            [
                f"rank {self.rank} ({self._cost()}); {self.status}",
                error_statement(self),
                _listed("eigenvalues", self.eigenvalues),
            ]
        )


def error_statement(result: LowRankSVD | LowRankEigen | NystromResult) -> str:
    """Return what is known of the error, and with what certainty, as a sentence.

    Parameters
    ----------
    result : LowRankSVD, LowRankEigen or NystromResult
        What a verb returned.

    Returns
    -------
    str
        One line.
    """
    parts = []
    if math.isfinite(result.spectral_bound):
        certainty = (
            "for certain" if result.confidence == 1 else f"with probability {result.confidence:g}"
        )
        parts.append(f"spectral error at most {result.spectral_bound:.3g} {certainty}")
    if math.isfinite(result.error):
        about = "" if result.error_kind == "exact" else "about "
        parts.append(f"{result.error_norm} error {about}{result.error:.3g} ({result.error_kind})")
    return "; ".join(parts) or "error unknown: give test probes"


def _operator(
    left: Array, values: HostArray, right: Array | None, shape: tuple[int, ...]
) -> LowRank:
    rows = (left.shape[0], (left if right is None else right).shape[0])
    if rows != shape:
        raise ValueError(
            f"the factors hold {rows} of {shape} rows: the vectors are split over ranks, and a "
            "LowRank operator is not; multiply by the factors with the gram of the space"
        )
    core = namespace(left).asarray(np.asarray(values), device=device(left))
    core = namespace(left).astype(core, left.dtype, copy=False)
    return LowRank(left, core, right)


def _listed(name: str, values: HostArray) -> str:
    shown = ", ".join(f"{value:.6g}" for value in values[:8])
    return f"{name} {shown}{', ...' if len(values) > 8 else ''}"
