"""The Jacobian of a model's outputs over a data set, and the neural tangent kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, TypeAlias

import torch
from array_api_compat import torch as torch_namespace
from torch import Tensor, nn

from hessops.array_space import ArraySpace
from hessops.comm import Communicator
from hessops.operator import LinearOperator
from hessops.partition import Partition
from hessops.row_collectives import jointly, table
from hessops.together import summed_together, tried
from hessops_torch.data.batch import tensors_in
from hessops_torch.graphs.cache import GraphCache
from hessops_torch.graphs.output_graph import OutputGraph
from hessops_torch.losses.contract import describe_value, require_outputs
from hessops_torch.losses.function import SplitLoss
from hessops_torch.model.parameters import ParameterSpace
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.finite_losses import require_finite_losses
from hessops_torch.objective.model_outputs import graph_of_outputs
from hessops_torch.objective.objective import Objective
from hessops_torch.objective.passes import output_shapes
from hessops_torch.operators.arguments import objective_of

__all__ = ["Jacobian", "jacobian", "ntk"]


def jacobian(
    model: nn.Module,
    data: Any,
    *,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
    params: ParameterSelection = None,
    mode: Mode | None = None,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
    comm: Communicator | None = None,
) -> Jacobian:
    """Return the Jacobian of a model's outputs for a whole data set by its parameters.

    Its rows are the outputs for all samples in the order of the data, each micro-batch's outputs
    flattened with the last axis fastest.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found. In single or
        double precision.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        Batches are inputs, or tuples of which the first is the input; whatever `forward` understands,
        where it is given. Every pass has to give the same.
    forward : callable, optional
        From (model, batch) to the outputs, a tensor.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        Parameters to differentiate by; all that require a gradient where not given.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given.
    micro_batch_size : int, optional
        Cut batches into parts of at most that many samples, to save memory.
    memory_budget : int, optional
        Bytes of graphs to keep between products; half of the free memory of the device where not given,
        none if 0.
    comm : Communicator, optional
        Ranks that call this together, each with the same model and its part of the data, as for
        `hessian`. Each then holds the rows of its own outputs, and vectors of parameters whole.

    Returns
    -------
    Jacobian
        A rectangular operator with an adjoint. Its `terms()` are the micro-batches, each with the rows
        of the others zero; of several ranks, it is one term.

    Raises
    ------
    ValueError
        As for `hessian`.
    TypeError
        If model or data are of a kind that is not understood, or the outputs are no tensor.
    RuntimeError
        If the model cannot be applied to the first batch.

    Notes
    -----
    In units of a forward pass, a product with J or with J^T costs 2 where the graphs are kept, and for
    each of k columns 2 + 3 / k (J) or 2 + 1 / k (J^T) where they are not. Making the operator takes a
    forward pass over all data, which tells the number of rows.

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Linear(2, 1)
    >>> J = hessops_torch.jacobian(model, [torch.tensor([[2.0, 3.0], [4.0, 5.0]])])
    >>> J.to_dense()
    tensor([[2., 3., 1.],
            [4., 5., 1.]])
    >>> J.H.shape
    (3, 2)
    """
    return _jacobian(model, data, forward, params, mode, micro_batch_size, memory_budget, comm)


def ntk(
    model: nn.Module,
    data: Any,
    *,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
    params: ParameterSelection = None,
    mode: Mode | None = None,
    micro_batch_size: int | None = None,
    memory_budget: int | None = None,
    comm: Communicator | None = None,
) -> LinearOperator:
    """Return the empirical neural tangent kernel J J^T of a model over a data set.

    It acts on vectors with one entry for each output of each sample, as the rows of `jacobian`.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found. In single or
        double precision.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        As `jacobian` takes it.
    forward : callable, optional
        From (model, batch) to the outputs, a tensor.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        Parameters to differentiate by; all that require a gradient where not given.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given.
    micro_batch_size : int, optional
        Cut batches into parts of at most that many samples, to save memory.
    memory_budget : int, optional
        Bytes of graphs to keep between products; half of the free memory of the device where not given,
        none if 0.
    comm : Communicator, optional
        Ranks that call this together, each with the same model and its part of the data, as for
        `hessian`. Each then holds the rows of its own outputs, and vectors of parameters whole.

    Returns
    -------
    LinearOperator
        Positive semidefinite; a product of two operators.

    Raises
    ------
    ValueError
        As for `hessian`.
    TypeError
        If model or data are of a kind that is not understood, or the outputs are no tensor.
    RuntimeError
        If the model cannot be applied to the first batch.

    Notes
    -----
    In units of a forward pass, a product costs 4 where the graphs are kept, and 4 + 4 / k for each of k
    columns where they are not.

    References
    ----------
    Jacot, Gabriel, Hongler (2018), NeurIPS 31.

    Examples
    --------
    >>> import torch, hessops, hessops_torch
    >>> model = torch.nn.Linear(2, 1)
    >>> K = hessops_torch.ntk(model, [torch.tensor([[2.0, 3.0], [4.0, 5.0]])])
    >>> K.to_dense(), K.structure.positive_semidefinite
    (tensor([[14., 24.],
            [24., 42.]]), True)
    """
    J = _jacobian(model, data, forward, params, mode, micro_batch_size, memory_budget, comm)
    return J @ J.H


_Add: TypeAlias = Callable[[int, OutputGraph, Tensor, Tensor], None]


class Jacobian(LinearOperator):
    """The Jacobian of outputs by parameters; `jacobian` makes one from a model and data.

    Parameters
    ----------
    objective : Objective
        Model and data, and a loss in two parts of which only the outputs matter.

    Raises
    ------
    TypeError
        If the loss does not show the outputs.
    """

    domain: ParameterSpace
    returns_own_memory = True

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        require_outputs(objective.loss, "a Jacobian")
        comm = objective.ranks.comm
        self.shapes = jointly(comm, lambda: output_shapes(objective))
        """Shapes of the outputs for all micro-batches of this rank."""
        self._ends = tuple(accumulate((shape.numel() for shape in self.shapes), initial=0))
        rows = Partition(tuple(map(int, table(comm, self._ends[-1:])[:, 0])))
        if rows.dim == 0:
            raise ValueError("the model has no outputs for this data")
        super().__init__(objective.domain, _rows_of_outputs(objective, rows))
        # Graphs of micro-batches that are kept between products.
        self.graphs: GraphCache[OutputGraph] = objective.new_cache()
        self._seems_adjoint = False

    @property
    def space(self) -> ParameterSpace:
        """Return the space of flat parameter vectors, which flattens and unflattens."""
        return self.domain

    def rows(self, index: int) -> slice:
        """Return the rows that hold a micro-batch's outputs.

        Parameters
        ----------
        index : int
            Of the micro-batch; of several ranks, of this rank's.

        Returns
        -------
        slice
            Into a vector of the codomain; of several ranks, into the rows held here.
        """
        return slice(self._ends[index], self._ends[index + 1])

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the micro-batches' rows, all others zero; of several ranks the operator itself."""
        if self.objective.ranks.comm.size > 1:
            # Its rows are split already, and no term is one rank's.
            yield self
            return
        for index, batch in enumerate(self.objective.batches):
            yield _Rows(self, index, batch)

    def _apply(self, X: Any) -> Any:
        batches, comm = self.objective.batches, self.objective.ranks.comm
        return jointly(comm, lambda: self._multiply(X, 0, batches.here()))

    def _apply_adjoint(self, X: Any) -> Any:
        batches, comm = self.objective.batches, self.objective.ranks.comm
        product, error = tried(lambda: self._multiply_adjoint(X, 0, batches.here()))
        # Summed column by column, as they lie in memory.
        mine: Any = self.domain.zeros(X.shape[1]) if product is None else product
        total: Any = summed_together(comm, mine.T, error)
        return total.T

    def _multiply(self, X: Any, first: int, batches: Iterable[Any]) -> Any:
        """Return the product of the rows of some micro-batches, the others zero."""

        def add(index: int, graph: OutputGraph, columns: Tensor, out: Tensor) -> None:
            size = self.shapes[index].numel()
            out[:, self.rows(index)] = graph.forward(columns).reshape(len(columns), size)

        return self._added(add, X, self.codomain.local_dim, first, batches)

    def _multiply_adjoint(self, X: Any, first: int, batches: Iterable[Any]) -> Any:
        """Return what some micro-batches add to the product of the adjoint."""

        def add(index: int, graph: OutputGraph, columns: Tensor, out: Tensor) -> None:
            seeds = columns[:, self.rows(index)].reshape(-1, *self.shapes[index])
            keep = self.graphs.get(index) is not None
            graph.add_adjoint(seeds.to(graph.outputs.dtype), out, keep=keep)

        return self._added(add, X, self.shape[1], first, batches)

    def _added(self, add: _Add, X: Any, length: int, first: int, batches: Iterable[Any]) -> Any:
        """Return vectors of a length that the graphs of some micro-batches were added to."""
        with self.objective.ready(self.graphs):
            columns = X.detach().T.contiguous()
            out = columns.new_zeros((len(columns), length))
            totals = []
            for index, batch in enumerate(batches, first):
                graph, total = self._graph(index, batch)
                add(index, graph, columns, out)
                totals.append(total)
            require_finite_losses(totals, self.graphs, first)
        return out.T

    def _graph(self, index: int, batch: Any) -> tuple[OutputGraph, Tensor | None]:
        """Return a micro-batch's graph, and the sum of its squared outputs if they were computed."""
        kept = self.graphs.get(index)
        if kept is not None:
            return kept, None
        objective = self.objective
        graph = graph_of_outputs(objective, index, batch)
        outputs = graph.outputs
        if outputs.shape != self.shapes[index]:
            raise ValueError(
                f"the outputs for micro-batch {index} had the shape {tuple(self.shapes[index])} when "
                f"the operator was made, and have {tuple(outputs.shape)} now: make it again"
            )
        if not self._seems_adjoint:
            self._seems_adjoint = graph.shows_adjoint()
        if self.graphs.is_open:
            # What products with J need is part of what is kept.
            graph.prepare()
            self.graphs.offer(index, graph)
        return graph, outputs.detach().square().sum()

    def _describe(self) -> str:
        return self.objective.describe()


class _Rows(LinearOperator):
    """The Jacobian with the rows of all micro-batches but one zero."""

    returns_own_memory = True

    def __init__(self, whole: Jacobian, index: int, batch: Any) -> None:
        super().__init__(whole.domain, whole.codomain)
        self.whole = whole
        self.index = index
        self.batch = batch
        self.num_samples = float(whole.shapes[index][0]) if whole.shapes[index] else 1.0

    def _apply(self, X: Any) -> Any:
        return self.whole._multiply(X, self.index, [self.batch])

    def _apply_adjoint(self, X: Any) -> Any:
        return self.whole._multiply_adjoint(X, self.index, [self.batch])


def _rows_of_outputs(objective: Objective, rows: Partition) -> ArraySpace:
    domain, comm = objective.domain, objective.ranks.comm
    return ArraySpace(
        rows.dim,
        domain.dtype,
        torch_namespace,
        domain.device,
        comm=comm,
        rows=rows.rows(comm.rank) if comm.size > 1 else None,
    )


def _jacobian(
    model: nn.Module,
    data: Any,
    forward: Callable[[nn.Module, Any], Tensor] | None,
    params: ParameterSelection,
    mode: Mode | None,
    micro_batch_size: int | None,
    memory_budget: int | None,
    comm: Communicator | None,
) -> Jacobian:
    loss = SplitLoss(_first_item if forward is None else forward, _squares)
    return Jacobian(
        objective_of(model, loss, data, params, mode, micro_batch_size, memory_budget, comm)
    )


def _first_item(model: nn.Module, batch: Any) -> Tensor:
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) > 0 else batch
    if next(iter(tensors_in(inputs)), None) is not inputs:
        raise TypeError(
            f"a batch is an input or a tuple that begins with one, got {describe_value(batch)}; pass "
            "forward, a function of (model, batch) that returns the outputs"
        )
    outputs: Any = model(inputs)
    if not torch.is_tensor(outputs):
        raise TypeError(
            f"the model returned {describe_value(outputs)}, not a tensor; pass forward=, a function of "
            "(model, batch) that returns the outputs alone, lambda model, batch: model(batch)[0] say"
        )
    return outputs


def _squares(outputs: Tensor, _batch: Any) -> tuple[Tensor, float]:
    # Any function of the outputs tells whether they are finite and the same in every pass.
    return outputs.square().sum(), 1.0
