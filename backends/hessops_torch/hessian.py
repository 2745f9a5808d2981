"""The Hessian of a network's loss over a data set, as an operator on flat parameter vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hessops.algebra import Scaled
from hessops.elementary import Identity
from hessops.operator import LinearOperator
from hessops.structure import SELF_ADJOINT
from hessops_torch.batches import MicroBatches, tensors_in, versions
from hessops_torch.graphs import GradientGraph, GraphCache, free_memory
from hessops_torch.losses import BatchLoss, Loss, as_batch_loss
from hessops_torch.parameters import ParameterSpace
from hessops_torch.selection import ParameterSelection, Selection
from hessops_torch.state import Mode, random_state, second_order, uses_batch_statistics

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
        Used as it stands, also when its parameters change later; left as it was found.
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
        If the data is empty or differs between two passes, the loss is no scalar or changes from one
        call to the next (dropout), a pattern fits no parameter, dtypes or devices are mixed, or a
        batch that batch norm looks at as a whole would be split.
    TypeError
        If loss or data are of a kind that is not understood.
    RuntimeError
        If the model cannot be applied to the first batch.

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
    selection = Selection(model, params)
    if mode not in {None, "eval", "train"}:
        raise ValueError(f"mode={mode!r} is unknown; choose 'eval' or 'train'")
    if micro_batch_size is not None and micro_batch_size < 1:
        raise ValueError(f"micro_batch_size={micro_batch_size} must be positive")
    if not math.isfinite(weight_decay):
        raise ValueError(f"weight_decay={weight_decay} must be finite")
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
    memory_budget : int
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
        memory_budget: int,
    ) -> None:
        self.parameters = selection.current()
        super().__init__(ParameterSpace(self.parameters), structure=SELF_ADJOINT)
        self.model = model
        self.loss = loss
        self.batches = batches
        self.mode = mode
        self.weight_decay = weight_decay
        self.selection = selection
        self.graphs = GraphCache(model, memory_budget)
        self._count: Tensor | None = None
        self._try_first_batch()

    @property
    def space(self) -> ParameterSpace:
        """Return the space of flat parameter vectors, which flattens and unflattens."""
        return self.domain

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the micro-batches' shares of the Hessian, and the weight decay."""
        if self.loss.averages and self._count is None:
            self._count = self._total_count()
        for index, batch in enumerate(self.batches):
            yield _MicroBatchHessian(self, index, batch)
        if self.weight_decay:
            yield Scaled(Identity(self.domain), self.weight_decay)

    def _apply(self, X: Any) -> Any:
        counts: list[Tensor | float] = []
        with self._ready():
            columns = X.detach().T.contiguous()
            out = torch.zeros_like(columns)
            for index, batch in enumerate(self.batches):
                counts.append(self._add_products(index, batch, columns, out))
        if self.loss.averages:
            # The data never changes, so its count is looked at once.
            if self._count is None:
                self._count = _total(counts, columns.device)
            out /= self._count.to(out.dtype)
        if self.weight_decay:
            out += self.weight_decay * columns
        return out.T

    def _add_products(self, index: int, batch: Any, columns: Tensor, out: Tensor) -> Tensor | float:
        """Add one micro-batch's products and return its count."""
        graph = self.graphs.get(index)
        kept = graph is not None
        if graph is None:
            graph = GradientGraph(self.model, self.loss, batch, list(self.parameters.values()))
            kept = self.graphs.offer(index, graph)
        graph.add_products(columns, out, keep=kept)
        return graph.count

    def _ready(self) -> Any:
        if self.batches.micro_batch_size is not None:
            _require_separate_samples(self.model, self.mode)
        self.parameters = self.selection.current()
        self.graphs.drop_stale()
        return second_order(self.model, self.parameters.values(), self.mode)

    def _total_count(self) -> Tensor:
        with self._ready(), torch.no_grad():
            counts = [self.loss(self.model, batch)[1] for batch in self.batches]
        return _total(counts, self.domain.device)

    def _try_first_batch(self) -> None:
        """Refuse early, and in words, what would fail or change in the middle of a run."""
        batch = next(iter(self.batches))
        device = self.domain.device
        with self._ready(), torch.no_grad():
            before, untouched = random_state(device), versions(batch)
            try:
                first, _count = self.loss(self.model, batch)
            except (RuntimeError, IndexError) as error:
                raise RuntimeError(_first_batch_message(batch, self.domain, error)) from error
            draws = not torch.equal(before, random_state(device))
            if versions(batch) != untouched:
                raise ValueError(
                    "the model or the loss writes into its batch, so that the next product would "
                    "see other data: let it work on a copy (x = x.clone())"
                )
            second, _count = self.loss(self.model, batch)
        if not bool(torch.isfinite(first)):
            raise ValueError(f"the loss of the first batch is {float(first)}")
        # Some CUDA kernels sum in an order that varies: beyond rounding, it is randomness.
        if draws or not torch.allclose(first, second, rtol=1e-4, atol=0.0):
            raise ValueError(
                f"the loss of the same batch is {float(first):.6g} and then {float(second):.6g}: the "
                "model draws random numbers (dropout in train mode?); use mode='eval', or turn "
                "dropout off"
            )

    def _describe(self) -> str:
        train = self.model.training if self.mode is None else self.mode == "train"
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        mode = "train" if train else "eval"
        return f"{len(self.batches)} micro-batches, {mode} mode{decay}"


class _MicroBatchHessian(LinearOperator):
    """One micro-batch's share of a Hessian."""

    def __init__(self, whole: Hessian, index: int, batch: Any) -> None:
        super().__init__(whole.domain, structure=SELF_ADJOINT)
        self.whole = whole
        self.index = index
        self.batch = batch

    def _apply(self, X: Any) -> Any:
        with self.whole._ready():
            columns = X.detach().T.contiguous()
            out = torch.zeros_like(columns)
            self.whole._add_products(self.index, self.batch, columns, out)
        if self.whole._count is not None:
            out /= self.whole._count.to(out.dtype)
        return out.T


def _require_separate_samples(model: nn.Module, mode: Mode | None) -> None:
    if uses_batch_statistics(model, mode):
        raise ValueError(
            "batch norm in train mode makes a batch one function of all its samples, so it cannot be "
            "split: leave micro_batch_size out, or use mode='eval'"
        )


def _total(counts: list[Tensor | float], device: Any) -> Tensor:
    total = sum(
        (torch.as_tensor(count, device=device).to(torch.float64) for count in counts),
        start=torch.zeros((), dtype=torch.float64, device=device),
    )
    if not bool(total > 0):
        raise ValueError(
            f"the counts of all batches add up to {float(total):g}: nothing to average"
        )
    return total


def _first_batch_message(batch: Any, space: ParameterSpace, error: Exception) -> str:
    shapes = ", ".join(f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in tensors_in(batch))
    return (
        f"the model cannot be applied to the first batch ({shapes}; parameters are {space.dtype} on "
        f"{space.device}): {error}"
    )
