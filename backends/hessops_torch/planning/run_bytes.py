"""The bytes that a run holds: all the time, in its vectors, and while products are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from hessops_torch.data.batch import tensors_in
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.operators.diagonal_blocks import whole_of
from hessops_torch.operators.gradient_covariance import GradientCovariance
from hessops_torch.planning.micro_batch_cost import MicroBatchCost
from hessops_torch.planning.work import Work

__all__ = [
    "inner_product_bytes",
    "kept_graphs",
    "standing_bytes",
    "vectors_and_scratch",
    "working_bytes",
]

_ENTRIES_AT_A_TIME = 2**18
_DOUBLE = 8


def standing_bytes(operator: DataSum, *, keeps: bool) -> dict[str, int]:
    """Return the bytes of what is there during all products, besides graphs.

    Parameters
    ----------
    operator : DataSum
        The operator.
    keeps : bool
        Whether graphs may be kept, which takes a copy of the model to notice that it changed.

    Returns
    -------
    dict of str to int
        By what it is.
    """
    model, domain = operator.objective.model, operator.domain
    # A mean gradient has a copy of its own, whatever the budget for graphs.
    one = whole_of(operator)
    centred = isinstance(one, GradientCovariance) and one.centred
    copy = _total_bytes([*model.parameters(), *model.buffers()])
    held = {"data": _data_bytes(operator), "copy of the model": (int(keeps) + int(centred)) * copy}
    if centred:
        held["mean gradient"] = domain.dim * _item(operator)
    return held


def vectors_and_scratch(operator: DataSum, work: Work, working: int) -> tuple[int, int]:
    """Return the bytes of a run's vectors and of what is computed with them, at the higher peak.

    Parameters
    ----------
    operator : DataSum
        The operator.
    work : Work
        The run.
    working : int
        Bytes that products take.

    Returns
    -------
    (int, int)
        Of the vectors and of the rest.
    """
    domain, item = operator.domain, _item(operator)
    widest = work.widest or work.block_size
    during = (work.num_vectors + widest) * domain.dim * item, working
    if work.between is None:
        return during
    between = work.between * domain.dim * item
    if not work.inner_products:
        return max(during, (between, 0), key=sum)
    of_doubles = inner_product_bytes(operator, widest, by_section=work.per_term)
    return max(during, (between, of_doubles), key=sum)


def inner_product_bytes(operator: DataSum, columns: int, *, by_section: bool) -> int:
    """Return the bytes of inner products, which are summed in double precision part by part.

    Parameters
    ----------
    operator : DataSum
        The operator.
    columns : int
        Vectors on either side.
    by_section : bool
        Whether they are computed for every parameter tensor.

    Returns
    -------
    int
        Of what is converted at a time.
    """
    domain = operator.domain
    longest = max(stop - start for start, stop in domain.sections.values())
    entries = min(columns * (longest if by_section else domain.dim), _ENTRIES_AT_A_TIME)
    return (1 if _item(operator) >= _DOUBLE else 3) * _DOUBLE * entries


def working_bytes(
    cost: MicroBatchCost, shares: Sequence[float], kept: int, columns: int, chunk: int | None
) -> int:
    """Return what a product takes at the peak, on top of all graphs that are kept in the end.

    Parameters
    ----------
    cost : MicroBatchCost
        Of the largest micro-batch.
    shares : sequence of float
        Sizes of all micro-batches, by that of the largest.
    kept : int
        Graphs that are kept.
    columns : int
        Vectors to the widest product.
    chunk : int or None
        Most of them that go through function transforms at a time.

    Returns
    -------
    int
        Bytes.
    """
    through = cost.peak(columns if chunk is None else min(columns, chunk))
    first = max(cost.first_peak, cost.graph_bytes + through)
    if kept < len(shares):
        return round(max(through, first * max(shares[kept:])))
    # The last graph is built beside the others, and is one of those that are kept.
    return round(max(through, (first - cost.graph_bytes) * shares[-1]))


def kept_graphs(cost: MicroBatchCost, shares: Sequence[float], budget: float) -> int:
    """Return how many graphs are kept; after the first that does not fit, none is.

    Parameters
    ----------
    cost : MicroBatchCost
        Of the largest micro-batch.
    shares : sequence of float
        Sizes of all micro-batches, by that of the largest.
    budget : float
        Bytes for them, as a memory budget counts.

    Returns
    -------
    int
        At most ``len(shares)``.
    """
    if cost.graph_bytes == 0 or budget <= 0:
        return 0
    used, kept = 0.0, 0
    for share in shares:
        used += share * cost.counted_bytes
        if used > budget:
            break
        kept += 1
    return kept


def _item(operator: DataSum) -> int:
    return next(iter(operator.objective.parameters.values())).element_size()


def _data_bytes(operator: DataSum) -> int:
    """Return the bytes of the data that stays on the device."""
    resident = operator.objective.batches.resident
    return _total_bytes(tensor for batch in resident or () for tensor in tensors_in(batch))


def _total_bytes(tensors: Iterator[Tensor] | Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
