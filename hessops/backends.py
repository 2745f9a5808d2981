"""Backends of array libraries: found by the library's name, imported only when asked for."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

__all__ = ["backend_for"]


@cache
def backend_for(library: str) -> ModuleType | None:
    """Return the installed backend of a library.

    Parameters
    ----------
    library : str
        Root module of the library: 'torch', 'cupy'.

    Returns
    -------
    module or None
        What the entry point of that name in the group ``hessops.backends`` loads; None if there is
        none. The metadata of all installed packages is searched once for each library.
    """
    found: Any = next((e for e in entry_points(group="hessops.backends") if e.name == library), None)
    return None if found is None else found.load()
