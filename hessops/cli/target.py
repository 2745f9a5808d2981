"""What a TARGET on the command line stands for."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from hessops.operator import LinearOperator
from hessops.wrap import aslinearoperator

__all__ = ["load_target", "parse_arguments"]

_MATRIX_FILES = (".npy", ".npz", ".mtx")


def load_target(
    target: str, arguments: dict[str, Any], *, params: Sequence[str] = (), device: str | None = None
) -> LinearOperator:
    """Return the operator that a TARGET stands for.

    Parameters
    ----------
    target : str
        ``file.py:function``, ``module:function``, or a matrix file.
    arguments : dict
        For the function.
    params : sequence of str
        Parameters of a model to differentiate by; all if empty.
    device : str, optional
        Where to move a model.

    Returns
    -------
    LinearOperator
        The operator.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ImportError, RuntimeError
        With a sentence that says what is wrong with the target.
    """
    if target.endswith(_MATRIX_FILES):
        if arguments or params or device:
            raise ValueError(
                f"--arg, --params and --device mean nothing to the matrix file {target}"
            )
        return aslinearoperator(_read_matrix(Path(target)))
    place, separator, name = target.rpartition(":")
    if not separator or not place or not name:
        raise ValueError(
            f"cannot read target {target!r}: expected file.py:function, module:function, or a file "
            f"ending in {', '.join(_MATRIX_FILES)}"
        )
    with _importable(place) as module:
        function = _function(module, name, place)
        obj = _call(function, arguments, target)
    return aslinearoperator(_prepared(obj, target, params, device))


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the name=value pairs of the command line, values read as Python literals or text.

    Parameters
    ----------
    pairs : sequence of str
        Such as ``depth=20`` or ``data=cifar10.npz``.

    Returns
    -------
    dict
        Name to value; 'true', 'false' and 'none' are read in any case.

    Raises
    ------
    ValueError
        If there is no '=' or the name is no identifier.

    Examples
    --------
    >>> from hessops.cli.target import parse_arguments
    >>> parse_arguments(["depth=20", "residual=false", "data=cifar10.npz"])
    {'depth': 20, 'residual': False, 'data': 'cifar10.npz'}
    """
    words = {"true": True, "false": False, "none": None}
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"cannot read --arg {pair!r}: expected name=value")
        try:
            arguments[name] = (
                words[text.lower()] if text.lower() in words else ast.literal_eval(text)
            )
        except (ValueError, SyntaxError):
            arguments[name] = text
    return arguments


def _read_matrix(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no matrix file {path}")
    try:
        matrix = _READERS[path.suffix](path)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"cannot read a matrix from {path}: {error}") from error
    # Whole numbers in a file are matrices too; in float64 they lose nothing below 2^53.
    return matrix if np.issubdtype(matrix.dtype, np.inexact) else matrix.astype(np.float64)


def _read_npz(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        if "format" not in names:
            matrices = [name for name in names if archive[name].ndim == 2]
            if len(matrices) != 1:
                raise ValueError(f"expected one matrix among the arrays {', '.join(names)}")
            return archive[matrices[0]]
    return scipy.sparse.load_npz(path)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".npz": _read_npz,
    ".mtx": scipy.io.mmread,
}


@contextmanager
def _importable(place: str) -> Iterator[ModuleType]:
    """Import a file or module; a file's folder stays importable while its function runs."""
    if not place.endswith(".py"):
        yield importlib.import_module(place)
        return
    path = Path(place).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    # Not under its own name: a file called json.py must not stand in for the library's.
    name = f"_hessops_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {place}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(path.parent))


def _function(module: ModuleType, name: str, place: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    public = [
        other
        for other, value in vars(module).items()
        if callable(value) and not other.startswith("_")
    ]
    near = difflib.get_close_matches(name, public, n=3) or public[:5]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"{place} has no function {name!r}{hint}")


def _call(function: Callable[..., Any], arguments: dict[str, Any], target: str) -> Any:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise TypeError(
            f"{target} cannot be called with these arguments: {error}; its signature is "
            f"{inspect.signature(function)}, pass arguments as --arg name=value"
        ) from error
    try:
        return function(**arguments)
    except Exception as error:
        raise RuntimeError(f"{target} raised {type(error).__name__}: {error}") from error


def _prepared(obj: Any, target: str, params: Sequence[str], device: str | None) -> Any:
    """Apply --params and --device to a (model, loss, data) target."""
    if isinstance(obj, list):
        obj = tuple(obj)
    is_problem = isinstance(obj, tuple) and len(obj) in {3, 4}
    if not is_problem:
        if params or device:
            raise ValueError(
                f"{target} returned {type(obj).__name__}; --params and --device need (model, loss, "
                "data)"
            )
        return obj
    model, loss, data, *rest = obj
    options = dict(rest[0]) if rest else {}
    if device is not None:
        model = model.to(device)
    if params:
        options["params"] = list(params)
    return (model, loss, data, options)
