"""What a kept gradient graph depends on besides the data: the state of a model and of its loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import is_
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Snapshot", "places"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (tuple, list, dict, set, np.ndarray)
# Longer containers, deeper nesting and larger arrays (in bytes) are told apart by identity: a product
# must not read them all.
_LONGEST = 256
_DEEPEST = 5
_LARGEST = 2**20
_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Parameters, buffers and submodules are looked at by themselves; other hooks do not shape the loss.
_TABLES = frozenset(vars(nn.Module())) - frozenset(_FORWARD_HOOKS)
_MISSING = object()


class Snapshot:
    """Values, places, modules, attributes and forward hooks of some objects at one moment.

    Of tensors the values, because what is written through ``.data`` leaves no other trace, and
    places and versions, because autograd refuses a graph whose tensors were written to, whatever
    was written. Of attributes those that are numbers, strings, arrays, or containers of these are
    compared by value, and others by identity.

    Parameters
    ----------
    roots : sequence of object
        Modules, looked at with all modules inside, and other objects, looked at themselves.
    exchangeable : torch.nn.Module, optional
        One of them, whose parameters and buffers may change.
    """

    def __init__(self, roots: Sequence[Any], exchangeable: nn.Module | None = None) -> None:
        self._roots = roots
        self._exchangeable = exchangeable
        self._attributes = [_Attributes(owner) for owner in _owners(roots)]
        self._places = self._places_now()
        self._values = [_copy(tensor) for tensor in self._strided()]

    def fits(self) -> bool:
        """Tell whether everything is as it was, by one synchronisation."""
        owners = list(_owners(self._roots))
        if len(owners) != len(self._attributes):
            return False
        for owner, attributes in zip(owners, self._attributes, strict=True):
            if attributes.owner is not owner or attributes.changed():
                return False
        if self._places != self._places_now():
            return False
        pairs = chain(
            zip(self._strided(), self._values, strict=True),
            *(attributes.tensors() for attributes in self._attributes),
        )
        # A NaN differs from itself: such a model gets its graphs anew, and is right.
        changed: list[Tensor] = []
        for now, before in pairs:
            if now.device.type != "cpu":
                changed.append((now.detach() != before).any())
            # On the host this takes a third of the time, and nobody waits for an answer.
            elif not torch.equal(now.detach(), before):
                return False
        return not changed or not bool(
            torch.stack([c.to(changed[0].device) for c in changed]).any()
        )

    def settle(self) -> None:
        """Leave out from now on what has changed since: a forward pass of the model's own wrote it.

        Such are counters of calls and activations that are put aside to be looked at.
        """
        for attributes in self._attributes:
            attributes.leave_out_changed()

    def _tensors(self) -> Iterator[Tensor]:
        for root in self._roots:
            if isinstance(root, nn.Module) and root is not self._exchangeable:
                yield from chain(root.parameters(), root.buffers())

    def _strided(self) -> Iterator[Tensor]:
        return (tensor for tensor in self._tensors() if tensor.layout == torch.strided)

    def _places_now(self) -> list[tuple[Any, ...]]:
        return places(self._tensors())


def places(tensors: Iterable[Tensor]) -> list[tuple[Any, ...]]:
    """Return where some tensors are, in which version and shape.

    Parameters
    ----------
    tensors : iterable of torch.Tensor
        Any.

    Returns
    -------
    list of tuple
        Others when one was written to in a way that autograd knows of, or exchanged.
    """
    return [
        (
            tensor.data_ptr() if tensor.layout == torch.strided else id(tensor),
            _version(tensor),
            tensor.shape,
        )
        for tensor in tensors
    ]


class _Attributes:
    """What hangs on one object besides parameters, buffers and submodules."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self._kind = type(owner)
        self._values = dict(vars(owner))
        self._left_out: set[str] = set()
        self._contents = {
            name: _content(value)
            for name, value in self._values.items()
            if name not in _TABLES and _can_be_written_to(value)
        }
        self._copies = {
            name: _copy(value)
            for name, value in self._values.items()
            if torch.is_tensor(value) and value.layout == torch.strided
        }

    def __getstate__(self) -> dict[str, Any]:
        # The class of functions has no name that it could be found by.
        return {name: value for name, value in self.__dict__.items() if name != "_kind"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _kind=type(state["owner"]))

    def changed(self) -> set[str]:
        """Return the names of attributes that are not as they were."""
        now, before = vars(self.owner), self._values
        names: set[str] = set()
        if type(self.owner) is not self._kind:
            names.add("__class__")
        # Two loops in C tell nearly always that nothing was replaced.
        if len(now) != len(before) or not all(map(is_, now.values(), before.values())):
            names |= {
                name
                for name in now.keys() | before.keys()
                if not _same(now.get(name, _MISSING), before.get(name, _MISSING))
            }
        for name, content in self._contents.items():
            if _content(now.get(name)) != content:
                names.add(name)
        return names - self._left_out

    def leave_out_changed(self) -> None:
        """Compare no more, and hold no more, what has changed."""
        names = self.changed()
        for name in names:
            for table in (self._values, self._contents, self._copies):
                table.pop(name, None)
        self._left_out |= names

    def tensors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the tensors among the attributes, as they are and as they were."""
        now = vars(self.owner)
        return ((now[name], before) for name, before in self._copies.items())


class _Identity:
    """Something that equals itself alone, in the version that it has."""

    __slots__ = ("value", "version")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.version = _version(value) if torch.is_tensor(value) else None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Identity)
            and self.value is other.value
            and self.version == other.version
        )

    __hash__ = None  # type: ignore[assignment]


def _owners(roots: Sequence[Any]) -> Iterator[Any]:
    """Yield all modules of modules, and other objects themselves if they have attributes."""
    for root in roots:
        if isinstance(root, nn.Module):
            yield from root.modules()
        # A function of a library's own belongs to a Python module, which is too much to look at.
        elif hasattr(root, "__dict__") and not isinstance(root, ModuleType):
            yield root


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, _PLAIN):
        return bool(a == b)
    return isinstance(a, _CONTAINERS) and bool(_content(a) == _content(b))


def _can_be_written_to(value: Any) -> bool:
    if isinstance(value, tuple):
        return not all(isinstance(part, _PLAIN) for part in value)
    return isinstance(value, _CONTAINERS) or torch.is_tensor(value)


def _content(value: Any, depth: int = 0) -> Any:
    """Return what stays if a container is written to, and can be compared."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, np.ndarray):
        readable = value.dtype != object and value.nbytes <= _LARGEST
        return (value.shape, value.dtype.str, value.tobytes()) if readable else _Identity(value)
    if not isinstance(value, _CONTAINERS):
        return _Identity(value)
    if depth == _DEEPEST or len(value) > _LONGEST:
        return _Identity(value), len(value)
    if isinstance(value, set):
        return set(value)
    parts = value.items() if isinstance(value, dict) else value
    return [_content(part, depth + 1) for part in parts]


def _copy(tensor: Tensor) -> Tensor:
    # A copy made in inference mode could not be compared outside of it.
    with torch.inference_mode(mode=False):
        return tensor.detach().clone()


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
