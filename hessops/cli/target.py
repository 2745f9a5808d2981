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

from hessops.cli.matrix_file import MATRIX_FILES, is_matrix_file, read_matrix
from hessops.comm import Communicator
from hessops.operator import LinearOperator
from hessops.operators.shared_out import SharedOut
from hessops.wrap import aslinearoperator

__all__ = ["load_target", "on_device", "on_ranks", "parse_arguments", "require_device"]


def load_target(
    target: str,
    arguments: dict[str, Any],
    *,
    params: Sequence[str] = (),
    device: str | None = None,
    comm: Communicator | None = None,
) -> LinearOperator:
    """Return the operator that a TARGET stands for.

    Parameters
    ----------
    target : str
        ``file.py:function``, ``module:function``, or a matrix file as `read_matrix` takes it.
    arguments : dict
        For the function.
    params : sequence of str
        Parameters of a model to differentiate by; all if empty.
    device : str, optional
        Where to move a model.
    comm : Communicator, optional
        Ranks that all load it, to share out its data or its rows.

    Returns
    -------
    LinearOperator
        The operator.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ImportError, RuntimeError
        With a sentence that says what is wrong with the target.
    """
    if is_matrix_file(target):
        _require_no_options(target, arguments, params, device)
        return on_ranks(aslinearoperator(read_matrix(target)), comm)
    place, separator, name = target.rpartition(":")
    if not separator or not place or not name:
        raise ValueError(
            f"cannot read target {target!r}: expected file.py:function, module:function, or a file "
            f"ending in {', '.join(MATRIX_FILES)}"
        )
    device = _own_device(device, comm)
    require_device(device)
    with _importable(place) as module:
        function = _function(module, name, place)
        obj = _call(function, arguments, target)
    problem = _prepared(obj, target, params, device)
    return on_ranks(aslinearoperator(_dealt_out(problem, comm)), comm)


def on_ranks(operator: LinearOperator, comm: Communicator | None) -> LinearOperator:
    """Return the operator as one of all ranks, unless it is that already.

    Parameters
    ----------
    operator : LinearOperator
        The same on every rank, or one that works on the ranks together.
    comm : Communicator or None
        The ranks.

    Returns
    -------
    LinearOperator
        On vectors of the ranks.
    """
    if comm is None or comm.size == 1 or operator.domain.comm.size > 1:
        return operator
    return SharedOut(operator, comm)


def on_device(problem: tuple[Any, ...], device: str | None) -> tuple[Any, ...]:
    """Return a problem (model, loss, data, ...) with its model and loss moved to a device.

    Parameters
    ----------
    problem : tuple
        Data follows its model without being moved.
    device : str or None
        Where to; None leaves them where they are.

    Returns
    -------
    tuple
        The same problem.
    """
    if device is None:
        return problem
    model, loss, *rest = problem
    # A criterion may hold weights of classes.
    moved_loss = loss.to(device) if hasattr(loss, "to") else loss
    return (model.to(device), moved_loss, *rest)


def require_device(device: str | None) -> None:
    """Raise an error that names the device if PyTorch cannot put anything there.

    Parameters
    ----------
    device : str or None
        Such as ``cuda`` or ``cuda:1``; None asks for nothing.

    Raises
    ------
    ValueError
        With PyTorch's reason.
    ImportError
        If there is no PyTorch.
    """
    if device is None:
        return
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ImportError(
            f"--device {device} needs PyTorch: pip install 'hessops[torch]'"
        ) from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(f"--device {device} cannot be used: {reason}") from None


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


def _require_no_options(
    target: str, arguments: dict[str, Any], params: Sequence[str], device: str | None
) -> None:
    given = [f"--arg {name}" for name in arguments] + [f"--params {name}" for name in params]
    if given:
        raise ValueError(f"{' and '.join(given)} can do nothing for the matrix file {target}")
    if device is not None:
        raise ValueError(
            f"--device {device} moves models, and {target} is a matrix file, which is multiplied by "
            "SciPy on the host; leave --device out, or name a function that returns the matrix as a "
            "tensor on that device"
        )


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
    public = {
        other: getattr(value, "__module__", None) == module.__name__
        for other, value in vars(module).items()
        if callable(value) and not other.startswith("_")
    }
    # What is written there comes before what it imports.
    own = [other for other, here in public.items() if here] or list(public)
    near = difflib.get_close_matches(name, public, n=3) or own[:5]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"{place} has no function {name!r}{hint}")


def _call(function: Callable[..., Any], arguments: dict[str, Any], target: str) -> Any:
    _require_known(function, arguments, target)
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


def _require_known(function: Callable[..., Any], arguments: dict[str, Any], target: str) -> None:
    """Raise TypeError for a name that a function does not know, with the one that was meant."""
    parameters = inspect.signature(function).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    for name in arguments:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            takes = f"it takes {', '.join(parameters)}" if parameters else "it takes no arguments"
            raise TypeError(f"--arg {name}: {target} has no argument {name!r}{hint}; {takes}")


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
    model, loss, data, *rest = on_device(obj, device)
    options = dict(rest[0]) if rest else {}
    if params:
        options["params"] = list(params)
    return (model, loss, data, options)


def _own_device(device: str | None, comm: Communicator | None) -> str | None:
    """Return the device of this rank, where several ask for a GPU without saying which."""
    if device != "cuda" or comm is None or comm.size == 1:
        return device
    return str(importlib.import_module("hessops_torch").rank_device(comm))


def _dealt_out(obj: Any, comm: Communicator | None) -> Any:
    """Give each rank its part of the data of a (model, loss, data) target."""
    is_problem = isinstance(obj, tuple) and len(obj) in {3, 4}
    if comm is None or comm.size == 1 or not is_problem:
        return obj
    model, loss, data, *rest = obj
    options = dict(rest[0]) if rest else {}
    if "comm" in options:
        return obj
    backend = importlib.import_module("hessops_torch")
    if isinstance(data, tuple) and data and hasattr(data[0], "shape"):
        data = [data]
    options["comm"] = comm
    size = options.get("micro_batch_size")
    mine = backend.shard(data, comm, **({} if size is None else {"batch_size": size}))
    return (model, loss, mine, options)
