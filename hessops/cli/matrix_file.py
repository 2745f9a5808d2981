"""Matrices from files: NumPy, SciPy sparse, Matrix Market and MATLAB."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import scipy.io
import scipy.sparse

__all__ = ["MATRIX_FILES", "is_matrix_file", "read_matrix"]

# SciPy before 1.15 has no such option, and makes sparse matrices, which do as well.
_AS_ARRAYS: dict[str, Any] = (
    {"spmatrix": False} if "spmatrix" in inspect.signature(scipy.io.mmread).parameters else {}
)

MATRIX_FILES = (".npy", ".npz", ".mtx", ".mtx.gz", ".mat")
"""Endings of the files that are read."""

_WITH_VARIABLES = (".npz", ".mat")
_NUMBERS = "biufc"
_SHOWN = 12


def is_matrix_file(target: str) -> bool:
    """Return whether a TARGET names a matrix file, or a variable of one.

    Parameters
    ----------
    target : str
        As on the command line.

    Returns
    -------
    bool
        Whether it ends as such files do.
    """
    return _split(target)[0].lower().endswith(MATRIX_FILES)


def read_matrix(target: str) -> Any:
    """Return the matrix that a file holds.

    Parameters
    ----------
    target : str
        A file, or ``file.mat:variable`` and ``file.npz:variable``; fields of MATLAB structures as
        in ``file.mat:Problem.A``. Without a variable the file must hold one square matrix, or one
        matrix; the structure ``Problem`` of the SuiteSparse collection stands for its ``A``.

    Returns
    -------
    numpy.ndarray, scipy.sparse.sparray or scipy.sparse.spmatrix
        Of floating type; whole numbers are converted to float64.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, or it is not clear which of its variables is meant.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> from hessops.cli.matrix_file import read_matrix
    >>> path = os.path.join(tempfile.mkdtemp(), "pair.npz")
    >>> np.savez(path, A=np.eye(2), B=np.zeros((3, 3)))
    >>> read_matrix(path + ":A")
    array([[1., 0.],
           [0., 1.]])
    """
    file, variable = _split(target)
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no matrix file {path}")
    ending = next(end for end in MATRIX_FILES if file.lower().endswith(end))
    try:
        matrix = _READERS[ending](path, variable)
    # What the readers raise of a file in another format depends on what else it is.
    except (ValueError, TypeError, OSError, EOFError, KeyError, BadZipFile) as error:
        raise ValueError(f"cannot read a matrix from {path}: {error}") from error
    except NotImplementedError as error:
        raise ValueError(
            f"cannot read {path}: it is a MATLAB file of version 7.3; save it again with "
            "save(..., '-v7'), or write the matrix as .mtx or .npz"
        ) from error
    if matrix.dtype.kind not in _NUMBERS:
        raise ValueError(f"{path} holds {matrix.dtype}, not numbers")
    # Whole numbers in a file are matrices too; in float64 they lose nothing below 2^53.
    return matrix if np.issubdtype(matrix.dtype, np.inexact) else matrix.astype(np.float64)


def _split(target: str) -> tuple[str, str | None]:
    """Cut ``file.mat:variable`` at the colon; other colons belong to the name of the file."""
    file, separator, variable = target.rpartition(":")
    if separator and variable and file.lower().endswith(_WITH_VARIABLES):
        return file, variable
    return target, None


def _read_npy(path: Path, variable: str | None) -> Any:
    del variable
    return np.load(path, allow_pickle=False)


def _read_market(path: Path, variable: str | None) -> Any:
    del variable
    return scipy.io.mmread(path, **_AS_ARRAYS)


def _read_npz(path: Path, variable: str | None) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        if variable is None and "format" in archive.files:
            return scipy.sparse.load_npz(path)
        return _chosen({name: archive[name] for name in archive.files}, variable, path)


def _read_matlab(path: Path, variable: str | None) -> Any:
    loaded = scipy.io.loadmat(path, **_AS_ARRAYS)
    variables: dict[str, Any] = {}
    for name, value in loaded.items():
        if not name.startswith("__"):
            variables |= _flattened(name, value)
    if variable is None:
        variable = "Problem.A" if "Problem.A" in variables else None
    return _chosen(variables, variable, path)


_READERS: dict[str, Callable[[Path, str | None], Any]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".mtx": _read_market,
    ".mtx.gz": _read_market,
    ".mat": _read_matlab,
}


def _flattened(name: str, value: Any) -> dict[str, Any]:
    """Return a variable, or the fields of a MATLAB structure by their dotted names."""
    fields = getattr(getattr(value, "dtype", None), "names", None)
    if not fields or value.size != 1:
        return {name: value}
    inner: dict[str, Any] = {}
    for field in fields:
        inner |= _flattened(f"{name}.{field}", value.flat[0][field])
    return inner


def _chosen(variables: Mapping[str, Any], wanted: str | None, path: Path) -> Any:
    """Return the variable wanted or, where none is named, the only one that can be meant."""
    if wanted is not None:
        if wanted not in variables:
            raise ValueError(f"it has no variable {wanted}, only {_listed(variables)}")
        return variables[wanted]
    planar = {name: value for name, value in variables.items() if _is_planar(value)}
    # MATLAB keeps numbers and vectors with two dimensions too.
    matrices = {name: value for name, value in planar.items() if min(value.shape) > 1}
    square = {name: value for name, value in matrices.items() if len(set(value.shape)) == 1}
    for found in (square, matrices, planar):
        if len(found) == 1:
            return next(iter(found.values()))
    held = f"it holds {_listed(variables)}" if variables else "it is empty"
    hint = f"; name one, as in {path}:{next(iter(square or matrices))}" if matrices else ""
    raise ValueError(f"{held}{hint}")


def _is_planar(value: Any) -> bool:
    return len(getattr(value, "shape", ())) == 2 and value.dtype.kind in _NUMBERS


def _listed(variables: Mapping[str, Any]) -> str:
    shown = [f"{name} ({_described(value)})" for name, value in variables.items()]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def _described(value: Any) -> str:
    if not hasattr(value, "dtype"):
        return type(value).__name__
    shape = "x".join(map(str, value.shape)) or "a number"
    if value.dtype.kind not in _NUMBERS:
        return "text" if value.dtype.kind in "US" else f"{shape} {value.dtype.name}"
    return f"{shape} sparse" if scipy.sparse.issparse(value) else shape
