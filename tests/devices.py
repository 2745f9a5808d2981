"""Where the tests run all verbs: on the host, on GPUs, and on a device that is none.

The device that is none is "device1" of array_api_strict, whose arrays NumPy may not read and no other
device's array may be combined with. What crosses over from a device to the host and back is recorded,
so that tests can say how much may.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field

import array_api_strict
import numpy as np
import pytest
from scipy.special import ndtri
from strategies import LIBRARIES

from hessops import backends, probes
from hessops.array_space import ArraySpace
from hessops.arrays import to_numpy
from hessops.device_probes import fill_on_device

HOST = array_api_strict.Device("CPU_DEVICE")
DEVICE = array_api_strict.Device("device1")
Array = type(array_api_strict.zeros(1))


def place_on(name):
    """Return a function that puts host arrays on a device."""
    if name == "device1":
        return lambda host: array_api_strict.asarray(host, device=DEVICE)
    if name == "cupy":
        return pytest.importorskip("cupy").asarray
    torch = pytest.importorskip("torch")
    return lambda host: torch.asarray(host, device=name)


needs_torch = pytest.mark.skipif("torch" not in LIBRARIES, reason="needs PyTorch")
every_device = pytest.mark.parametrize(
    "device",
    [
        "device1",
        pytest.param("cpu", marks=needs_torch),
        pytest.param("cuda", marks=pytest.mark.gpu),
        pytest.param("cupy", marks=pytest.mark.gpu("cupy")),
    ],
)


def copy_to_host(array):
    """Return any array on the host, unrecorded."""
    return to_numpy(array.to_device(HOST) if isinstance(array, Array) else array)


@dataclass
class Crossings:
    """Shapes of the arrays that were copied to the host and to the device, and numbers read."""

    to_host: list[tuple[int, ...]] = field(default_factory=list)
    to_device: list[tuple[int, ...]] = field(default_factory=list)
    scalars: int = 0

    @property
    def waits(self) -> int:
        """How often the host had to wait for the device."""
        return len(self.to_host) + self.scalars

    def clear(self) -> None:
        self.to_host.clear()
        self.to_device.clear()
        self.scalars = 0


def watch(monkeypatch) -> Crossings:
    """Make device1 a device of its own until the test ends, and record what crosses over."""
    crossings = Crossings()

    def recording_to_numpy(array):
        if not isinstance(array, np.ndarray):
            crossings.to_host.append(tuple(array.shape))
        return copy_to_host(array)

    from_host = ArraySpace.from_host

    def recording_from_host(space, array):
        if space.device is not None and space.xp is not array_api_strict:
            crossings.to_device.append(array.shape)
        return from_host(space, array)

    asarray = array_api_strict.asarray

    def recording_asarray(obj, **options):
        if isinstance(obj, np.ndarray) and options.get("device") == DEVICE:
            crossings.to_device.append(obj.shape)
        return asarray(obj, **options)

    # Copies go by these alone: array_api_strict refuses all others.
    monkeypatch.setattr(array_api_strict, "asarray", recording_asarray)
    for name, module in list(sys.modules.items()):
        if name.startswith("hessops") and getattr(module, "to_numpy", None) is to_numpy:
            monkeypatch.setattr(module, "to_numpy", recording_to_numpy)
    monkeypatch.setattr(ArraySpace, "from_host", recording_from_host)
    for method in ("__bool__", "__complex__", "__float__", "__index__", "__int__"):
        monkeypatch.setattr(Array, method, _recorded(method, crossings))
    monkeypatch.setattr(Array, "__dlpack_device__", _dlpack_device)
    backend = types.SimpleNamespace(fill_probes=_fill_probes)
    known = backends.backends_for
    monkeypatch.setattr(
        probes,
        "backends_for",
        lambda library: (backend,) if library == "array_api_strict" else known(library),
    )
    return crossings


def _recorded(method, crossings):
    convert = getattr(Array, method)

    def recording(array):
        crossings.scalars += array.device != HOST
        return convert(array)

    return recording


def _dlpack_device(array):
    # DLPack's number of the host and that of a CUDA device.
    return (1, 0) if array.device == HOST else (2, 0)


def _fill_probes(block, stream, indices, kind, *, first_row=0):
    fill_on_device(block, stream, indices, kind, first_row=first_row, inverse_normal=_ndtri)


def _ndtri(uniform):
    return Array._new(ndtri(uniform._array), device=uniform.device)
