"""Which parameters form a block: one per module, one per tensor, or as the user groups them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import nn

from hessops_torch.model.selection import ParameterSelection, fitting_names

__all__ = ["BlockSelection", "Each", "parameter_blocks"]

Each = Literal["module", "tensor"]
"""What gets a block of its own where no blocks are given."""

BlockSelection: TypeAlias = Mapping[str, ParameterSelection] | ParameterSelection
"""Selections by the names of blocks, or selections of which each makes a block."""

_ROOT = "(model)"


def parameter_blocks(
    model: nn.Module,
    names: Iterable[str],
    blocks: BlockSelection = None,
    each: Each = "module",
) -> dict[str, tuple[str, ...]]:
    """Return the names of the parameters in every block.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    names : iterable of str
        The parameters that an operator acts on; no block holds others.
    blocks : mapping of str to selection, or iterable of selections, optional
        Selections as `hessian` takes them for `params`. An item of an iterable is one block, called
        by its pattern or its module's name.
    each : {'module', 'tensor'}
        Where no blocks are given: one for every module that holds parameters itself, or one for
        every parameter tensor.

    Returns
    -------
    dict of str to tuple of str
        Disjoint, in the order given, or in the model's.

    Raises
    ------
    ValueError
        If two blocks share a parameter or a name, a selection fits no parameter of the operator, or
        `each` is unknown.
    TypeError
        If an item names no parameters.

    Examples
    --------
    >>> import torch
    >>> from hessops_torch.model.parameter_blocks import parameter_blocks
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    >>> names = [name for name, _ in model.named_parameters()]
    >>> parameter_blocks(model, names)
    {'0': ('0.weight', '0.bias'), '2': ('2.weight', '2.bias')}
    >>> parameter_blocks(model, names, {"weights": "*.weight"})
    {'weights': ('0.weight', '2.weight')}
    """
    known = list(names)
    if each not in get_args(Each):
        raise ValueError(f"each={each!r} is unknown; choose 'module' or 'tensor'")
    if blocks is None:
        return _by_module(known) if each == "module" else {name: (name,) for name in known}
    found: dict[str, tuple[str, ...]] = {}
    for name, selection in _named(model, blocks):
        if name in found:
            raise ValueError(f"two blocks are called {name!r}: give a dictionary with names")
        fitting = set(_fitting(model, name, selection))
        found[name] = tuple(parameter for parameter in known if parameter in fitting)
        if not found[name]:
            raise ValueError(
                f"block {name!r} holds {', '.join(sorted(fitting)[:3])}, and this operator acts on no "
                "parameter of it: make the operator with params that cover the block"
            )
    if not found:
        raise ValueError("blocks is empty; leave it out to have one for every module")
    _require_disjoint(found)
    return found


def _by_module(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        owner = name.rpartition(".")[0] or _ROOT
        found[owner] = (*found.get(owner, ()), name)
    return found


def _named(model: nn.Module, blocks: BlockSelection) -> Iterable[tuple[str, ParameterSelection]]:
    if isinstance(blocks, Mapping):
        return blocks.items()
    if isinstance(blocks, str | re.Pattern | nn.Module | torch.Tensor):
        blocks = [blocks]
    if not isinstance(blocks, Iterable):
        raise TypeError(
            f"blocks={blocks!r} names no blocks: give a dictionary from names to parameters, or a list "
            "of patterns or modules"
        )
    return [(_name_of(model, item), item) for item in blocks]


def _name_of(model: nn.Module, item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, re.Pattern):
        return str(item.pattern)
    known = [*model.named_modules(), *model.named_parameters()]
    names = [name for name, one in known if one is item]
    # What is no part of the model has no name, and is refused by the selection.
    return (names[0] or _ROOT) if names else type(item).__name__


def _fitting(model: nn.Module, name: str, selection: ParameterSelection) -> tuple[str, ...]:
    if selection is None:
        raise TypeError(f"block {name!r} is None: name its parameters")
    try:
        return fitting_names(model, selection)
    except (ValueError, TypeError) as error:
        raise type(error)(f"block {name!r}: {error}") from error


def _require_disjoint(blocks: Mapping[str, tuple[str, ...]]) -> None:
    owners: dict[str, str] = {}
    for block, names in blocks.items():
        for name in names:
            if name in owners:
                raise ValueError(
                    f"the blocks {owners[name]!r} and {block!r} both hold {name}: blocks may not "
                    "overlap; change one of them"
                )
            owners[name] = block
