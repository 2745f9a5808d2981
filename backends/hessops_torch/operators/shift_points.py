"""Where something is added to what passes through a model: outputs of its modules, or its input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hessops_torch.losses.contract import describe_value
from hessops_torch.model.selection import no_fit

__all__ = ["InputTensor", "ModuleOutputs", "ModuleSelection", "find_modules"]

_Item: TypeAlias = str | re.Pattern[str] | nn.Module | type[nn.Module]
ModuleSelection: TypeAlias = _Item | Iterable[_Item]
"""Names of modules, shell patterns, regular expressions, modules, or classes of modules."""


class ModuleOutputs:
    """Outputs of some modules.

    Parameters
    ----------
    modules : mapping of str to torch.nn.Module
        By the names that the model has for them.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = dict(modules)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the modules."""
        return tuple(self._modules)

    def only(self, names: Sequence[str]) -> ModuleOutputs:
        """Return the outputs of some of the modules."""
        return ModuleOutputs({name: self._modules[name] for name in names})

    @contextmanager
    def values(self, batch: Any, seen: dict[str, Tensor]) -> Iterator[Any]:
        """Put the outputs into `seen` while the model is applied to the batch that this gives."""

        def put(name: str, output: Tensor) -> None:
            seen[name] = output

        with self._hooked({name: partial(put, name) for name in self._modules}):
            yield batch

    @contextmanager
    def shifted(self, batch: Any, shifts: Mapping[str, Tensor]) -> Iterator[Any]:
        """Add `shifts` to the outputs while the model is applied to the batch that this gives."""
        with self._hooked({name: shifts[name].add for name in self._modules}):
            yield batch

    @contextmanager
    def _hooked(self, functions: Mapping[str, Any]) -> Iterator[None]:
        calls = dict.fromkeys(functions, 0)

        def hook(name: str, _module: nn.Module, _inputs: Any, output: Any) -> Any:
            calls[name] += 1
            return functions[name](_require_tensor(name, output))

        with ExitStack() as stack:
            for name, module in self._modules.items():
                stack.callback(module.register_forward_hook(partial(hook, name)).remove)
            yield
        for name, count in calls.items():
            if count != 1:
                raise ValueError(
                    f"module {name!r} is called {count} times in a forward pass, and its output is "
                    "to be one tensor: "
                    + (
                        "give each call a module of its own"
                        if count
                        else "choose one that the loss uses, and call modules and not their forward"
                    )
                )


class InputTensor:
    """One tensor of every batch.

    Parameters
    ----------
    key : int or str
        Its place in a batch that is a tuple or a list, or its key in a dictionary.
    """

    def __init__(self, key: int | str) -> None:
        self.key = key

    @property
    def names(self) -> tuple[str, ...]:
        """Return what the tensor is called."""
        return (f"input {self.key}" if isinstance(self.key, int) else self.key,)

    def only(self, names: Sequence[str]) -> InputTensor:  # noqa: ARG002 - there is one
        """Return the same."""
        return self

    @contextmanager
    def values(self, batch: Any, seen: dict[str, Tensor]) -> Iterator[Any]:
        """Put the tensor into `seen`, and give the batch."""
        seen[self.names[0]] = self._tensor(batch)
        yield batch

    @contextmanager
    def shifted(self, batch: Any, shifts: Mapping[str, Tensor]) -> Iterator[Any]:
        """Give the batch with a tensor added to that one."""
        value = self._tensor(batch) + shifts[self.names[0]]
        if isinstance(batch, Mapping):
            yield {**batch, self.key: value}
            return
        parts = [value if place == self.key else part for place, part in enumerate(batch)]
        yield type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)

    def _tensor(self, batch: Any) -> Tensor:
        try:
            value = batch[self.key]
        except (LookupError, TypeError) as error:
            keys = list(batch) if isinstance(batch, Mapping) else f"{len(batch)} entries"
            raise ValueError(
                f"a batch has no {self.key!r} (it is a {type(batch).__name__} with {keys}): say which "
                "tensor is the input, such as which=0 or which='pixels'"
            ) from error
        return _require_tensor(self.names[0], value)


def find_modules(model: nn.Module, modules: ModuleSelection) -> dict[str, nn.Module]:
    """Return the modules that a selection means, in the model's order.

    Parameters
    ----------
    model : torch.nn.Module
        The model; its own name is ``''``.
    modules : str, re.Pattern, torch.nn.Module, type, or iterable of these
        Names, shell patterns, compiled regular expressions (searched), modules, or classes, which mean
        all modules of that class.

    Returns
    -------
    dict of str to torch.nn.Module
        At least one.

    Raises
    ------
    ValueError
        If an item fits nothing.
    TypeError
        If an item is of a kind that names no modules.
    """
    known = dict(model.named_modules())
    single = isinstance(modules, str | re.Pattern | nn.Module | type)
    if not (single or isinstance(modules, Iterable)):
        raise TypeError(f"modules={modules!r} names no modules; {_ALLOWED}")
    items: list[Any] = [modules] if single else list(modules)  # type: ignore[arg-type]
    wanted: set[str] = set()
    for item in items:
        fitting = {name for name, module in known.items() if _fits(name, module, item)}
        if not fitting:
            raise ValueError(_no_fit(item, known))
        wanted |= fitting
    if not wanted:
        raise ValueError("modules is empty: name those whose outputs are meant")
    return {name: module for name, module in known.items() if name in wanted}


def _fits(name: str, module: nn.Module, item: Any) -> bool:
    if isinstance(item, str):
        return fnmatchcase(name, item)
    if isinstance(item, re.Pattern):
        return item.search(name) is not None
    if isinstance(item, nn.Module):
        return module is item
    if isinstance(item, type) and issubclass(item, nn.Module):
        return isinstance(module, item)
    raise TypeError(f"modules holds {item!r}; {_ALLOWED}")


_ALLOWED = "give names, shell patterns, compiled regular expressions, modules or classes of modules"


def _no_fit(item: Any, known: Mapping[str, nn.Module]) -> str:
    if isinstance(item, nn.Module):
        return f"the {type(item).__name__} in modules is none of this model's"
    if isinstance(item, type):
        return f"the model has no module of the class {item.__name__}"
    shown = ", ".join(map(repr, list(known)[1:9]))
    return no_fit("module", item, list(known), shown)


def _require_tensor(name: str, value: Any) -> Tensor:
    if not torch.is_tensor(value):
        raise TypeError(
            f"{name!r} is {describe_value(value)}, and what is differentiated by has to be one tensor: "
            "choose a module whose output is one"
        )
    if not value.dtype.is_floating_point:
        raise TypeError(
            f"{name!r} is {value.dtype}, which has no derivative: of tokens, differentiate by what "
            "their embedding gives, hessops_torch.activation_hessian(model, loss, data, embedding)"
        )
    return value
