"""The Hessian of a network's loss over a data set, as an operator on flat parameter vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from hessops.algorithms.trace.trace_estimator import TraceEstimator
from hessops.comm import Communicator
from hessops_torch.graphs.gradient_graph import GradientGraph
from hessops_torch.losses.contract import BatchLoss
from hessops_torch.losses.failures import name_of
from hessops_torch.losses.loss import Loss
from hessops_torch.model.precision import Precision
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.objective import Objective
from hessops_torch.objective.options import check_weight_decay
from hessops_torch.operators.arguments import objective_of
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.products.functional_product import FunctionalProduct
from hessops_torch.products.product_modes import ProductMode, check_product, find_product

__all__ = ["Hessian", "hessian"]


def hessian(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    params: ParameterSelection = None,
    mode: Mode | None = None,
    weight_decay: float = 0.0,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
    product: ProductMode = "backward",
    precision: Precision | None = None,
    comm: Communicator | None = None,
) -> Hessian:
    """Return the Hessian of a loss over a data set, by the parameters of a model.

    The operator is that of the loss as `loss` defines it over all the data: of the mean over all
    samples (or tokens, or class weights) for a criterion with ``reduction='mean'``, of the sum for
    ``reduction='sum'``, and of Σ sums / Σ counts for a function. How the data falls into batches
    does not matter, as long as no batch statistics are used.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found. In single or
        double precision.
    loss : torch.nn.Module or callable
        A standard criterion, its functional form, or a function of (model, batch) that returns
        (sum, count).
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        Batches are (input, target) for a criterion and whatever it understands for a function.
        Every pass has to give the same.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        Parameters to differentiate by: names, names of modules, shell patterns or regular
        expressions, or the model's own modules and parameters. All that require a gradient where
        not given.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given. In train mode, batch
        norm makes a batch one function of all its samples.
    weight_decay : float
        Adds this multiple of the identity, the Hessian of ``weight_decay / 2 * |params|^2``.
    micro_batch_size : int, optional
        Cut batches into parts of at most that many samples, to save memory.
    memory_budget : int, optional
        Bytes of gradient graphs to keep between products, which makes products a third cheaper; half
        of the free memory of the device where not given, none if 0.
    product : {'backward', 'forward-over-reverse', 'reverse-over-forward', 'compiled', 'auto'}
        How products are computed: by a second backward pass through the gradient's graph, which may
        be kept; by function transforms in either order, up to 16 columns at a time within
        `memory_budget`; by forward over reverse, compiled, which takes a minute or more at first; or
        by what is fastest in a short trial at the first product, which tries the compiled one on a GPU
        alone. Each but 'backward' is compared with that once.
    precision : {'tf32', 'bf16'}, optional
        Multiply matrices and convolutions in a lower precision than the model's: on a GPU by its
        tensor cores, in bfloat16 by autocast as in mixed-precision training. Products are held against
        exact ones (`product_error`), anew once the weights have changed, and where they are off by half
        their digits, the precision of the model is taken.
    comm : Communicator, optional
        Ranks that call this together, each with the same model and its part of the data
        (`hessops_torch.shard`); the operator is that of all the data, the same on every rank.

    Returns
    -------
    Hessian
        A self-adjoint operator whose `terms()` are the micro-batches.

    Raises
    ------
    ValueError
        If the data is empty or differs between two passes, the loss is no scalar, does not depend on
        the parameters or changes from one call to the next (dropout), an option is out of range, a
        pattern fits no parameter, dtypes or devices are mixed, or a batch that batch norm looks at
        as a whole would be split.
    TypeError
        If model, loss or data are of a kind that is not understood.
    RuntimeError
        If the model cannot be applied to the first batch. What it raises as a TypeError or ValueError
        stays one.

    Warns
    -----
    RuntimeWarning
        At the first product, if `product` fails there or gives another result than the plain one,
        which is then taken. Likewise, and after a change of the weights, if products in a lower
        `precision` are too far off.

    Notes
    -----
    Products raise the same errors where a later batch is concerned, `RuntimeError` where autograd
    cannot differentiate the loss twice, `NonFiniteError` where the loss of a batch is NaN or infinite,
    and `NotSelfAdjointError` where the first product, looked at once by two more on one micro-batch,
    is not symmetric. Operators may be used from several threads, of which one computes at a time.

    References
    ----------
    Pearlmutter (1994), Neural Computation 6(1).

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> data = [(torch.eye(2), torch.zeros(2, 1))]
    >>> hessops_torch.hessian(model, torch.nn.MSELoss(), data).to_dense()
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_weight_decay(weight_decay)
    check_product(product)
    objective = objective_of(
        model, loss, data, params, mode, micro_batch_size, memory_budget, comm, precision
    )
    return Hessian(objective, weight_decay=weight_decay, product=product)


class Hessian(DataSum):
    """The Hessian of a network's loss; `hessian` makes one from a model, a loss and data.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    weight_decay : float
        Multiple of the identity to add.
    product : {'backward', 'forward-over-reverse', 'reverse-over-forward', 'compiled', 'auto'}
        How products are computed.
    """

    better_trace: ClassVar[Callable[[Hessian, int | None], TraceEstimator | None]]
    """Its own way to its trace; ``hessops_torch.traces``, which takes Hessians, sets it."""

    def __init__(
        self,
        objective: Objective,
        *,
        weight_decay: float = 0.0,
        product: ProductMode = "backward",
    ) -> None:
        check_product(product)
        self.product: ProductMode = product
        super().__init__(objective, weight_decay=weight_decay)

    def _for_comparison(self) -> Self:
        plain = self.in_full_precision()
        plain.product = "backward"
        plain._start_over()
        return plain

    def trace_estimator(self, max_products: int | None = None) -> TraceEstimator | None:
        """Return `hessian_trace` of this operator, where it does more than plain probes.

        Parameters
        ----------
        max_products : int, optional
            What may be spent; as `hessian_trace` does where not given.

        Returns
        -------
        TraceEstimator or None
            None if the loss does not show the outputs, the data is that of several ranks, the budget
            does not pay for a pilot, or this is the Hessian of something else than a loss.
        """
        return Hessian.better_trace(self, max_products)

    def _start_over(self, besides: int = 0) -> None:
        super()._start_over(besides)
        self._seems_symmetric = False
        self._product_found = self.product == "backward"
        self._functional: FunctionalProduct | None = None

    @property
    def loss(self) -> BatchLoss:
        """Return the loss that is differentiated."""
        return self.objective.loss

    @property
    def product_found(self) -> ProductMode:
        """Return how products are computed, 'auto' until the first."""
        if self._functional is not None:
            return self._functional.mode
        return "backward" if self._product_found else self.product

    def _add_products(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        if self._functional is not None:
            return self._functional.add_products(index, batch, columns, out)
        graph, total, keep = self._graph(index, batch)
        if not self._product_found and self._seems_symmetric:
            self._functional = find_product(
                self.product, self.objective, graph, index, batch, len(columns)
            )
            self._product_found = True
            if self._functional is not None:
                self.graphs.clear()
                return self._functional.add_products(index, batch, columns, out)
        graph.add_products(columns, out, keep=keep)
        return graph.count, total

    def _add_block_products(
        self,
        index: int,
        batch: Any,
        columns: Tensor,
        out: Tensor,
        blocks: Sequence[Sequence[int]],
    ) -> tuple[Tensor | float, Tensor | None]:
        graph, total, keep = self._graph(index, batch)
        for block, among in enumerate(blocks, start=1):
            graph.add_products(columns, out, keep=keep or block < len(blocks), among=among)
        return graph.count, total

    def _graph(self, index: int, batch: Any) -> tuple[GradientGraph, Tensor | None, bool]:
        """Return a micro-batch's graph, its loss if it was computed, and whether it is kept."""
        graph = self.graphs.get(index)
        if graph is not None:
            return graph, None, True
        objective = self.objective
        parameters = list(objective.parameters.values())
        graph = GradientGraph(objective.model, self.loss, batch, parameters, name_of(index))
        if not self._seems_symmetric:
            self._seems_symmetric = graph.shows_symmetry()
        return graph, graph.total, self.graphs.offer(index, graph)

    def _describe(self) -> str:
        mode = "" if self.product == "backward" else f", product {self.product}"
        return super()._describe() + mode
