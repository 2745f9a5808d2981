"""The trace and the diagonal of a Gauss-Newton matrix, exactly, from squared gradients of samples."""

from __future__ import annotations

import math
import time
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from hessops.agreement import agreed_seed
from hessops.algorithms._common import require_positive
from hessops.arrays import HostArray
from hessops.random import Purpose, RandomState, Stream
from hessops.record import History, require_finite
from hessops.result import Estimate, Interval
from hessops.results.trace import TraceResult
from hessops.statistics import MeanVariance, length, t_quantile, welch_satterthwaite
from hessops_torch.operators.ggn import GaussNewton
from hessops_torch.traces.squared_gradients import SquaredGradients

__all__ = ["GaussNewtonMethod", "gauss_newton_diagonal", "gauss_newton_trace"]

GaussNewtonMethod = Literal["auto", "exact", "sampled"]
"""Ways to the trace of a Gauss-Newton matrix."""

_MOST_COLUMNS = 64
_SEEDS = 16


def gauss_newton_trace(
    G: GaussNewton,
    *,
    method: GaussNewtonMethod = "auto",
    num_seeds: int | None = None,
    confidence: float = 0.95,
    rng: RandomState = None,
) -> TraceResult:
    """Compute or sample the trace of a Gauss-Newton matrix from gradients of samples.

    ``exact`` sums the squared norms of every sample's gradients by all columns of a square root of M,
    one less than there are classes for cross-entropy: it has no error but rounding. ``sampled`` mixes
    the columns with random signs, fresh ones for every sample; each seed is a backward pass. ``auto``
    takes the exact one up to 64 columns.

    Parameters
    ----------
    G : GaussNewton
        As `ggn` makes it.
    method : {'auto', 'exact', 'sampled'}
        The way, as above.
    num_seeds : int, optional
        Signs per sample for ``sampled``, 16 where not given; at least 2.
    confidence : float
        Nominal coverage of the interval.
    rng : int, numpy.random.Generator or None
        Where the signs come from.

    Returns
    -------
    TraceResult
        With the trace of every parameter tensor; `num_probes` counts backward passes, and
        `num_products` is 0, as no product with G is made.

    Raises
    ------
    TypeError
        If `G` is no Gauss-Newton matrix of a network.
    ValueError
        If an option is out of range, or M has no square root: use `hessops.trace` then. If the model
        joins samples (batch norm in train mode), the exact one is refused.

    Notes
    -----
    A forward pass and 2 for every backward pass, in units of a forward pass; a gradient is 3.

    References
    ----------
    Goodfellow (2015), arXiv:1510.01799; Tanabe & Sagae (1992), J. R. Stat. Soc. B 54.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> model = torch.nn.Linear(2, 3, bias=False)
    >>> data = [(torch.eye(2), torch.tensor([0, 2]))]
    >>> G = hessops_torch.ggn(model, torch.nn.CrossEntropyLoss(), data)
    >>> found = hessops_torch.gauss_newton_trace(G)
    >>> abs(found.value - float(G.to_dense().trace())) < 1e-6, found.method
    (True, 'exact')
    """
    clock = time.perf_counter()
    _require_gauss_newton(G, "gauss_newton_trace")
    require_positive(num_seeds=num_seeds)
    t_quantile(confidence, 1.0)
    if method not in get_args(GaussNewtonMethod):
        raise ValueError(
            f"method={method!r} is unknown; choose one of {', '.join(get_args(GaussNewtonMethod))}"
        )
    if num_seeds is not None and (method == "exact" or num_seeds < 2):
        raise ValueError(
            f"num_seeds={num_seeds} goes with method='sampled', and is 2 or more, as one seed shows no "
            "error"
        )
    stream = Stream(agreed_seed(G.domain, rng), Purpose.SKETCH)
    with G.objective.ready():
        squares = _squares(G)
        few = squares.separate and squares.num_columns <= _MOST_COLUMNS
        if method == "auto":
            method = "exact" if few and num_seeds is None else "sampled"
        if method == "exact":
            _require_separate(squares)
            sums, errors, freedoms = _exact(squares)
            count, reason = squares.num_columns, "every column of a square root of M"
        else:
            count = num_seeds or _SEEDS
            sums, errors, freedoms = _sampled(squares, stream, count)
            reason = "random signs for the columns of a square root of M"
        divisor = G.objective.divisor()
    require_finite(sums, count, G)
    return _result(
        G, method, count, sums / divisor, errors / divisor, freedoms, confidence,
        reason=reason, seed=None if method == "exact" else stream.seed, clock=clock,
    )  # fmt: skip


def gauss_newton_diagonal(G: GaussNewton) -> Tensor:
    """Compute the diagonal of a Gauss-Newton matrix exactly, from squared gradients of samples.

    It costs what `gauss_newton_trace` costs, and makes a control variate for that of the Hessian:
    ``hessops.diagonal(H, control=(G, gauss_newton_diagonal(G)))``.

    Parameters
    ----------
    G : GaussNewton
        As `ggn` makes it.

    Returns
    -------
    torch.Tensor, shape (n,)
        The diagonal, in the precision of the parameters.

    Raises
    ------
    TypeError
        If `G` is no Gauss-Newton matrix of a network.
    ValueError
        If M has no square root, or the model joins samples: use `hessops.diagonal` then.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> G = hessops_torch.ggn(model, torch.nn.MSELoss(), [(torch.eye(2), torch.zeros(2, 1))])
    >>> torch.allclose(hessops_torch.gauss_newton_diagonal(G), torch.ones(2))
    True
    """
    _require_gauss_newton(G, "gauss_newton_diagonal")
    diagonal = G.domain.zeros(1)[:, 0]
    with G.objective.ready():
        squares = _squares(G)
        _require_separate(squares)
        for index, batch in enumerate(G.objective.batches):
            more = squares.exact(batch, index, diagonal=True).diagonal
            assert more is not None
            diagonal = diagonal + more
        diagonal = diagonal / G.objective.divisor()
    require_finite(diagonal.sum().cpu().numpy(), 1, G)
    return diagonal + G.weight_decay


def _require_gauss_newton(G: object, verb: str) -> None:
    if not isinstance(G, GaussNewton):
        raise TypeError(f"{verb} takes what hessops_torch.ggn makes, got {type(G).__name__}")
    G.require_full_precision(verb)


def _squares(G: GaussNewton) -> SquaredGradients:
    squares = SquaredGradients(G.objective, G.loss)
    if not squares.num_columns:
        raise ValueError(
            "the loss has a negative curvature by the outputs, joins samples or has too many outputs "
            "to look at, so that no square root of its second derivative is known: use "
            "hessops.trace or hessops.diagonal of the operator"
        )
    return squares


def _require_separate(squares: SquaredGradients) -> None:
    if not squares.separate:
        raise ValueError(
            "the model joins the samples of a batch (batch norm in train mode?) or takes no single "
            "one (a recurrent layer?), so that they have no gradients of their own: use mode='eval', "
            "method='sampled' for the trace, or hessops.trace or hessops.diagonal of the operator"
        )


def _exact(squares: SquaredGradients) -> tuple[HostArray, HostArray, HostArray]:
    batches = enumerate(squares.objective.batches)
    total = np.sum([squares.exact(batch, index).sums[:, 0] for index, batch in batches], axis=0)
    return total, np.zeros_like(total), np.full(len(total), math.inf)


def _sampled(
    squares: SquaredGradients, stream: Stream, count: int
) -> tuple[HostArray, HostArray, HostArray]:
    found = [
        squares.sampled(batch, index, stream.for_term(index), range(count)).sums
        for index, batch in enumerate(squares.objective.batches)
    ]
    moments = MeanVariance.of(np.stack(found))
    errors = length(moments.deviation) / math.sqrt(count)
    return moments.mean.sum(axis=0), errors, welch_satterthwaite(moments.deviation, count - 1)


def _result(
    G: GaussNewton,
    method: str,
    count: int,
    sums: HostArray,
    errors: HostArray,
    freedoms: HostArray,
    confidence: float,
    *,
    reason: str,
    seed: int | None,
    clock: float,
) -> TraceResult:
    value = float(sums[0]) + G.weight_decay * G.shape[0]
    half = (
        float(t_quantile(confidence, float(freedoms[0]))) * float(errors[0]) if errors[0] else 0.0
    )
    seconds = time.perf_counter() - clock
    status = f"{count} backward passes over the data"
    return TraceResult(
        value=value,
        standard_error=float(errors[0]),
        interval=Interval(value - half, value + half),
        confidence=confidence,
        method=method,
        reason=reason,
        num_probes=count,
        probe="column" if method == "exact" else "rademacher",
        num_terms=len(G.objective.batches),
        term_scatter=math.nan,
        sections={
            name: Estimate(
                value=float(sums[column]) + G.weight_decay * (stop - start),
                standard_error=float(errors[column]),
                freedom=float(freedoms[column]),
                confidence=confidence,
            )
            for column, (name, (start, stop)) in enumerate(G.domain.sections.items(), start=1)
        },
        num_products=0,
        status=f"{status}: exact to rounding" if method == "exact" else status,
        converged=True,
        history=History([(1, 0, value, float(errors[0]), seconds)]),
        seed=seed,
        seconds=seconds,
    )
