"""Probes drawn on the device, so that a block of them need not be copied there."""

from __future__ import annotations

import torch
from torch import Tensor

from hessops.device_probes import fill_on_device
from hessops.random import ProbeKind, Stream

__all__ = ["fill_probes"]


def fill_probes(
    block: Tensor, stream: Stream, indices: range, kind: ProbeKind, *, first_row: int = 0
) -> None:
    """Fill a block with the probes that the host would draw; what the core asks of this backend.

    It asks for devices other than the host, which draws faster itself.

    Parameters
    ----------
    block : torch.Tensor, shape (n, k)
        What to fill.
    stream : Stream
        Where the randomness comes from.
    indices : range
        The k probes wanted.
    kind : {'rademacher', 'steinhaus', 'normal', 'sphere'}
        As for ``hessops.random.draw``.
    first_row : int
        Global index of the first row.
    """
    fill_on_device(
        block,
        stream,
        indices,
        kind,
        first_row=first_row,
        inverse_normal=torch.special.ndtri,
    )
