"""What a run will cost, before it starts: bytes, gradient equivalents and seconds."""

from __future__ import annotations

from hessops.algorithms._common import require_positive
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.operators.hessian import Hessian
from hessops_torch.planning.layer_plan import plan_of_traces
from hessops_torch.planning.result import Plan
from hessops_torch.planning.search import plan_of_products
from hessops_torch.planning.work import Work

__all__ = ["plan"]

# Vectors to a product beyond which sharing a graph gains nothing: it is a sixtieth of their work.
_MOST_COLUMNS = 32
# What smaller micro-batches have to save; more of them take longer than their operations say.
_WORTH_CUTTING = 0.9


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
        What `hessian`, `ggn`, `fisher`, `empirical_fisher`, `gradient_covariance`,
        `residual_curvature` or `block_diagonal` make.
    work : Work, optional
        The run: ``Work.eigsh(H.space, 5, num_products=40)``, say.
    num_products : int, optional
        Products of a run that holds nothing else, instead of `work`.
    block_size : int
        Vectors to a product, with `num_products`.
    memory_limit : int, optional
        Bytes that the run may take. The plan then says how many graphs to keep, how small
        micro-batches have to be and, where `work` leaves it open, which block size costs the fewest
        gradients: wide blocks share what graphs take to build, and narrow ones leave room to keep
        them. Where not given, the plan is for the operator as it stands.
    calibrate : bool
        Whether to try which way to compute products is fastest (of a `Hessian`).

    Returns
    -------
    Plan
        To be printed; `options` goes to `hessian`, and `block_size` to the verb.

    Raises
    ------
    ValueError
        If neither `work` nor `num_products` is given, or both are, or `memory_limit` is not positive.
    TypeError
        If the operator is of another kind.
    RuntimeError
        If its data is dealt out to ranks.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> data = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(4)]
    >>> H = hessops_torch.hessian(torch.nn.Linear(3, 1), torch.nn.MSELoss(), data)
    >>> hessops_torch.plan(H, num_products=10).kept_graphs
    4
    """
    if not isinstance(operator, DataSum):
        raise TypeError(
            f"a plan is for an operator on a model, got {type(operator).__name__}: it takes sums over "
            "data on parameter vectors, such as hessian, ggn, fisher, empirical_fisher, "
            "gradient_covariance, residual_curvature and block_diagonal make"
        )
    require_positive(memory_limit=memory_limit)
    if (work is None) is (num_products is None):
        raise ValueError(
            f"give one of work and num_products, got {work!r} and {num_products!r}: "
            "plan(H, Work.trace(H.space, 64)), or plan(H, num_products=40)"
        )
    if work is None:
        work = Work(num_products=num_products or 0, block_size=block_size, num_vectors=block_size)
    planned = _with_fastest_product(operator) if calibrate else operator
    if work.asked is not None:
        return plan_of_traces(planned, work, work.asked, memory_limit)
    return plan_of_products(operator, work, memory_limit, planned)


def _with_fastest_product(operator: DataSum) -> DataSum:
    # A subclass has but one way to compute products.
    if type(operator) is not Hessian:
        return operator
    return Hessian(operator.objective, weight_decay=operator.weight_decay, product="auto")
