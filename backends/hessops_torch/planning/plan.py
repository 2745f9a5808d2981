"""What a run will cost, before it starts: bytes, gradient equivalents and seconds."""

from __future__ import annotations

from copy import copy

from hessops.algorithms._common import require_positive
from hessops.operators.algebra import Product
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.operators.hessian import Hessian
from hessops_torch.operators.jacobian import Jacobian
from hessops_torch.operators.output_sum import OutputSum
from hessops_torch.planning.layer_plan import plan_of_traces
from hessops_torch.planning.result import Plan
from hessops_torch.planning.search import plan_of_products
from hessops_torch.planning.work import Work

__all__ = ["plan"]


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

    Costs fifteen products with the largest micro-batch, five of them of a block (of up to 16 vectors),
    and as many again for every halving of the micro-batches that a memory limit takes. Memory is that
    of tensors: a kernel's own workspace comes on top.

    For `Work.hessian_trace` and `Work.layer_curvature` it takes two forward passes over the data more,
    which tell how alike samples are. Whether a run then sees them by plain probes or by gradients of
    samples, its own pilot chooses: the work is much the same, and the bytes are those of what takes
    most. Where curvature that is left to probes vanishes, as for linear models, a run stops earlier.
    What a tolerance takes nobody knows before; the plan then says how much a run costs at the least and
    at most.

    Parameters
    ----------
    operator : DataSum
        What `hessian`, `ggn`, `fisher`, `empirical_fisher`, `gradient_covariance`,
        `residual_curvature` or `block_diagonal` make.
    work : Work, optional
        The run: ``Work.eigsh(H.space, 5, num_products=40)`` or ``Work.hessian_trace(H.space)``, say.
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
        Whether to try which way to compute products is fastest, where there are several: of what
        `hessian`, `ggn`, `fisher`, `empirical_fisher` and `gradient_covariance` make. For blocks of the
        width that most products have. `Work.hessian_trace` and `Work.layer_curvature` are planned for
        the operator as it stands: the former's graphs, of H and G at once, know no other way.

    Returns
    -------
    Plan
        To be printed; `options` goes to `hessian`, and `block_size` to the verb.

    Raises
    ------
    ValueError
        If neither `work` nor `num_products` is given, or both are, `work` is for another dimension,
        `memory_limit` is not positive, or it is given for eigenvalues or densities of blocks.
    TypeError
        If the operator is of another kind, or not one that the verb takes; if `work` is no `Work`.
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
    _require_plannable(operator)
    require_positive(memory_limit=memory_limit)
    if (work is None) is (num_products is None):
        raise ValueError(
            f"give one of work and num_products, got {work!r} and {num_products!r}: "
            "plan(H, Work.trace(H.space, 64)), or plan(H, num_products=40)"
        )
    if work is not None and not isinstance(work, Work):
        raise TypeError(
            f"work={work!r} is no Work: pass Work.trace(H.space, 64), say, or num_products alone"
        )
    if work is None:
        work = Work(num_products=num_products or 0, block_size=block_size, num_vectors=block_size)
    if work.dim not in (None, operator.shape[0]):
        raise ValueError(
            f"the work is that of {work.verb} in dimension {work.dim}, and the operator has dimension "
            f"{operator.shape[0]}: make it with the operator's own space, Work.trace(H.space, 64) say"
        )
    if work.asked is not None:
        return plan_of_traces(operator, work, work.asked, memory_limit)
    planned = _with_fastest_product(operator) if calibrate else operator
    return plan_of_products(operator, work, memory_limit, planned)


def _require_plannable(operator: object) -> None:
    """Raise if an operator is no sum over data, or one of data that several ranks have."""
    if isinstance(operator, Product) and isinstance(operator.operators[0], Jacobian):
        raise TypeError(
            f"a plan is for sums over data on parameter vectors, and {operator} is a product with a "
            "Jacobian, as ntk makes it: plan ggn with a squared loss, of the same model and data, its "
            "products go through the same passes; those of ntk take 4 forward passes where graphs are "
            "kept, and 4 + 4 / k for each of k vectors at a time where they are not"
        )
    if not isinstance(operator, DataSum):
        raise TypeError(
            f"a plan is for an operator on a model, got {type(operator).__name__}: it takes sums over "
            "data on parameter vectors, such as hessian, ggn, fisher, empirical_fisher, "
            "gradient_covariance, residual_curvature and block_diagonal make"
        )
    comm = operator.objective.ranks.comm
    if comm.size > 1:
        raise RuntimeError(
            f"a plan is for one process, and the data of {operator} is dealt out to the {comm.size} "
            "ranks of its comm: make the operator without comm, of one rank's part of the data, and "
            "plan that; each rank takes as many bytes and, of its own part, as many gradients"
        )


def _with_fastest_product(operator: DataSum) -> DataSum:
    # A subclass of Hessian has but one way to compute products.
    if type(operator) is not Hessian and not isinstance(operator, OutputSum):
        return operator
    fastest = copy(operator)
    assert isinstance(fastest, Hessian | OutputSum)
    fastest.product = "auto"
    fastest._start_over()
    return fastest
