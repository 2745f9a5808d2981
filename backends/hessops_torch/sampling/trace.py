"""The error of a trace by the choice of samples, apart from that of the probes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from hessops.algorithms.trace.hutchinson import HutchinsonState, hutchinson_steps
from hessops.random import Purpose, RandomState, Stream, seed_from
from hessops.record import History
from hessops.statistics import length
from hessops_torch.sampling.error import SamplingError
from hessops_torch.sampling.sample import Sample, require_two_probes, sample_of

__all__ = ["trace_sampling_error"]


def trace_sampling_error(
    operator: Any,
    *,
    population: float | None = None,
    num_probes: int = 8,
    confidence: float = 0.95,
    rng: RandomState = None,
) -> SamplingError:
    """Estimate a trace, and how far it may lie from that over the whole of the data.

    Every micro-batch has probes of its own, so that the scatter between micro-batches is that of the
    samples and of the probes; what the probes alone make is seen within each, and taken off. Costs
    `num_probes` products.

    Parameters
    ----------
    operator : LinearOperator or anything `hessops.aslinearoperator` takes
        A sum over micro-batches, such as a Hessian. They have to be random parts of the data: data
        sorted by class, cut as it stands, scatters more.
    population : float, optional
        Samples of the whole that those at hand are drawn from without replacement; a distribution
        where not given.
    num_probes : int
        Probes for every micro-batch; two at least.
    confidence : float
        Nominal coverage of the interval.
    rng : int, numpy.random.Generator or None
        Where probes come from.

    Returns
    -------
    SamplingError
        Its interval is Student's with about one degree of freedom less than there are micro-batches,
        exact where these are normal. For 16 micro-batches of 8 samples of a network with 12
        parameters, between 93 and 97.5 % of nominal 95 % intervals held, with 4 and 32 probes.

    Raises
    ------
    ValueError
        If there are fewer than two micro-batches or probes, or the population is too small.

    References
    ----------
    Cochran (1977), Sampling Techniques, chapter 2.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> model = torch.nn.Linear(3, 1)
    >>> data = torch.randn(256, 3), torch.randn(256, 1)
    >>> H = hessops_torch.hessian(model, torch.nn.MSELoss(), data, micro_batch_size=16)
    >>> error = hessops_torch.trace_sampling_error(H, num_probes=64, rng=0)
    >>> bool(error.interval.low < 2 * (3 + 1) < error.interval.high)
    True
    """
    clock = time.perf_counter()
    sample = sample_of(operator, population)
    require_two_probes(num_probes)
    stream = Stream(seed_from(rng), Purpose.TRACE)
    (state,) = hutchinson_steps(
        sample.operator, stream=stream, stratify=True, block_size=num_probes, num_probes=num_probes
    )
    seconds = time.perf_counter() - clock
    return replace(
        _as_error(sample, state, confidence),
        history=History(
            [(1, state.num_products, state.estimate(), state.standard_error(), seconds)]
        ),
        seed=stream.seed,
        seconds=seconds,
    )


def _as_error(sample: Sample, state: HutchinsonState, confidence: float) -> SamplingError:
    places = list(sample.places)
    scatter = float(sample.variance(state.moments.mean[places, 0]))
    deviations = state.moments.deviation[places, 0] / np.sqrt(state.num_probes)
    # A probe's noise is in the scatter of micro-batches as the scatter sees it, weighed by shares...
    weights = sample.weights
    noise_in_scatter = float(np.sum(deviations**2 * (1 / weights - 1)) / (sample.num_batches - 1))
    # ... and in the sum as it is.
    noise = float(length(deviations)) ** 2
    of_samples = max(scatter - noise_in_scatter, 0.0)
    freedom = sample.num_batches - 1.0
    noise_freedom = max(state.freedom(), 1.0)
    parts = np.array([sample.correction * scatter, (1 - sample.correction) * noise])
    total = parts.sum()
    squares = parts[0] ** 2 / freedom + parts[1] ** 2 / noise_freedom
    uncertainty = 2 * (scatter**2 / freedom + noise_in_scatter**2 / noise_freedom)
    seen = of_samples > 0
    zero = np.zeros(())
    return SamplingError(
        value=np.asarray(state.estimate()),
        sampling_error=np.asarray(np.sqrt(sample.correction * of_samples)),
        computing_error=np.asarray(np.sqrt(noise)),
        bias=zero,
        freedom=np.asarray(total**2 / squares if squares > 0 else freedom),
        scatter_freedom=np.asarray(2 * of_samples**2 / uncertainty if seen else 0.0),
        num_samples=sample.num_samples,
        num_batches=sample.num_batches,
        population=sample.population,
        confidence=confidence,
        num_products=state.num_products,
        converged=seen,
        status=(
            "the scatter between micro-batches shows above the probes' noise"
            if seen
            else "the probes' noise hides the scatter between micro-batches: take more probes"
        ),
    )
