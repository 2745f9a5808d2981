"""Plans of the verbs that look at an operator first, and at its blocks in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from hessops.algorithms._common import default_block_size
from hessops_torch.layers.arguments import members_of, way_of_traces
from hessops_torch.layers.sweep import group_count
from hessops_torch.layers.traces import FIRST_STAGE, by_probes
from hessops_torch.losses.contract import OutputLoss
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.operators.hessian import Hessian
from hessops_torch.planning.asked import LayersAsked, TracesAsked
from hessops_torch.planning.result import Plan
from hessops_torch.planning.search import gradient_work, plan_of_products
from hessops_torch.planning.trace_plan import plan_of_engine
from hessops_torch.planning.work import Work
from hessops_torch.traces.hessian_trace import require_hessian

__all__ = ["plan_of_traces"]


def plan_of_traces(
    operator: DataSum, work: Work, asked: TracesAsked, memory_limit: int | None
) -> Plan:
    """Return the plan of `hessian_trace` or `layer_curvature`.

    Parameters
    ----------
    operator : DataSum
        The operator.
    work : Work
        The run.
    asked : TracesAsked
        What is asked for.
    memory_limit : int or None
        Bytes that it may take.

    Returns
    -------
    Plan
        Of this run, with this operator.

    Raises
    ------
    TypeError
        If the verb, or a method that was asked for, is not for the operator.
    ValueError
        If a memory limit is given for blocks by themselves.
    """
    if asked.layers is None:
        require_hessian(operator)
        assert isinstance(operator, Hessian)
        operator.require_full_precision("hessian_trace")
        if isinstance(operator.objective.loss, OutputLoss):
            return plan_of_engine(operator, work, memory_limit)
        # Then it is `hessops.trace`.
        plain = Work.trace(operator.space, asked.budget, block_size=None)
        return _of_probes(operator, replace(plain, verb=work.verb), asked, memory_limit)
    layers = asked.layers
    members = members_of(operator, layers.blocks, layers.each)
    alone = layers.num_eigenvalues or layers.num_density_steps
    if alone and memory_limit is not None:
        raise ValueError(
            f"memory_limit={memory_limit} is for the sweep alone: plan that without num_eigenvalues "
            "and num_density_steps, and what a block takes by itself as "
            "plan(H.restricted(block), Work.density(...), memory_limit=...)"
        )
    way = way_of_traces(operator, layers.method, asked.budget, plain=layers.plain)
    if way is by_probes:
        sweep = replace(_sweep(operator, asked.budget, layers.block_size), verb=work.verb)
        found = _of_probes(operator, sweep, asked, memory_limit)
    else:
        assert isinstance(operator, Hessian)
        found = plan_of_engine(operator, work, memory_limit)
    if not alone:
        return found
    return _with_blocks(operator, found, members, layers, keeps=way is by_probes)


def _of_probes(operator: DataSum, work: Work, asked: TracesAsked, memory_limit: int | None) -> Plan:
    """Return the plan of plain probes: with a tolerance, of the most of them."""
    most = plan_of_products(operator, work, memory_limit)
    if not asked.adaptive:
        return most
    first = min(FIRST_STAGE, asked.budget)
    pilot = Work.trace(operator.space, first, block_size=min(most.block_size, first))
    least = plan_of_products(operator, pilot, None)
    return replace(most, least_gradients=least.gradient_equivalents)


def _sweep(operator: DataSum, budget: int, block_size: int | None) -> Work:
    """Return the work of one sweep of plain probes."""
    space = operator.domain
    size = min(block_size or default_block_size(space, budget), budget)
    groups = min(group_count(space), budget)
    return Work(
        num_products=budget,
        block_size=size,
        # Probes, and two sums over terms; what they say of the diagonal for every group.
        num_vectors=4 * size + groups,
        between=6 * size + groups,
        per_term=True,
        of_block_size=None if block_size else partial(_sweep, operator, budget),
    )


def _with_blocks(
    operator: DataSum,
    sweep: Plan,
    members: Mapping[str, tuple[str, ...]],
    layers: LayersAsked,
    *,
    keeps: bool,
) -> Plan:
    """Return the plan of a sweep and of what every block takes by itself, one after another."""
    gradients, seconds, memory = sweep.gradient_equivalents, sweep.seconds, sweep.memory
    least, unit = sweep.least_gradients, gradient_work(operator)
    for names in members.values():
        block = operator.restricted(names)
        share = gradient_work(block) / unit
        for work in _works_of_block(block, layers):
            found = plan_of_products(block, work, None)
            more = found.gradient_equivalents * share
            gradients += more
            least = None if least is None else least + more
            low, middle, high = (s + t for s, t in zip(seconds, found.seconds, strict=True))
            seconds = low, middle, high
            held = dict(found.memory)
            if keeps:
                # The operator's own graphs stay, which the sweep made.
                held["kept graphs"] += sweep.memory["kept graphs"]
            memory = max(memory, held, key=lambda one: sum(one.values()))
    return replace(
        sweep,
        gradient_equivalents=gradients,
        least_gradients=least,
        seconds=seconds,
        memory=memory,
    )


def _works_of_block(block: DataSum, layers: LayersAsked) -> list[Work]:
    works = []
    if layers.num_eigenvalues:
        k = min(layers.num_eigenvalues, block.shape[0])
        works.append(Work.eigsh(block.space, k, num_products=max(layers.num_block_products, k)))
    if layers.num_density_steps:
        steps = min(layers.num_density_steps, block.shape[0])
        works.append(Work.density(num_probes=layers.num_density_probes, num_steps=steps))
    return works
