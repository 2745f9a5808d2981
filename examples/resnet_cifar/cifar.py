"""CIFAR-10 and CIFAR-100 from a file or a folder, as normalised tensors.

Two forms are read:

* an ``.npz`` file with ``x_train``, ``y_train``, ``x_test``, ``y_test``: images
  (count, 32, 32, 3) of uint8, and integer labels;
* the unpacked "python version" of https://www.cs.toronto.edu/~kriz/cifar.html:
  ``cifar-10-batches-py`` (``data_batch_1`` to ``data_batch_5``, ``test_batch``) or
  ``cifar-100-python`` (``train``, ``test``).
"""

import pickle
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["load_cifar", "num_classes"]

# The statistics of ImageNet, not of CIFAR: the published CIFAR ResNets were trained with them.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

_EXPECTED = (
    "expected an .npz file with x_train, y_train, x_test and y_test, "
    "or the unpacked folder cifar-10-batches-py or cifar-100-python"
)


def load_cifar(
    path: str | PathLike[str], *, train: bool, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Load normalised images and their labels, in the order in which the file has them.

    Parameters
    ----------
    path
        An ``.npz`` file or the unpacked folder of the python version of CIFAR-10 or CIFAR-100.
    train
        Training images if true, test images otherwise.
    limit
        Load the first `limit` images only; None loads all.

    Returns
    -------
    images : Tensor
        float32, (count, 3, 32, 32); each channel less its mean, over its standard deviation.
    labels : Tensor
        int64, (count,); the fine labels for CIFAR-100.

    Raises
    ------
    FileNotFoundError
        If `path`, or a file that the folder should have, is missing.
    ValueError
        If what is there is not CIFAR, or holds fewer than `limit` images.
    pickle.UnpicklingError
        If a file of the folder holds anything but arrays and plain containers.
    """
    pixels, targets = _read(Path(path), train=train)
    if limit is not None and not 1 <= limit <= len(pixels):
        part = "training" if train else "test"
        raise ValueError(
            f"{limit} images asked for, but {path} holds {len(pixels)} {part} images: "
            f"ask for 1 to {len(pixels)}"
        )
    # Copied to rows first: torch keeps the strides of the .npz form, channels last, and its
    # convolutions would then take other kernels than for the same images from a folder.
    images = torch.tensor(np.ascontiguousarray(pixels[:limit]), dtype=torch.float32) / 255
    mean = torch.tensor(_MEAN).reshape(3, 1, 1)
    std = torch.tensor(_STD).reshape(3, 1, 1)
    return (images - mean) / std, torch.tensor(targets[:limit], dtype=torch.int64)


def num_classes(path: str | PathLike[str]) -> int:
    """Return 10 or 100, the number of classes of the data at `path`.

    Parameters
    ----------
    path
        As for `load_cifar`.

    Returns
    -------
    int
        10 for CIFAR-10, 100 for CIFAR-100.

    Raises
    ------
    FileNotFoundError, ValueError
        As for `load_cifar`.
    """
    source = Path(path)
    if source.is_dir():
        return 100 if _is_cifar100(source) else 10
    return 10 if np.asarray(_read_npz_array(source, "y_train"), np.int64).max() < 10 else 100


def _read(path: Path, *, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if path.is_dir():
        return _read_folder(path, train=train)
    part = "train" if train else "test"
    pixels = _read_npz_array(path, f"x_{part}")
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (32, 32, 3):
        raise ValueError(
            f"x_{part} of {path} is {pixels.dtype} of shape {pixels.shape}: "
            "store images as uint8 of shape (count, 32, 32, 3)"
        )
    labels = np.asarray(_read_npz_array(path, f"y_{part}"), np.int64)
    return np.asarray(pixels, np.uint8).transpose(0, 3, 1, 2), labels


def _read_npz_array(path: Path, name: str) -> NDArray[np.generic]:
    _require(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path} is not CIFAR: {_EXPECTED}")
    with np.load(path, allow_pickle=False) as arrays:
        if name not in arrays:
            raise ValueError(f"{path} has no array {name}, only {', '.join(arrays)}: {_EXPECTED}")
        array: NDArray[np.generic] = arrays[name]
    return array


def _read_folder(folder: Path, *, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if _is_cifar100(folder):
        names, label_key = ["train" if train else "test"], b"fine_labels"
    else:
        names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
        label_key = b"labels"
    batches = [_read_batch(folder / name, label_key) for name in names]
    pixels = np.concatenate([pixels for pixels, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return pixels.reshape(-1, 3, 32, 32), labels


def _is_cifar100(folder: Path) -> bool:
    return (folder / "train").exists()


def _read_batch(path: Path, label_key: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    _require(path)
    with path.open("rb") as file:
        # The published files were written by Python 2, whose strings are bytes.
        batch = _ArrayUnpickler(file, encoding="bytes").load()
    try:
        return np.asarray(batch[b"data"], np.uint8), np.asarray(batch[label_key], np.int64)
    except KeyError as error:
        raise ValueError(f"{path} has no entry {error}: {_EXPECTED}") from None


def _require(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {_EXPECTED}")


class _ArrayUnpickler(pickle.Unpickler):
    """Read arrays, containers, strings and numbers, and nothing else.

    A pickle may name any function and have it called while it is read, so a tampered download
    could run what it likes. Here only the names that a NumPy array needs are known.
    """

    def find_class(self, module: str, name: str, /) -> object:
        try:
            return _ARRAY_GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle asks for {module}.{name}, which no CIFAR file needs: "
                "download the data again from where you trust it"
            ) from None


def _blank_array(*_: object) -> NDArray[np.uint8]:
    """Stand in for NumPy's private ``_reconstruct``: the array's state is set afterwards."""
    return np.empty(0, np.uint8)


def _dtype(code: bytes | str, align: int, copy: int) -> np.dtype[np.generic]:
    """Call ``numpy.dtype`` with booleans: NumPy 2.4.0 to 2.4.4 warn of the old files' 0 and 1."""
    text = code.decode("ascii") if isinstance(code, bytes) else code
    return np.dtype(text, align=bool(align), copy=bool(copy))


_ARRAY_GLOBALS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _blank_array,
    ("numpy._core.multiarray", "_reconstruct"): _blank_array,
}
