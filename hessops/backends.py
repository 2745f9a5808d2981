"""Backends of array libraries: found by the library's name, imported only when asked for."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

__all__ = ["backends_for"]


@cache
def backends_for(library: str) -> tuple[ModuleType, ...]:
    """Return the installed backends of a library.

    Parameters
    ----------
    library : str
        Root module of the library: 'torch', 'cupy'.

    Returns
    -------
    tuple of module
        What the entry points of that name in the group ``hessops.backends`` load. The metadata of
        the installed packages are searched once for each library.
    """
    entries = entry_points(group="hessops.backends")
    return tuple(entry.load() for entry in entries if entry.name == library)
