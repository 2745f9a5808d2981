"""A loss of a model over a data set, and the model in the state that its derivatives need."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hessops.comm import Communicator, SerialComm, require_communicator
from hessops.counted import counted
from hessops.row_collectives import jointly
from hessops.some_of import SAME_DATA
from hessops.together import require_same
from hessops_torch.data.batch import length_of
from hessops_torch.data.free_memory import free_memory
from hessops_torch.data.micro_batches import MicroBatches
from hessops_torch.data.random_state import exclusive
from hessops_torch.graphs.cache import GraphCache
from hessops_torch.losses.contract import BatchLoss
from hessops_torch.losses.failures import applying, name_of
from hessops_torch.losses.loss import Loss, as_batch_loss
from hessops_torch.model.parameters import ParameterSpace
from hessops_torch.model.precision import Precision, calls_in, check_precision, epsilon
from hessops_torch.model.selection import ParameterSelection, Selection
from hessops_torch.model.snapshot import Snapshot
from hessops_torch.model.state import (
    Mode,
    require_separate_samples,
    second_order,
    uses_batch_statistics,
)
from hessops_torch.objective.first_batch import INDEPENDENT, shows_dependence
from hessops_torch.objective.options import check_model, check_options
from hessops_torch.ranks.data_ranks import DataRanks, as_floats, ranks_beside
from hessops_torch.ranks.distributed_sampler import facts_of_sampler
from hessops_torch.ranks.facts import facts_of_state

__all__ = ["Objective"]


class Objective:
    """A loss of a model over a data set, of which operators are derivatives.

    Several operators may be made of one, and then read the same data.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it stands, also when its parameters change later; left as it was found.
    loss : torch.nn.Module or callable
        A standard criterion, its functional form, or a function of (model, batch) that returns
        (sum, count).
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        Every pass has to give the same.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        Parameters to differentiate by; all that require a gradient where not given.
    mode : {'eval', 'train'}, optional
        Mode of the model during products; as the model stands where not given.
    micro_batch_size : int, optional
        Cut batches into parts of at most that many samples.
    memory_budget : int, optional
        Bytes of graphs that an operator may keep between products; half of the free memory of the
        device where not given, none if 0.
    precision : {'tf32', 'bf16'}, optional
        In which matrices and convolutions are multiplied; that of the model where not given.
    comm : Communicator, optional
        Ranks that call this together, each with its part of the data (`shard`) and the same model.

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
        If the model cannot be applied to the first batch.

    Examples
    --------
    >>> import torch
    >>> from hessops_torch import Hessian, Objective
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> objective = Objective(model, torch.nn.MSELoss(), [(torch.eye(2), torch.zeros(2, 1))])
    >>> Hessian(objective).shape
    (2, 2)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        *,
        params: ParameterSelection = None,
        mode: Mode | None = None,
        micro_batch_size: int | None = None,
        memory_budget: int | None = None,
        precision: Precision | None = None,
        comm: Communicator | None = None,
    ) -> None:
        comm = SerialComm() if comm is None else comm
        require_communicator(comm)
        beside = ranks_beside(comm)
        # What one rank cannot use is refused on all, before they wait for each other.
        dealt = jointly(comm, lambda: facts_of_sampler(data, comm))
        require_same(comm, dealt, SAME_DATA)
        jointly(
            comm,
            lambda: self._prepare(
                model,
                loss,
                data,
                params,
                mode,
                micro_batch_size,
                memory_budget,
                precision,
                comm,
                beside,
            ),
        )
        self.ranks = DataRanks(comm, len(self.batches), self.batches.checksum())
        if comm.size > 1:
            self._require_same_on_ranks()
        if not self.ranks.any(bool(jointly(comm, self._tried_first_batch))):
            raise ValueError(INDEPENDENT)

    def _prepare(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        params: ParameterSelection,
        mode: Mode | None,
        micro_batch_size: int | None,
        memory_budget: int | None,
        precision: Precision | None,
        comm: Communicator,
        beside: int,
    ) -> None:
        """Take in what this rank is given."""
        check_model(model)
        check_options(mode=mode, micro_batch_size=micro_batch_size, memory_budget=memory_budget)
        self.model = model
        self.mode = mode
        self.selection = Selection(model, params)
        self.parameters = self.selection.current()
        check_precision(precision, next(iter(self.parameters.values())))
        if (
            micro_batch_size is None
            and isinstance(data, Dataset)
            and uses_batch_statistics(model, mode)
        ):
            raise ValueError(
                "batch norm in train mode makes a batch one function of all its samples, and a Dataset "
                "does not say what its batches are: pass a DataLoader, or use mode='eval'"
            )
        self.domain = self._space(comm)
        free = free_memory(self.domain.device) // beside
        self.memory_budget = free // 2 if memory_budget is None else memory_budget
        self.batches = MicroBatches(
            data, self.domain.device, micro_batch_size, free // 4, is_part=comm.size > 1
        )
        self._given = loss
        self._compute_in(precision)
        # The data never changes and its counts are looked at once, as long as the loss is the same.
        self._counts: tuple[float, ...] | None = None
        # What else operators found in all the data that depends on nothing but the loss.
        self.found: dict[Hashable, float] = {}
        self._lengths: tuple[float, ...] | None = None
        self._loss_state = Snapshot(self.loss.parts)

    def _space(self, comm: Communicator) -> ParameterSpace:
        # What changes on one rank later, verbs see as they begin.
        state = partial(facts_of_state, self.model, self.mode) if comm.size > 1 else None
        return ParameterSpace(self.parameters, comm, state)

    def _require_same_on_ranks(self) -> None:
        mode = self.mode or ("train" if self.model.training else "eval")
        self.ranks.require_same(
            {
                "the number of parameters": self.domain.dim,
                "mode": mode,
                "micro_batch_size": self.batches.micro_batch_size,
                "precision": str(self.precision),
            }
        )
        self.ranks.require_same_loss(self.loss)
        self.ranks.require_same_model(self.model, self.mode)

    def _tried_first_batch(self) -> bool:
        """Look at the first batch, and tell whether the loss depends on the parameters."""
        if not len(self.batches):
            return False
        with self.ready():
            return shows_dependence(self.evaluate, self.batches, self.parameters)

    def restricted(self, params: ParameterSelection) -> Objective:
        """Return the same loss on the same data, to be differentiated by other parameters.

        Parameters
        ----------
        params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
            As for the objective itself.

        Returns
        -------
        Objective
            Reads the same batches, without a look at them.
        """
        other = copy(self)
        other.selection = Selection(self.model, params)
        other.parameters = other.selection.current()
        other.domain = other._space(self.ranks.comm)
        other._loss_state = Snapshot(self.loss.parts)
        return other

    def in_full_precision(self) -> Objective:
        """Return the same loss on the same data, computed in the precision of the model."""
        other = copy(self)
        other._compute_in(None)
        return other

    def _compute_in(self, precision: Precision | None) -> None:
        self.precision = precision
        self.loss: BatchLoss = as_batch_loss(self._given, calls_in(precision, self.domain.device))

    @property
    def epsilon(self) -> float:
        """Return machine epsilon of the precision that products are computed in."""
        return epsilon(self.precision, self.domain.dtype)

    @contextmanager
    def ready(self, *caches: GraphCache[Any]) -> Iterator[None]:
        """Have the model to oneself, in the state that second derivatives need.

        Parameters
        ----------
        *caches : GraphCache
            Emptied if model or loss have changed.

        Yields
        ------
        None
            While the model is ready.
        """
        with exclusive:
            if self.batches.micro_batch_size is not None:
                require_separate_samples(self.model, self.mode)
            self.parameters = self.selection.current()
            for cache in caches:
                cache.drop_stale()
            if not self._loss_state.fits():
                self._counts = None
                self.found.clear()
                self._loss_state = Snapshot(self.loss.parts)
            with second_order(self.model, self.parameters.values(), self.mode, self.precision):
                yield
            for cache in caches:
                cache.settle()
            self._loss_state.settle()

    def evaluate(self, index: int, batch: Any) -> tuple[Tensor, Tensor | float]:
        """Return the sum of the loss over a micro-batch and its count, while the model is ready."""
        with self.applying(index, batch):
            return self.loss(self.model, batch)

    def applying(self, index: int, batch: Any) -> AbstractContextManager[None]:
        """Say of which micro-batch it is what the model or the loss raise, while they are applied."""
        return applying(batch, next(iter(self.parameters.values())), name_of(index))

    def new_cache(self, memory_budget: float | None = None) -> GraphCache[Any]:
        """Return an empty cache for graphs of this model and loss.

        Parameters
        ----------
        memory_budget : float, optional
            Most bytes of graphs; that of the objective where not given.

        Returns
        -------
        GraphCache
            To be handed to `ready`, which empties it if model or loss have changed.
        """
        budget = self.memory_budget if memory_budget is None else memory_budget
        return GraphCache((self.model, *self.loss.parts), budget)

    def counts(self, found: Sequence[Tensor | float] | None = None) -> tuple[float, ...] | None:
        """Return the count of every micro-batch, None if the loss is not averaged.

        Parameters
        ----------
        found : sequence of torch.Tensor or float, optional
            What a pass over this rank's micro-batches has found; a pass of its own, while the model is
            ready, where not given.

        Returns
        -------
        tuple of float or None
            On the host, by one synchronisation the first time; of all ranks, in their order, by one
            reduction the first time.

        Raises
        ------
        ValueError
            If they add up to zero.
        """
        if not self.loss.averages:
            return None
        if self._counts is None:
            if found is None:
                with torch.no_grad():
                    found = [
                        self.evaluate(i, batch)[1] for i, batch in enumerate(self.batches.here())
                    ]
            self._counts = self.ranks.gathered(as_floats(found))
        if not math.fsum(self._counts) > 0:
            raise ValueError(
                f"the counts of all batches add up to {math.fsum(self._counts):g}: nothing to average"
            )
        return self._counts

    def misses_counts(self) -> bool:
        """Tell whether the loss is averaged, by counts that are not known yet, or not any more."""
        return self.loss.averages and self._counts is None

    def forget_counts(self) -> None:
        """Have the counts found anew: on some rank they are not known any more."""
        self._counts = None

    def num_samples(self) -> tuple[float, ...]:
        """Return how much data is behind every micro-batch of all ranks; collective.

        Returns
        -------
        tuple of float
            The counts of a loss that is averaged, and else the lengths of the batches.

        Raises
        ------
        ValueError
            On all ranks, as for `counts`, or if any cannot evaluate the loss.
        """
        if not self.loss.averages:
            if self._lengths is None:
                lengths = jointly(
                    self.ranks.comm,
                    lambda: [float(length_of(batch)) for batch in self.batches.here()],
                )
                self._lengths = self.ranks.gathered(lengths)
            return self._lengths
        found = jointly(self.ranks.comm, self._counts_here)
        if self.ranks.any(self._counts is None):
            self.forget_counts()
        return self.counts(found) or ()

    def _counts_here(self) -> Sequence[float]:
        with self.ready():
            if self._counts is not None:
                first = self.ranks.first
                return self._counts[first : first + self.ranks.count]
            with torch.no_grad():
                return as_floats(
                    [self.evaluate(i, batch)[1] for i, batch in enumerate(self.batches.here())]
                )

    def divisor(self, found: Sequence[Tensor | float] | None = None) -> float:
        """Return what sums over the data are divided by: the total of `counts`, or 1."""
        counts = self.counts(found)
        return 1.0 if counts is None else math.fsum(counts)

    def describe(self) -> str:
        """Return the number of micro-batches and the mode, as operators show them."""
        train = self.model.training if self.mode is None else self.mode == "train"
        parts = counted(self.ranks.total, "micro-batch", "micro-batches")
        return f"{parts}, {'train' if train else 'eval'} mode"
