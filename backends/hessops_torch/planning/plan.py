"""What a run will cost, before it starts: bytes, gradient equivalents and seconds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hessops_torch.data.batch import length_of, num_samples, split_batch, tensors_in
from hessops_torch.model.state import uses_batch_statistics
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.operators.hessian import Hessian
from hessops_torch.planning.micro_batch_cost import MicroBatchCost, measure_micro_batch
from hessops_torch.planning.work import Work
from hessops_torch.products.product_modes import ProductMode

__all__ = ["Plan", "plan"]

_ENTRIES_AT_A_TIME = 2**18
_DOUBLE = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run costs, and the options that it costs that with.

    Parameters
    ----------
    work : Work
        The run.
    micro_batch_size : int or None
        Most samples to a micro-batch; None leaves batches whole.
    num_micro_batches : int
        Micro-batches.
    kept_graphs : int
        Micro-batches whose graphs stay between products.
    memory_budget : int
        Bytes for these.
    product : str
        How products are computed.
    memory : dict of str to int
        Bytes of what is held at the peak: data, the copy by which a change of the model is noticed,
        graphs, vectors, and the scratch of a product, or of inner products where that is more.
    memory_limit : int or None
        Bytes that were allowed.
    gradient_equivalents : float
        Work, in gradients of the loss over all the data.
    seconds : tuple of float
        Of the products, by the clock on one micro-batch: the least, the median, and the most.
    """

    work: Work
    micro_batch_size: int | None
    num_micro_batches: int
    kept_graphs: int
    memory_budget: int
    product: ProductMode
    memory: dict[str, int]
    memory_limit: int | None
    gradient_equivalents: float
    seconds: tuple[float, float, float]

    @property
    def peak_bytes(self) -> int:
        """Return the most bytes that are held at a time, without model and gradients."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Tell whether the peak is within the limit."""
        return self.memory_limit is None or self.peak_bytes <= self.memory_limit

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of `hessian` that this is the plan for."""
        return {
            "micro_batch_size": self.micro_batch_size,
            "memory_budget": self.memory_budget,
            "product": self.product,
        }

    def __str__(self) -> str:
        work, least, median, most = self.work, *self.seconds
        per_product = self.gradient_equivalents / work.num_products
        size = "whole" if self.micro_batch_size is None else f"of up to {self.micro_batch_size}"
        parts = ", ".join(f"{name} {_in_bytes(size)}" for name, size in self.memory.items())
        batches = f"{self.num_micro_batches} micro-batches, {size}; {self.kept_graphs} graphs kept"
        lines = [
            f"{work.verb}: {work.num_products} products, {work.block_size} at a time",
            f"  batches  {batches}; product {self.product}",
            f"  memory   {_in_bytes(self.peak_bytes)}: {parts}",
            f"  work     {self.gradient_equivalents:.4g} gradients, {per_product:.3g} a product",
            f"  time     {median:.2g} s ({least:.2g} to {most:.2g} s) for the products",
        ]
        if not self.fits:
            lines.append(
                f"  does not fit into {_in_bytes(self.memory_limit or 0)}: fewer vectors (max_basis, "
                "block_size, num_probes) or fewer parameters (params) would take less"
            )
        return "\n".join(lines)


def plan(
    operator: DataSum,
    work: Work | None = None,
    *,
    num_products: int | None = None,
    block_size: int = 1,
    memory_limit: int | None = None,
    calibrate: bool = False,
) -> Plan:
    """Predict what a run on an operator costs, from measuring one micro-batch.

    Costs about twenty products with the largest micro-batch, and as many again for every halving of
    the micro-batches that a memory limit takes. Memory is that of tensors: a kernel's own
    workspace comes on top.

    Parameters
    ----------
    operator : DataSum
        Such as a `Hessian`.
    work : Work, optional
        The run: ``Work.eigsh(H.space, 5, num_products=40)``, say.
    num_products : int, optional
        Products of a run that holds nothing else, instead of `work`.
    block_size : int
        Vectors to a product, with `num_products`.
    memory_limit : int, optional
        Bytes that the run may take. The plan then says how many graphs to keep, and how small
        micro-batches have to be; where not given, it is for the operator as it stands.
    calibrate : bool
        Whether to try which way to compute products is fastest (of a `Hessian`).

    Returns
    -------
    Plan
        To be printed; `options` goes to `hessian`.

    Raises
    ------
    ValueError
        If neither `work` nor `num_products` is given, or both are.
    TypeError
        If the operator is of another kind.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> data = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(4)]
    >>> H = hessops_torch.hessian(torch.nn.Linear(3, 1), torch.nn.MSELoss(), data)
    >>> hessops_torch.plan(H, num_products=10).kept_graphs
    4
    """
    if not isinstance(operator, DataSum):
        raise TypeError(f"a plan is for an operator on a model, got {type(operator).__name__}")
    if (work is None) is (num_products is None):
        raise ValueError(f"give one of work and num_products, got {work!r} and {num_products!r}")
    if work is None:
        work = Work(num_products=num_products or 0, block_size=block_size, num_vectors=block_size)
    planned = _with_fastest_product(operator) if calibrate else operator
    sizes, largest, batch = _survey(operator)
    size = operator.objective.batches.micro_batch_size
    while True:
        cost = measure_micro_batch(planned, largest, batch, work.widest or work.block_size)
        found = _predict(planned, work, cost, _cut(sizes, size), size, memory_limit)
        smaller = (size or max(sizes)) // 2
        whole = uses_batch_statistics(operator.objective.model, operator.objective.mode)
        if found.fits or smaller < 1 or whole or num_samples(batch) is None:
            return found
        size = smaller
        batch = split_batch(batch, size)[0]


def _predict(
    operator: DataSum,
    work: Work,
    cost: MicroBatchCost,
    sizes: Sequence[int],
    micro_batch_size: int | None,
    memory_limit: int | None,
) -> Plan:
    """Scale what one micro-batch costs up to all, and to all products."""
    objective = operator.objective
    widest = max(sizes)
    shares = [size / widest for size in sizes]
    held = {"data": _data_bytes(operator), "copy of the model": _model_bytes(operator)}
    budget = objective.memory_budget
    if memory_limit is not None:
        alone = _vectors_and_scratch(operator, work, _working(cost, shares, 0))
        room = max(memory_limit - sum(held.values()) - sum(alone), 0)
        budget = round(room * cost.counted_bytes / max(cost.graph_bytes, 1))
    if budget == 0:
        held["copy of the model"] = 0
    kept = _kept(cost, shares, budget)
    held["kept graphs"] = round(sum(cost.graph_bytes * share for share in shares[:kept]))
    held["vectors"], held["scratch"] = _vectors_and_scratch(
        operator, work, _working(cost, shares, kept)
    )
    calls = -(-work.num_products // work.block_size)
    work_done = _scaled(
        work.num_products, calls, shares, kept,
        cost.first_work, cost.next_work, cost.column_work,
    )  # fmt: skip
    gradient = cost.gradient_work * sum(shares)
    counting = cost.forward_work / cost.gradient_work if _counts_first(operator, work) else 0.0
    seconds = sorted(
        _scaled(work.num_products, calls, shares, kept, *timing)
        for timing in zip(cost.first_seconds, cost.next_seconds, cost.column_seconds, strict=True)
    )
    return Plan(
        work=work,
        micro_batch_size=micro_batch_size,
        num_micro_batches=len(sizes),
        kept_graphs=kept,
        memory_budget=budget,
        product=_product_of(operator),
        memory=held,
        memory_limit=memory_limit,
        gradient_equivalents=work_done / gradient + counting,
        seconds=(seconds[0], statistics.median(seconds), seconds[-1]),
    )


def _scaled(
    num_products: int,
    calls: int,
    shares: Sequence[float],
    kept: int,
    first: float,
    following: float,
    column: float,
) -> float:
    """Return the cost of all products, of which some micro-batches pay the first price once only."""
    first_prices = sum(shares[:kept]) + calls * sum(shares[kept:])
    products = calls * following + (num_products - calls) * column
    return first_prices * (first - following) + sum(shares) * products


def _kept(cost: MicroBatchCost, shares: Sequence[float], budget: float) -> int:
    """Return how many graphs are kept; after the first that does not fit, none is."""
    if cost.counted_bytes == 0 or budget <= 0:
        return 0
    used, kept = 0.0, 0
    for share in shares:
        used += share * cost.counted_bytes
        if used > budget:
            break
        kept += 1
    return kept


def _vectors_and_scratch(operator: DataSum, work: Work, working: int) -> tuple[int, int]:
    """Return the bytes of a run's vectors and of what is computed with them, at the higher peak."""
    domain = operator.objective.domain
    item = next(iter(operator.objective.parameters.values())).element_size()
    widest = work.widest or work.block_size
    during = (work.num_vectors + widest) * domain.dim * item, working
    if work.between is None:
        return during
    # Inner products, which are summed in double precision part by part; a trace's by parameter.
    longest = max(p.numel() for p in operator.objective.parameters.values())
    length = longest if work.per_term else domain.dim
    entries = min(widest * length, _ENTRIES_AT_A_TIME)
    of_doubles = (1 if item >= _DOUBLE else 3) * _DOUBLE * entries
    between = work.between * domain.dim * item, of_doubles
    return max(during, between, key=sum)


def _working(cost: MicroBatchCost, shares: Sequence[float], kept: int) -> int:
    """Return what a product takes at the peak, on top of all graphs that are kept in the end."""
    through = cost.next_peak
    first = max(cost.first_peak, cost.graph_bytes + cost.next_peak)
    if kept < len(shares):
        return round(max(through, first * max(shares[kept:])))
    # The last graph is built beside the others, and is one of those that are kept.
    return round(max(through, (first - cost.graph_bytes) * shares[-1]))


def _survey(operator: DataSum) -> tuple[list[int], int, Any]:
    """Return the sizes of all micro-batches, and the index of the largest with its data."""
    sizes: list[int] = []
    largest, chosen = 0, None
    for index, batch in enumerate(operator.objective.batches):
        sizes.append(max(length_of(batch), 1))
        if chosen is None or sizes[-1] > sizes[largest]:
            largest, chosen = index, batch
    return sizes, largest, chosen


def _cut(sizes: Sequence[int], size: int | None) -> list[int]:
    """Return the sizes of micro-batches once batches are cut."""
    if size is None:
        return list(sizes)
    return [min(size, whole - start) for whole in sizes for start in range(0, whole, size)]


def _data_bytes(operator: DataSum) -> int:
    """Return the bytes of the data that stays on the device."""
    resident = operator.objective.batches.resident
    return _total_bytes(tensor for batch in resident or () for tensor in tensors_in(batch))


def _model_bytes(operator: DataSum) -> int:
    """Return the bytes of the copy by which a change of the model is noticed."""
    model = operator.objective.model
    return _total_bytes([*model.parameters(), *model.buffers()])


def _total_bytes(tensors: Iterator[Tensor] | Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _counts_first(operator: DataSum, work: Work) -> bool:
    """Tell whether a forward pass over the data is needed to know what a term is divided by."""
    objective = operator.objective
    return work.per_term and objective.misses_counts()


def _product_of(operator: DataSum) -> ProductMode:
    return operator.product_found if isinstance(operator, Hessian) else "backward"


def _with_fastest_product(operator: DataSum) -> DataSum:
    if not isinstance(operator, Hessian):
        return operator
    return Hessian(operator.objective, weight_decay=operator.weight_decay, product="auto")


def _in_bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError
