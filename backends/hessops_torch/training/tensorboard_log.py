"""Records of curvature for TensorBoard, where it is installed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hessops_torch.training.record import CurvatureRecord, scalars

__all__ = ["TensorBoardLog"]


class TensorBoardLog:
    """Scalars of every record, under "curvature/".

    Parameters
    ----------
    target : str, Path or SummaryWriter
        A folder, or a writer, which stays open when this is closed.

    Raises
    ------
    ImportError
        If `target` is a folder and TensorBoard is missing.
    TypeError
        If it is something else.
    """

    def __init__(self, target: Any) -> None:
        self._own = isinstance(target, str | Path)
        if self._own:
            target = _writer(Path(target))
        if not callable(getattr(target, "add_scalar", None)):
            raise TypeError(
                f"tensorboard={target!r} is neither a folder nor a "
                "torch.utils.tensorboard.SummaryWriter"
            )
        self.writer = target

    def add(self, record: CurvatureRecord) -> None:
        """Write the finite numbers of a record; NaN would leave a hole in TensorBoard's own scale."""
        for name, value in scalars(record).items():
            self.writer.add_scalar(name, value, record.step)
        if any(math.isnan(value) for value in record.eigenvalues):
            self.writer.add_text("curvature/status", record.status, record.step)
        self.writer.flush()

    def close(self) -> None:
        """Close the writer, if it was made here."""
        if self._own:
            self.writer.close()


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "writing for TensorBoard needs the extra 'tensorboard': pip install '.[tensorboard]' in a "
            "clone, pip install 'hessops[tensorboard]' elsewhere; or leave tensorboard out and read csv"
        ) from error
    return SummaryWriter(str(folder))
