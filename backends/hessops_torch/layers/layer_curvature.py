"""The curvature of every layer, or of any blocks of parameters, by one sweep of products."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

from hessops.agreement import agreed_seed
from hessops.algorithms._common import (
    default_block_size,
    require_positive,
    square_operator,
    warn_if_failed,
)
from hessops.algorithms.eigen.eigsh import Which, eigsh
from hessops.algorithms.krylov.slq import spectral_density
from hessops.algorithms.trace._terms import is_stratified
from hessops.arrays import is_complex
from hessops.density.spectral_density import SpectralDensity
from hessops.errors import ConvergenceWarning
from hessops.operator import LinearOperator
from hessops.random import ProbeKind, Purpose, RandomState, Stream, draw
from hessops.record import Callback, run
from hessops.results.eigenpairs import EigenResult
from hessops.statistics import t_quantile
from hessops_torch.layers.result import LayerCurvature
from hessops_torch.layers.sweep import LayerState, layer_steps
from hessops_torch.model.parameter_blocks import BlockSelection, Each, parameter_blocks
from hessops_torch.operators.data_sum import DataSum

__all__ = ["layer_curvature"]

_MAX_PROBES = 32


@runtime_checkable
class _Divisible(Protocol):
    def restricted(self, params: Any) -> LinearOperator: ...


def layer_curvature(
    H: Any,
    blocks: BlockSelection = None,
    *,
    each: Each = "module",
    num_probes: int = _MAX_PROBES,
    confidence: float = 0.95,
    probe: ProbeKind = "rademacher",
    stratify: bool | None = None,
    block_size: int | None = None,
    num_eigenvalues: int = 0,
    which: Which = "LM",
    tol: float | None = 1e-2,
    num_density_steps: int = 0,
    num_density_probes: int = 4,
    rng: RandomState = None,
    callback: Callback | None = None,
) -> LayerCurvature:
    """Estimate the curvature of every layer of a network, or of any blocks of parameters.

    `num_probes` products with the whole operator, of which each tells something of all blocks, give the
    trace of every block, its share of the whole, and mean and root mean square of its diagonal. Every
    micro-batch gets fresh probes, as in `hessops.trace`: the smaller the micro-batches, the smaller the
    errors at the same cost. What else is asked for takes products with every block by itself, which
    cost less than those with the whole: the further up in the network a block, the less.

    Parameters
    ----------
    H : Hessian or any other sum over data
        Such as `hessian` makes, or what `hessops.aslinearoperator` makes one of; or any other real
        operator on a space with sections, which are its blocks.
    blocks : mapping of str to selection, or iterable of selections, optional
        Blocks by name, or selections of which each makes a block: names, shell patterns, regular
        expressions, modules or parameters, as `hessian` takes them for `params`. They may not overlap,
        and need not cover everything.
    each : {'module', 'tensor'}
        Where no blocks are given: one for every module that holds parameters itself, or one for
        every parameter tensor.
    num_probes : int
        Probes, for every micro-batch.
    confidence : float
        Nominal coverage of each interval.
    probe : {'rademacher', 'normal', 'sphere'}
        Their distribution; signs vary least.
    stratify : bool, optional
        Use a fresh probe for every term; done where there is more than one term if not given.
    block_size : int, optional
        Probes per product; as many as fit a quarter of a gigabyte, at most 32, where not given.
    num_eigenvalues : int
        Outermost eigenpairs of every block to compute, one block after another.
    which : {'LM', 'LA', 'SA', 'BE'}
        Which, as for `hessops.eigsh`.
    tol : float, optional
        Residual norm asked for of them, relative to the block's largest eigenvalue.
    num_density_steps : int
        Lanczos steps for the spectral density of every block; none if 0.
    num_density_probes : int
        Start vectors of each.
    rng : int, numpy.random.Generator or None
        Where the randomness comes from.
    callback : callable, optional
        Called with every `LayerState`; returning True ends the sweep.

    Returns
    -------
    LayerCurvature
        Prints as a table that ranks the blocks.

    Raises
    ------
    ValueError
        If two blocks overlap, a selection fits nothing, or an option is out of range.
    TypeError
        If the operator has no sections, or cannot be divided where blocks or eigenvalues are asked for.
    NonFiniteError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If an eigenvalue has not converged.

    References
    ----------
    Hutchinson (1990), Commun. Stat. Simul. 19(2); Dong et al. (2020), NeurIPS, for ranking layers by
    their traces.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> data = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(4)]
    >>> H = hessops_torch.hessian(model, torch.nn.MSELoss(), data)
    >>> layers = hessops_torch.layer_curvature(H, rng=0)
    >>> layers.sizes, sorted(layers.ranking())
    ({'0': 16, '2': 5}, ['0', '2'])
    """
    clock = time.perf_counter()
    operator = _real_operator(H)
    members = _members(operator, blocks, each)
    require_positive(num_probes=num_probes, block_size=block_size)
    _require_not_negative(num_eigenvalues=num_eigenvalues, num_density_steps=num_density_steps)
    t_quantile(confidence, 1.0)
    if (num_eigenvalues or num_density_steps) and not isinstance(operator, _Divisible):
        raise TypeError(
            f"{operator} cannot be divided, so its blocks have no products of their own: leave "
            "num_eigenvalues and num_density_steps out"
        )
    seed = agreed_seed(operator.domain, rng)
    stream = Stream(seed, Purpose.TRACE)
    draw(stream, 0, 0, 0, probe, complex_valued=False)
    states = layer_steps(
        operator,
        members,
        stream=stream,
        num_probes=num_probes,
        probe=probe,
        block_size=block_size or default_block_size(operator.domain, num_probes),
        stratify=is_stratified(operator, stratify),
    )
    outcome = run(
        states,
        space=operator.domain,
        stop=lambda _: None,
        row=lambda state: (state.sums.estimate(), state.sums.standard_error()),
        callback=callback,
    )
    state: LayerState = outcome.state
    pairs = (
        _eigenpairs(operator, members, num_eigenvalues, which, tol, seed) if num_eigenvalues else {}
    )
    densities = (
        _densities(operator, members, num_density_steps, num_density_probes, seed)
        if num_density_steps
        else {}
    )
    count = state.sums.num_probes
    missed = [block for block, found in pairs.items() if not found.converged]
    status = outcome.reason or f"used all {count} probes asked for"
    if count < 2:
        status = "one probe gives no error: use num_probes=2 or more"
    if missed:
        status += (
            f"; eigenvalues of {', '.join(missed)} did not converge: {pairs[missed[0]].status}"
        )
    warn_if_failed(not missed, status, operator.domain.comm)
    parts: list[EigenResult | SpectralDensity] = [*pairs.values(), *densities.values()]
    columns = {block: index for index, block in enumerate(members, start=1)}
    return LayerCurvature(
        blocks=members,
        sizes={block: _size(operator, names) for block, names in members.items()},
        trace=state.trace(0, confidence),
        traces={block: state.trace(column, confidence) for block, column in columns.items()},
        shares={block: state.share(column, confidence) for block, column in columns.items()},
        rms_diagonals=state.rms_diagonals(operator.domain, members, confidence),
        eigenpairs=pairs,
        densities=densities,
        confidence=confidence,
        num_probes=count,
        num_terms=len(state.sums.num_samples),
        num_block_products=sum(part.num_products for part in parts),
        num_products=state.num_products,
        status=status,
        converged=not missed,
        history=outcome.history,
        seed=seed,
        seconds=time.perf_counter() - clock,
    )


def _require_not_negative(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
            raise ValueError(f"{name}={count!r} must not be negative, and whole; 0 leaves them out")


def _real_operator(H: Any) -> LinearOperator:
    operator = square_operator(H, "layer_curvature")
    if is_complex(operator.xp, operator.dtype):
        raise ValueError(f"{operator} is complex, and a network's layers are real")
    if operator.domain.is_split:
        raise ValueError(
            f"the vectors of {operator} are split over ranks, and layers are looked at on whole ones: "
            "pass the operator that sharded was given"
        )
    return operator


def _members(H: LinearOperator, blocks: BlockSelection, each: Each) -> dict[str, tuple[str, ...]]:
    """Return the sections of the operator's space in every block."""
    sections = H.domain.sections
    if not sections:
        raise TypeError(f"{H} acts on a space without sections, so that it has no layers")
    if isinstance(H, DataSum):
        return parameter_blocks(H.objective.model, sections, blocks, each)
    if blocks is not None:
        raise TypeError(
            f"blocks={blocks!r} names parameters of a model, and {H} knows none: leave it out to have "
            "one block for every section"
        )
    return {name: (name,) for name in sections}


def _size(H: LinearOperator, names: tuple[str, ...]) -> int:
    return sum(stop - start for start, stop in (H.domain.sections[name] for name in names))


def _eigenpairs(
    H: Any,
    members: Mapping[str, tuple[str, ...]],
    count: int,
    which: Which,
    tol: float | None,
    seed: int,
) -> dict[str, EigenResult]:
    found = {}
    for name, names in members.items():
        block = H.restricted(names)
        with warnings.catch_warnings():
            # One warning for all, with the names of the blocks.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found[name] = eigsh(block, min(count, block.shape[0]), which=which, tol=tol, rng=seed)
    return found


def _densities(
    H: Any, members: Mapping[str, tuple[str, ...]], steps: int, probes: int, seed: int
) -> dict[str, SpectralDensity]:
    return {
        name: spectral_density(H.restricted(names), num_steps=steps, num_probes=probes, rng=seed)
        for name, names in members.items()
    }
