"""What the core needs to know of an array library, in one place.

Everything here goes through the Python array API standard, by ``array_api_compat``; nothing names a
library other than NumPy, which is the host's.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj
from array_api_compat import numpy as numpy_namespace
from numpy.typing import NDArray

__all__ = [
    "Array",
    "DType",
    "HostArray",
    "adjoint",
    "as_real_pair",
    "device",
    "dtype_name",
    "eps",
    "is_array",
    "is_complex",
    "is_floating",
    "is_on_host",
    "namespace",
    "numpy_dtype",
    "numpy_namespace",
    "plain",
    "to_numpy",
]

# Of the kinds of devices that DLPack numbers, the host's.
_CPU = 1

DType: TypeAlias = Any
"""A data type object of some array library; libraries share no base class for it."""

HostArray: TypeAlias = NDArray[Any]
"""An array in the host's memory: coefficients, nodes, weights, everything small."""


class Array(Protocol):
    """An array of any library that follows the array API standard."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the length of every axis."""

    @property
    def ndim(self) -> int:
        """Return the number of axes."""

    @property
    def dtype(self) -> DType:
        """Return the data type of an entry."""

    def __getitem__(self, key: Any, /) -> Array: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __add__(self, other: Any, /) -> Array: ...
    def __radd__(self, other: Any, /) -> Array: ...
    def __sub__(self, other: Any, /) -> Array: ...
    def __mul__(self, other: Any, /) -> Array: ...
    def __rmul__(self, other: Any, /) -> Array: ...
    def __truediv__(self, other: Any, /) -> Array: ...
    def __matmul__(self, other: Any, /) -> Array: ...
    def __neg__(self) -> Array: ...
    def __pow__(self, other: Any, /) -> Array: ...


def is_array(obj: object) -> bool:
    """Tell whether `obj` is an array of a library with an array API namespace."""
    return is_array_api_obj(obj)


def namespace(array: object) -> ModuleType:
    """Return the array API namespace of an array."""
    xp: ModuleType = array_namespace(array)
    return xp


def is_complex(xp: ModuleType, dtype: DType) -> bool:
    """Tell whether `dtype` is a complex floating type."""
    return bool(xp.isdtype(dtype, "complex floating"))


def is_floating(xp: ModuleType, dtype: DType) -> bool:
    """Tell whether `dtype` is a real or complex floating type."""
    return bool(xp.isdtype(dtype, ("real floating", "complex floating")))


def is_on_host(array: Any) -> bool:
    """Tell whether an array lies in memory that the processor reads."""
    kind, _number = array.__dlpack_device__()
    return int(kind) == _CPU


def dtype_name(dtype: DType) -> str:
    """Return 'float32' for ``numpy.dtype('float32')`` and ``torch.float32`` alike."""
    return str(dtype).rsplit(".", maxsplit=1)[-1]


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """Return the NumPy type of the same name."""
    return np.dtype(dtype_name(dtype))


def eps(xp: ModuleType, dtype: DType) -> float:
    """Return the distance from 1 to the next number of this precision."""
    return float(xp.finfo(dtype).eps)


def adjoint(matrix: Array) -> Array:
    """Return the conjugate transpose of the last two axes, without a copy where it is real."""
    xp = namespace(matrix)
    flipped: Array = xp.matrix_transpose(matrix)
    if is_complex(xp, matrix.dtype):
        flipped = xp.conj(flipped)
    return flipped


def as_real_pair(block: Array) -> Array:
    """Return the real parts and then the imaginary parts of k columns as 2k real columns."""
    xp = namespace(block)
    pair: Array = xp.concat([xp.real(block), xp.imag(block)], axis=1)
    return pair


def plain(array: Any) -> Any:
    """Return an array without what a subclass of NumPy's adds to it.

    Parameters
    ----------
    array : object
        Anything; what is no NumPy array is returned as it is.

    Returns
    -------
    object
        The same entries.

    Raises
    ------
    TypeError
        If the array is masked: entries that are missing cannot be multiplied.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            "got a masked array, whose missing entries no product can use; fill them first, e.g. "
            "array.filled(0.0)"
        )
    return np.asarray(array) if isinstance(array, np.ndarray) else array


def to_numpy(array: Array) -> HostArray:
    """Copy an array of any library and device to the host."""
    if isinstance(array, np.ndarray):
        return array
    host: Any = array
    # The standard has no word for "to the host": CuPy says get, torch says cpu.
    for copy_to_host in ("get", "cpu"):
        if hasattr(host, copy_to_host):
            host = getattr(host, copy_to_host)()
            break
    if hasattr(host, "resolve_conj"):  # torch conjugates lazily; NumPy cannot read that
        host = host.resolve_conj()
    return np.asarray(host)
