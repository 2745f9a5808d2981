"""Probes drawn on the device by one kernel a block, equal to those which the host draws."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from hessops.arrays import is_complex, namespace
from hessops.random import ProbeKind, Stream, require_kind

__all__ = ["fill_probes"]

_SEQUENCE = "uint64 row, uint64 probe, uint64 seed, uint64 purpose, uint64 term"
# From the parameters of a kernel to those which philox.cuh knows.
_GATHERED = "const Sequence sequence{seed, purpose, term, probe};"


def fill_probes(
    block: Any, stream: Stream, indices: range, kind: ProbeKind, *, first_row: int = 0
) -> None:
    """Fill a block with the probes that the host would draw; what the core asks of this backend.

    Signs are the same bits. Normal numbers come from CUDA's ``normcdfinv`` and unit complex numbers
    from its ``sincospi``, which differ from the host's functions by a few units in the last place of
    double precision.

    Parameters
    ----------
    block : cupy.ndarray, shape (n, k)
        What to fill, on the current device; of any memory layout.
    stream : Stream
        Where the randomness comes from.
    indices : range
        The k probes wanted.
    kind : {'rademacher', 'steinhaus', 'normal', 'sphere'}
        As for ``hessops.random.draw``; 'sphere' is left for the space to scale.
    first_row : int
        Global index of the first row.

    Raises
    ------
    ValueError
        If `kind` is unknown, or 'steinhaus' is asked of a real block.
    """
    complex_valued = is_complex(namespace(block), block.dtype)
    require_kind(kind, complex_valued=complex_valued)
    rows = cupy.arange(first_row, first_row + block.shape[0], dtype=np.uint64)[:, None]
    probes = cupy.arange(indices.start, indices.stop, indices.step, dtype=np.uint64)[None, :]
    key = (np.uint64(word) for word in (stream.seed, stream.purpose, stream.term))
    sequence = rows, probes, *key
    if kind == "steinhaus":
        _phases()(*sequence, block.real, block.imag)
    elif kind == "rademacher":
        _signs()(*sequence, block.real)
        if complex_valued:
            block.imag = 0
    elif complex_valued:
        _normal()(*sequence, np.uint64(0), math.sqrt(2), block.real)
        _normal()(*sequence, np.uint64(1), math.sqrt(2), block.imag)
    else:
        _normal()(*sequence, np.uint64(0), 1.0, block)


@cache
def _signs() -> Any:
    return _kernel("", "T entry", "entry = random_sign(sequence, row)", "hessops_signs")


@cache
def _normal() -> Any:
    return _kernel(
        ", uint64 part, float64 divisor",
        "T entry",
        "entry = random_normal(sequence, part, row) / divisor",
        "hessops_normal",
    )


@cache
def _phases() -> Any:
    return _kernel(
        "",
        "T cosine, T sine",
        "double x, y; random_phase(sequence, row, x, y); cosine = x; sine = y",
        "hessops_phases",
    )


def _kernel(more: str, outputs: str, operation: str, name: str) -> Any:
    return cupy.ElementwiseKernel(
        _SEQUENCE + more,
        outputs,
        f"{_GATHERED} {operation}",
        name,
        preamble=Path(__file__).with_name("philox.cuh").read_text(encoding="utf-8"),
    )
