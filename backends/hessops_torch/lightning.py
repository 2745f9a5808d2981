"""Curvature during a training by Lightning; imported by its own name, as Lightning is optional."""

from __future__ import annotations

from typing import Any

from torch import nn

from hessops_torch.losses.loss import Loss
from hessops_torch.training.record import CurvatureRecord, scalars
from hessops_torch.training.tracker import CurvatureTracker

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise ModuleNotFoundError(
        "hessops_torch.lightning needs Lightning, the extra 'lightning': pip install '.[lightning]' in "
        "a clone, pip install 'hessops[lightning]' elsewhere; or call CurvatureTracker in your own loop"
    ) from error

__all__ = ["CurvatureCallback"]


class CurvatureCallback(pl.Callback):
    """A `hessops_torch.CurvatureTracker` that Lightning's trainer calls after every batch.

    Steps are the trainer's `global_step`, those of the optimizer: batches whose gradients are
    accumulated count once. Each record is passed on to the trainer's loggers, as "curvature/...".

    Parameters
    ----------
    loss : torch.nn.Module or callable
        As `hessops_torch.hessian` takes it, with the module (or its part) as the model.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        What the curvature is measured on; the same in every pass, a part of the training data, say.
    part : str, optional
        The submodule that is the model, such as ``'net'``; the whole module where not given.
    measure_first : bool
        Measure before the first step, too, whatever share of the time that takes.
    **options : object
        For `hessops_torch.CurvatureTracker`; the optimizer is the trainer's first, where not given.

    Notes
    -----
    On several ranks the first alone measures, on its own `data`, and the others wait for it in their
    next step. Models whose parameters are spread over devices (FSDP) it cannot measure.

    A checkpoint of the trainer holds the tracker's state, so that a run that goes on starts from the
    last eigenvectors.

    Examples
    --------
    >>> import lightning.pytorch as pl, torch
    >>> from hessops_torch.lightning import CurvatureCallback
    >>> callback = CurvatureCallback(torch.nn.MSELoss(), [(torch.eye(2), torch.ones(2, 1))], every=10)
    >>> callback.records
    []
    """

    def __init__(
        self,
        loss: Loss,
        data: Any,
        *,
        part: str | None = None,
        measure_first: bool = False,
        **options: Any,
    ) -> None:
        self._loss, self._data, self._options = loss, data, options
        self._part, self._measure_first = part, measure_first
        self._state: dict[str, Any] | None = None
        self._last_step = -1
        self.tracker: CurvatureTracker | None = None

    @property
    def records(self) -> list[CurvatureRecord]:
        """Return the records so far."""
        return [] if self.tracker is None else self.tracker.records

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the tracker of the module, where the trainer has put it.

        Parameters
        ----------
        trainer : lightning.pytorch.Trainer
            Whose first optimizer tells the learning rate.
        pl_module : lightning.pytorch.LightningModule
            The module, or what holds it.

        Raises
        ------
        AttributeError
            If it has no such part.
        """
        if not trainer.is_global_zero:
            return
        model: nn.Module = pl_module.get_submodule(self._part or "")
        options = dict(self._options)
        if trainer.optimizers:
            options.setdefault("optimizer", trainer.optimizers[0])
        self.tracker = CurvatureTracker(model, self._loss, self._data, **options)
        if self._state is not None:
            self.tracker.load_state_dict(self._state)
        self._last_step = trainer.global_step
        if self._measure_first:
            self._log(trainer, self.tracker.measure(trainer.global_step))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Count a step, and measure where a measurement is due."""
        # While gradients are accumulated the step stays the same.
        if self.tracker is None or trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        record = self.tracker.step(trainer.global_step)
        if record is not None:
            self._log(trainer, record)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Write out what may be held back."""
        if self.tracker is not None:
            self.tracker.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that goes on needs."""
        return {} if self.tracker is None else self.tracker.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a state for the tracker that is made when the training starts.

        Parameters
        ----------
        state_dict : dict
            As `state_dict` returned it.
        """
        self._state = state_dict or None

    def _log(self, trainer: pl.Trainer, record: CurvatureRecord) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(scalars(record), step=record.step)
