"""The error of the eigenvalues at the ends of a spectrum by the choice of samples."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np

from hessops import eigsh
from hessops.algorithms._common import require_count
from hessops.arrays import HostArray, to_numpy
from hessops.random import RandomState
from hessops_torch.sampling.error import SamplingError
from hessops_torch.sampling.sample import Sample, sample_of

__all__ = ["eigenvalue_sampling_error"]

_SEPARATED = 3.0


def eigenvalue_sampling_error(
    operator: Any,
    k: int = 1,
    *,
    which: Literal["LM", "LA", "SA"] = "LA",
    population: float | None = None,
    num_neighbours: int = 4,
    tol: float = 1e-4,
    confidence: float = 0.95,
    rng: RandomState = None,
) -> SamplingError:
    """Compute eigenvalues, and how far they may lie from those over the whole of the data.

    To first order in what the samples change, eigenvalue λ_i with eigenvector v_i changes by the sum
    over micro-batches of v_i' A_b v_i, whose scatter gives the error. To second order it is drawn away
    from its neighbours, ``Σ_j (v_j' Δ v_i)² / (λ_i - λ_j)``: the largest eigenvalue of a sample is on
    average too large. That bias is estimated by the same scatter, with all eigenvalues but the
    neighbours taken as zero, and taken off the centre of the interval. Costs the products of `eigsh`
    for ``k + num_neighbours`` pairs and `k` more.

    Parameters
    ----------
    operator : LinearOperator or anything `hessops.aslinearoperator` takes
        A sum over micro-batches, such as a Hessian, which are random parts of the data.
    k : int
        Eigenvalues wanted.
    which : {'LM', 'LA', 'SA'}
        As for `hessops.eigsh`.
    population : float, optional
        Samples of the whole that those at hand are drawn from without replacement; a distribution
        where not given.
    num_neighbours : int
        Further eigenpairs, for the bias.
    tol : float
        Residual norm, relative to the largest eigenvalue.
    confidence : float
        Nominal coverage of the intervals.
    rng : int, numpy.random.Generator or None
        Where start vectors come from.

    Returns
    -------
    SamplingError
        One entry per eigenvalue. An interval holds where the eigenvalue lies apart from its
        neighbours by more than what the samples change; its status says where it does not. In the
        tests' network (12 parameters; eigenvalues 0.56, 0.19 and 0.10) and samples of 128, 256 and 512
        in micro-batches of 8, nominal 95 % intervals held over 500 seeds in 93 to 95 % of all cases for
        the first eigenvalue, 94 to 95 % for the second and 90 to 95 % for the third: least often with
        128 samples, a third to a half of which do not tell it from a neighbour, as their status says.
        In the others its intervals held in 94 to 97 %. Each share is known to 1 %.

    Raises
    ------
    ValueError
        If there are fewer than two micro-batches, the population is too small, or `k` is no number of
        eigenvalues that the operator has.

    References
    ----------
    Anderson (1963), Ann. Math. Statist. 34, for sample covariances; Kato (1995), Perturbation Theory
    for Linear Operators, chapter II.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> model = torch.nn.Linear(3, 1, bias=False)
    >>> x = torch.randn(512, 3) * torch.tensor([3.0, 1.0, 0.3])
    >>> H = hessops_torch.hessian(model, torch.nn.MSELoss(), (x, x[:, :1]), micro_batch_size=16)
    >>> error = hessops_torch.eigenvalue_sampling_error(H, rng=0)
    >>> bool(error.interval.low[0] < 2 * 9 < error.interval.high[0])
    True
    """
    clock = time.perf_counter()
    sample = sample_of(operator, population)
    dim = sample.operator.shape[0]
    require_count(k=k)
    if k > dim:
        raise ValueError(f"k={k} eigenvalues asked of an operator of dimension {dim}")
    if num_neighbours < 0:
        raise ValueError(f"num_neighbours={num_neighbours} must not be negative")
    pairs = eigsh(sample.operator, min(k + num_neighbours, dim), which=which, tol=tol, rng=rng)
    values, V = pairs.eigenvalues, pairs.eigenvectors
    mixed, outside = _coupling(sample, V, min(k, dim))
    variances = sample.correction * sample.variance(mixed)
    k = len(outside)
    errors = np.sqrt(np.diagonal(variances[:, :k]))
    bias = _bias(values, variances, sample.correction * outside)
    together = _together(values, k, variances)
    return SamplingError(
        value=values[:k],
        sampling_error=errors,
        computing_error=pairs.error_bounds[:k],
        bias=bias,
        freedom=np.full(k, sample.num_batches - 1.0),
        scatter_freedom=np.full(k, sample.num_batches - 1.0),
        num_samples=sample.num_samples,
        num_batches=sample.num_batches,
        population=sample.population,
        confidence=confidence,
        num_products=pairs.num_products + k,
        status=_status(together, converged=pairs.converged),
        converged=pairs.converged,
        history=pairs.history,
        seed=pairs.seed,
        seconds=time.perf_counter() - clock,
    )


def _coupling(sample: Sample, V: Any, k: int) -> tuple[HostArray, HostArray]:
    """Return v_j' A_b v_i for each batch, shape (m, K, k), and the variance outside all v_j, (k,)."""
    space = sample.operator.domain
    mixed, squares = [], []
    for term in sample.terms():
        W = term.apply(V[:, :k])
        mixed.append(np.asarray(to_numpy(space.gram(V, W)), dtype=np.float64))
        squares.append(np.asarray(to_numpy(space.column_norms_squared(W)), dtype=np.float64))
    inner = np.stack(mixed)
    # Off its eigenvectors the whole operator has nothing: what a batch has there is its deviation.
    outside = np.maximum(np.stack(squares) - (inner**2).sum(axis=1), 0.0)
    outside = (outside / sample.weights[:, None]).sum(axis=0) / (sample.num_batches - 1)
    return inner, outside


def _bias(values: HostArray, variances: HostArray, outside: HostArray) -> HostArray:
    bias = np.zeros(len(outside))
    for i in range(len(outside)):
        others = np.arange(len(values)) != i
        gaps = values[i] - values[others]
        known = np.divide(variances[others, i], gaps, out=np.zeros_like(gaps), where=gaps != 0)
        bias[i] = known.sum() + (outside[i] / values[i] if values[i] else 0.0)
    return bias


def _together(values: HostArray, k: int, variances: HostArray) -> list[int]:
    """Return which eigenvalues lie too near to others for the intervals to hold."""
    found = []
    for i in range(k):
        others = np.arange(len(values)) != i
        gaps = np.abs(values[i] - values[others])
        if np.any(gaps < _SEPARATED * np.sqrt(variances[others, i])):
            found.append(i)
    return found


def _status(together: list[int], *, converged: bool) -> str:
    if not converged:
        return "the eigenvalues have not converged: see hessops.eigsh for what to raise"
    if together:
        numbers = ", ".join(str(i) for i in together)
        return (
            f"eigenvalues {numbers} (from 0) lie nearer to a neighbour than the samples tell apart: "
            "their intervals hold for neither; take more samples"
        )
    return "the eigenvalues lie apart by more than what the samples change"
