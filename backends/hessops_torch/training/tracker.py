"""The curvature of a network while it is trained, without any effect on the training."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from torch import nn
from torch.optim import Optimizer

from hessops.algorithms._common import require_positive
from hessops.algorithms.eigen.eigsh import Which
from hessops.counted import counted
from hessops.density.spectral_density import SpectralDensity
from hessops.random import RandomState, seed_from
from hessops_torch.losses.loss import Loss
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.options import check_weight_decay
from hessops_torch.training.meter import CurvatureMeter
from hessops_torch.training.record import (
    PER_PAIR,
    CurvatureRecord,
    RecordFile,
    add_record,
    trace_words,
    with_pairs,
    with_trace,
)
from hessops_torch.training.stability import step_limits
from hessops_torch.training.tensorboard_log import TensorBoardLog
from hessops_torch.training.time_budget import TimeBudget

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CurvatureTracker"]

_logger = logging.getLogger("hessops")


class CurvatureTracker:
    """Follow the extreme eigenvalues and the trace of a training's Hessian.

    Call `step` after every step of the optimizer. The training goes on with the same bits as without
    the tracker: weights, buffers, gradients, the optimizer and all random states are left alone.

    A record costs about a dozen products for a few eigenvalues, and at most `num_probes` for the
    trace; a product costs 2 gradients on `data`, the first of a record 3. The trace is that of
    `hessian_trace` where the loss shows the outputs; in small trained networks it had a fifth of the
    error of plain probes, but two to seven times the time in the smallest. Eigenvalues start from the
    last eigenvectors (and some noise, for what has come up since), which saved 11 to 19 % of their
    products on small networks; one more than asked for is computed, as at a loose tolerance the last
    may be passed over (more seldom so, and not never).

    Parameters
    ----------
    model : torch.nn.Module
        The model in training.
    loss : torch.nn.Module or callable
        As `hessian` takes it.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        What the curvature is measured on; the same in every pass, a part of the training data, say.
    every : int
        Steps from one measurement to the next.
    k : int
        Eigenvalues to follow.
    which : {'LA', 'LM', 'SA', 'BE'}
        Which ones, as for `hessops.eigsh`.
    tol : float
        Residual norm asked for, relative to the largest eigenvalue.
    num_probes : int
        What to spend on the trace, in products with the Hessian; no trace if 0. Of fewer than 8, and
        of a loss that does not show the outputs, plain probes for what the eigenvectors leave, or for
        all of it where products with these would take more than half.
    density_every : int, optional
        Steps from one density to the next; only `density` takes any where not given.
    optimizer : torch.optim.Optimizer, optional
        Where the learning rate is read.
    max_share : float or None
        Most of the time that tracking may take, as a share of the time since the tracker was made. A
        due measurement that would take more is left out, and the next record says how many were. No
        limit if None.
    csv : str or Path, optional
        File to append each record to, at once. What it holds already is read into `records`; the
        densities are saved beside it.
    tensorboard : str, Path or torch.utils.tensorboard.SummaryWriter, optional
        Folder or writer for TensorBoard.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        As for `hessian`.
    mode : {'eval', 'train'}, optional
        Mode of the model while it is measured. Dropout has no Hessian in train mode.
    weight_decay : float
        Multiple of the identity to add.
    micro_batch_size, memory_budget : int, optional
        As for `hessian`; graphs are kept within a measurement only.
    rng : int, numpy.random.Generator or None
        Where start vectors and probes come from; never torch's own state.

    Raises
    ------
    ValueError
        If an option is out of range, `csv` has other columns, or `hessian` refuses model, loss or
        data.
    TypeError
        If model, loss or data are of a kind that is not understood.
    ImportError
        If `tensorboard` names a folder and the package is missing.

    Notes
    -----
    Making a tracker costs three products, which show what products cost. With `max_share` the first
    measurement therefore waits until the training has taken its time; for one of the untrained network
    call `measure`, which asks for no budget.

    A measurement that fails, at a loss that is NaN or infinite, say, becomes a record whose `status`
    says why, and the training goes on.

    References
    ----------
    Cohen, Kaur, Li, Kolter & Talwalkar (2021), ICLR, for the edge of stability.

    Examples
    --------
    >>> import torch
    >>> from hessops_torch import CurvatureTracker
    >>> model, loss = torch.nn.Linear(2, 1, bias=False), torch.nn.MSELoss()
    >>> data = [(torch.eye(2), torch.ones(2, 1))]
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> options = dict(optimizer=optimizer, max_share=None, rng=0)
    >>> tracker = CurvatureTracker(model, loss, data, every=5, k=1, **options)
    >>> for x, y in data * 10:
    ...     optimizer.zero_grad()
    ...     loss(model(x), y).backward()
    ...     optimizer.step()
    ...     record = tracker.step()
    >>> [(r.step, round(r.eigenvalues[0], 4), r.two_over_learning_rate) for r in tracker.records]
    [(5, 1.0, 4.0), (10, 1.0, 4.0)]
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        *,
        every: int = 100,
        k: int = 3,
        which: Which = "LA",
        tol: float = 1e-2,
        num_probes: int = 8,
        density_every: int | None = None,
        optimizer: Optimizer | None = None,
        max_share: float | None = 0.1,
        csv: str | Path | None = None,
        tensorboard: Any = None,
        params: ParameterSelection = None,
        mode: Mode | None = "eval",
        weight_decay: float = 0.0,
        micro_batch_size: int | None = None,
        memory_budget: int | None = None,
        rng: RandomState = None,
    ) -> None:
        require_positive(every=every, k=k, density_every=density_every)
        if num_probes:
            require_positive(num_probes=num_probes)
        if max_share is not None and not 0 < max_share <= 1:
            raise ValueError(
                f"max_share={max_share} must be above 0 and at most 1; None sets no limit"
            )
        # What `eigsh` would refuse must not wait for the first measurement.
        if which not in get_args(Which):
            raise ValueError(
                f"which={which!r} is unknown; choose one of {', '.join(get_args(Which))}"
            )
        if not tol > 0:
            raise ValueError(f"tol={tol} must be positive")
        check_weight_decay(weight_decay)
        self.every, self.k, self.which, self.tol = every, k, which, tol
        self.num_probes, self.density_every = num_probes, density_every
        self.optimizer = optimizer
        self.budget = TimeBudget(max_share)
        self.records: list[CurvatureRecord] = []
        self.densities: dict[int, SpectralDensity] = {}
        self.num_steps = 0
        self._num_skipped, self._failing = 0, False
        with self.budget.working("making"):
            self._meter = CurvatureMeter(
                model,
                loss,
                data,
                np.random.default_rng(seed_from(rng)),
                weight_decay=weight_decay,
                params=params,
                mode=mode,
                micro_batch_size=micro_batch_size,
                memory_budget=memory_budget,
            )
        if k > self._meter.dim:
            raise ValueError(f"k={k} eigenvalues asked of {self._meter.dim} parameters")
        self._file = None if csv is None else RecordFile(csv, k)
        if self._file is not None:
            self.records = self._file.read()
        self._tensorboard = None if tensorboard is None else TensorBoardLog(tensorboard)

    def __repr__(self) -> str:
        said = [counted(len(self.records), "record")]
        if self.records:
            said.append(f"the last at step {self.records[-1].step}")
        said.append(f"now at step {self.num_steps}")
        if self._num_skipped:
            share = f"{self.budget.max_share:.0%} of the time"
            said.append(f"{self._num_skipped} due since then left out to keep to {share}")
        return f"CurvatureTracker({', '.join(said)})"

    def step(
        self, step: int | None = None, *, learning_rate: float | None = None
    ) -> CurvatureRecord | None:
        """Count a step of the training, and measure where a measurement is due and affordable.

        Parameters
        ----------
        step : int, optional
            Its number; one more than before where not given.
        learning_rate : float, optional
            Where it is not the optimizer's.

        Returns
        -------
        CurvatureRecord or None
            The record, if one was made.
        """
        self.num_steps = self.num_steps + 1 if step is None else int(step)
        record = None
        if self.num_steps % self.every == 0:
            if self.budget.affords(
                "record", self._meter.product_seconds * self._expected_products()
            ):
                record = self.measure(self.num_steps, learning_rate=learning_rate)
            else:
                self._num_skipped += 1
        if self.density_every is not None and self.num_steps % self.density_every == 0:
            expected = self._meter.product_seconds * _DENSITY_PROBES * _DENSITY_STEPS
            if self.budget.affords("density", expected):
                self.density(self.num_steps)
        return record

    def measure(
        self, step: int | None = None, *, learning_rate: float | None = None
    ) -> CurvatureRecord:
        """Measure now, whatever share of the time that takes.

        Parameters
        ----------
        step : int, optional
            The number of the step; the last one where not given, 0 before the first.
        learning_rate : float, optional
            Where it is not the optimizer's.

        Returns
        -------
        CurvatureRecord
            Also appended to `records`, the file and TensorBoard.
        """
        unknown: dict[str, Any] = dict.fromkeys(PER_PAIR, (math.nan,) * self.k)
        limits = step_limits(self.optimizer, learning_rate)
        record = CurvatureRecord(
            step=self.num_steps if step is None else int(step),
            learning_rate=limits.learning_rate,
            two_over_learning_rate=limits.two_over_learning_rate,
            stability_limit=limits.stability_limit,
            **unknown,
            num_skipped=self._num_skipped,
        )
        self._num_skipped = 0
        with self.budget.working("record"), self._meter.ready():
            record = self._measured(record)
        record = replace(record, seconds=self.budget.elapsed, share=self.budget.share)
        add_record(self.records, record)
        if self._file is not None:
            self._file.append(record)
        if self._tensorboard is not None:
            self._tensorboard.add(record)
        return record

    def density(self, step: int | None = None, **options: Any) -> SpectralDensity | None:
        """Take the spectral density now, whatever share of the time that takes.

        Parameters
        ----------
        step : int, optional
            The number of the step; the last one where not given.
        **options : object
            For `hessops.spectral_density`; 4 probes of 32 steps where not given, 128 products.

        Returns
        -------
        SpectralDensity or None
            Also in `densities`, by the step, and saved beside the file if there is one. None if it
            failed, which a log message of "hessops" tells.
        """
        number = self.num_steps if step is None else int(step)
        settings = {"num_probes": _DENSITY_PROBES, "num_steps": _DENSITY_STEPS, **options}
        settings["num_steps"] = min(settings["num_steps"], self._meter.dim)
        with self.budget.working("density"), self._meter.ready():
            try:
                density = self._meter.density(**settings)
            except _FAILURES as error:
                _logger.warning("no density at step %d: %s", number, error)
                return None
        self.densities[number] = density
        if self._file is not None:
            density.save(self._file.path.with_suffix(f".density-{number}.npz"))
        return density

    def plot(self, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw the eigenvalues with their error bounds beside the edge of stability, and the trace.

        Parameters
        ----------
        axes : tuple of matplotlib.axes.Axes, optional
            Where to draw eigenvalues and trace; a new figure where not given.

        Returns
        -------
        tuple of matplotlib.axes.Axes
            What was drawn on.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            If there is no record yet.
        """
        from hessops_torch.training.plot import plot_records

        return plot_records(self.records, axes)

    def close(self) -> None:
        """Write out what TensorBoard may still hold back; the file of records is complete anyway."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that goes on from a checkpoint needs: the step and the eigenvectors."""
        return {"num_steps": self.num_steps, "eigenvectors": self._meter.eigenvectors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Parameters
        ----------
        state : dict
            Eigenvectors of another size are not taken: the next run starts from nothing.
        """
        self.num_steps = int(state["num_steps"])
        vectors, domain = state["eigenvectors"], self._meter.operator.domain
        fits = vectors is not None and len(vectors) == domain.dim
        self._meter.eigenvectors = vectors.to(domain.device, domain.dtype) if fits else None

    def _measured(self, record: CurvatureRecord) -> CurvatureRecord:
        """Return the record with what can be measured of it."""
        sentences: list[str] = []
        failing = True
        try:
            pairs = self._meter.pairs(self.k, self.which, self.tol)
            record = with_pairs(record, pairs, self.k)
            sentences.append(f"eigenvalues {pairs.status}")
            if self.num_probes:
                trace = self._meter.trace(self.num_probes, pairs)
                record = with_trace(record, trace)
                sentences.append(trace_words(trace))
            failing = False
        except _FAILURES as error:
            sentences.append(f"failed: {type(error).__name__}: {error}")
            # Said once, as a training that has failed may go on for long.
            level = logging.DEBUG if self._failing else logging.WARNING
            _logger.log(level, "curvature at step %d %s", record.step, sentences[-1])
        self._failing = failing
        if record.num_skipped:
            sentences.append(
                f"{record.num_skipped} due before left out, to keep to {self.budget.max_share:.0%} of "
                "the time"
            )
        return replace(record, status="; ".join(sentences))

    def _expected_products(self) -> int:
        """Return the products of a record, before there is one: they are seldom more."""
        return 10 + 4 * self.k + self.num_probes


_DENSITY_PROBES, _DENSITY_STEPS = 4, 32
# What a training may run into, and must not be stopped by; a misspelt option of `density` still raises.
_FAILURES: tuple[type[Exception], ...] = (ValueError, ArithmeticError, RuntimeError)
