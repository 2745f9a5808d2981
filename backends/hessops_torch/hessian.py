"""The Hessian of a network's loss over a data set, as an operator on flat parameter vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hessops.errors import NonFiniteError
from hessops.operator import LinearOperator
from hessops.operators.algebra import Scaled
from hessops.operators.elementary import Identity
from hessops.structure import SELF_ADJOINT
from hessops_torch.batches import MicroBatches, tensors_in, versions
from hessops_torch.failures import evaluate, name_of
from hessops_torch.graphs import GradientGraph, GraphCache, free_memory
from hessops_torch.lock import exclusive
from hessops_torch.losses import BatchLoss, Loss, as_batch_loss
from hessops_torch.options import check_model, check_options
from hessops_torch.parameters import ParameterSpace
from hessops_torch.selection import ParameterSelection, Selection
from hessops_torch.snapshot import Snapshot
from hessops_torch.state import (
    Mode,
    random_state,
    second_order,
    uses_batch_statistics,
)

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
        Bytes of gradient graphs to keep between products, which makes them a third cheaper; half of
        the free memory of the device where not given, none if 0.

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
    check_model(model)
    check_options(
        mode=mode,
        weight_decay=weight_decay,
        micro_batch_size=micro_batch_size,
        memory_budget=memory_budget,
    )
    selection = Selection(model, params)
    if (
        micro_batch_size is None
        and isinstance(data, Dataset)
        and uses_batch_statistics(model, mode)
    ):
        raise ValueError(
            "batch norm in train mode makes a batch one function of all its samples, and a Dataset "
            "does not say what its batches are: pass a DataLoader, or use mode='eval'"
        )
    device = next(iter(selection.current().values())).device
    free = free_memory(device)
    budget = free // 2 if memory_budget is None else memory_budget
    batches = MicroBatches(data, device, micro_batch_size, free // 4)
    return Hessian(model, as_batch_loss(loss), batches, selection, mode, weight_decay, budget)


class Hessian(LinearOperator):
    """The Hessian of a network's loss; made by `hessian`.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    loss : BatchLoss
        The loss, as (sum, count).
    batches : MicroBatches
        The data.
    selection : Selection
        The parameters to differentiate by.
    mode : {'eval', 'train'} or None
        Mode of the model during products.
    weight_decay : float
        Multiple of the identity to add.
    memory_budget : float
        Bytes of gradient graphs to keep.
    """

    domain: ParameterSpace

    def __init__(
        self,
        model: nn.Module,
        loss: BatchLoss,
        batches: MicroBatches,
        selection: Selection,
        mode: Mode | None,
        weight_decay: float,
        memory_budget: float,
    ) -> None:
        self.parameters = selection.current()
        super().__init__(ParameterSpace(self.parameters), structure=SELF_ADJOINT)
        self.model = model
        self.loss = loss
        self.batches = batches
        self.mode = mode
        self.weight_decay = weight_decay
        self.selection = selection
        self.graphs = GraphCache((model, *loss.parts), memory_budget)
        # The data never changes and its counts are looked at once, as long as the loss is the same.
        self._counts: tuple[float, ...] | None = None
        self._loss_state = Snapshot(loss.parts)
        self._seems_symmetric = False
        with self._ready():
            self._try_first_batch()

    @property
    def space(self) -> ParameterSpace:
        """Return the space of flat parameter vectors, which flattens and unflattens."""
        return self.domain

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the micro-batches' shares of the Hessian, and the weight decay."""
        with self._ready():
            counts = self._known_counts()
        for index, batch in enumerate(self.batches):
            yield _MicroBatchHessian(self, index, batch, counts[index] if counts else None)
        if self.weight_decay:
            yield Scaled(Identity(self.domain), self.weight_decay)

    def _apply(self, X: Any) -> Any:
        with self._ready():
            columns = X.detach().T.contiguous()
            out = torch.zeros_like(columns)
            graphs = [
                self._add_products(index, batch, columns, out)
                for index, batch in enumerate(self.batches)
            ]
            if self.loss.averages:
                if self._counts is None:
                    self._counts = _as_floats([count for count, _ in graphs])
                out /= _total(self._counts)
            self._require_finite([total for _, total in graphs])
        if self.weight_decay:
            out += self.weight_decay * columns
        return out.T

    def _add_products(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        """Add one micro-batch's products; return its count and, if it was computed, its loss."""
        graph = self.graphs.get(index)
        if graph is not None:
            graph.add_products(columns, out, keep=True)
            return graph.count, None
        parameters = list(self.parameters.values())
        graph = GradientGraph(self.model, self.loss, batch, parameters, name_of(index))
        if not self._seems_symmetric:
            self._seems_symmetric = graph.shows_symmetry()
        graph.add_products(columns, out, keep=self.graphs.offer(index, graph))
        return graph.count, graph.total

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Have the model to oneself, in the state that the products need."""
        with exclusive:
            if self.batches.micro_batch_size is not None:
                _require_separate_samples(self.model, self.mode)
            self.parameters = self.selection.current()
            self.graphs.drop_stale()
            if not self._loss_state.fits():
                self._counts = None
                self._loss_state = Snapshot(self.loss.parts)
            with second_order(self.model, self.parameters.values(), self.mode):
                yield
            self.graphs.settle()
            self._loss_state.settle()

    def _known_counts(self) -> tuple[float, ...] | None:
        """Return the count of every micro-batch, None if the loss is not averaged."""
        if not self.loss.averages:
            return None
        if self._counts is None:
            with torch.no_grad():
                found = [self._evaluate(i, batch)[1] for i, batch in enumerate(self.batches)]
            self._counts = _as_floats(found)
        _total(self._counts)
        return self._counts

    def _evaluate(self, index: int, batch: Any) -> tuple[Tensor, Tensor | float]:
        parameter = next(iter(self.parameters.values()))
        return evaluate(self.model, self.loss, batch, parameter, name_of(index))

    def _try_first_batch(self) -> None:
        """Refuse early, and in words, what would fail or change in the middle of a run."""
        batch = next(iter(self.batches))
        device = self.domain.device
        before, untouched = random_state(device), versions(batch)
        with torch.no_grad():
            first, _count = self._evaluate(0, batch)
        draws = not torch.equal(before, random_state(device))
        if versions(batch) != untouched:
            raise ValueError(
                "the model or the loss writes into its batch, so that the next product would see "
                "other data: let it work on a copy (x = x.clone())"
            )
        second, _count = self._evaluate(0, batch)
        if not second.requires_grad:
            self._require_dependence()
        second = second.detach()
        if not bool(torch.isfinite(first)):
            raise ValueError(f"the loss of the first batch is {float(first)}")
        # Some CUDA kernels sum in an order that varies: beyond rounding, it is randomness.
        if draws or not torch.allclose(first, second, rtol=1e-4, atol=0.0):
            raise ValueError(
                f"the loss of the same batch is {float(first):.6g} and then {float(second):.6g}: the "
                "model draws random numbers (dropout in train mode?); use mode='eval', or turn "
                "dropout off"
            )

    def _require_dependence(self) -> None:
        """Raise if no batch's loss depends on the parameters, whose Hessian would be zero."""
        for index, batch in enumerate(self.batches):
            total, _count = self._evaluate(index, batch)
            if total.requires_grad:
                return
        raise ValueError(
            "the loss does not depend on the parameters, or is cut off from them, so that its Hessian "
            "would be zero: look for torch.no_grad, torch.inference_mode, .detach(), .item() or a "
            "checkpoint with use_reentrant=True in the model's forward and in the loss, and whether "
            "params names parameters that are used"
        )

    def _require_finite(self, totals: Sequence[Tensor | None], first: int = 0) -> None:
        """Raise if a loss that was computed is NaN or infinite, by one synchronisation."""
        computed = {first + i: total for i, total in enumerate(totals) if total is not None}
        if not computed:
            return
        values = torch.stack([total.to(torch.float64) for total in computed.values()]).tolist()
        for index, value in zip(computed, values, strict=True):
            if not math.isfinite(value):
                # Of a graph that is kept nobody would hear again.
                self.graphs.clear()
                raise NonFiniteError(
                    f"the loss of {name_of(index)} is {value}: look for NaN or infinity in its data, "
                    "and for a division or a logarithm of 0 in the model or the loss"
                )

    def _describe(self) -> str:
        train = self.model.training if self.mode is None else self.mode == "train"
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        mode = "train" if train else "eval"
        return f"{len(self.batches)} micro-batches, {mode} mode{decay}"


class _MicroBatchHessian(LinearOperator):
    """One micro-batch's share of a Hessian."""

    def __init__(self, whole: Hessian, index: int, batch: Any, count: float | None) -> None:
        super().__init__(whole.domain, structure=SELF_ADJOINT)
        self.whole = whole
        self.index = index
        self.batch = batch
        self.num_samples = _num_samples(batch) if count is None else count

    def _apply(self, X: Any) -> Any:
        with self.whole._ready():
            columns = X.detach().T.contiguous()
            out = torch.zeros_like(columns)
            _count, total = self.whole._add_products(self.index, self.batch, columns, out)
            counts = self.whole._known_counts()
            self.whole._require_finite([total], self.index)
        if counts is not None:
            out /= _total(counts)
        return out.T


def _require_separate_samples(model: nn.Module, mode: Mode | None) -> None:
    if uses_batch_statistics(model, mode):
        raise ValueError(
            "batch norm in train mode makes a batch one function of all its samples, so it cannot be "
            "split: leave micro_batch_size out, or use mode='eval'"
        )


def _as_floats(counts: Sequence[Tensor | float]) -> tuple[float, ...]:
    """Return counts as numbers of the host, by one synchronisation."""
    tensors = [count.to(torch.float64) for count in counts if torch.is_tensor(count)]
    on_host = iter(torch.stack(tensors).tolist() if tensors else [])
    return tuple(next(on_host) if torch.is_tensor(count) else count for count in counts)


def _total(counts: Sequence[float]) -> float:
    total = math.fsum(counts)
    if not total > 0:
        raise ValueError(f"the counts of all batches add up to {total:g}: nothing to average")
    return total


def _num_samples(batch: Any) -> float:
    """Return the length of a micro-batch's first tensor."""
    first = next(tensors_in(batch), None)
    return 1.0 if first is None or first.ndim == 0 else float(first.shape[0])
